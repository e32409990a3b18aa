"""Perturbed copies of crystals with a force field's energies, to train DAO-P on: `python benchmarks/perturb.py --help`.

A copy's energy above hull is its crystal's, plus what the force field (CHGNet) says that the copy lies higher by. The
file has the columns of the source, and takes the rows of the source along with --with-source. Only rows of split train
are perturbed. The same command gives the same file; finished parts are kept beside it, so that it goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

DISPLACEMENTS = (0.02, 0.4)  # Å, standard deviation along each axis; drawn log-uniformly
STRAIN = 0.03  # standard deviation of each component
PART = 250  # crystals labelled at a time
HIGHEST = 3.0  # eV/atom above hull; what lies higher is no crystal any more


def perturbed(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The row with its atoms displaced and its cell strained."""
    frac, lattice = np.reshape(row["frac"], (-1, 3)), np.reshape(row["lattice"], (3, 3))
    spread = np.exp(rng.uniform(*np.log(DISPLACEMENTS)))
    frac = (frac + spread * rng.normal(size=frac.shape) @ np.linalg.inv(lattice)) % 1
    strain = rng.normal(0, STRAIN, (3, 3))
    lattice = lattice @ (np.eye(3) + (strain + strain.T) / 2)
    return {**row, "frac": frac.ravel().tolist(), "lattice": lattice.ravel().tolist()}


def energies(model: Any, rows: list[dict[str, Any]]) -> np.ndarray:
    """eV/atom: (rows,), by CHGNet; NaN for what it cannot price."""
    from pymatgen.core import Lattice, Structure

    found = []
    for row in rows:
        lattice, frac = np.reshape(row["lattice"], (3, 3)), np.reshape(row["frac"], (-1, 3))
        try:
            structure = Structure(Lattice(lattice), row["numbers"], frac)
            found.append(float(model.predict_structure(structure, task="e")["e"]))
        except Exception as error:  # an atom without neighbours, a torn cell
            print(f"not priced: {row['reduced_formula']}: {type(error).__name__}", file=sys.stderr)
            found.append(np.nan)
    return np.array(found)


def labelled(model: Any, rows: list[dict[str, Any]], copies: int, seed: int) -> list[dict[str, Any]]:
    """Copies of each row with their energies above hull."""
    rng = np.random.default_rng(seed)
    made = [perturbed(row, rng) for row in rows for _ in range(copies)]
    own, theirs = energies(model, rows), energies(model, made)
    out = []
    for number, row in enumerate(made):
        above = row["e_above_hull"] + theirs[number] - own[number // copies]
        if np.isfinite(above) and above < HIGHEST:
            out.append({**row, "e_above_hull": float(above), "e_above_hull_kind": "chgnet"})
    return out


def main() -> int:
    """The last line says how many copies there are."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path, help="parquet file as prepared for training")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--crystals", type=int, default=3000, help="how many rows of split train are perturbed")
    p.add_argument("--copies", type=int, default=2)
    p.add_argument("--max-atoms", type=int, default=12)
    p.add_argument("--max-energy", type=float, default=0.08, help="eV/atom above hull of the rows perturbed")
    p.add_argument("--with-source", action="store_true", help="write the source's rows, too")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--quick", action="store_true", help="10 crystals: to see that it runs")
    args = p.parse_args()
    import torch
    from chgnet.model import CHGNet

    torch.set_num_threads(args.threads)
    source = pq.read_table(args.data)
    rows = [
        row
        for row in source.select([*source.schema.names]).to_pylist()
        if row["split"] == "train"
        and row["e_above_hull"] is not None
        and row["e_above_hull"] < args.max_energy
        and len(row["numbers"]) <= args.max_atoms
    ]
    order = np.random.default_rng(args.seed).permutation(len(rows))[: 10 if args.quick else args.crystals]
    chosen = [rows[i] for i in order]
    model = CHGNet.load(verbose=False, use_device="cpu")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tables = [source] if args.with_source else []
    starts = range(0, len(chosen), PART)
    for start in track(starts, "labelling", console=Console(stderr=True)):
        kept = args.out.with_name(f"{args.out.stem}-part-{start:06d}.parquet")
        if not kept.exists():
            made = labelled(model, chosen[start : start + PART], args.copies, args.seed + start)
            partial = kept.with_suffix(".partial")
            pq.write_table(pa.Table.from_pylist(made, schema=source.schema), partial)
            partial.replace(kept)
        tables.append(pq.read_table(kept))
    whole = pa.concat_tables(tables)
    partial = args.out.with_suffix(".partial")
    pq.write_table(whole, partial)
    partial.replace(args.out)
    for start in starts:
        args.out.with_name(f"{args.out.stem}-part-{start:06d}.parquet").unlink()
    copies = np.array([row["e_above_hull"] for table in tables[args.with_source :] for row in table.to_pylist()])
    print(f"{len(copies)} copies of {len(chosen)} crystals, on average {copies.mean():.3f} eV/atom above the hull")
    return 0


if __name__ == "__main__":
    sys.exit(main())
