"""How far submitted flows are, from the LaunchPad alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import mean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from dao_flows.errors import InputError
from dao_flows.makers.machine.masking import mask

from .advice import advise
from .launchpad import fireworks_setting
from .routes import stage_of

if TYPE_CHECKING:
    from fireworks import LaunchPad

FUNCTION, CATEGORY = "spec._tasks.job.function.@callable", "spec._category"
DONE, WAITING = "COMPLETED", ("WAITING", "READY", "RESERVED")
LAST_LINES = 3
CHUNK = 1000  # ids in one query
SAMPLE = 200  # jobs of a stage whose mean time is taken


class Stage(BaseModel):
    """The jobs of one stage by state. seconds: mean of the latest that are done; left: estimate for the rest, s."""

    stage: str
    category: str
    states: dict[str, int]
    lost: int = Field(0, description="of the running ones: their worker has not been heard of")
    seconds: float | None = None
    left: float | None = None


class Failure(BaseModel):
    """A job that failed. lines: the last of its traceback; directory: host:path; advice: what can be done."""

    job: int
    name: str
    flow: int
    directory: str
    lines: list[str]
    advice: str | None = None


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
    """The state of flows now. limit: of the latest flows (0: all); failures: shown at most.

    The server counts the jobs; what is read of single ones is bounded, for there may be hundreds of thousands.
    """
    flows = find_flows(pad, reference, limit)
    scopes = _scopes(pad, flows)
    latest = [job for scope in scopes for job in _latest(pad, {**scope, "state": "FIZZLED"}, {"name": 1}, failures)]
    return Status(
        flows=[_flow(flow) for flow in flows],
        stages=_stages(pad, scopes),
        failures=[_failure(pad, job) for job in sorted(latest, key=lambda job: -job["fw_id"])[:failures]],
    )


def _scopes(pad: LaunchPad, flows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Criteria that together match the flows' jobs: nothing to match where these are all that the LaunchPad has."""
    if len(flows) == pad.workflows.count_documents({}):
        return [{}]
    ids = sorted(node for flow in flows for node in flow["nodes"])
    return [{"fw_id": {"$in": ids[start : start + CHUNK]}} for start in range(0, len(ids), CHUNK)]


def _latest(pad: LaunchPad, criteria: dict[str, Any], fields: dict[str, int], limit: int) -> list[dict[str, Any]]:
    return list(pad.fireworks.find(criteria, {"fw_id": 1, "launches": 1, **fields}).sort("fw_id", -1).limit(limit))


def _stages(pad: LaunchPad, scopes: Sequence[dict[str, Any]]) -> list[Stage]:
    """In the order in which the stages' first jobs were submitted."""
    key = {"function": f"${FUNCTION}", "name": {"$cond": [{"$ifNull": [f"${FUNCTION}", False]}, None, "$name"]}}
    key |= {"category": {"$ifNull": [f"${CATEGORY}", "any"]}, "state": "$state"}
    group = {"$group": {"_id": key, "jobs": {"$sum": 1}, "first": {"$min": "$fw_id"}}}
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    first: dict[tuple[str, str], int] = {}
    functions: dict[tuple[str, str], set[str]] = defaultdict(set)
    for scope in scopes:
        for found in pad.fireworks.aggregate([{"$match": scope}, group]):
            called = next(iter(found["_id"].get("function") or ()), None)
            stage = _stage(called, found["_id"]["name"]), str(found["_id"]["category"])
            counts[stage][found["_id"]["state"]] += found["jobs"]
            first[stage] = min(found["first"], first.get(stage, found["first"]))
            if called and found["_id"]["state"] == DONE:
                functions[stage].add(called)
    lost = _lost(pad, scopes)
    stages = []
    for stage in sorted(first, key=lambda each: first[each]):
        states, (name, category) = counts[stage], stage
        entry = Stage(stage=name, category=category, states=dict(states), lost=min(lost[stage], states["RUNNING"]))
        if known := _durations(pad, scopes, category, functions[stage]):
            running = states["RUNNING"] - entry.lost
            rest = running + sum(states[state] for state in WAITING)
            entry.seconds = mean(known)
            entry.left = entry.seconds * rest / max(1, running)
        stages.append(entry)
    return stages


def _stage(function: str | None, name: str | None) -> str:
    """One that is not jobflow's goes by its name."""
    return stage_of(function) if function else str(name)


def _durations(pad: LaunchPad, scopes: Sequence[dict[str, Any]], category: str, functions: set[str]) -> list[float]:
    """Seconds of the latest jobs of a stage that are done, SAMPLE at most."""
    done = {"state": DONE, FUNCTION: {"$in": sorted(functions)}}
    done[CATEGORY] = {"$exists": False} if category == "any" else category
    jobs: list[dict[str, Any]] = []
    for scope in reversed(scopes if functions else ()):
        jobs += _latest(pad, {**scope, **done}, {}, SAMPLE - len(jobs))
        if len(jobs) >= SAMPLE:
            break
    ids = [job["launches"][-1] for job in jobs if job["launches"]]
    seconds = (
        launch.get("runtime_secs") for launch in pad.launches.find({"launch_id": {"$in": ids}}, {"runtime_secs": 1})
    )
    return [float(each) for each in seconds if each is not None]


def _flow(workflow: dict[str, Any]) -> FlowStatus:
    about = workflow["metadata"]["dao_flows"]
    states = Counter(workflow["fw_states"].values())
    return FlowStatus(
        flow=min(workflow["nodes"]),
        state=workflow["state"],
        submitted_at=time_of(workflow["created_on"]).isoformat(),
        done=states[DONE],
        jobs=len(workflow["nodes"]),
        **{name: about[name] for name in ("kind", "label", "run_id")},
    )


def _failure(pad: LaunchPad, job: dict[str, Any]) -> Failure:
    workflow = pad.workflows.find_one({"nodes": job["fw_id"]}, {"nodes": 1})
    flow = min(workflow["nodes"]) if workflow else job["fw_id"]
    host, directory, trace = last_launch(pad, job)
    said = [line for line in trace.splitlines() if line.strip()]
    lines = said[-LAST_LINES:] or ["its worker was lost: it stopped without a word"]
    place = f"{host}:{directory}"
    return Failure(job=job["fw_id"], name=job["name"], flow=flow, directory=place, lines=lines, advice=advise(trace))


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


def _lost(pad: LaunchPad, scopes: Sequence[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Running jobs of each stage whose worker has been silent for too long, as `lpad detect_lostruns` sees them."""
    oldest = (datetime.now(UTC) - timedelta(seconds=expiration())).isoformat()
    silent = {"$elemMatch": {"state": "RUNNING", "updated_on": {"$lte": oldest}}}
    launches = pad.launches.find({"state": "RUNNING", "state_history": silent}, {"launch_id": 1, "fw_id": 1})
    latest = {launch["fw_id"]: launch["launch_id"] for launch in launches}
    lost: Counter[tuple[str, str]] = Counter()
    fields = {"fw_id": 1, "name": 1, "launches": 1, CATEGORY: 1, FUNCTION: 1}
    for scope in scopes if latest else ():
        silent_jobs = {"$and": [scope, {"state": "RUNNING", "fw_id": {"$in": sorted(latest)}}]}
        for job in pad.fireworks.find(silent_jobs, fields):
            if job["launches"][-1:] == [latest[job["fw_id"]]]:
                called = job["spec"]["_tasks"][0].get("job", {}).get("function", {}).get("@callable")
                lost[_stage(called, job["name"]), str(job["spec"].get("_category", "any"))] += 1
    return lost


def time_of(value: Any) -> datetime:
    """A time of FireWorks', which it stores in both ways, with its zone."""
    at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
