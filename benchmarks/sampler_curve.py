"""Match rate and RMSE against network calls, for each sampler: `python benchmarks/sampler_curve.py --help`.

Each point is a run of `match_rate.py`, kept in --out; the same command goes on where it was stopped. Settings are
chosen on rows that are not for testing: give --split val.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dao_flows.model.checkpoint.format import config_of, read_card
from dao_flows.model.checkpoint.library import find

CALLS = (10, 20, 50, 100, 200, 500, 2000)
# sampler -> its options, and network calls a step
DIFFUSION: dict[str, tuple[list[str], int]] = {
    "renoising": (["--sampler", "renoising"], 1),
    "predictor-corrector (published)": (["--sampler", "predictor-corrector"], 2),
    "ancestral": (["--sampler", "ancestral"], 1),
    "second order": (["--sampler", "heun"], 2),
    "second order, churn 0.5": (["--sampler", "heun", "--churn", "0.5"], 2),
}
FLOW: dict[str, tuple[list[str], int]] = {
    "flow, renoising": (["--sampler", "renoising"], 1),
    "flow, first order": (["--sampler", "euler"], 1),
    "flow, second order": (["--sampler", "heun"], 2),
}


def point(
    args: argparse.Namespace, checkpoint: Path, label: str, name: str, options: list[str], steps: int, calls: int
) -> dict[str, Any]:
    """One run of match_rate.py, or what it left. label: the checkpoint's, in file names."""
    sampler = name.translate(str.maketrans(" ", "_", ",()"))
    stem = args.out / f"{label}-{sampler}-{calls}-{args.samples}"
    result = stem.with_name(stem.name + ".json")
    if not result.exists():
        command = [sys.executable, str(Path(__file__).with_name("match_rate.py")), str(args.data)]
        command += ["--checkpoint", str(checkpoint), "--samples", str(args.samples), "--limit", str(args.limit)]
        command += ["--threads", str(args.threads), "--steps", str(steps), "--out", str(stem), *options]
        command += ["--split", args.split] if args.split else []
        command += ["--max-atoms", str(args.max_atoms)] if args.max_atoms else []
        command += ["--bf16"] if args.bf16 else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures = json.loads(result.read_text())
    return {
        "sampler": name,
        "calls": calls,
        "samples": args.samples,
        **figures["all"],
        "seconds": figures["sampling_s"],
    }


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Match rate and RMSE over calls, with 95 % intervals."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in dict.fromkeys(p["sampler"] for p in points):
        for axis, key, factor in zip(axes, ("match_rate", "rmse"), (100, 1), strict=True):
            mine = [p for p in points if p["sampler"] == name and p[key] is not None]  # no RMSE where nothing matched
            calls = [p["calls"] for p in mine]
            values = [factor * p[key] for p in mine]
            bounds = [[factor * p[f"{key}_95"][side] for p in mine] for side in (0, 1)]
            (line,) = axis.plot(calls, values, "o-", label=name, markersize=4)
            axis.fill_between(calls, *bounds, color=line.get_color(), alpha=0.12, linewidth=0)
    for axis, label in zip(axes, ("match rate / %", "RMSE of the matched"), strict=True):
        axis.set_xscale("log")
        axis.set_xlim(min(p["calls"] for p in points) / 1.2, max(p["calls"] for p in points) * 1.2)
        axis.set_xlabel("network calls a crystal")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> int:
    """The last line is the cheapest sampler within one point of the best match rate."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path)
    p.add_argument("--checkpoint", default="dao-g-flow", help="several names, separated by commas, go into one picture")
    p.add_argument("--split")
    p.add_argument("--limit", type=int, default=500)
    p.add_argument("--max-atoms", type=int)
    p.add_argument("--samples", type=int, default=1)
    p.add_argument("--calls", type=int, nargs="+", default=CALLS)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--quick", action="store_true", help="20 rows, 10 and 20 calls: to see that it runs")
    p.add_argument("--out", type=Path, default=Path("sampler_curve"), help="folder of the results and the picture")
    args = p.parse_args()
    if args.quick:
        args.limit, args.calls = 20, (10, 20)
    args.out.mkdir(parents=True, exist_ok=True)
    points = []
    for checkpoint in map(find, args.checkpoint.split(",")):
        card = read_card(checkpoint)
        label = f"{card.name}-{card.sha256[:8]}"
        flow = config_of(card.architecture).objective == "flow"
        for name, (options, per_step) in (FLOW if flow else DIFFUSION).items():
            for calls in args.calls:
                if calls <= 1000 * per_step and (calls <= 500 or "predictor-corrector" in options):
                    found = point(args, checkpoint, label, name, options, calls // per_step, calls)
                    points.append(found)
                    low, high = (100 * share for share in found["match_rate_95"])
                    rmse = "–" if found["rmse"] is None else f"{found['rmse']:.3f}"
                    print(
                        f"| {name} | {calls} | {100 * found['match_rate']:.1f} [{low:.1f}, {high:.1f}] | {rmse} | "
                        f"{found['seconds']:.0f} |",
                        flush=True,
                    )
    (args.out / "points.json").write_text(json.dumps(points, indent=1) + "\n")
    draw(points, args.out / "curve.png")
    best = max(p["match_rate"] for p in points)
    cheapest = min((p for p in points if p["match_rate"] >= best - 0.01), key=lambda p: p["calls"])
    print(
        f"{cheapest['sampler']} at {cheapest['calls']} calls: {100 * cheapest['match_rate']:.1f} % of {100 * best:.1f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
