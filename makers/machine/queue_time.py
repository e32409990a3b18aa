"""How long the batch system lets this job run on."""

from __future__ import annotations

import os
import subprocess
import time


def queue_seconds_left() -> float | None:
    """Seconds until Slurm's time limit of the job that this process is part of; None outside one, or without a limit.

    From SLURM_JOB_END_TIME where Slurm sets it (22.05 and later), else from squeue.
    """
    if end := os.environ.get("SLURM_JOB_END_TIME"):
        try:
            return float(end) - time.time()
        except ValueError:
            return None
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    asked = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_time_left(answer.stdout)


def parse_time_left(text: str) -> float | None:
    """Seconds of squeue's [days-][[hours:]minutes:]seconds; None for what is no time, as UNLIMITED."""
    days, dash, clock = text.strip().rpartition("-")
    fields = clock.split(":")
    if not all(field.isdigit() for field in fields) or (dash and not days.isdigit()) or len(fields) > 3:
        return None
    seconds = 0
    for field in fields:
        seconds = 60 * seconds + int(field)
    return float(seconds + 86_400 * int(days or 0))
