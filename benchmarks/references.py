"""Known structures among predictions: `python benchmarks/references.py reference_superconductors.json`.

The file holds crystals by the formulas of their cells (a pymatgen structure each). Each is predicted as `predict` does
by default; told is at which rank a candidate matches the reference (protocol of makers/science/match_rate.py), where it
comes from, and its RMSE. The library must hold none of the formulas.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from dao_flows.makers.schemas.decoding import structure as structure_of
from dao_flows.makers.schemas.prediction import told_origin
from dao_flows.makers.science.match_rate import compare
from dao_flows.makers.science.structures import to_crystal
from dao_flows.model.data.shards import DataError
from dao_flows.model.templates.library import refuse_held_out
from dao_flows.model.templates.places import open_library


def main() -> int:
    """Print a line for each reference; exit code 2 for a library that holds one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--library", default="known")
    parser.add_argument("-n", "--candidates", type=int, default=20)
    args = parser.parse_args()
    held = json.loads(args.data.read_text())
    references = {formula: to_crystal(structure_of(held[formula]["structure"])) for formula in held}
    try:
        refuse_held_out(open_library(args.library), [crystal.numbers for crystal in references.values()])
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| cell | atoms | candidates | matched at rank | RMSE | from |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DAO_FLOWS_DATA_DIR"] = folder
        from dao_flows import predict

        for formula, reference in references.items():
            ranked = list(predict(formula, n=args.candidates, library=args.library).candidates())
            rms = [compare((reference, to_crystal(each.structure))).rms for each in ranked]
            matched = [rank for rank, each in enumerate(rms) if np.isfinite(each)]
            told = "– | – | –"
            if matched:
                told = f"{matched[0] + 1} | {rms[matched[0]]:.3f} | {told_origin(ranked[matched[0]].origin)}"
            print(f"| {formula} | {len(reference)} | {len(ranked)} distinct | {told} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
