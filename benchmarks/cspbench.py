"""The space group of CSPBench's crystals: `python benchmarks/cspbench.py cspbench.csv`.

CSPBench (usccolumbia/cspbenchmark) asks for 180 crystals by the formulas of their cells, in 15 categories. Counted is
whether the space group at 0.1 Å of the first candidate is the right one, or that of one of the first five. The library
must hold none of the formulas. Published, of the first five: TCSP 2.0 83.9 % (arXiv 2503.23183).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from pymatgen.core.composition import Composition
from rich.progress import Progress, TimeElapsedColumn

from dao_flows.makers.science.match_rate import wilson
from dao_flows.model.data.shards import DataError
from dao_flows.model.templates.library import refuse_held_out
from dao_flows.model.templates.places import open_library

FIRST = 5


def numbers_of(formula: str) -> np.ndarray:
    """(n,) atomic numbers of a cell."""
    return np.repeat(*zip(*((e.Z, int(n)) for e, n in Composition(formula).items()), strict=True))


def formula_units(formula: str) -> int:
    """In a cell of this formula."""
    return round(Composition(formula).get_reduced_formula_and_factor()[1])


def table(rows: list[dict[str, str]], found: dict[str, list[int]]) -> tuple[list[str], dict[str, float]]:
    """Lines of a table by category, and the shares of all. found: space groups of each cell's candidates, in order."""
    hits: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for row in rows:
        groups, wanted = found[row["full_formula"]], int(row["spacegroup"])
        hits[row["category"]].append((groups[:1] == [wanted], wanted in groups[:FIRST]))
    everything = [hit for category in hits.values() for hit in category]
    lines = ["| category | crystals | first, % | among five, % |", "|---|---|---|---|"]
    for name, each in [*sorted(hits.items()), ("all", everything)]:
        first, five = (100 * float(np.mean(column)) for column in zip(*each, strict=True))
        lines.append(f"| {name.replace('_', ' ')} | {len(each)} | {first:.1f} | {five:.1f} |")
    n = len(everything)
    firsts, fives = (sum(column) for column in zip(*everything, strict=True))
    told = [
        f"{name} {100 * right / n:.1f} % {_percent(right, n)}"
        for name, right in (("first", firsts), ("among five", fives))
    ]
    lines.append("\n" + ", ".join(told))
    return lines, {"first": firsts / n, "among_five": fives / n}


def _percent(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def main() -> int:
    """Print a table; exit code 2 for a library that holds what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--library", default="known")
    parser.add_argument("--templates", type=int, help="0: drawing alone")
    parser.add_argument("--judge", default="auto")
    parser.add_argument("-n", "--candidates", type=int, default=20)
    parser.add_argument("--limit", type=int, help="the first so many crystals")
    parser.add_argument("--out", type=Path, help="write the space groups as JSON")
    args = parser.parse_args()
    with args.data.open(newline="") as file:
        rows = list(csv.DictReader(file))[: args.limit]
    try:
        refuse_held_out(open_library(args.library), [numbers_of(row["full_formula"]) for row in rows])
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as bar:
        os.environ["DAO_FLOWS_DATA_DIR"] = folder
        from dao_flows import predict
        from dao_flows.api.prediction.inputs import Entry

        task = bar.add_task("batches", total=None)
        began = time.monotonic()
        result = predict(
            [
                Entry(formula, z=formula_units(formula))
                for formula in dict.fromkeys(row["full_formula"] for row in rows)
            ],
            n=args.candidates,
            library=args.library,
            templates=args.templates,
            judge=args.judge,
            on_progress=lambda p: bar.update(task, completed=p.batch - 1, total=p.batches),
        )
        took = time.monotonic() - began
    found = {
        text: [row.space_group.number if row.space_group else 0 for row in composition.ranked]
        for composition in result.compositions
        for text in composition.asked
    }
    lines, shares = table(rows, found)
    print("\n".join(lines))
    print(f"{took:.0f} s, {took / len(rows):.2f} s a composition")
    if args.out:
        args.out.write_text(json.dumps({**shares, "seconds": took, "space_groups": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
