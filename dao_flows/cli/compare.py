"""`dao-flows compare`: DAO against what was verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dao_flows.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from dao_flows.api.compare import CompareResult, Uncompared
    from dao_flows.comparison.estimates import Estimate, Spread
    from dao_flows.comparison.figures import ComparisonFigures, ErrorFigures
    from dao_flows.comparison.schemas import ComparisonDoc

EXAMPLES = """[bold]Examples[/bold]

dao-flows compare

dao-flows compare --composition Si --backend abinit --csv si.csv

dao-flows compare --backend forcefield --reference entries.json.gz --html report.html
"""
REFERENCE_HELP = (
    "Put all on one reference set: a file of ComputedEntries, mp: (Materials Project) or store: (your verifications)."
)
PREDICTOR_HELP = "Only what this DAO-P ranked: its name, or the beginning of its sha256."


def compare(
    composition: Annotated[list[str] | None, typer.Option(help="Only this composition; may be given again.")] = None,
    backend: Annotated[str | None, typer.Option(help="Only what this backend verified, as in `verify`.")] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE_HELP)] = None,
    predictor: Annotated[str | None, typer.Option(help=PREDICTOR_HELP)] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a line a candidate here; - for stdout.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report of one page here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Compare predictions with their verifications: energies, ranking, structures, cost."""
    from dao_flows.api.compare import compare as run
    from dao_flows.api.compare import to_csv

    if as_json and csv == Path("-"):
        raise InputError("--json and --csv - both want stdout: write one of them to a file")
    for path in (csv, html):
        _check_writable(path)
    result = run(composition or (), backend=backend, predictor=predictor, reference=reference)
    if not result.comparisons and (csv is not None or html is not None):
        raise InputError(f"nothing to write: no verification could be compared ({_count(result)})")
    if csv is not None and csv != Path("-"):
        _write(csv, to_csv(result.comparisons))
    if html is not None and result.figures is not None:
        from dao_flows.comparison.report import write_report

        write_report(html, result.comparisons, result.figures)
    if as_json:
        print(result.model_dump_json(indent=1))
    elif csv == Path("-"):
        print(to_csv(result.comparisons), end="")
    else:
        _show(result, [path for path in (csv, html) if path is not None])


def _check_writable(path: Path | None) -> None:
    """Raises InputError before anything is computed for a file that cannot be written."""
    from dao_flows.api.export import writable

    if path is None or path == Path("-"):
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it")
    if not path.parent.is_dir() or not writable(path.parent):
        raise InputError(f"{path} cannot be written: its folder is not there, or nothing can be written to it")


def _write(path: Path, text: str) -> None:
    from dao_flows.makers.machine.whole_files import write_whole

    write_whole(path, text)


def _show(result: CompareResult, written: list[Path]) -> None:
    from .shared.tables import stdout

    console = stdout()
    if result.figures is not None:
        console.print(_candidates(result.comparisons, result.figures))
        console.print(_summary(result.figures))
        if len(result.figures.by_generator) > 1:
            console.print(_generators(result.figures))
        for name, reason in result.figures.energy.unavailable.items():
            console.print(f"{_NAMES[name]}: not told, {reason}", markup=False, soft_wrap=True)
    for formula, missing in {doc.formula: doc.missing for doc in result.comparisons if doc.missing}.items():
        console.print(f"no hull for {formula}: the reference set has no entry of {', '.join(missing)}", markup=False)
    for line in _left_out("failed", result.failed):
        console.print(line, markup=False, soft_wrap=True)
    for line in _left_out("not compared", result.unpaired):
        console.print(line, markup=False, soft_wrap=True)
    for path in written:
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    console.print(f"{_count(result)} in {result.store}", markup=False, soft_wrap=True)


def _count(result: CompareResult) -> str:
    counts = {"failed": len(result.failed), "without their prediction": len(result.unpaired)}
    others = [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join([f"{len(result.comparisons)} compared", *others])


def _left_out(what: str, entries: list[Uncompared]) -> Iterator[str]:
    for entry in entries:
        who = f"{entry.formula} {entry.candidate_id} by {entry.backend} ({entry.verification_id})"
        yield f"{what}: {who}: {entry.reason}"


def _candidates(comparisons: list[ComparisonDoc], figures: ComparisonFigures) -> Table:
    from dao_flows.makers.schemas.prediction import told_origin

    from .shared.tables import new_table, plain

    level = figures.code if figures.code == figures.functional else f"{figures.code} {figures.functional}"
    hull = f", hull of {figures.reference}, corrections: {figures.scheme}" if figures.reference else ""
    table = new_table(f"DAO against {level}{hull}")
    for name in ("formula", "candidate"):
        table.add_column(name, no_wrap=True)
    hulls = figures.reference is not None
    verified = ("verified\nE_hull\neV/atom", "error\neV/atom") if hulls else ("verified\nenergy\neV/atom",)
    for name in (
        "DAO's\nrank",
        "predicted\nE_hull\neV/atom",
        *verified,
        "RMSE",
        "volume\nchange",
        "space group",
        "core\ns",
    ):
        table.add_column(name, justify="left" if name == "space group" else "right")
    table.add_column("from")
    for document, following in zip(comparisons, [*comparisons[1:], None], strict=True):
        change = document.structure_change
        groups = (change.space_group_before, change.space_group_after)
        energies = (document.energy_above_hull, document.energy_error) if hulls else (document.energy_per_atom,)
        table.add_row(
            document.formula,
            document.candidate_id,
            str(document.rank),
            f"{document.predicted_energy_above_hull:.4f}",
            *("–" if energy is None else f"{energy:.4f}" for energy in energies),
            "no match" if change.rmse is None else f"{change.rmse:.4f}",
            f"{100 * (change.volume_ratio - 1):+.1f} %",
            str(groups[0]) if change.space_group_kept else f"{groups[0]} → {groups[1]}",
            f"{document.cost.verification_core_seconds:.0f}",
            plain(told_origin(document.origin)),
            end_section=following is None or following.formula != document.formula,
        )
    return table


_NAMES = {
    "raw": "error of E_hull, raw",
    "corrected": "error of E_hull, corrected",
    "after_offset": "error of E_hull, after an offset per element",
    "relative": "error within compositions",
}


def _summary(figures: ComparisonFigures) -> Table:
    from .shared.tables import new_table

    table = new_table("Figures, with 95 % intervals where there are enough")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("of", justify="right")
    for name, text in _NAMES.items():
        errors: ErrorFigures | None = getattr(figures.energy, name)
        if errors is not None:
            table.add_row(f"{text}: MAE, eV/atom", *_estimate(errors.mae))
            if name in ("raw", "corrected"):
                table.add_row(f"{text}: bias, eV/atom", *_estimate(errors.bias))
    ranking, structure = figures.ranking, figures.structure
    per_composition: dict[str, Estimate | None] = {
        "Spearman's rank correlation, mean": ranking.spearman,
        "Kendall's rank correlation, mean": ranking.kendall,
        "DAO's first choice is the verified first, compositions": ranking.first_choice_agrees,
    }
    for text, estimate in per_composition.items():
        if estimate is not None:
            table.add_row(text, *_estimate(estimate))
    table.add_row("structures that still match", *_estimate(structure.matches))
    if structure.rmse is not None:
        table.add_row("RMSE of those, in mean atomic spacings", *_estimate(structure.rmse))
    table.add_row("space groups kept", *_estimate(structure.space_groups_kept))
    table.add_row("absolute change of volume", *_estimate(structure.volume_change))
    cost = figures.cost
    spreads: dict[str, Spread | None] = {
        "prediction of a candidate, wall s, median": cost.prediction_seconds,
        "verification of a candidate, core s, median": cost.verification_core_seconds,
        "core s of verification per wall s of prediction, end to end, median": cost.per_candidate_ratio,
        "core s of an ionic step per wall s of a sampling step, median": cost.per_step_ratio,
    }
    for text, spread in spreads.items():
        if spread is not None:
            table.add_row(
                text, f"{spread.median:.3g}" if spread.median < 1000 else f"{spread.median:,.0f}", str(spread.n)
            )
    return table


def _generators(figures: ComparisonFigures) -> Table:
    """What each generator's candidates came to."""
    from .shared.tables import new_table, plain

    table = new_table("By generator, with 95 % intervals where there are enough")
    table.add_column("generator")
    hulls = figures.reference is not None
    for name in ("candidates", "compositions", "lowest of\ncomposition", "still\nmatch", "RMSE"):
        table.add_column(name, justify="right")
    if hulls:
        table.add_column("verified E_hull\neV/atom", justify="right")
    for each in figures.by_generator:
        estimates = (each.lowest, each.matches, each.rmse, *((each.energy_above_hull,) if hulls else ()))
        told = ("–" if estimate is None else _estimate(estimate)[0] for estimate in estimates)
        table.add_row(plain(each.generator), str(each.comparisons), str(each.compositions), *told)
    return table


def _estimate(estimate: Estimate) -> tuple[str, str]:
    interval = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{interval}", str(estimate.n)
