"""`dao-flows list`, `show` and `export`: looking at what is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dao_flows.api.export import FORMATS, Format
from dao_flows.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from dao_flows.makers.schemas.document import Provenance
    from dao_flows.makers.schemas.prediction import CandidateDoc, Origin

LIST_EXAMPLES = """[bold]Examples[/bold]

dao-flows list

dao-flows list --formula Cr3Os --limit 5 --json

dao-flows list --runs
"""
SHOW_EXAMPLES = """[bold]Example[/bold]

dao-flows show dao-0123456789ab
"""
EXPORT_EXAMPLES = """[bold]Examples[/bold]

dao-flows export dao-0123456789ab --format poscar --out POSCAR

dao-flows export dao-0123 dao-4567 --out structures

dao-flows export dao-0123 --out - > structure.cif
"""
FIELDS = ["candidate_id", "formula", "z", "n_atoms", "rank", "energy", "judgement", "symmetry_loose"]
FIELDS += ["prototype", "seed", "origin"]
WHEN = "screening.execution.ended_at"
VOLUME_FIELD = "validity.volume_per_atom"


def list_candidates(
    formula: Annotated[str | None, typer.Option(help="Only this composition, lowest energy first.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Lines to show; 0: all.")] = 20,
    runs: Annotated[bool, typer.Option("--runs", help="List runs instead, failed ones too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List stored candidates, the latest first."""
    from dao_flows.store.stores import collection, describe, job_store

    store = job_store()
    if runs:
        return _list_runs(store, limit, as_json)
    candidates = collection(store, "candidates")
    criteria: dict[str, Any] = {}
    order: dict[str, Any] = {WHEN: -1, "formula": 1, "rank": 1}
    if formula is not None:
        from dao_flows.makers.science.chemistry import formula_of, parse_composition

        criteria, order = {"formula": formula_of(parse_composition(formula)).name}, {"energy.value": 1}
    found = list(candidates.query(criteria, properties=[*FIELDS, WHEN, VOLUME_FIELD], sort=order, limit=limit))
    if as_json:
        print(json.dumps([{key: doc.get(key) for key in doc if key != "_id"} for doc in found], indent=1))
        return None
    from .shared.tables import stdout

    console, total = stdout(), candidates.count(criteria)
    if not found:
        what = f"no candidates of {criteria['formula']}" if criteria else "no candidates yet"
        console.print(f"{what} in {describe(store)}; `dao-flows predict FORMULA` makes some", soft_wrap=True)
        return None
    console.print(_candidates_table(found))
    console.print(f"{len(found)} of {total:,} candidates in {describe(store)}", markup=False, soft_wrap=True)
    return None


def show(
    reference: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a candidate or a verification, or its unique beginning.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole document.")] = False,
) -> None:
    """Show one candidate, or one verification: its structure, its figures and where it comes from."""
    from dao_flows.api.export import render
    from dao_flows.store.verifications import ID_PREFIX

    if reference.startswith(ID_PREFIX):
        _show_verification(reference, as_json)
        return
    candidate = _find([reference])[0]
    if as_json:
        print(render(candidate, "json"), end="")
        return
    from .shared.tables import stdout

    console = stdout()
    console.print(_figures(candidate))
    console.print(str(candidate.structure), markup=False, soft_wrap=True)
    for title, provenance in (("generation", candidate.generation), ("screening", candidate.screening)):
        console.print(_provenance_table(title, provenance))


def _show_verification(reference: str, as_json: bool) -> None:
    from dao_flows.store.stores import collection, job_store
    from dao_flows.store.verifications import find

    from .shared.tables import stdout

    found = find(collection(job_store(), "verifications"), reference)
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    lines = {
        "candidate": f"{found.candidate_id} ({found.formula})",
        "state": found.state + (f": {found.error}" if found.error else ""),
        "backend": found.backend,
    }
    if (level := found.level) is not None:
        cutoff = f"{level.cutoff:.0f} eV" if level.cutoff is not None else "–"
        lines["level"] = f"{level.code} {level.code_version or ''}, {level.functional}, cut-off {cutoff}"
        lines["k-points"] = "×".join(str(n) for n in level.kpoints) if level.kpoints else "–"
        lines["pseudopotentials"] = ", ".join(f"{e} {name}" for e, name in level.pseudopotentials.items()) or "–"
    if found.energy_per_atom is not None:
        lines["energy"] = f"{found.energy_per_atom:.5f} eV/atom, raw"
    if (hull := found.hull) is not None and hull.energy_above_hull is not None:
        corrections = f"corrections: {hull.scheme} {hull.scheme_version}".rstrip()
        lines["energy above hull"] = f"{hull.energy_above_hull:.4f} eV/atom, {hull.reference}, {corrections}"
    for step in found.calculations:
        took = f"{step.wall_seconds:.0f} s on {step.cores} core{'s' * (step.cores != 1)}"
        lines[step.step] = f"{step.state}, {took}, {step.directory}"
    console = stdout()
    console.print(_pairs(found.verification_id, lines))
    if found.structure is not None:
        console.print(str(found.structure), markup=False, soft_wrap=True)
    console.print(_provenance_table("verification", found.provenance))


def export(
    references: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, or their unique beginnings.")],
    file_format: Annotated[str, typer.Option("--format", help=" | ".join(FORMATS))] = "cif",
    refined: Annotated[bool, typer.Option("--refined", help="The symmetrised conventional cell instead.")] = False,
    out: Annotated[Path, typer.Option(help="Folder; for one id also a file, or - for stdout.")] = Path(),
) -> None:
    """Write candidates as files."""
    from dao_flows.api.export import file_name, render, writable, write_files

    if file_format not in FORMATS:
        raise InputError(f"no format called {file_format!r}; there are: {', '.join(FORMATS)}")
    chosen: Format = file_format
    candidates = _find(references)
    texts = {file_name(c, chosen): render(c, chosen, refined) for c in candidates}
    if len(texts) > 1 and (str(out) == "-" or out.is_file()):
        raise InputError(f"{len(texts)} candidates do not fit into one file: give a folder as --out")
    if str(out) == "-":
        print(next(iter(texts.values())), end="")
        return
    folder = out
    if len(texts) == 1 and not out.is_dir() and (out.suffix or out.name.upper() in ("POSCAR", "CONTCAR")):
        folder, texts = out.parent, {out.name: next(iter(texts.values()))}
    if not writable(folder):
        raise InputError(f"files cannot be written to {folder}: choose another place")
    for path in write_files(folder, texts):
        print(path)


def _find(references: list[str]) -> list[CandidateDoc]:
    """Candidates by their ids. Raises InputError for the first that is not there."""
    from dao_flows.store.stores import collection, job_store

    store = collection(job_store(), "candidates")
    from dao_flows.store.candidates import find

    return [find(store, reference) for reference in references]


def _list_runs(store: Any, limit: int, as_json: bool) -> None:
    from dao_flows.store.runs import read
    from dao_flows.store.stores import collection, describe

    from .shared.tables import new_table, plain, stdout

    found = read(collection(store, "runs"), limit=limit)
    if as_json:
        print(json.dumps([run.model_dump() for run in found], indent=1))
        return
    table = new_table()
    for name in ("run", "started (UTC)", "outcome", "batches\nbegun", "formulas", "command or error"):
        table.add_column(name, overflow="fold")
    for run in found:
        asked = run.request.get("formulas", [])
        formulas = ", ".join(asked[:5]) + (f" and {len(asked) - 5} more" if len(asked) > 5 else "")
        what = plain(run.error or run.command or "Python")
        table.add_row(
            run.run_id, run.started_at[:19].replace("T", " "), run.outcome, str(len(run.batches)), formulas, what
        )
    stdout().print(table if found else f"no runs yet in {describe(store)}", soft_wrap=not found)


def _candidates_table(found: list[dict[str, Any]]) -> Table:
    from dao_flows.makers.schemas.prediction import Origin, told_origin

    from .shared.tables import ENERGY, VOLUME, new_table, plain

    table = new_table()
    table.add_column("id", no_wrap=True)
    table.add_column("formula")
    table.add_column("Z", justify="right")
    table.add_column("space group")
    for name in (ENERGY, VOLUME, "rank", "seed"):
        table.add_column(name, justify="right")
    table.add_column("from")
    table.add_column("made (UTC)", no_wrap=True)
    for doc in found:
        group = doc.get("symmetry_loose")
        table.add_row(
            doc["candidate_id"],
            doc["formula"],
            str(doc["z"]),
            f"{group['symbol']} ({group['number']})" if group else "–",
            f"{doc['energy']['value']:.3f}",
            f"{doc['validity']['volume_per_atom']:.2f}",
            str(doc["rank"]),
            str(doc["seed"]),
            plain(told_origin(Origin.model_validate(held) if (held := doc.get("origin")) else None)),
            doc["screening"]["execution"]["ended_at"][:16].replace("T", " "),
        )
    return table


def _figures(candidate: CandidateDoc) -> Table:

    validity, energy = candidate.validity, candidate.energy
    groups = [
        f"{s.symbol} ({s.number}) at {s.symprec:g} Å" for s in (candidate.symmetry_tight, candidate.symmetry_loose) if s
    ]
    neutral = {True: "yes", False: "no", None: "not known"}[validity.charge_neutral]
    lines = {
        "formula, Z": f"{candidate.formula}, {candidate.z} ({candidate.n_atoms} atoms)",
        "rank in its run": str(candidate.rank),
        "from": _origin(candidate.origin),
        "energy above hull": f"{energy.value:.4f} {energy.unit}, predicted by {energy.model}",
        **_judgement(candidate),
        "space group": "; ".join(groups) or "none found",
        "prototype": candidate.prototype or "none known",
        "volume": f"{validity.volume_per_atom:.2f} Å³/atom",
        "shortest distance": f"{validity.shortest_distance:.3f} Å ({validity.shortest_pair})",
        "charge neutral": f"{neutral} (SMACT)",
        "same structure": ", ".join(candidate.duplicates) or "no other candidate",
    }
    if candidate.relaxation is not None:
        relaxation = candidate.relaxation
        before = f"{relaxation.energy_before.value:.4f} {relaxation.energy_before.unit} before"
        lines["relaxation"] = f"L-BFGS steps: {relaxation.iterations}, {before}"
    return _pairs(candidate.candidate_id, lines)


def _judgement(candidate: CandidateDoc) -> dict[str, str]:
    """What the judge says, where there was one."""
    if candidate.judgement is not None:
        return {"total energy": candidate.judgement.told()}
    return {"total energy": f"none: {candidate.unjudged}"} if candidate.unjudged else {}


def _origin(origin: Origin | None) -> str:
    """Where a candidate comes from, in a line."""
    if origin is None or origin.kind == "drawn":
        return f"drawn by {origin.generator if origin and origin.generator else 'DAO-G'}"
    exchanged = ", ".join(f"{old} → {'+'.join(new)}" for old, new in origin.exchange.items() if new != [old])
    energy, distance, weight = (
        "not known" if value is None else f"{value:.3f}"
        for value in (origin.energy_above_hull, origin.distance, origin.weight)
    )
    told = [
        f"{origin.formula} {origin.material_id} ({origin.source})",
        f"with {exchanged}, distance {distance}" if exchanged else "as the library has it",
        f"its energy above hull {energy} eV/atom",
        f"weight among the templates {weight}",
        f"row {origin.row} of library {origin.library_name} {(origin.library or '')[:16]}",
    ]
    return "; ".join(told)


def _provenance_table(title: str, provenance: Provenance) -> Table:
    science, execution = provenance.science, provenance.execution
    checkpoints = [
        f"{role} {execution.checkpoints.get(role, '')} {sha256[:16]}" for role, sha256 in science.checkpoints.items()
    ]
    parameters = [f"{name}={value}" for name, value in science.parameters.items() if value is not None]
    lines = {
        "maker": f"{science.maker}, dao_flows {science.code_version}",
        "checkpoints": "; ".join(checkpoints),
        "parameters": ", ".join(parameters),
        "seed": "–" if science.seed is None else str(science.seed),
        "science hash": provenance.science_hash,
        "ran": f"{execution.started_at[:19].replace('T', ' ')} UTC on {execution.host}, "
        f"{execution.device} ({execution.device_name}), "
        f"{execution.wall_seconds:.1f} s",
        "job": execution.job_uuid or "–",
        "libraries": ", ".join(f"{name} {version}" for name, version in execution.libraries.items()),
    }
    return _pairs(title, lines)


def _pairs(title: str, lines: dict[str, str]) -> Table:
    from rich.table import Table

    from .shared.tables import plain

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, value in lines.items():
        table.add_row(name, plain(value))
    return table
