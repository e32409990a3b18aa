"""How well DAO-P orders a composition's candidates: `python benchmarks/inspector.py DATA RESULTS --drawings DRAWINGS`.

RESULTS and DRAWINGS as of known_and_drawn.py, whose judge is the measure. For each checkpoint: Spearman's correlation
of its energies with the judge's, the mean over compositions; how often the candidate that it puts first matches the
reference; and the same by the judge and by agreement. Candidates are those that were priced there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawings import IDENTITY, read_drawings
from known_and_drawn import CANDIDATES, ranked
from scipy.stats import spearmanr

from dao_flows.makers.science.match_rate import wilson
from dao_flows.model.checkpoint.format import CheckpointError, load
from dao_flows.model.checkpoint.library import find
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.data.shards import DataError
from dao_flows.model.data.table import read_crystals
from dao_flows.model.templates.places import open_library
from dao_flows.model.templates.search import find_templates

FEWEST = 5  # candidates of a composition: an order of fewer says little
Record = dict[str, Any]


def candidates(args: argparse.Namespace, records: list[Record]) -> list[list[Crystal]]:
    """The crystals of each record's candidates, in their order."""
    about = json.loads((args.drawings / IDENTITY).read_text())
    table = read_crystals(args.data, about["split"], about["max_atoms"])
    library, kept = open_library(args.library), read_drawings(args.drawings)
    found = []
    for record in records:
        numbers = table.crystals[record["row"]].numbers
        known = [each.crystal for _, each in find_templates(library, [numbers], CANDIDATES, known=False)]
        if len(known) != record["templates"]:
            raise DataError(f"the library is not the one of {args.results}: row {record['row']} has other templates")
        every = known + kept[record["row"]]
        found.append([every[each["k"]] for each in record["candidates"]])
    return found


def row_of(name: str, records: list[Record], energies: list[np.ndarray], seconds: float | None) -> str:
    """One line of the table: correlation with the judge, matches of the first by these energies."""
    orders, hits = [], []
    for record, energy in zip(records, energies, strict=True):
        judged = np.array([np.nan if c["judged"] is None else c["judged"] for c in record["candidates"]], dtype=float)
        both = np.isfinite(judged) & np.isfinite(energy)
        if both.sum() >= FEWEST:
            orders.append(spearmanr(energy[both], judged[both]).statistic)
        best = record["candidates"][int(np.nanargmin(energy))]["k"] if np.isfinite(energy).any() else None
        hits.append(best is not None and record["rms"][best] is not None)
    low, high = wilson(sum(hits), len(hits))
    took = "" if seconds is None else f"{1e3 * seconds:.2f}"
    rate = f"{100 * np.mean(hits):.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"| {name} | {np.nanmean(orders):.3f} | {rate} | {took} |"


def main() -> int:
    """Print the table; exit code 2 for what cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--library", default="known")
    parser.add_argument("--checkpoints", nargs="+", default=["dao-p-flow"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        lines = [line for file in sorted(args.results.glob("rows-*.jsonl")) for line in file.open()]
        records = [record for record in map(json.loads, lines) if record["candidates"]]
        if not records:
            raise DataError(f"{args.results} holds no measured row")
        crystals = candidates(args, records)
        print(f"{len(records)} rows\n\n| energy by | Spearman | first matches, % | ms |\n|---|---|---|---|")
        judged = [np.array([c["judged"] or np.nan for c in r["candidates"]], dtype=float) for r in records]
        print(row_of("the judge", records, judged, None))
        for name in args.checkpoints:
            model, _ = load(find(name))
            assert isinstance(model, DaoP)
            began = time.monotonic()
            flat = predict_energy(model, [each for group in crystals for each in group])
            seconds = (time.monotonic() - began) / len(flat)
            ends = np.cumsum([len(group) for group in crystals])[:-1]
            print(row_of(name, records, np.split(flat, ends), seconds), flush=True)
        for rank_by in ("agreement", "both"):
            firsts = [ranked(record, 10, 10, rank_by)[:1] for record in records]
            hits = [bool(k) and record["rms"][k[0]] is not None for k, record in zip(firsts, records, strict=True)]
            low, high = wilson(sum(hits), len(hits))
            print(f"| ranked by {rank_by} | | {100 * np.mean(hits):.1f} [{100 * low:.1f}, {100 * high:.1f}] | |")
    except (CheckpointError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
