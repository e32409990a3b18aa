"""Crystals per second of training on this device: `python benchmarks/training.py --help`.

Times optimiser steps on random crystals whose sizes are those of a dataset, or all the same (--atoms), in one process.
With --published-form the same network trains pair by pair (`edge_list.py`), and with --diffcsp, a checkout of DiffCSP
(PEERS.md), its network of published size does, on crystals of the same sizes, in turns with ours; ratios are medians
over the rounds, of wall time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import edge_list
import peers

from dao_flows.model.checkpoint.format import KINDS
from dao_flows.model.dao import Dao, DaoConfig
from dao_flows.model.data.shards import DataError
from dao_flows.model.data.table import read_crystals
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.runtime.memory import keep_freed_memory
from dao_flows.model.throughput import Throughput, throughput
from dao_flows.model.training.config import TrainingError

OURS = "DAO-G"
QUICK = {"hidden": 32, "layers": 2, "heads": 4, "frequencies": 8, "time_width": 32}


Rate = Callable[[float], float]  # crystals per second, measured for so many seconds


def ours(
    args: argparse.Namespace,
    architecture: dict[str, Any],
    sizes: list[int],
    seconds: float,
    prepare: Callable[[Dao], Dao] = lambda model: model,
) -> Throughput:
    """Our training, for so long."""
    options = {"batch_size": args.batch_size, "bf16": args.bf16, "seconds": seconds, "prepare": prepare}
    return throughput(args.kind, architecture, sizes, args.device, **options)


def diffcsp(peer: peers.Peer, sizes: list[int], batch_size: int) -> Rate:
    """DiffCSP's training."""
    step, rng = peer.trainer(), np.random.default_rng(0)

    def rate(seconds: float) -> float:
        took: list[float] = []
        while len(took) < 4 or sum(took) < seconds:  # the first one is slower
            crystals = peers.batch(rng.choice(sizes, batch_size).tolist(), seed=len(took))
            began = time.perf_counter()
            step(crystals)
            took.append(time.perf_counter() - began)
        return batch_size * (len(took) - 1) / sum(took[1:])

    return rate


def in_turns(rates: dict[str, Rate], rounds: int, seconds: float) -> dict[str, Any]:
    """Crystals per second of each in each round, and the medians of these and of ours by each other's."""
    found: list[dict[str, float]] = []
    for number in range(rounds):
        found.append({name: rate(seconds / len(rates)) for name, rate in rates.items()})
        print(f"round {number + 1} of {rounds}: {found[-1]}", file=sys.stderr)
    return {
        "rounds": found,
        "crystals_per_s": {name: median(each[name] for each in found) for name in rates},
        "ratios": {name: median(each[OURS] / each[name] for each in found) for name in rates if name != OURS},
    }


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
    p.add_argument("--published-form", action="store_true", help="compare with the published form of the network")
    p.add_argument("--diffcsp", type=Path, help="a checkout of DiffCSP to compare with")
    p.add_argument("--rounds", type=int, default=3, help="of all, in turns; each takes a share of --seconds")
    p.add_argument("--quick", action="store_true", help="a small network and a second, to see that it runs")
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    for name, default in asdict(CrysformerConfig()).items():
        p.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    args = p.parse_args()
    if args.diffcsp and (args.device != "cpu" or args.kind != "dao-g"):
        p.error("--diffcsp compares with dao-g, on a CPU")
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
        seconds = 1.0 if args.quick else args.seconds
        rates: dict[str, Rate] = {OURS: lambda s: ours(args, architecture, sizes, s).crystals_per_s}
        if args.published_form:
            rates["the published form"] = lambda s: (
                ours(args, architecture, sizes, s, edge_list.as_published).crystals_per_s
            )
        found: dict[str, Any] = {}
        if args.diffcsp:
            peer = peers.diffcsp(args.diffcsp)
            rates[peer.name] = diffcsp(peer, sizes, args.batch_size)
            found = {"diffcsp": {"commit": peer.commit, "parameters": peer.parameters}}
        if len(rates) == 1:
            found |= asdict(ours(args, architecture, sizes, seconds)) | {"ratios": {}}
            rate = found["crystals_per_s"]
        else:
            found |= in_turns(rates, args.rounds, seconds / args.rounds)
            rate = found["crystals_per_s"][OURS]
    except (DataError, TrainingError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
    found |= {"device": device, "threads": torch.get_num_threads(), "network": network}
    found |= {"kind": args.kind, "batch_size": args.batch_size, "bf16": args.bf16, "torch": torch.__version__}
    found |= {"data": args.data.name if args.data else f"{args.atoms} atoms", "mean_atoms": sum(sizes) / len(sizes)}
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    hours = ""
    if args.steps:
        hours = f"; {args.steps} steps: {args.steps * args.batch_size / rate / 3600:.2f} h"
    ratios = "".join(f", {ratio:.3g}× {name}" for name, ratio in found["ratios"].items())
    print(f"{rate:.1f} crystals/s ({found['mean_atoms']:.1f} atoms each) on {device}{ratios}{hours}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
