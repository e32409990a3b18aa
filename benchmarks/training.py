"""Crystals per second of training on this device: `python benchmarks/training.py --help`.

Times optimiser steps on random crystals whose sizes are those of a dataset, or all the same (--atoms), in one process.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from dao_flows.model.checkpoint import KINDS
from dao_flows.model.crysformer import CrysformerConfig
from dao_flows.model.dao import DaoConfig
from dao_flows.model.data import read_crystals
from dao_flows.model.dataset import DataError
from dao_flows.model.memory import keep_freed_memory
from dao_flows.model.throughput import throughput
from dao_flows.model.train_config import TrainingError

QUICK = {"hidden": 32, "layers": 2, "heads": 4, "frequencies": 8, "time_width": 32}


def main() -> int:
    """Exit code 2 and one line for what cannot be measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path, nargs="?", help="dataset or parquet file whose cell sizes count")
    p.add_argument("--atoms", type=int, default=10, help="size of every cell, where no dataset is given")
    p.add_argument("--max-atoms", type=int, help="leave larger cells out")
    p.add_argument("--kind", choices=KINDS, default="dao-g")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, help="CPU threads (default: all)")
    p.add_argument("--batch-size", type=int, default=64)
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    p.add_argument("--seconds", type=float, default=30.0, help="how long to measure")
    p.add_argument("--steps", type=int, help="of a run whose time is asked for")
    p.add_argument("--quick", action="store_true", help="a small network and a second, to see that it runs")
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    for name, default in asdict(CrysformerConfig()).items():
        p.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cpu":
        keep_freed_memory()  # as training does
    network = QUICK if args.quick else {name: getattr(args, name) for name in asdict(CrysformerConfig())}
    try:
        architecture = asdict(DaoConfig(network=CrysformerConfig(**network), volume_scaling=True))
        sizes = [args.atoms]
        if args.data:
            sizes = [len(crystal) for crystal in read_crystals(args.data, None, args.max_atoms).crystals]
        measured = throughput(
            args.kind,
            architecture,
            sizes,
            args.device,
            batch_size=args.batch_size,
            bf16=args.bf16,
            seconds=1.0 if args.quick else args.seconds,
        )
    except (DataError, TrainingError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
    found = asdict(measured) | {"device": device, "threads": torch.get_num_threads(), "network": network}
    found |= {"kind": args.kind, "batch_size": args.batch_size, "bf16": args.bf16, "torch": torch.__version__}
    found |= {"data": args.data.name if args.data else f"{args.atoms} atoms", "mean_atoms": sum(sizes) / len(sizes)}
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    hours = ""
    if args.steps:
        hours = f"; {args.steps} steps: {args.steps * args.batch_size / measured.crystals_per_s / 3600:.2f} h"
    print(f"{measured.crystals_per_s:.1f} crystals/s ({found['mean_atoms']:.1f} atoms each) on {device}{hours}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
