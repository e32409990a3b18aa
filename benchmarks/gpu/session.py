"""What to do with a few minutes of a GPU: `python benchmarks/gpu/session.py speed|train --help` (GPU.md).

`speed` measures the networks and batches to choose from; `train` trains one for so many seconds, draws samples, and
packs what is to be kept into pieces that are small enough to be fetched. Both keep to their time and leave their logs.
Needs what training needs; a checkout is enough.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PIECE = 15 << 20  # bytes of a file that is fetched
TRIED = ("--fused", "--cuda-graphs")  # what a training does without if it fails with it
SIZES: dict[str, dict[str, int]] = {
    "3M": {"hidden": 192, "layers": 6, "heads": 8, "frequencies": 24, "time_width": 128},
    "8M": {"hidden": 256, "layers": 9, "heads": 8, "frequencies": 64, "time_width": 128},
    "25M": {"hidden": 384, "layers": 12, "heads": 8, "frequencies": 128, "time_width": 256},
}
BY_SIZE = {
    "3M": "--rate 1e-3 --weight-decay 0.02",
    "8M": "--rate 1e-3 --weight-decay 0.05",
    "25M": "--rate 7e-4 --weight-decay 0.1",
}
COMMON = "--objective flow --volume-scaling --max-atoms 52 --optimizer muon --warm-up 500 --constant 0.3 --ema 0.9995"
COMMON += " --validate-every 2000 --snapshot-every 5000 --save-every-s 300 --store-as float16 --steps 100000"
BY_KIND = {"dao-g": "--coordinate-weight 3", "dao-p": ""}
SAMPLED = (6, 10, 16, 24, 40)  # largest cells of the batches whose steps are timed
SHORT_S, LONG_S = 8, 15  # that a row of the table takes, about; to compile takes longer
SMALL = 20  # atoms up to which waves of pairs are formed (model/network/pair_attention.py)
FURTHER = {"25M": ((256, 64, False), (256, 0, False))}  # batch, other bounds, fused


def speed(args: argparse.Namespace) -> None:
    """A line for each network and batch: milliseconds of a step, and crystals per second over the dataset."""
    sys.path.insert(0, str(ROOT))
    import torch

    from dao_flows.model.data.table import read_crystals

    deadline = time.monotonic() + args.seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    table = read_crystals(args.data, "train", 52)
    took = args.seconds - (deadline - time.monotonic())
    print(f"{name}, torch {torch.__version__}, {len(table)} crystals, read in {took:.1f} s", flush=True)
    found: list[dict[str, Any]] = []
    sizes, batches = args.sizes.split(","), [int(batch) for batch in args.batches.split(",")]
    ways = [(size, batches[0], SMALL, False) for size in sizes]
    for size in sizes:
        ways += [(size, batch, SMALL, True) for batch in batches if args.fused]
        ways += [(size, batch, SMALL, False) for batch in batches[1:] if not args.fused]
    ways += [(size, *each) for size in sizes for each in FURTHER.get(size, ()) if args.further]
    for size, batch, small, fused in ways:
        began = time.monotonic()
        if deadline - began < (LONG_S if fused else SHORT_S):
            print(f"no time left for {size}, batches of {batch}, pairs up to {small} atoms, fused: {fused}")
            continue
        try:
            found.append(timed(table, device, size, batch, small, fused))
            print(line(found[-1]), flush=True)
        except Exception as error:  # of whatever kind: the other rows are wanted, too
            print(f"{size}, batches of {batch}, fused {fused}: {type(error).__name__}: {error}"[:600], flush=True)
        if args.out:
            args.out.write_text(json.dumps({"device": name, "rows": found}, indent=1) + "\n")


def line(row: dict[str, Any]) -> str:
    """One row of the table that `speed` prints."""
    steps = " ".join(f"{atoms}:{ms:.1f}" for atoms, ms in row["graph_ms"].items())
    return (
        f"{row['size']:>4} {row['parameters'] / 1e6:5.1f} M, batch {row['batch']}, pairs up to {row['small']:2d}"
        f"{', fused' if row['fused'] else ''}: "
        f"eager {row['eager_ms']:.0f} ms, graph ms by atoms {steps}; {row['crystals_per_s']:.0f} crystals/s, "
        f"{row['steps_per_s']:.1f} steps/s, first step {row['first_s']:.1f} s, a capture {row['capture_s']:.2f} s, "
        f"{row['gib']:.1f} GiB, "
        f"loss off by {row['apart']:.1e}"
    )


def timed(table: Any, device: Any, size: str, batch: int, small: int, fused: bool) -> dict[str, Any]:
    """Times of a few steps of batches of a few sizes, eagerly and replayed."""
    import numpy as np
    import torch

    from dao_flows.model.checkpoint.format import build
    from dao_flows.model.dao import DaoConfig
    from dao_flows.model.network import pair_attention
    from dao_flows.model.network.crysformer import CrysformerConfig
    from dao_flows.model.training.config import TrainConfig
    from dao_flows.model.training.trainer import Trainer

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    pair_attention.SMALL = small
    torch.manual_seed(0)
    config = DaoConfig(network=CrysformerConfig(**SIZES[size]), volume_scaling=True, objective="flow")
    model = build("dao-g", asdict(config)).to(device)
    settings = TrainConfig(steps=1000, batch_size=batch, optimizer="muon", bf16=True, weight_decay=0.05, rate=1e-5)
    with tempfile.TemporaryDirectory() as folder:
        made = Trainer(model, settings, table, None, Path(folder), fused=fused)
        replayed = made.replayed
        atoms = [b.crystals.numbers.shape[1] for b in made.batches.buckets]
        counts = [len(b.crystals) for b in made.batches.buckets]
        took: dict[int, float] = {}
        eager = capture = apart = first = 0.0
        for bucket, n in enumerate(atoms):
            if n not in SAMPLED or counts[bucket] < batch:
                continue
            rows = torch.arange(batch, device=device)
            began = wait()
            made.take_step(bucket, rows)
            first = max(first, wait() - began)
            began = wait()
            made.take_step(bucket, rows)
            capture = wait() - began
            if n == SAMPLED[1]:
                step, weights = made.step, [p.clone() for p in made.raw]
                one = made.take_step(bucket, rows)
                torch._foreach_copy_(made.raw, weights)
                made.replayed, made.step = None, step
                other = made.take_step(bucket, rows)
                apart = max(abs(float(one[k]) - float(other[k])) / float(other[k]) for k in one)
                began = wait()
                for _ in range(2):
                    made.take_step(bucket, rows)
                eager = (wait() - began) / 2
                made.replayed = replayed
            began, done = wait(), 0
            while done < 5 or (wait() - began < 0.3 and done < 40):
                for _ in range(5):
                    made.take_step(bucket, rows)
                done += 5
            took[n] = (wait() - began) / done
        expected = np.interp(atoms, list(took), list(took.values()))
        whole = [count // batch for count in counts]
        left = [count % batch / batch for count in counts]
        epoch = sum(t * (w + (max(0.4, r) if r else 0)) for t, w, r in zip(expected, whole, left, strict=True))
        row = {
            "size": size,
            "parameters": sum(p.numel() for p in made.raw),
            "batch": batch,
            "small": small,
            "fused": fused,
            "first_s": first,
            "eager_ms": 1000 * eager,
            "graph_ms": {n: 1000 * t for n, t in took.items()},
            "crystals_per_s": sum(counts) / epoch,
            "steps_per_s": made.batches.steps_per_epoch / epoch,
            "capture_s": capture,
            "gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0,
            "apart": apart,
        }
        if replayed is not None:
            replayed.forget()
    pair_attention.SMALL = SMALL
    return row


def command(args: argparse.Namespace, out: Path, more: list[str]) -> list[str]:
    """The training's command line."""
    words = [sys.executable, "-m", "dao_flows.model.train", args.kind, str(args.data), "--out", str(out)]
    for name, value in SIZES[args.size].items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    words += [*COMMON.split(), *BY_KIND[args.kind].split(), *BY_SIZE[args.size].split()]
    return [*words, "--batch-size", str(args.batch_size), *args.more, *more]


def run(words: list[str], log: Path, seconds: float) -> int:
    """Run a command into a log, asked to stop after so many seconds, and killed 30 s later; its exit code."""
    with log.open("a") as lines:
        print(" ".join(words), file=lines, flush=True)
        process = subprocess.Popen(words, stdout=lines, stderr=lines, cwd=ROOT)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                return process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()


def train(args: argparse.Namespace) -> int:
    """Train, leave a checkpoint of what there is, draw, and pack."""
    name = args.name or f"{args.kind}-{args.size.lower()}"
    runs, out = args.runs.resolve(), args.out.resolve()
    folder = runs / name
    runs.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    log = runs / f"{name}.log"
    fit = [] if args.goes_on else ["--fit-wall-time"]
    began = time.monotonic()
    code = run(command(args, folder, ["--wall-time-s", str(args.seconds), *fit]), log, args.seconds + 30)
    took = time.monotonic() - began
    print(f"{name}: exit code {code} after {took:.0f} s", flush=True)
    if code not in (0, 75) and args.seconds - took > 60:  # goes on from the last state, in the plain way
        print("".join(log.read_text().splitlines(keepends=True)[-6:])[-1500:], flush=True)
        left = args.seconds - took
        args.more = [word for word in args.more if word not in TRIED]
        more = ["--no-cuda-graphs", "--wall-time-s", str(left), *fit]
        code = run(command(args, folder, more), log, left + 30)
        print(f"{name}: without graphs, exit code {code}", flush=True)
    if code == 75 and not args.goes_on:  # its time was up before its last step: that is then the last one
        step = (folder / "stopped").read_text().strip()
        code = run(command(args, folder, ["--steps", step]), log, 60)
        print(f"{name}: ended at step {step}, exit code {code}")
    kept = [log, folder / "metrics.jsonl", folder / "checkpoint", folder / "training.png"]
    if code == 0:
        kept += drawn(args, folder / "checkpoint", runs, name)
    pack(name, [path for path in kept if path.exists()], out)
    told(folder / "metrics.jsonl")
    print("".join(log.read_text().splitlines(keepends=True)[-4:])[-1500:])
    return code


def drawn(args: argparse.Namespace, checkpoint: Path, runs: Path, name: str) -> list[Path]:
    """Samples for match_rate.py, drawn side by side, for most of the time goes into launching kernels."""
    if args.kind != "dao-g" or not args.draw:
        return []
    began = time.monotonic()
    wanted = {text: runs / f"{name}-{Path(text.split()[0]).stem}" for text in args.draw}
    processes = []
    for text, prefix in wanted.items():
        words = [sys.executable, str(ROOT / "benchmarks" / "match_rate.py"), *text.split()]
        words += ["--checkpoint", str(checkpoint), "--out", str(prefix), "--bf16", "--draw-only"]
        with prefix.with_suffix(".log").open("w") as lines:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            processes.append(subprocess.Popen(words, stdout=lines, stderr=lines, cwd=ROOT, env=environment))
    for process in processes:
        try:
            process.wait(max(1.0, began + args.draw_seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    codes = [process.returncode for process in processes]
    print(f"drew in {time.monotonic() - began:.0f} s, exit codes {codes}")
    return [prefix.with_suffix(end) for prefix in wanted.values() for end in (".npz", ".log")]


def pack(name: str, paths: list[Path], out: Path) -> None:
    """One archive in pieces: `cat NAME.tgz.* | tar xz` unpacks it."""
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
            for path in paths:
                tar.add(path, f"{name}/{path.name}")
        archive.seek(0)
        number = 0
        while piece := archive.read(PIECE):
            (out / f"{name}.tgz.{number:02d}").write_bytes(piece)
            number += 1
    print(f"{number} pieces in {out}")


def told(metrics: Path) -> None:
    """The course of a training in a few lines."""
    records = [json.loads(text) for text in metrics.read_text().splitlines()] if metrics.exists() else []
    training = [r for r in records if "crystals_per_s" in r]
    for record in [*training[:: max(1, len(training) // 8)], *training[-1:]]:
        print({k: round(v, 4) for k, v in record.items()})
    for record in [r for r in records if "validation" in r][-6:]:
        print(record)


def roomy() -> Path:
    """In memory, where states are written in no time, if there is enough of it."""
    memory = Path("/dev/shm")
    enough = memory.is_dir() and shutil.disk_usage(memory).free > 8 << 30
    return (memory if enough else Path(tempfile.gettempdir())) / "dao"


def main() -> int:
    """See the module."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = p.add_subparsers(required=True)
    s = tasks.add_parser("speed", help=speed.__doc__)
    s.add_argument("data", type=Path)
    s.add_argument("--seconds", type=float, default=45.0)
    s.add_argument("--sizes", default="25M,8M,3M")
    s.add_argument("--batches", default="256,512")
    s.add_argument("--fused", action=argparse.BooleanOptionalAction, default=True, help="compiled, too")
    s.add_argument("--further", action="store_true", help="with waves of pairs formed up to other sizes, too")
    s.add_argument("--out", type=Path)
    s.set_defaults(task=speed)
    t = tasks.add_parser("train", help=train.__doc__)
    t.add_argument("kind", choices=BY_KIND)
    t.add_argument("size", choices=SIZES)
    t.add_argument("data", type=Path)
    t.add_argument("--seconds", type=float, required=True, help="of training, its start included")
    t.add_argument("--batch-size", type=int, default=256)
    t.add_argument("--goes-on", action="store_true", help="not the last piece: the rate falls by --steps alone")
    t.add_argument("--name")
    t.add_argument("--runs", type=Path, default=roomy(), help="folder of the runs (default: in memory if it fits)")
    t.add_argument("--out", type=Path, required=True, help="folder of what is fetched")
    t.add_argument("--draw", action="append", help="'FILE OPTIONS' of match_rate.py to draw for")
    t.add_argument("--draw-seconds", type=float, default=60.0)
    t.add_argument("--more", type=str.split, default=[], help="further options of the training: --more='--seed 1'")
    t.set_defaults(task=train)
    args = p.parse_args()
    return args.task(args) or 0


if __name__ == "__main__":
    sys.exit(main())
