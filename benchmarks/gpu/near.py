"""The crystals near the hull as a dataset of their own, judged once, so that trainings elsewhere need no judge.

`python benchmarks/gpu/near.py crysdb data/crysdb_near --judge dao-p-flow`: rows within --max-energy (eV/atom), and
those of unknown energy that the judge finds there, as `--max-energy` and `--judge` of the training would have it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dao_flows.model.data.shards import Manifest, dataset_rows, read_manifest, write_manifest, write_shards
from dao_flows.model.data.table import read_crystals
from dao_flows.model.training.run import read_judge
from dao_flows.version import __version__


def main() -> None:
    """Write the dataset; its manifest names its parent and the judge."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--judge", required=True)
    p.add_argument("--max-energy", type=float, default=0.08)
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    judge, sha256 = read_judge(args.judge, args.device)
    table = read_crystals(args.data)
    energy = np.asarray(table.energy, dtype=float)
    unknown = np.flatnonzero(np.isnan(energy))
    energy[unknown] = judge([table.crystals[i] for i in unknown])
    near = energy <= args.max_energy
    parent = read_manifest(args.data)
    rows = (row for row, kept in zip(dataset_rows(args.data), near, strict=True) if kept)
    shards, counts = write_shards(args.out, rows, parent.columns)
    manifest = Manifest(
        args.out.name,
        parent.columns,
        shards,
        dict(counts),
        __version__,
        sources=parent.sources,
        filters=parent.filters | {"max_energy": args.max_energy},
        parent=parent.sha256,
        made_by={
            "maker": "benchmarks/gpu/near.py",
            "max_energy": args.max_energy,
            "judged": int(near[unknown].sum()),
            "checkpoints": {"judge": sha256},
        },
    )
    write_manifest(args.out, manifest)
    print(f"{len(near)} crystals, {int(near.sum())} near, {dict(counts)}, sha256 {manifest.sha256}")


if __name__ == "__main__":
    main()
