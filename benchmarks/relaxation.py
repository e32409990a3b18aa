"""Speed of relaxing a dataset: `python benchmarks/relaxation.py --help`.

The same crystals, on the same cores, in one run: one RelaxDatasetMaker job for all of them (DAO-P, its five L-BFGS
steps), and atomate2's ForceFieldRelaxMaker with CHGNet at its defaults, one job a crystal. Both through run_locally
with the embedded store, so that serialising, documents and writing count. DAO-P goes before and after CHGNet, for the
load of a shared machine changes; its slower run is what counts. Both once more with nothing to compute: what is left is
the overhead of the workflow. A crystal counts as relaxed when its relaxation has ended, accepted or not.

Scaling: shards of synthetic crystals, each relaxed by a process of its own with a tiny network, so that what grows is
the pipeline's: time a crystal, and peak memory of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from dao_flows.model.data.shards import (
    DataError,
    Manifest,
    columns,
    dataset_rows,
    join_shards,
    write_manifest,
    write_shard,
    write_shards,
)

SIZES, QUICK_SIZES = (1_000, 10_000, 100_000), (100, 1_000)
IDEAL_GAS = {"@module": "ase.calculators.idealgas", "@callable": "IdealGas"}  # no energy, no forces: nothing to compute


def in_window(data: Path, count: int, checkpoint: str, seed: int) -> list[dict[str, Any]]:
    """Rows of the data that the maker would relax, drawn at random."""
    from dao_flows.makers.relax_dataset import RelaxDatasetMaker
    from dao_flows.model.checkpoint.library import card_of

    maker, card = RelaxDatasetMaker(), card_of(checkpoint)
    rows = [
        row
        for row in dataset_rows(data)
        if row["e_above_hull"] is not None
        and maker.low < row["e_above_hull"] <= maker.high
        and len(row["numbers"]) <= card.max_atoms
        and set(row["numbers"]) <= set(card.elements)
    ]
    if len(rows) < count:
        raise DataError(f"{data} has {len(rows)} crystals to relax, not {count}: take fewer with --crystals")
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    return [{key: rows[i].get(key) for key in columns()} | {"split": "train"} for i in chosen]


def synthetic(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of 1 to 8 random atoms in slightly strained cubes of 20 Å³ an atom."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        size = int(rng.integers(1, 9))
        cell = (20 * size) ** (1 / 3) * (np.eye(3) + rng.normal(0, 1e-3, (3, 3)))
        rows.append(
            {
                "material_id": f"synthetic-{seed}-{index}",
                "source": "synthetic",
                "reduced_formula": "",
                "n_atoms": size,
                "numbers": rng.integers(1, 84, size).tolist(),
                "lattice": cell.ravel().tolist(),
                "frac": rng.random(3 * size).tolist(),
                "e_above_hull": 0.2,
                "e_above_hull_kind": "synthetic",
                "split": "train",
            }
        )
    return rows


def one_shard(folder: Path, rows: int) -> Path:
    """A dataset of one shard of synthetic crystals, written piece by piece."""
    pieces = folder / "pieces"
    pieces.mkdir(parents=True)
    for number, start in enumerate(range(0, rows, 1000)):
        write_shard(pieces / f"{number:06d}.parquet", synthetic(min(1000, rows - start), number), columns())
    shard = join_shards(folder / "shard-00000.parquet", sorted(pieces.glob("*.parquet")), columns())
    write_manifest(folder, Manifest("synthetic", columns(), (shard,), {"train": rows}, "0"))
    return folder


def tiny_checkpoint(folder: Path) -> Path:
    """An untrained DAO-P of hardly any arithmetic."""
    import torch

    from dao_flows.model.checkpoint.format import save
    from dao_flows.model.dao import DaoConfig
    from dao_flows.model.dao_p import DaoP
    from dao_flows.model.network.crysformer import CrysformerConfig

    torch.manual_seed(0)
    network = CrysformerConfig(hidden=8, layers=1, heads=1, frequencies=2, time_width=4, feed_forward=1)
    model = DaoP(DaoConfig(network=network, volume_scaling=True))
    save(folder / "tiny", model, {"elements": list(range(1, 84)), "max_atoms": 20})
    return folder / "tiny"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the force field prints for every job."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def run(jobs: Any, folder: Path) -> dict[str, Any]:
    """Run jobs through a store in the folder: seconds, those of the processor, and bytes that the store then holds."""
    from jobflow import Flow, JobStore, run_locally

    from dao_flows.store.embedded import EmbeddedStore

    path = folder / "store"
    (folder / "jobs").mkdir(parents=True)
    store = JobStore(
        EmbeddedStore("jobs", database_path=str(path)),
        additional_stores={"data": EmbeddedStore("data", database_path=str(path))},
    )
    begun, used = time.perf_counter(), time.process_time()
    with quiet():
        options = {"log": False, "ensure_success": True, "create_folders": True, "root_dir": folder / "jobs"}
        run_locally(Flow(jobs), store=store, **options)
    figures = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - used}
    return figures | {"stored_bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file())}


def batched(dataset: Path, folder: Path, predictor: str) -> dict[str, Any]:
    """One job for the only shard of a dataset."""
    from dao_flows.makers.relax_dataset import RelaxDatasetMaker
    from dao_flows.makers.schemas.relaxation import RelaxationDoc

    out = folder / "out"
    measured = run([RelaxDatasetMaker(predictor=predictor, device="cpu").make(str(dataset), 0, str(out))], folder)
    document = RelaxationDoc.model_validate_json((out / "shard-00000.json").read_bytes())
    written = sum(file.stat().st_size for file in out.glob("shard-*"))
    return measured | {
        "crystals": document.computation.tried,
        "outcomes": document.outcomes,
        "file_bytes": written,
        "seconds_a_crystal": measured["seconds"] / document.computation.tried,
    }


def one_job_each(rows: list[dict[str, Any]], folder: Path, force_field: Any) -> dict[str, Any]:
    """One job of atomate2 a crystal."""
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker

    from dao_flows.makers.science.structures import to_structure
    from dao_flows.model.crystals import Crystal

    crystals = [
        Crystal(np.array(r["numbers"]), np.reshape(r["frac"], (-1, 3)), np.reshape(r["lattice"], (3, 3))) for r in rows
    ]
    maker = ForceFieldRelaxMaker(force_field_name=force_field)
    measured = run([maker.make(to_structure(crystal)) for crystal in crystals], folder)
    return measured | {"crystals": len(rows), "seconds_a_crystal": measured["seconds"] / len(rows)}


def unmoved(model: Any, crystals: list[Any], config: Any) -> list[Any]:
    """In place of the relaxation: every crystal as it was, at a lower energy."""
    from dao_flows.model.relax import Relaxed

    return [Relaxed(crystal, 0.2, 0.1, 0, True) for crystal in crystals]


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """DAO-P in one job against CHGNet in one job a crystal, and both with nothing to compute."""
    import torch

    torch.set_num_threads(args.threads)
    rows = in_window(args.data, args.crystals, args.checkpoint, args.seed)
    dataset = folder / "dataset"
    shards, counts = write_shards(dataset, rows, columns(), len(rows))
    write_manifest(dataset, Manifest("benchmark", columns(), shards, dict(counts), "0"))
    few = rows[: max(1, len(rows) // 10)]
    one_job_each(few[:1], folder / "warm-up-1", "CHGNet")  # imports and first calls count for neither
    batched(dataset, folder / "warm-up-2", str(tiny_checkpoint(folder)))
    before = batched(dataset, folder / "dao-p-1", args.checkpoint)
    single = one_job_each(rows, folder / "chgnet", "CHGNet")
    after = batched(dataset, folder / "dao-p-2", args.checkpoint)
    with mock.patch("dao_flows.model.relax.relax", unmoved):
        idle = batched(dataset, folder / "idle-1", args.checkpoint)
    idle_single = one_job_each(rows, folder / "idle-2", IDEAL_GAS)
    slower, most = (max(before[key], after[key]) for key in ("seconds", "cpu_seconds"))
    return {
        "dao_p_one_job": [before, after],
        "chgnet_one_job_a_crystal": single,
        "nothing_to_compute": {"one_job": idle, "one_job_a_crystal": idle_single},
        "crystals_per_second": {"dao_p": len(rows) / slower, "chgnet": len(rows) / single["seconds"]},
        "ratio": single["seconds"] / slower,
        "ratio_of_cpu_seconds": single["cpu_seconds"] / most,
        "ratio_of_overheads": idle_single["seconds"] / idle["seconds"],
        "stored_bytes_per_1000": {
            "dao_p": round(1000 * (before["stored_bytes"] + before["file_bytes"]) / len(rows)),
            "chgnet": round(1000 * single["stored_bytes"] / len(rows)),
        },
    }


def scale(sizes: tuple[int, ...], folder: Path, threads: int) -> list[dict[str, Any]]:
    """Each size in a process of its own."""
    results = []
    for size in sizes:
        dataset = one_shard(folder / f"synthetic-{size}", size)
        command = [sys.executable, __file__, "--child", str(dataset), "--threads", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the process that relaxes {size} crystals failed: {done.stderr[-2000:]}")
        results.append({"rows": size, **json.loads(done.stdout.splitlines()[-1])})
    return results


def child(dataset: Path, threads: int) -> None:
    """Relax one shard of synthetic crystals and tell time and peak memory."""
    import torch

    torch.set_num_threads(threads)
    predictor = tiny_checkpoint(dataset)
    small = one_shard(dataset / "warm-up", 1000)
    batched(small, dataset / "warm-up-run", str(predictor))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measured = batched(dataset, dataset / "run", str(predictor))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = ("crystals", "seconds", "seconds_a_crystal", "cpu_seconds", "stored_bytes", "file_bytes")
    print(json.dumps({key: measured[key] for key in figures} | {"base_kib": base, "peak_kib": peak}))


def main() -> int:
    """The last line is the figure; exit code 2 for what cannot be measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path, nargs="?", help="dataset or parquet file with crystals to relax (Niggli cells)")
    p.add_argument("--checkpoint", default="dao-p-base")
    p.add_argument("--crystals", type=int, default=200, help="for the comparison with CHGNet")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--quick", action="store_true", help="20 crystals, shards of at most 1,000: to see that it runs")
    p.add_argument("--out", type=Path, help="JSON file for the figures")
    p.add_argument("--only", choices=("comparison", "scaling"), help="one of the two parts")
    p.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child:
        child(args.child, args.threads)
        return 0
    if args.only != "scaling" and (args.data is None or not args.data.exists()):
        p.error("give a dataset or parquet file with crystals to relax")
    if args.quick:
        args.crystals = 20
    load = os.getloadavg()
    result: dict[str, Any] = {"command": shlex.join(["python", *sys.argv]), "threads": args.threads}
    with tempfile.TemporaryDirectory() as name:
        try:
            if args.only != "comparison":
                result["scaling"] = scale(QUICK_SIZES if args.quick else SIZES, Path(name), args.threads)
            if args.only != "scaling":
                result |= compare(args, Path(name))
        except DataError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    result["load_before_and_after"] = [load, os.getloadavg()]
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    for size in result.get("scaling", ()):
        print(
            f"shard of {size['rows']}: {1e3 * size['seconds_a_crystal']:.2f} ms a crystal, peak memory "
            f"{size['peak_kib'] / 1024:.0f} MiB ({(size['peak_kib'] - size['base_kib']) / 1024:.0f} MiB above 1,000's)"
        )
    if args.only == "scaling":
        return 0
    idle = result["nothing_to_compute"]
    print("seconds a crystal with nothing to compute:", end=" ")
    print(", ".join(f"{name.replace('_', ' ')} {figures['seconds_a_crystal']:.5f}" for name, figures in idle.items()))
    stored = result["stored_bytes_per_1000"]
    print(f"stored per 1,000 crystals: DAO-P {stored['dao_p'] / 1e3:.0f} kB, CHGNet {stored['chgnet'] / 1e3:.0f} kB")
    rates = result["crystals_per_second"]
    print(
        f"{result['ratio']:.1f}× more crystals a second: DAO-P in one job {rates['dao_p']:.2f}/s, CHGNet one job a "
        f"crystal {rates['chgnet']:.3f}/s (n = {args.crystals}, {args.threads} threads; by processor time "
        f"{result['ratio_of_cpu_seconds']:.1f}×)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
