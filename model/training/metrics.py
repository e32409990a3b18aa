"""What a run tells of itself: metrics.jsonl in its folder, and a line for who watches."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line."""
    with path.open("a") as lines:
        lines.write(json.dumps(record) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All records but those torn by a crash; none where there is no file."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, KeyError, TypeError):
            continue
        records.append(record)
    return records


def take_back(path: Path, step: int, rollbacks: Sequence[dict[str, Any]] = ()) -> None:
    """Make a file what it was after this step: later and torn lines go, and of rollbacks it tells exactly these."""
    if not path.exists() and not rollbacks:
        return
    placed = [(r["step"], r) for r in read(path) if r["step"] <= step and "rollback" not in r]
    for i, rollback in enumerate(rollbacks):
        # going back further later on took the lines before it, but not what was told of it
        place = min(later["step"] for later in rollbacks[i:])
        placed.append((place, {"step": rollback["step"], "rollback": rollback}))
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for _, record in sorted(placed, key=lambda pair: pair[0])))
    partial.replace(path)


def loss_curve(path: Path, points: int = 100) -> list[dict[str, Any]]:
    """At most `points` evenly spaced training records of a metrics file, and every validation record."""
    records = [record for record in read(path) if "rollback" not in record]
    training = [r for r in records if "validation" not in r]
    stride = max(1, -(-len(training) // points))
    kept = training[::-1][::stride][::-1]
    return sorted(kept + [r for r in records if "validation" in r], key=lambda r: r["step"])


class Progress:
    """A progress line with an estimate: a bar on a terminal, one line a minute in a log."""

    def __init__(self, steps: int, first: int) -> None:
        self.steps, self.first, self.started, self.shown = steps, first, time.monotonic(), 0.0

    def show(self, step: int, losses: dict[str, float]) -> None:
        """Show the state after this step."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if not terminal and now - self.shown < 60 and step < self.steps:
            return
        self.shown = now
        left = (now - self.started) / max(step - self.first, 1) * (self.steps - step)
        text = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        bar = "█" * (24 * step // self.steps)
        line = f"{bar:░<24} {step}/{self.steps}  {text}  {left / 60:.0f} min left"
        print(
            f"\r{line}" if terminal else line,
            end="" if terminal and step < self.steps else "\n",
            file=sys.stderr,
            flush=True,
        )
