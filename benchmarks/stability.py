"""Share of drawn crystals near the hull, by DAO-P and by a force field: `python benchmarks/stability.py --help`.

Takes samples that `match_rate.py --out` kept, one file or several of the same rows. Each crystal is judged twice: as it
was drawn by DAO-P, and by CHGNet after CHGNet has relaxed it, atoms and cell. CHGNet has no hull of its own here: a
crystal's energy above hull is that of the reference of the same composition, plus what CHGNet says that the relaxed
crystal lies higher than the relaxed reference. Also, as drawn: the share without symmetry (P1 at 0.1 Å),
which a DFT relaxation pays for. Intervals are 95 % (Wilson).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from match_rate import BenchmarkError, chosen_rows, load_predictor, read_samples
from rich.console import Console
from rich.progress import track

from dao_flows.makers.science.match_rate import wilson
from dao_flows.makers.science.structures import to_structure
from dao_flows.makers.science.symmetry import space_group
from dao_flows.model.checkpoint.format import CheckpointError
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_p import predict_energy
from dao_flows.model.data.shards import DataError
from dao_flows.model.data.table import read_crystals

NEAR_HULL = 0.08  # eV/atom
FORCE = 0.05  # eV/Å, at which a relaxation ends
SYMPREC = 0.1  # Å


def relaxed_energy(crystal: Crystal, calculator: Any, steps: int) -> float:
    """eV/atom after at most so many steps; NaN for what the force field cannot relax."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    try:
        atoms = to_structure(crystal).to_ase_atoms()
        atoms.calc = calculator
        FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=FORCE, steps=steps)
        return float(atoms.get_potential_energy()) / len(atoms)
    except Exception as error:  # an atom without neighbours, a torn cell
        print(f"not relaxed: {type(error).__name__}: {str(error)[:80]}", file=sys.stderr)
        return float("nan")


def without_symmetry(crystals: list[Crystal]) -> float:
    """The share whose space group is P1 at 0.1 Å, or cannot be told."""
    found = [space_group(to_structure(crystal), SYMPREC)[0] for crystal in crystals]
    return sum(group is None or group.number == 1 for group in found) / len(found)


def figures(above_hull: np.ndarray) -> dict[str, Any]:
    """Of energies above hull in eV/atom, (n,); one that is not known counts as above."""
    near = int((above_hull < NEAR_HULL).sum())
    known = above_hull[np.isfinite(above_hull)]
    return {
        "share_near_hull": near / len(above_hull),
        "share_near_hull_95": wilson(near, len(above_hull)),
        "median_ev_per_atom": float(np.median(known)) if len(known) else None,
        "unknown": len(above_hull) - len(known),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of each file, and of the references themselves by DAO-P."""
    from chgnet.model.dynamics import CHGNetCalculator

    files = [read_samples(path) for path in args.samples]
    asked = [
        {key: about["identity"][key] for key in ("data", "split", "limit", "max_atoms", "samples")}
        for _, about in files
    ]
    if any(each != asked[0] or each["samples"] != 1 for each in asked):
        raise BenchmarkError("the files must hold one sample each of the same rows of the same data")
    table = read_crystals(args.data, asked[0]["split"], asked[0]["max_atoms"])
    if table.sha256 != asked[0]["data"]:
        raise BenchmarkError(f"the samples were not drawn for {args.data}: its sha256 is another")
    predictor = load_predictor(args.predictor)
    rows = chosen_rows(table, asked[0]["limit"])
    known = np.flatnonzero(~np.isnan(table.energy[rows]))
    chosen = np.sort(np.random.default_rng(1).permutation(known)[: args.limit])
    references = [table.crystals[i] for i in rows[chosen]]
    above = table.energy[rows[chosen]]
    calculator = CHGNetCalculator(use_device="cpu", verbose=False)

    def relaxed(crystals: list[Crystal], what: str) -> np.ndarray:
        bar = track(crystals, f"relaxing {what}", console=Console(stderr=True))
        return np.array([relaxed_energy(crystal, calculator, args.steps) for crystal in bar])

    base = relaxed(references, "references")
    found: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "data": {"file": args.data.name, "sha256": table.sha256},
        "n": len(chosen),
        "predictor": args.predictor,
        "references": {
            "data": figures(above),
            "dao_p": figures(predict_energy(predictor, references)),
            "without_symmetry": without_symmetry(references),
        },
        "samples": {},
    }
    for path, (crystals, about) in zip(args.samples, files, strict=True):
        mine = [crystals[i] for i in chosen]
        by_force_field = above + relaxed(mine, path.stem) - base
        found["samples"][path.stem] = {
            "identity": about["identity"],
            "seconds": about["seconds"],
            "dao_p": figures(predict_energy(predictor, mine)),
            "force_field": figures(by_force_field),
            "without_symmetry": without_symmetry(mine),
        }
    return found


def main() -> int:
    """The last line is the figure; exit code 2 for what cannot be measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path, help="the file that the samples were drawn for")
    p.add_argument("samples", type=Path, nargs="+", help="OUT.npz of match_rate.py")
    p.add_argument("--predictor", default="dao-p-flow")
    p.add_argument("--limit", type=int, default=200, help="a random subset of so many rows")
    p.add_argument("--steps", type=int, default=200, help="of a relaxation, at most")
    p.add_argument("--quick", action="store_true", help="3 rows, 3 steps: to see that it runs")
    p.add_argument("--out", type=Path, help="JSON file for the figures")
    args = p.parse_args()
    if args.quick:
        args.limit = args.steps = 3
    try:
        found = measure(args)
        if args.out:
            args.out.write_text(json.dumps(found, indent=1) + "\n")
    except (BenchmarkError, DataError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    texts = []
    for name, each in found["samples"].items():
        shares = []
        for judge in ("dao_p", "force_field"):
            share, (low, high) = each[judge]["share_near_hull"], each[judge]["share_near_hull_95"]
            shares.append(f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}] by {judge.replace('_', ' ')}")
        texts.append(f"{name}: {', '.join(shares)}")
    print(f"below {NEAR_HULL} eV/atom, n = {found['n']}: " + "; ".join(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
