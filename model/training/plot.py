"""A picture of a run: losses, rate and rollbacks over its steps. Drawn where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path

from .metrics import METRICS, read

PLOT = "training.png"


def write_plot(folder: Path, title: str) -> Path | None:
    """Draw a run's metrics.jsonl into its folder; None where there is no matplotlib, or nothing to draw."""
    records = read(folder / METRICS)
    training = [r for r in records if "rate" in r]
    if not training:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    names = [n for n in training[0] if n not in ("step", "epoch", "rate", "crystals_per_s", "elapsed_s")]
    figure = Figure(figsize=(8, 6), layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for index, name in enumerate(names):
        losses.plot([r["step"] for r in training], [r[name] for r in training], color=f"C{index}", lw=1, label=name)
        checked = [(r["step"], r["validation"][name]) for r in records if name in r.get("validation", ())]
        if checked:
            losses.plot(*zip(*checked, strict=True), "o--", color=f"C{index}", ms=3, lw=1, label=f"{name}, validation")
    rates.plot([r["step"] for r in training], [r["rate"] for r in training], color="black", lw=1)
    for rollback in (r["rollback"] for r in records if "rollback" in r):
        for axes in (losses, rates):
            axes.axvline(rollback["step"], color="red", lw=0.8, ls=":")
        losses.annotate(
            f"back from {rollback['from_step']}",
            (rollback["step"], 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            fontsize="small",
        )
    losses.set(yscale="log", ylabel="loss", title=title)
    rates.set(yscale="log", xlabel="step", ylabel="rate")
    losses.legend(fontsize="small")
    partial = folder / f".{PLOT}.partial"
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(folder / PLOT)
    return folder / PLOT
