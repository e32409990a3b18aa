"""Running submitted jobs again, cancelling them, and their logs: FireWorks' own operations on the flows of ours."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from dao_flows.makers.machine.masking import mask

from .progress import expiration, find_flows, last_launch, time_of
from .routes import Queue

if TYPE_CHECKING:
    from fireworks import LaunchPad

LOG_ENDINGS = (".out", ".error", ".err", ".log")
UNDONE = ("FIZZLED", "DEFUSED")


class Log(BaseModel):
    """What a job's last run left: its traceback, and the ends of the logs in its directory, where that is seen here."""

    job: int
    name: str
    state: str
    directory: str
    traceback: str
    files: dict[str, str]


class Cancelled(BaseModel):
    """Jobs that will not run, and the queue's own jobs that still hold a place or run."""

    jobs: list[int]
    queue_jobs: list[str]


def rerun(pad: LaunchPad, reference: str | None = None, queue: Queue = "none") -> list[int]:
    """Run what failed, was lost or was cancelled again, in one flow or all, and return the jobs' ids.

    Finished jobs are left alone. A job counts as lost when its worker gave no sign of life for RUN_EXPIRATION_SECS of
    FW_config.yaml, or was killed in the moment between claiming the job and beginning it; and when Slurm, where the
    queue is one, no longer knows the job that was to run it. Without a reference, cancelled jobs stay cancelled.
    """
    flows = find_flows(pad, reference)
    ids = [node for flow in flows for node in flow["nodes"]]
    states = UNDONE if reference is not None else UNDONE[:1]
    mine = {"fw_id": {"$in": ids}}
    again = [job["fw_id"] for job in pad.fireworks.find({**mine, "state": {"$in": states}}, {"fw_id": 1})]
    # refresh: of jobs whose worker was killed when it had reported the end and not yet told the flow
    lost: list[int] = pad.detect_lostruns(expiration_secs=expiration(), query=mine, rerun=True, refresh=True)[1]
    unbegun = _unbegun(pad, mine, queue)
    for job in unbegun:
        pad.rerun_fw(job)
    for job in sorted(set(again) - set(lost), reverse=True):
        state = pad.fireworks.find_one({"fw_id": job}, {"state": 1})["state"]
        if state == "DEFUSED":
            pad.reignite_fw(job)
        elif state == "FIZZLED":
            pad.rerun_fw(job)
    return sorted({*again, *lost, *unbegun})


def _unbegun(pad: LaunchPad, criteria: Mapping[str, Any], queue: Queue) -> list[int]:
    """Jobs that a worker claimed and never began, and those whose place in the queue is gone."""
    claimed = list(pad.fireworks.find({**criteria, "state": "RESERVED"}, {"fw_id": 1, "launches": 1, "updated_on": 1}))
    waiting = _in_slurm() if queue == "slurm" and claimed else None
    oldest = datetime.now(UTC) - timedelta(seconds=expiration())
    unbegun = []
    for job in claimed:
        ids = {"launch_id": {"$in": job["launches"]}, "state": "RESERVED"}
        places = list(pad.launches.find(ids, {"state_history.reservation_id": 1}))
        numbers = {str(n) for place in places for e in place["state_history"] if (n := e.get("reservation_id"))}
        killed = not places and time_of(job["updated_on"]) < oldest
        if killed or (numbers and waiting is not None and not numbers & waiting):
            unbegun.append(job["fw_id"])
    still = {"fw_id": {"$in": unbegun}, "state": "RESERVED"}  # one that has begun meanwhile is left alone
    return sorted(job["fw_id"] for job in pad.fireworks.find(still, {"fw_id": 1}))


def _in_slurm() -> set[str] | None:
    """Ids of all jobs that wait or run there; None if Slurm does not say."""
    try:
        asked = subprocess.run(["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(asked.stdout.split()) if asked.returncode == 0 else None


def cancel(pad: LaunchPad, reference: str) -> Cancelled:
    """Cancel what is not finished of a flow. A job that runs already runs on, and its flow takes no note of it."""
    flows = find_flows(pad, reference)
    ids = [node for flow in flows for node in flow["nodes"]]
    open_states = {"$nin": ["COMPLETED", "DEFUSED", "ARCHIVED"]}
    fields = {"fw_id": 1, "state": 1, "launches": 1}
    jobs = list(pad.fireworks.find({"fw_id": {"$in": ids}, "state": open_states}, fields))
    held = [job["launches"][-1] for job in jobs if job["state"] in ("RESERVED", "RUNNING") and job["launches"]]
    entries = pad.launches.find({"launch_id": {"$in": held}}, {"state_history.reservation_id": 1})
    queue_jobs = {
        str(entry["reservation_id"])
        for launch in entries
        for entry in launch.get("state_history", [])
        if entry.get("reservation_id")
    }
    for job in sorted(jobs, key=lambda job: job["fw_id"], reverse=True):  # the last first: none becomes ready meanwhile
        pad.defuse_fw(job["fw_id"])
    return Cancelled(jobs=sorted(job["fw_id"] for job in jobs), queue_jobs=sorted(queue_jobs))


def logs(pad: LaunchPad, reference: str, lines: int = 30) -> list[Log]:
    """The logs of one job, given by its id, or of all jobs of a flow that ran. lines: of the end of each file."""
    flows = find_flows(pad, reference)
    ids = [int(reference)] if reference.isdigit() else [node for flow in flows for node in flow["nodes"]]
    fields = {"fw_id": 1, "name": 1, "state": 1, "launches": 1}
    found = []
    for job in pad.fireworks.find({"fw_id": {"$in": ids}}, fields).sort("fw_id", -1):
        host, directory, trace = last_launch(pad, job)
        if directory:
            found.append(
                Log(
                    job=job["fw_id"],
                    name=job["name"],
                    state=job["state"],
                    directory=f"{host}:{directory}",
                    traceback=trace,
                    files=_ends(Path(directory), lines),
                )
            )
    return found


def _ends(directory: Path, lines: int) -> dict[str, str]:
    """The last lines of each log in a directory; nothing of one that is not seen from here."""
    ends = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.suffix in LOG_ENDINGS and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            ends[path.name] = mask("\n".join(text.splitlines()[-lines:]))
    return ends
