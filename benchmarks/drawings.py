"""Crystals drawn for the rows of a test file, kept on disk: `python benchmarks/drawings.py DATA --out FOLDER`.

Shards of `--rows` rows and `--block` draws each are written whole or not at all, the first draws of all rows before
further ones: the same command goes on where it was stopped, at any time, and what is there can be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from match_rate import chosen_rows
from rich.progress import track

from dao_flows.model.checkpoint.format import load
from dao_flows.model.checkpoint.library import find
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_g import DaoG
from dao_flows.model.data.table import read_crystals
from dao_flows.model.sampling.sample import Request, SamplerConfig, sample

IDENTITY = "drawings.json"


def shard(folder: Path, first: int, draw: int) -> Path:
    """The file of the drawings from `draw` on of the rows from the `first` chosen one on."""
    return folder / f"draws-{draw:03d}-rows-{first:05d}.npz"


def write(path: Path, crystals: list[Crystal]) -> None:
    """Crystals one after the other; whole or not at all."""
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        sizes=np.array([len(c) for c in crystals]),
        numbers=np.concatenate([c.numbers for c in crystals]).astype(np.uint8),
        frac=np.concatenate([c.frac for c in crystals]).astype(np.float32),
        lattice=np.stack([c.lattice for c in crystals]).astype(np.float32),
    )
    partial.replace(path)


def read(path: Path) -> list[Crystal]:
    """What `write` wrote."""
    with np.load(path) as file:
        ends = np.cumsum(file["sizes"])[:-1]
        parts = zip(np.split(file["numbers"], ends), np.split(file["frac"], ends), file["lattice"], strict=True)
        return [Crystal(numbers.astype(int), frac.astype(float), cell.astype(float)) for numbers, frac, cell in parts]


def read_drawings(folder: Path) -> dict[int, list[Crystal]]:
    """The drawings of each row, in order, as many as there are."""
    about = json.loads((folder / IDENTITY).read_text())
    rows, block = about["chosen"], about["block"]
    found: dict[int, list[Crystal]] = {row: [] for row in rows}
    for path in sorted(folder.glob("draws-*-rows-*.npz")):
        first, crystals = int(path.stem.rsplit("-", 1)[1]), read(path)
        for i in range(len(crystals) // block):
            found[rows[first + i]] += crystals[i * block : (i + 1) * block]
    return found


def main() -> int:
    """Write the shards that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--split", help="rows of this split alone")
    parser.add_argument("--max-atoms", type=int)
    parser.add_argument("--limit", type=int, help="a random subset of this many rows (always the same)")
    parser.add_argument("--checkpoint", default="dao-g-flow")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--block", type=int, default=5, help="draws of a shard")
    parser.add_argument("--rows", type=int, default=100, help="rows of a shard")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = read_crystals(args.data, args.split, args.max_atoms)
    chosen = chosen_rows(table, args.limit)
    model, card = load(find(args.checkpoint))
    assert isinstance(model, DaoG)
    about = {
        "data": table.sha256,
        "checkpoint": card.sha256,
        **{name: getattr(args, name) for name in ("split", "max_atoms", "limit", "steps", "block", "rows")},
        "chosen": chosen.tolist(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    identity = args.out / IDENTITY
    if identity.exists() and json.loads(identity.read_text()) != about:
        print(f"error: {args.out} holds drawings of other settings: give another --out", file=sys.stderr)
        return 2
    identity.write_text(json.dumps(about))
    shards = [(draw, first) for draw in range(0, args.draws, args.block) for first in range(0, len(chosen), args.rows)]
    for draw, first in track([s for s in shards if not shard(args.out, s[1], s[0]).exists()], "shards"):
        requests = [
            Request(table.crystals[row].numbers, (int(row), k))
            for row in chosen[first : first + args.rows]
            for k in range(draw, draw + args.block)
        ]
        write(shard(args.out, first, draw), sample(model, requests, 0, SamplerConfig(args.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
