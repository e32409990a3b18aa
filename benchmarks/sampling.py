"""Crystals per second of sampling, ours against others: `python benchmarks/sampling.py --help`.

Ours is a checkpoint's whole way from compositions to crystals. Beside it, the same with the same weights in the
published form of the network, pair by pair (`edge_list.py`); and DiffCSP and CrystalFlow (PEERS.md), where checkouts
are given by path, with their own samplers at their published size. Those run for a few steps, which are scaled up to
the number in question: all steps are the same work. They take turns in one process, so that a busy machine slows all;
ratios are medians over the rounds of processor time, or of wall time with more than one thread. This measures speed
alone; match_rate.py measures what the crystals are worth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import edge_list
import peers

from dao_flows.model.checkpoint.format import CheckpointError, build, load
from dao_flows.model.checkpoint.library import find
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.runtime.memory import keep_freed_memory
from dao_flows.model.sampling.names import SamplerName
from dao_flows.model.sampling.registry import STEPS, build_sampler
from dao_flows.model.sampling.sample import Request, SamplerConfig, SamplingError, sample

OURS, PUBLISHED_FORM = "DAO-G", "the published form"


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be positive, not {number}")
    return number


def generator(args: argparse.Namespace) -> tuple[DaoG, tuple[int, ...], dict[str, Any]]:
    """Our model, the elements it draws, and what to record of it."""
    if args.published_size:
        model, elements = build("dao-g", asdict(DaoConfig(volume_scaling=True))).eval(), tuple(range(1, 95))
        about: dict[str, Any] = {"checkpoint": None}
    else:
        model, card = load(find(args.checkpoint))
        elements, about = tuple(card.elements), {"checkpoint": card.name, "checkpoint_sha256": card.sha256}
    if not isinstance(model, DaoG):
        raise CheckpointError(f"{card.name} is a {card.kind} checkpoint; crystals are drawn from DAO-G")
    return model, elements, about | {"parameters": sum(weights.numel() for weights in model.parameters())}


def our_sampler(
    model: DaoG, elements: tuple[int, ...], config: SamplerConfig, atoms: int, crystals: int
) -> Callable[[], None]:
    """Draws so many crystals of random compositions."""
    rng = np.random.default_rng(0)
    requests = [Request(rng.choice(elements, atoms).astype(np.int64), (k,)) for k in range(crystals)]

    def draw() -> None:
        sample(model, requests, 0, config)

    return draw


def seconds(
    samplers: dict[str, tuple[Callable[[], None], float]], rounds: int, progress: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Median over the rounds of each one's processor and wall time, times its factor; they take turns."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in samplers}
    for number in range(rounds):
        for name, (run, factor) in samplers.items():
            progress(f"round {number + 1} of {rounds}: {name}")
            began = time.process_time(), time.perf_counter()
            run()
            took[name].append((factor * (time.process_time() - began[0]), factor * (time.perf_counter() - began[1])))
    return {
        name: {"processor": median(t[0] for t in times), "wall": median(t[1] for t in times)}
        for name, times in took.items()
    }


def compare(
    args: argparse.Namespace, model: DaoG, elements: tuple[int, ...], config: SamplerConfig, rivals: list[peers.Peer]
) -> list[dict[str, Any]]:
    """A record for each size of cell and batch: crystals per second of each, and the ratios."""
    clock = "processor" if args.threads == 1 else "wall"
    records = []
    for atoms in args.atoms:
        for crystals in args.batch_size:
            theirs = peers.batch([atoms] * crystals)
            samplers = {OURS: (our_sampler(model, elements, config, atoms, crystals), 1.0)}
            few = replace(config, steps=min(args.peer_steps, config.steps))
            pair_by_pair = our_sampler(edge_list.as_published(model), elements, few, atoms, crystals)
            pair_by_pair()  # the first call is slower
            samplers[PUBLISHED_FORM] = (pair_by_pair, config.steps / few.steps)
            for peer in rivals:
                peer.sample(theirs, 1)  # the first call is slower
                steps = min(args.peer_steps, peer.published)
                samplers[peer.name] = (partial(peer.sample, theirs, steps), peer.published / steps)
            our_sampler(model, elements, replace(config, steps=2), atoms, crystals)()
            found = seconds(samplers, args.rounds, lambda text: print(f"  {text}", file=sys.stderr))
            record: dict[str, Any] = {"atoms": atoms, "batch": crystals, "seconds": found, "clock": clock}
            record["crystals_per_s"] = {name: crystals / times[clock] for name, times in found.items()}
            record["ratio"] = {name: found[name][clock] / found[OURS][clock] for name in samplers if name != OURS}
            print(line(record), file=sys.stderr)
            records.append(record)
    return records


def line(record: dict[str, Any]) -> str:
    """One size and batch in words."""
    rates = record["crystals_per_s"]
    said = f"{record['atoms']} atoms, batch {record['batch']}: {rates[OURS]:.3g} crystals/s"
    for name, ratio in record["ratio"].items():
        said += f", {ratio:.3g}× {name} ({rates[name]:.3g})"
    return said


def main() -> int:
    """The last line is the figure; exit code 2 for what cannot be measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--checkpoint", default="dao-g-flow")
    p.add_argument("--published-size", action="store_true", help="12 × 384 with random weights instead of a checkpoint")
    p.add_argument("--diffcsp", type=Path, help="a checkout of DiffCSP to compare with")
    p.add_argument("--crystalflow", type=Path, help="a checkout of CrystalFlow to compare with")
    p.add_argument("--atoms", type=positive, nargs="+", default=[5, 10], help="cell sizes: perov-5's, MP-20's mean")
    p.add_argument("--batch-size", type=positive, nargs="+", default=[64], help="crystals drawn together")
    p.add_argument("--sampler", choices=get_args(SamplerName), default="renoising")
    p.add_argument("--steps", type=positive, help="otherwise the default of the checkpoint's objective")
    p.add_argument("--churn", type=float, default=0.0)
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False, help="our products in bf16")
    p.add_argument("--threads", type=positive, default=2)
    p.add_argument("--rounds", type=positive, default=3)
    p.add_argument("--peer-steps", type=positive, default=5, help="steps of a peer's sampler that are timed a round")
    p.add_argument("--quick", action="store_true", help="few and small crystals, one round: to see that it runs")
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    args = p.parse_args()
    if args.quick:
        args.atoms, args.batch_size, args.steps, args.rounds, args.peer_steps = [2], [2], 5, 1, 1
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    try:
        model, elements, about = generator(args)
        steps = args.steps or STEPS[model.config.objective]
        config = SamplerConfig(steps, args.sampler, churn=args.churn, bf16=args.bf16)
        build_sampler(model, config).times()  # settings that do not fit are refused before anything is timed
        rivals = [peers.diffcsp(args.diffcsp)] if args.diffcsp else []
        rivals += [peers.crystalflow(args.crystalflow)] if args.crystalflow else []
        records = compare(args, model, elements, config, rivals)
    except (CheckpointError, SamplingError, peers.PeerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.out:
        about |= {"sampler": asdict(config), "threads": args.threads}
        about |= {"torch": torch.__version__, "rounds": args.rounds, "peer_steps": args.peer_steps}
        about["peers"] = [
            {"name": r.name, "commit": r.commit, "parameters": r.parameters, "steps": r.published} for r in rivals
        ]
        args.out.write_text(json.dumps(about | {"records": records}, indent=1) + "\n")
    print("; ".join(line(record) for record in records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
