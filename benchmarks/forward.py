"""Time of one pass through the network against the published form of it: `python benchmarks/forward.py --help`.

Both hold the same weights and get the same crystals: `dao_flows.model.network.crysformer`, and every pair's 777
features times 777 × 384 in every layer (`benchmarks/edge_list.py`). They take turns in one process, so that a busy
machine slows both; figures are medians over the rounds of processor time (of wall time with more than one thread).
Peak memory is that of a process of its own for each, as Linux tells it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import edge_list

from dao_flows.model.crystals import Crystals
from dao_flows.model.network.crysformer import Crysformer, CrysformerConfig, CrysformerOutput
from dao_flows.model.runtime.memory import keep_freed_memory

VOLUME = 20.0  # Å³ an atom
FORMS = ("ours", "published")
QUICK = {"hidden": 32, "layers": 2, "heads": 4, "frequencies": 8, "time_width": 32}
# atoms and how many cells of a test set have so many, or one less: mp20_test_dev; mpts52_test_dev from 39 atoms on
SETS = {
    "MP-20": {2: 122, 4: 811, 6: 587, 8: 458, 10: 599, 12: 466, 14: 380, 16: 363, 18: 260, 20: 436},
    "40 to 52 atoms": {40: 61, 42: 28, 44: 62, 46: 27, 48: 57, 50: 27, 52: 51},
}


@dataclass(frozen=True)
class Work:
    """One kind of pass. atoms, crystals: of the batch; backward: gradients of all weights too."""

    atoms: int
    crystals: int
    bf16: bool
    backward: bool


def batch(work: Work) -> Crystals:
    """Random atoms in cubes: the time of a pass depends on their number alone."""
    random = torch.Generator().manual_seed(0)
    frac = torch.rand(work.crystals, work.atoms, 3, generator=random)
    numbers = torch.randint(1, 95, (work.crystals, work.atoms), generator=random)
    return Crystals(numbers, frac, (VOLUME * work.atoms) ** (1 / 3) * torch.eye(3).expand(work.crystals, 3, 3))


def passes(network: Crysformer, work: Work) -> dict[str, Callable[[], None]]:
    """What is timed, by form."""
    crystals, t = batch(work), torch.full((work.crystals,), 500.0)
    dtype = torch.bfloat16 if work.bf16 else torch.float32
    ours = network if work.backward else network.prepared(dtype)  # as samplers do

    def run(forward: Callable[[], CrysformerOutput]) -> None:
        with torch.set_grad_enabled(work.backward):
            with torch.autocast("cpu", torch.bfloat16, enabled=work.bf16):
                output = forward()
            if work.backward:
                network.zero_grad()
                (output.eps.square().mean() + output.score.float().square().mean()).backward()

    return {
        "ours": lambda: run(lambda: ours(crystals, t)),
        "published": lambda: run(lambda: edge_list.forward(network, crystals, t)),
    }


def seconds(timed: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median of the rounds for each, taking turns; the first of each is not counted."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    took: dict[str, list[float]] = {form: [] for form in timed}
    for number in range(rounds + 1):
        for form, run in timed.items():
            began = clock()
            run()
            if number:
                took[form].append(clock() - began)
    return {form: median(times) for form, times in took.items()}


def peak_memory(work: Work, form: str, architecture: dict[str, int], threads: int) -> float:
    """MiB that a pass takes at its peak beyond what the process held before, in a process of its own."""
    command = [sys.executable, __file__, "--peak", json.dumps([asdict(work), form, architecture, threads])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak(asked: list[Any]) -> None:
    """What `peak_memory` asks its process for."""
    fields, form, architecture, threads = asked
    torch.set_num_threads(threads)
    run = passes(Crysformer(CrysformerConfig(**architecture)), Work(**fields))[form]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory_mib("VmRSS")
    run()
    print(memory_mib("VmHWM") - before)


def memory_mib(name: str) -> float:
    """One of the sizes that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def compared(network: Crysformer, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A record for each set of sizes, precision and direction, with the ratio over the set and each size's times."""
    for name, counts in SETS.items():
        sizes = dict(list(counts.items())[:: 3 if args.quick else 1])
        for bf16 in (False, True):
            for backward in (False, True):
                rows = []
                for atoms, count in sizes.items():
                    crystals = max(args.batch_atoms // atoms, 1)
                    found = seconds(passes(network, Work(atoms, crystals, bf16, backward)), args.rounds)
                    per_crystal = {form: 1e3 * found[form] / crystals for form in FORMS}
                    rows.append({"atoms": atoms, "count": count, "crystals": crystals, "ms_a_crystal": per_crystal})
                ours, published = (sum(r["count"] * r["ms_a_crystal"][form] for r in rows) for form in FORMS)
                record = {"set": name, "precision": "bf16" if bf16 else "fp32", "ratio": published / ours}
                record |= {"pass": "forward and backward" if backward else "forward", "sizes": rows}
                record["ms_a_crystal"] = ours / sum(r["count"] for r in rows)
                print(f"{name}, {record['precision']}, {record['pass']}: {record['ratio']:.2f}×", file=sys.stderr)
                yield record


def memory(args: argparse.Namespace, architecture: dict[str, int]) -> list[dict[str, Any]]:
    """Peak of both forms at the largest size of each set, with gradients, fp32."""
    records = []
    for name, counts in SETS.items():
        atoms = max(counts)
        work = Work(atoms, max(args.batch_atoms // atoms, 1), bf16=False, backward=True)
        found = {form: peak_memory(work, form, architecture, args.threads) for form in FORMS}
        print(f"{name}, {work.crystals} × {atoms} atoms, MiB: {found}", file=sys.stderr)
        records.append({"set": name, "atoms": atoms, "crystals": work.crystals, "MiB": found})
    return records


def curves(network: Crysformer, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds a crystal of our form, forward, against N at full batches and against the batch at 10 atoms."""
    points = [(n, max(args.batch_atoms // n, 1)) for n in (1, 2, 4, 8, 12, 16, 20, 28, 40, 52)]
    points += [(10, b) for b in (1, 2, 4, 8, 16, 32, 64, 128)]
    found = []
    for atoms, crystals in points[:: 4 if args.quick else 1]:
        for bf16 in (False, True):
            ours = {"ours": passes(network, Work(atoms, crystals, bf16, False))["ours"]}
            took = 1e3 * seconds(ours, args.rounds)["ours"] / crystals
            found.append({"atoms": atoms, "crystals": crystals, "bf16": bf16, "ms_a_crystal": took})
    return found


def draw(points: list[dict[str, Any]], path: Path, batch_atoms: int) -> None:
    """The curves as a picture; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axis, x in zip(axes, ("atoms", "crystals"), strict=True):
        for bf16 in (False, True):
            chosen = [p for p in points if p["bf16"] == bf16]
            full = [p for p in chosen if p["crystals"] == max(batch_atoms // p["atoms"], 1)]
            shown = full if x == "atoms" else [p for p in chosen if p["atoms"] == 10]
            shown = sorted(shown, key=lambda p: p[x])
            axis.plot([p[x] for p in shown], [p["ms_a_crystal"] for p in shown], "o-", label="bf16" if bf16 else "fp32")
        axis.set(xscale="log", yscale="log", xlabel="atoms of a cell" if x == "atoms" else "crystals of a batch")
        axis.legend()
    axes[0].set(ylabel="ms a crystal", title=f"batches of {batch_atoms} atoms")
    axes[1].set(title="10 atoms")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> int:
    """The last line is the figure: ratios of a forward pass."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--batch-atoms", type=int, default=256, help="atoms of a batch")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--quick", action="store_true", help="a small network, one round and few sizes, to see that it runs")
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    p.add_argument("--plot", type=Path, help="draw the cost of a crystal against its size and the batch's")
    p.add_argument("--peak", help=argparse.SUPPRESS)
    for name, default in asdict(CrysformerConfig()).items():
        p.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    args = p.parse_args()
    if args.peak:
        print_peak(json.loads(args.peak))
        return 0
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    args.rounds = 1 if args.quick else args.rounds
    architecture = QUICK if args.quick else {name: getattr(args, name) for name in asdict(CrysformerConfig())}
    torch.manual_seed(0)
    network = Crysformer(CrysformerConfig(**architecture))
    found: dict[str, Any] = {"network": architecture, "threads": args.threads, "torch": torch.__version__}
    found |= {"ratios": list(compared(network, args)), "memory": memory(args, architecture)}
    if args.plot or args.out:
        found["curves"] = curves(network, args)
    if args.plot:
        draw(found["curves"], args.plot, args.batch_atoms)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    forward = [record for record in found["ratios"] if record["pass"] == "forward"]
    print("; ".join(f"{r['set']} {r['precision']}: {r['ratio']:.1f}×" for r in forward))
    return 0


if __name__ == "__main__":
    sys.exit(main())
