"""Rows per second and memory of `dataset build`, on synthetic crystals of several numbers or on files of your own.

Each size is built in a process of its own, whose largest memory (resident, without its workers) is what the operating
system says. Synthetic crystals: random cells of 1 to 8 atoms, all different.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

SIZES, QUICK = (1_000, 10_000, 100_000), (50, 100)


def synthetic(seed: int = 0) -> Iterator[dict[str, Any]]:
    """Random crystals without end: cells of 1 to 8 atoms of 1 to 4 elements, 18 Å³ an atom."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        size = int(rng.integers(1, 9))
        cell = (18.0 * size) ** (1 / 3) * (np.eye(3) + rng.normal(0, 0.12, (3, 3)))
        elements = rng.integers(1, 84, min(size, 4))
        yield {
            "material_id": f"random-{number}",
            "numbers": sorted(rng.choice(elements, size).tolist()),
            "lattice": cell.ravel().tolist(),
            "frac": rng.random(3 * size).tolist(),
            "e_above_hull": float(rng.uniform(0, 0.5)),
        }
        number += 1


def build(source: str, rows: int, held_out: list[str], keep_duplicates: bool) -> dict[str, Any]:
    """Build once in a temporary folder: seconds, rows per second, MiB."""
    from dao_flows.api.datasets import BuildConfig, build_dataset

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if source == "synthetic":
            path = folder / "synthetic.parquet"
            write(path, rows)
            source = str(path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began = time.perf_counter()
        config = BuildConfig(held_out=tuple(held_out), keep_duplicates=keep_duplicates)
        manifest = build_dataset(folder / "set", [source], config)
        seconds = time.perf_counter() - began
        read = sum(s["rows"] for s in [*manifest.sources, *manifest.filters["held_out"]])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": read,
        "kept": manifest.rows,
        "seconds": round(seconds, 2),
        "rows_per_second": round(read / seconds, 1),
        "memory_mib": round(peak),
        "memory_before_mib": round(before),
    }


def write(path: Path, rows: int) -> None:
    """Write synthetic rows in groups, so that writing them does not count as memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dao_flows.model.data.shards import COLUMNS, arrow_schema

    schema, crystals = arrow_schema(COLUMNS), synthetic()
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(crystals, min(rows, 1000))):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            rows -= len(group)
            if not rows:
                return


def main() -> None:
    """Print one JSON object a size."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--source", default="synthetic", help="a source of `dataset build`; by default synthetic crystals")
    p.add_argument("--held-out", action="append", default=[])
    p.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of synthetic crystals")
    p.add_argument("--keep-duplicates", action="store_true")
    p.add_argument("--quick", action="store_true", help=f"sizes {QUICK}")
    p.add_argument("--one", type=int, help=argparse.SUPPRESS)  # the process of one size
    args = p.parse_args()
    if args.one is not None:
        print(json.dumps(build(args.source, args.one, args.held_out, args.keep_duplicates)))
        return
    sizes = QUICK if args.quick else args.sizes if args.source == "synthetic" else (0,)
    flags = [word for held in args.held_out for word in ("--held-out", held)]
    flags += ["--keep-duplicates"] * args.keep_duplicates
    for size in sizes:
        command = [sys.executable, __file__, "--source", args.source, "--one", str(size), *flags]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
