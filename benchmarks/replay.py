"""Replays a small flow of every stage, and prints a line a stage: `python benchmarks/replay.py`.

The flow (tests/dao_flows/audit_flow.py: dataset, trainings, relaxation, evaluation, generation, screening, verification
by a force field) is made in a process of its own in an empty folder, and replayed here with its calculations.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent.parent


def main() -> None:
    """Make, replay, print."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        os.environ |= {
            "HOME": scratch,
            "DAO_FLOWS_DATA_DIR": str(home / "data"),
            "DAO_FLOWS_CHECKPOINT_DIR": str(home / "checkpoints"),
        }
        flow = [sys.executable, "-W", "ignore", str(HERE / "tests/dao_flows/audit_flow.py"), str(home / "flow")]
        subprocess.run(flow, check=True, capture_output=True)
        from dao_flows.audit.graph.from_store import build
        from dao_flows.audit.replay.replay import Options, replay
        from dao_flows.store.stores import job_store

        jobs = job_store()
        run = next(name for kind, name in build(jobs).nodes if kind == "run")
        found = replay(jobs, run, Options(dft=True, yes=True))
    stages = defaultdict(list)
    for step in found.steps:
        stages[step.maker].append(step)
    print("| maker | documents | identical | within the tolerance | different | ran in (s) | replayed in (s) |")
    print("|---|---|---|---|---|---|---|")
    for maker, steps in stages.items():
        told = [step.outcome for step in steps]
        counts = " | ".join(str(told.count(outcome)) for outcome in ("identical", "equal", "different"))
        times = " | ".join(f"{sum(t):.1f}" for t in zip(*((s.recorded_seconds, s.seconds) for s in steps), strict=True))
        print(f"| {maker} | {len(steps)} | {counts} | {times} |")
    for step in found.steps:
        if step.reason or step.first:
            print(step.id, step.reason or step.first, file=sys.stderr)


if __name__ == "__main__":
    main()
