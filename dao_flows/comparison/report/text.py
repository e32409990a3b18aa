"""What a report says in words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from markupsafe import Markup, escape

from dao_flows.comparison.by_generator import GeneratorFigures
from dao_flows.comparison.estimates import Estimate, Spread
from dao_flows.comparison.figures import ComparisonFigures, ErrorFigures
from dao_flows.comparison.schemas import ComparisonDoc
from dao_flows.makers.schemas.prediction import told_origin

ENERGIES = {
    "raw": "raw",
    "corrected": "with the correction scheme on both sides",
    "after_offset": "after an offset for each element",
    "relative": "within compositions",
}


def formula_html(formula: str) -> Markup:
    """A formula with subscripts, escaped."""
    return Markup(re.sub(r"(?<=[A-Za-z)])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", escape(formula)))  # noqa: S704


def level(figures: ComparisonFigures) -> str:
    """What verified: code and functional."""
    if figures.code == figures.functional:  # a force field
        return figures.code
    return f"{figures.code.upper()}, {figures.functional}"


def headline(figures: ComparisonFigures) -> Iterator[str]:
    """The figures in sentences, plain text."""
    hull = "no reference set, so no hull"
    if figures.reference:
        hull = f"hull of {figures.reference}, corrections: {figures.scheme}"
    predictor = figures.predictor_name or figures.predictor[:12]
    yield (
        f"{_count(figures.comparisons, 'candidate')} of {_count(figures.compositions, 'composition')}, predicted with "
        f"{predictor}, verified with {level(figures)} ({hull})."
    )
    structure = figures.structure
    kept = f"{_share(structure.matches)} still match what was predicted after the relaxation"
    rmse = f", RMSE {_number(structure.rmse)}" if structure.rmse else ""
    yield f"{kept}{rmse}; {_share(structure.space_groups_kept)} keep their space group."
    for name, what in ENERGIES.items():
        errors: ErrorFigures | None = getattr(figures.energy, name)
        if errors is not None:
            yield f"Error of the energy {what}: MAE {_number(errors.mae)} eV/atom, bias {_number(errors.bias)}."
    reasons = {reason: name for name, reason in reversed(figures.energy.unavailable.items()) if name in ENERGIES}
    if reasons:
        told = "; ".join(f"{ENERGIES[name]} ({reason})" for reason, name in reversed(reasons.items()))
        yield f"Errors of the energy that cannot be told: {told}."
    agrees = figures.ranking.first_choice_agrees
    if agrees is not None:
        of = f"DAO's first choice is the verified one in {round(agrees.value * agrees.n)} of {agrees.n}"
        rank = figures.ranking.spearman
        spearman = f"; Spearman's rank correlation {_number(rank)}" if rank else ""
        yield f"{of} compositions with several verified candidates{spearman}."
    whole, step = figures.cost.per_candidate_ratio, figures.cost.per_step_ratio
    if whole:
        yield f"Verification over prediction of a candidate, end to end (core s by wall s): {_spread(whole)}."
    if step:
        yield f"One ionic step over one step of the sampler (core s by wall s): {_spread(step)}."


def generator_row(figures: GeneratorFigures) -> list[str]:
    """The cells of a generator's row."""
    counts = (figures.comparisons, figures.compositions)
    estimates = (figures.lowest, figures.matches)
    shares = ("–" if estimate is None else _share(estimate) for estimate in estimates)
    means = ("–" if estimate is None else _number(estimate) for estimate in (figures.rmse, figures.energy_above_hull))
    return [figures.generator, *map(str, counts), *shares, *means]


def row(comparison: ComparisonDoc) -> list[str]:
    """The cells of the table: plain text, and a formula as HTML."""
    change, hull = comparison.structure_change, comparison.energy_above_hull
    groups = f"{change.space_group_before}" + ("" if change.space_group_kept else f" → {change.space_group_after}")
    return [
        formula_html(comparison.formula),
        comparison.candidate_id,
        str(comparison.rank),
        f"{comparison.predicted_energy_above_hull:.3f}",
        "–" if hull is None else f"{hull:.3f}",
        f"{comparison.energy_per_atom:.4f}",
        "no match" if change.rmse is None else f"{change.rmse:.3f}",
        f"{100 * (change.volume_ratio - 1):+.1f} %",
        groups,
        f"{comparison.cost.verification_core_seconds:.0f}",
        told_origin(comparison.origin),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _number(estimate: Estimate) -> str:
    interval = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{interval}"


def _share(estimate: Estimate) -> str:
    interval = "" if estimate.low is None else f" [{100 * estimate.low:.0f}, {100 * (estimate.high or 0):.0f} %]"
    return f"{round(estimate.value * estimate.n)} of {estimate.n}{interval}"


def _spread(spread: Spread) -> str:
    return f"median {spread.median:.3g}, {spread.smallest:.3g} to {spread.largest:.3g}"
