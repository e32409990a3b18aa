"""Predictions from known crystals, from drawing and from both, on a test file.

    python benchmarks/drawings.py DATA --out DRAWINGS
    python benchmarks/known_and_drawn.py measure DATA RESULTS --drawings DRAWINGS
    python benchmarks/known_and_drawn.py table RESULTS...

`measure` looks every row's composition up in a library, without crystals of that composition, takes the kept drawings,
and notes of each candidate its RMSE to the reference (protocol of makers/science/match_rate.py), what it is a duplicate
of, and its energies by DAO-P and by a judge. Shards of rows are written whole or not at all: the same command goes on
where it stopped, and `--part 0/2` and `--part 1/2` share the work. Without drawings templates alone are measured.
`table` ranks the candidates as ScreenMaker does and prints match rates. A library that holds a formula of the file is
refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawings import IDENTITY, read_drawings
from match_rate import chosen_rows
from rich.progress import track

from dao_flows.makers.models.force_field import ForceField, ForceFieldError
from dao_flows.makers.science.duplicates import Tolerance, find_duplicates
from dao_flows.makers.science.match_rate import compare, figures
from dao_flows.makers.science.structures import to_structure
from dao_flows.makers.science.validity import Rules, contact_fault, contacts, volume_fault
from dao_flows.makers.screening.ranking import Distinct, Made, order
from dao_flows.model.checkpoint.format import load
from dao_flows.model.checkpoint.library import find
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.data.shards import DataError
from dao_flows.model.data.table import read_crystals
from dao_flows.model.templates.library import Library, refuse_held_out
from dao_flows.model.templates.places import open_library
from dao_flows.model.templates.search import Template, find_templates

RULES = Rules()  # ScreenMaker's
CANDIDATES = 20  # of a composition
ROWS = 25  # of a shard
Record = dict[str, Any]


def measured(
    reference: Crystal, drawings: Sequence[Crystal], library: Library, predictor: DaoP, judge: ForceField, used: int
) -> Record:
    """What is known of a row's candidates: templates, of which `used` are priced but all compared, then drawings."""
    began = time.monotonic()
    found: list[Template] = [each for _, each in find_templates(library, [reference.numbers], CANDIDATES, known=False)]
    looked_up = time.monotonic() - began
    crystals = [template.crystal for template in found] + list(drawings)
    rms = [compare((reference, crystal)).rms for crystal in crystals]
    priced = [k for k in range(len(crystals)) if (k < used or k >= len(found)) and _valid(crystals[k])]
    energies = predict_energy(predictor, [crystals[k] for k in priced]).tolist() if priced else []
    energy = dict(zip(priced, energies, strict=True))
    priced = [k for k in priced if np.isfinite(energy[k])]
    ranked = sorted(priced, key=lambda k: (k >= len(found), -found[k].weight if k < len(found) else energy[k]))
    structures = [to_structure(crystals[k]) for k in ranked]
    same = find_duplicates(structures, [""] * len(ranked), Tolerance())
    first = {k: k if at is None else ranked[at] for k, at in zip(ranked, same, strict=True)}
    began = time.monotonic()
    judged = {k: _judged(judge, structure) for k, structure in zip(ranked, structures, strict=True)}
    return {
        "atoms": len(reference),
        "templates": len(found),
        "looked_up_s": round(looked_up, 4),
        "judged_s": round(time.monotonic() - began, 4),
        "rms": [None if np.isnan(each) else round(float(each), 5) for each in rms],
        "weight": [template.weight for template in found],
        "candidates": [{"k": k, "same": first[k], "energy": energy[k], "judged": judged[k]} for k in ranked],
    }


def _valid(crystal: Crystal) -> bool:
    if not (np.isfinite(crystal.frac).all() and np.isfinite(crystal.lattice).all()):
        return False
    structure = to_structure(crystal)
    return volume_fault(structure, RULES) is None and contact_fault(contacts(structure), RULES) is None


def _judged(judge: ForceField, structure: Any) -> float | None:
    try:
        return judge.energy(structure)
    except ForceFieldError:
        return None


def measure(args: argparse.Namespace) -> None:
    """Write the shards that are missing."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    about: Record = {"split": None, "max_atoms": None}
    if args.drawings:
        about = json.loads((args.drawings / IDENTITY).read_text())
    table = read_crystals(args.data, about["split"], about["max_atoms"])
    if table.sha256 != about.get("data", table.sha256):
        raise DataError(f"{args.drawings} holds drawings of another file than {args.data}")
    library = open_library(args.library)
    if about["split"] is None:  # rows of a training file are looked up without their own compositions
        refuse_held_out(library, [crystal.numbers for crystal in table.crystals])
    kept = read_drawings(args.drawings) if args.drawings else {}
    chosen = chosen_rows(table, args.limit).tolist()
    predictor, judge = load(find(args.predictor))[0], ForceField(args.judge)
    assert isinstance(predictor, DaoP)
    args.results.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, args.part.split("/"))
    shards = [s for s in range(0, len(chosen), ROWS) if s // ROWS % parts == part]
    if args.drawings:  # those that are not drawn yet wait for the next call
        least = {s: min(len(kept.get(row, [])) for row in chosen[s : s + ROWS]) for s in shards}
        shards = [s for s in shards if least[s] >= args.draws]
    np.random.default_rng(0).shuffle(shards)  # so that a part of them is a fair sample
    for start in track([s for s in shards if not _file(args.results, s).exists()], "shards"):
        records = [
            {"row": row}
            | measured(table.crystals[row], kept.get(row, [])[: args.draws], library, predictor, judge, args.templates)
            for row in chosen[start : start + ROWS]
        ]
        partial = _file(args.results, start).with_suffix(".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in records))
        partial.replace(_file(args.results, start))


def _file(folder: Path, start: int) -> Path:
    return folder / f"rows-{start:05d}.jsonl"


def mixed(record: Record, templates: int, draws: int) -> tuple[int, int]:
    """How many templates and drawings a row gets: what the library lacks is drawn, unless nothing is."""
    taken = min(templates, record["templates"])
    wanted = draws + templates - taken if draws else 0
    return taken, min(wanted, len(record["rms"]) - record["templates"])


def ranked(record: Record, templates: int, draws: int, rank_by: str) -> list[int]:
    """Candidates of a row, one of each structure, the best first: so many templates, the rest of 20 drawn."""
    count = record["templates"]
    taken, draws = mixed(record, templates, draws)
    # of more templates than were priced, those take part that were
    within = [c for c in record["candidates"] if c["k"] < taken or count <= c["k"] < count + draws]
    groups: dict[int, list[Record]] = {}
    for each in within:
        groups.setdefault(each["same"], []).append(each)
    distinct = []
    for members in groups.values():
        judged = [each["judged"] for each in members if each["judged"] is not None]
        distinct.append(
            Distinct(
                candidate_id=f"{members[0]['k']:03d}",
                drawn=sum(each["k"] >= count for each in members),
                templates=tuple(record["weight"][each["k"]] for each in members if each["k"] < count),
                known=False,
                energy=members[0]["energy"],
                judged=min(judged) if judged else None,
            )
        )
    made = Made(drawings=draws, templates=taken > 0)
    return [int(distinct[at].candidate_id) for at in order(distinct, made, rank_by)]


def table(args: argparse.Namespace) -> None:
    """Print a table of each folder of results, of all rows and of the novel ones."""
    for folder in args.results:
        records = [json.loads(line) for file in sorted(folder.glob("rows-*.jsonl")) for line in file.open()]
        novel = [r for r in records if all(each is None for each in r["rms"][: r["templates"]])]
        print(f"{folder}: {len(records)} rows, {sum(not r['templates'] for r in records)} without a template")
        for name, rows in (("all", records), ("novel", novel)):
            print(
                f"\n{name} rows, n = {len(rows)}\n\n| candidates | one answer | RMSE | first | RMSE | with a judge "
                "| RMSE | any | RMSE |\n|---|---|---|---|---|---|---|---|---|"
            )
            drawn = any(len(r["rms"]) > r["templates"] for r in rows)
            kinds = [("lookup", CANDIDATES, 0), ("drawing", 0, CANDIDATES), ("both", 10, 10)]
            for source, templates, draws in kinds if drawn else kinds[:1]:
                print(f"| {source} | " + " | ".join(_columns(rows, templates, draws)) + " |")


def _columns(rows: Sequence[Record], templates: int, draws: int) -> list[str]:
    one, agreed, judged, anything = [], [], [], []
    for record in rows:
        count = record["templates"]
        rms = [np.nan if each is None else each for each in record["rms"]]
        taken, drawn = mixed(record, templates, draws)
        every = [*rms[:taken], *rms[count : count + drawn]]
        one.append(every[0] if every else np.nan)
        anything.append(min((each for each in every if not np.isnan(each)), default=np.nan))
        for found, rank_by in ((agreed, "agreement"), (judged, "both")):
            best = ranked(record, templates, draws, rank_by) or list(range(taken))  # none was priced
            found.append(rms[best[0]] if best else np.nan)
    cells = []
    for column in (one, agreed, judged, anything):
        found = figures(np.array(column)[:, None])
        low, high = (100 * share for share in found.match_rate_95)
        cells += [f"{100 * found.match_rate:.1f} [{low:.1f}, {high:.1f}]", f"{found.rmse or np.nan:.3f}"]
    return cells


def main() -> int:
    """The command line; exit code 2 for what cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("measure")
    command.set_defaults(run=measure)
    command.add_argument("data", type=Path)
    command.add_argument("results", type=Path)
    command.add_argument("--drawings", type=Path, help="folder of benchmarks/drawings.py")
    command.add_argument("--library", default="known")
    command.add_argument("--predictor", default="dao-p-flow", help="DAO-P")
    command.add_argument("--judge", default="CHGNet", help="a force field of atomate2")
    command.add_argument("--templates", type=int, default=10, help="that are priced and ranked beside drawings")
    command.add_argument("--draws", type=int, default=10)
    command.add_argument("--limit", type=int, help="a random subset of this many rows (always the same)")
    command.add_argument("--part", default="0/1", help="which part of the shards, as in 0/2")
    command = commands.add_parser("table")
    command.set_defaults(run=table)
    command.add_argument("results", type=Path, nargs="+")
    args = parser.parse_args()
    try:
        args.run(args)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
