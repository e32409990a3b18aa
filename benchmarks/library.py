"""Lookups: one composition among a million crystals, and a thousand in the library that ships, each in its own process.

The million is the shipped library's crystals with their elements exchanged at random, as often as it takes. Seconds and
memory of laying them out, of opening them, and of the templates of compositions in every cell of up to 20 atoms.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dao_flows.model.data.shards import COLUMNS, Manifest, Shard, arrow_schema, file_sha256, write_manifest
from dao_flows.model.templates.index import LARGEST_ELEMENT
from dao_flows.model.templates.library import Library, build_index
from dao_flows.model.templates.places import find, open_library
from dao_flows.model.templates.search import find_templates

MAX_ATOMS, TEMPLATES = 20, 20
SHIPPED = "known"


def write_synthetic(folder: Path, library: Library, rows: int) -> None:
    """A dataset of so many crystals: those of a library over and over, each time with other elements."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    rng, shards, columns = np.random.default_rng(0), [], library.columns
    for first in range(0, rows, len(library)):
        count = min(len(library), rows - first)
        atom_ends = columns["atom_ends"][: count + 1]
        exchange = np.concatenate([[0], 1 + rng.permutation(LARGEST_ELEMENT)])
        numbers = exchange[columns["numbers"][: atom_ends[-1]]].astype(np.int16)
        frac, lattice = columns["frac"][: atom_ends[-1]].ravel(), columns["lattice"][:count].ravel()
        lists = {
            "numbers": (atom_ends, numbers),
            "frac": (3 * atom_ends, frac),
            "lattice": (9 * np.arange(count + 1), lattice),
        }
        held: dict[str, Any] = {
            name: pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(values))
            for name, (ends, values) in lists.items()
        }
        held["material_id"] = [f"synthetic-{first + i}" for i in range(count)]
        held["source"] = ["synthetic"] * count
        held["n_atoms"] = np.diff(atom_ends).astype(np.int32)
        held["e_above_hull"] = columns["energy"][:count].astype(float)
        schema = arrow_schema(COLUMNS)
        arrays = [held.get(name, pa.nulls(count, schema.field(name).type)) for name in COLUMNS]
        path = folder / f"shard-{len(shards):05d}.parquet"
        pq.write_table(pa.Table.from_arrays([*map(pa.array, arrays)], schema=schema), path, compression="zstd")
        shards.append(Shard(path.name, file_sha256(path), count))
    write_manifest(folder, Manifest(folder.name, dict(COLUMNS), tuple(shards), {"train": rows}, "0"))


def largest_memory() -> int:
    """Of this process so far, MiB; what its parent took before it counts with what getrusage says."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def cells(formula: str) -> list[np.ndarray]:
    """Atomic numbers of the cells of a formula that have up to 20 atoms."""
    from pymatgen.core import Composition

    amounts = Composition(formula).items()
    one = np.repeat([element.Z for element, _ in amounts], [int(count) for _, count in amounts])
    return [np.tile(one, units) for units in range(1, max(MAX_ATOMS // len(one), 1) + 1)]


def look_up(folder: Path, asked: list[list[np.ndarray]]) -> dict[str, Any]:
    """Seconds of opening a library and of each lookup, and the largest memory of this process (MiB)."""
    began = time.perf_counter()
    library = open_library(folder)
    opened = time.perf_counter()
    seconds, found = [], 0
    for each in asked:
        start = time.perf_counter()
        found += len(find_templates(library, each, TEMPLATES))
        seconds.append(time.perf_counter() - start)
    return {
        "crystals": len(library),
        "opened_s": round(opened - began, 3),
        "first_ms": round(1e3 * seconds[0], 1),
        "median_ms": round(1e3 * float(np.median(seconds)), 1),
        "slowest_ms": round(1e3 * max(seconds), 1),
        "total_s": round(sum(seconds), 2),
        "templates": found,
        "memory_mib": largest_memory(),
    }


def apart(folder: Path, formulas: list[str]) -> dict[str, Any]:
    """look_up in a process of its own, on one core, which has these formulas' cells and little else."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([[cell.tolist() for cell in cells(formula)] for formula in formulas], file)
        file.flush()
        command = [sys.executable, __file__, "--look-up", str(folder), file.name]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        told: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, env=env).stdout)
        return told


def main() -> None:
    """Print one JSON object a library, and the figures in a line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rows", type=int, default=1_000_000, help="synthetic crystals")
    p.add_argument("--compositions", type=int, default=1000, help="looked up in the shipped library")
    p.add_argument("--library", default=SHIPPED, help="whose crystals they are")
    p.add_argument("--quick", action="store_true", help="2,000 crystals and 20 compositions")
    p.add_argument("--look-up", nargs=2, type=Path, help=argparse.SUPPRESS)  # the process of one library
    args = p.parse_args()
    if args.look_up:
        folder, file = args.look_up
        asked = [[np.array(cell) for cell in each] for each in json.loads(file.read_text())]
        print(json.dumps(look_up(folder, asked)))
        return
    from compositions import spread

    rows, count = (2_000, 20) if args.quick else (args.rows, args.compositions)
    library = find(args.library)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "synthetic"
        write_synthetic(folder, open_library(library), rows)
        began = time.perf_counter()
        build_index(folder)
        laid_out = time.perf_counter() - began
        size = (folder / "index.safetensors").stat().st_size / 2**20
        print(
            json.dumps(
                {"rows": rows, "laid_out_s": round(laid_out, 1), "memory_mib": largest_memory(), "mib": round(size)}
            )
        )
        large = apart(folder, spread(20))
    print(json.dumps(large))
    small = apart(library, spread(count))
    print(json.dumps(small))
    print(
        f"{large['median_ms']} ms and {large['memory_mib']} MiB among {large['crystals']} crystals; "
        f"{count} compositions among {small['crystals']} in {small['total_s']} s"
    )


if __name__ == "__main__":
    main()
