"""How far submitted flows are, from the LaunchPad alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import mean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from ..errors import InputError, mask
from .launchpad import fireworks_setting
from .routes import stage_of

if TYPE_CHECKING:
    from fireworks import LaunchPad

FUNCTION = "spec._tasks.job.function.@callable"
DONE, WAITING = "COMPLETED", ("WAITING", "READY", "RESERVED")
LAST_LINES = 3
CHUNK = 1000  # ids in one query


class Stage(BaseModel):
    """The jobs of one stage by state. seconds: mean of those that are done; left: estimate for the rest, s."""

    stage: str
    category: str
    states: dict[str, int]
    lost: int = Field(0, description="of the running ones: their worker has not been heard of")
    seconds: float | None = None
    left: float | None = None


class Failure(BaseModel):
    """A job that failed. lines: the last of its traceback; directory: host:path."""

    job: int
    name: str
    flow: int
    directory: str
    lines: list[str]


class FlowStatus(BaseModel):
    """One flow. state: FireWorks' own of the workflow."""

    flow: int
    kind: str
    label: str
    run_id: str
    state: str
    submitted_at: str
    done: int
    jobs: int


class Status(BaseModel):
    """Flows, latest first, their jobs by stage, and what failed."""

    flows: list[FlowStatus]
    stages: list[Stage]
    failures: list[Failure]


def find_flows(pad: LaunchPad, reference: str | None = None, limit: int = 0) -> list[dict[str, Any]]:
    """Workflows that this package submitted, latest first: of all, or those that a reference names.

    reference: id of any of the flow's jobs, a run's id, or the beginning of a science hash. Raises InputError if it
    names none.
    """
    criteria: dict[str, Any] = {"metadata.dao_flows": {"$exists": True}}
    if reference is not None:
        if reference.isdigit():
            criteria["nodes"] = int(reference)
        elif "-" in reference:
            criteria["metadata.dao_flows.run_id"] = reference
        else:
            criteria["metadata.dao_flows.key"] = {"$gte": reference, "$lt": reference + "g"}  # hexadecimal
    fields = {"nodes": 1, "state": 1, "created_on": 1, "metadata": 1, "fw_states": 1}
    found = list(pad.workflows.find(criteria, fields).sort("_id", -1).limit(limit))
    if reference is not None and not found:
        raise InputError(f"no flow is called {reference!r}; `dao-flows status` shows what was submitted")
    return found


def status(pad: LaunchPad, reference: str | None = None, limit: int = 0, failures: int = 10) -> Status:
    """The state of flows now. limit: of the latest flows (0: all); failures: shown at most."""
    flows = find_flows(pad, reference, limit)
    owner = {node: min(flow["nodes"]) for flow in flows for node in flow["nodes"]}
    jobs = list(_jobs(pad, sorted(owner)))
    failed = [job for job in jobs if job["state"] == "FIZZLED"]
    latest = sorted(failed, key=lambda job: job["fw_id"], reverse=True)[:failures]
    return Status(
        flows=[_flow(flow) for flow in flows],
        stages=_stages(jobs, _lost(pad, jobs), _durations(pad, jobs)),
        failures=[_failure(pad, job, owner[job["fw_id"]]) for job in latest],
    )


def _jobs(pad: LaunchPad, ids: Sequence[int]) -> Iterable[dict[str, Any]]:
    fields = {"fw_id": 1, "name": 1, "state": 1, "spec._category": 1, "launches": 1, FUNCTION: 1}
    for start in range(0, len(ids), CHUNK):
        yield from pad.fireworks.find({"fw_id": {"$in": list(ids[start : start + CHUNK])}}, fields)


def _stage(job: dict[str, Any]) -> str:
    tasks = job["spec"].get("_tasks") or [{}]
    function = tasks[0].get("job", {}).get("function", {}).get("@callable")
    return stage_of(function) if function else str(job["name"])


def _durations(pad: LaunchPad, jobs: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Seconds of the last run of each job that is done."""
    last = {job["launches"][-1]: job["fw_id"] for job in jobs if job["state"] == DONE and job["launches"]}
    ids = sorted(last)
    durations = {}
    for start in range(0, len(ids), CHUNK):
        fields = {"launch_id": 1, "state_history.state": 1, "state_history.created_on": 1}
        for launch in pad.launches.find({"launch_id": {"$in": ids[start : start + CHUNK]}}, fields):
            times = {entry["state"]: _time(entry["created_on"]) for entry in launch["state_history"]}
            if {"RUNNING", DONE} <= set(times):
                durations[last[launch["launch_id"]]] = (times[DONE] - times["RUNNING"]).total_seconds()
    return durations


def _stages(jobs: Sequence[dict[str, Any]], lost: set[int], durations: dict[int, float]) -> list[Stage]:
    """In the order in which the stages' first jobs were submitted."""
    members: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: job["fw_id"]):
        members[_stage(job), job["spec"].get("_category", "any")].append(job)
    stages = []
    for (stage, category), found in members.items():
        states = Counter(job["state"] for job in found)
        known = [durations[job["fw_id"]] for job in found if job["fw_id"] in durations]
        missing = sum(job["fw_id"] in lost for job in found)
        entry = Stage(stage=stage, category=category, states=dict(states), lost=missing)
        if known:
            running = states["RUNNING"] - missing
            rest = running + sum(states[state] for state in WAITING)
            entry.seconds = mean(known)
            entry.left = entry.seconds * rest / max(1, running)
        stages.append(entry)
    return stages


def _flow(workflow: dict[str, Any]) -> FlowStatus:
    about = workflow["metadata"]["dao_flows"]
    states = Counter(workflow["fw_states"].values())
    return FlowStatus(
        flow=min(workflow["nodes"]),
        state=workflow["state"],
        submitted_at=_time(workflow["created_on"]).isoformat(),
        done=states[DONE],
        jobs=len(workflow["nodes"]),
        **{name: about[name] for name in ("kind", "label", "run_id")},
    )


def _failure(pad: LaunchPad, job: dict[str, Any], flow: int) -> Failure:
    host, directory, trace = last_launch(pad, job)
    said = [line for line in trace.splitlines() if line.strip()]
    lines = said[-LAST_LINES:] or ["its worker was lost: it stopped without a word"]
    return Failure(job=job["fw_id"], name=job["name"], flow=flow, directory=f"{host}:{directory}", lines=lines)


def last_launch(pad: LaunchPad, job: dict[str, Any]) -> tuple[str, str, str]:
    """Host, directory and traceback of a job's last run, masked; empty where there is none."""
    if not job["launches"]:
        return "", "", ""
    fields = {"host": 1, "launch_dir": 1, "action.stored_data._exception": 1}
    launch = pad.launches.find_one({"launch_id": job["launches"][-1]}, fields) or {}
    stored = (launch.get("action") or {}).get("stored_data") or {}
    trace = (stored.get("_exception") or {}).get("_stacktrace") or ""
    return launch.get("host", ""), launch.get("launch_dir", ""), mask(trace)


def expiration() -> int:
    """Seconds without a sign of life after which a running job counts as lost."""
    return int(fireworks_setting("RUN_EXPIRATION_SECS"))


def _lost(pad: LaunchPad, jobs: Sequence[dict[str, Any]]) -> set[int]:
    """Running jobs whose worker has given no sign of life for too long, as `lpad detect_lostruns` sees them."""
    latest = {job["launches"][-1]: job["fw_id"] for job in jobs if job["state"] == "RUNNING" and job["launches"]}
    oldest = (datetime.now(UTC) - timedelta(seconds=expiration())).isoformat()
    silent = {"$elemMatch": {"state": "RUNNING", "updated_on": {"$lte": oldest}}}
    found = pad.launches.find({"launch_id": {"$in": list(latest)}, "state_history": silent}, {"launch_id": 1})
    return {latest[launch["launch_id"]] for launch in found}


def _time(value: Any) -> datetime:
    at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
