"""CHGNet's energy, forces and stress of wrong crystals: `python benchmarks/labels.py --help`.

What DAO-P is to learn from: drawings of DAO-G for the formulas of the training rows, as they are drawn. Rows come in a
random order that does not change; each shard holds `--rows` of them and is written whole or not at all, so that the
same command goes on where it stopped, at any time. Energies in eV/atom, forces in eV/Å, stress in GPa (CHGNet's units).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import track

from dao_flows.makers.structures import to_structure
from dao_flows.model.checkpoint import load
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_g import DaoG
from dao_flows.model.library import find
from dao_flows.model.sample import Request, sample

SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("draw", pa.int16()),
        ("numbers", pa.list_(pa.int16())),
        ("lattice", pa.list_(pa.float32())),
        ("frac", pa.list_(pa.float32())),
        ("energy_per_atom", pa.float32()),
        ("forces", pa.list_(pa.float32())),
        ("stress", pa.list_(pa.float32())),
    ]
)


def training_rows(data: Path, max_atoms: int) -> list[tuple[int, list[int]]]:
    """Index and atomic numbers of the train rows of a parquet file, in an order that is random but fixed."""
    table = pq.read_table(data, columns=["split", "numbers"]).to_pylist()
    rows = [i for i, row in enumerate(table) if row["split"] == "train" and len(row["numbers"]) <= max_atoms]
    return [(i, sorted(table[i]["numbers"])) for i in np.random.default_rng(0).permutation(rows)]


def drawings(model: DaoG, rows: list[tuple[int, list[int]]], draws: int) -> Iterator[tuple[int, int, Crystal]]:
    """So many crystals of the atoms of each row: index, number of the drawing, crystal (Å)."""
    keys = [(index, draw) for index, _ in rows for draw in range(draws)]
    numbers = {index: np.asarray(atoms) for index, atoms in rows}
    crystals = sample(model, [Request(numbers[index], (index, draw)) for index, draw in keys], seed=0)
    for (index, draw), crystal in zip(keys, crystals, strict=True):
        yield index, draw, crystal


def labelled(force_field: Any, index: int, draw: int, crystal: Crystal) -> dict[str, Any] | None:
    """One row of a shard; None for a crystal that the force field has no answer for."""
    try:
        found = force_field.predict_structure(to_structure(crystal), task="efs")
    except Exception as error:  # an atom without neighbours, a torn cell
        print(f"row {index}, drawing {draw}: {type(error).__name__}: {str(error)[:80]}", file=sys.stderr)
        return None
    return {
        "row": index,
        "draw": draw,
        "numbers": crystal.numbers,
        "lattice": crystal.lattice.ravel(),
        "frac": crystal.frac.ravel(),
        "energy_per_atom": float(found["e"]),
        "forces": found["f"].ravel(),
        "stress": found["s"].ravel(),
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """A shard, whole or not at all."""
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial, compression="zstd")
    partial.replace(path)


def main() -> None:
    """Write the shards that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="parquet file with numbers and split")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--checkpoint", default="dao-g-flow")
    parser.add_argument("--draws", type=int, default=4, help="drawings of each row")
    parser.add_argument("--rows", type=int, default=200, help="rows of a shard")
    parser.add_argument("--max-atoms", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one shard of two rows")
    args = parser.parse_args()
    from chgnet.model.model import CHGNet

    force_field = CHGNet.load(use_device="cpu", verbose=False)
    model, _ = load(find(args.checkpoint))
    assert isinstance(model, DaoG)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = training_rows(args.data, args.max_atoms)
    size = 2 if args.quick else args.rows
    starts = range(0, size if args.quick else len(rows), size)
    written = 0
    for shard in track(range(len(starts)), "shards"):
        path = args.out / f"drawings-{shard:05d}.parquet"
        if path.exists():
            continue
        frames = [
            labelled(force_field, *each)
            for each in drawings(model, rows[starts[shard] : starts[shard] + size], args.draws)
        ]
        write(path, [frame for frame in frames if frame is not None])
        written += 1
    print(f"{written} shards written, {len(starts)} in {args.out}")


if __name__ == "__main__":
    main()
