"""The log of runs: records that are only ever added, so that attempts that failed or were killed stay visible.

A run has one `start`, one `batch` for each batch that it begins, and one `end`. A start without an end is a run that
goes on, or one that was killed. Attempts at single jobs stand in the same collection (makers/jobs/attempts.py).
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from maggma.core import Store
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dao_flows.makers.jobs.attempts import BEGAN, ENDED, SCHEMA_VERSION, Process, append, who
from dao_flows.makers.machine.masking import mask, one_line, remember_environment

EVENTS = ("start", "batch", "end")
_ATTEMPT = ("attempt_id", "job_uuid", "job_index")
NEEDED = {
    "start": ("run_id", "request_hash", "request", "process", "libraries"),
    "batch": ("run_id", "batch"),
    "end": ("run_id", "outcome", "science_hashes"),
    BEGAN: _ATTEMPT,
    ENDED: (*_ATTEMPT, "outcome"),
}
STATED = {"start": ("command",), "end": ("error",), ENDED: ("error",)}  # may be null, but is there

Outcome = Literal["finished", "failed", "interrupted", "running"]


class Batch(BaseModel):
    """Compositions that one flow handles, and the jobs that do it. reused_from: the run whose jobs are taken over."""

    key: str = Field(description="hash of all that decides the batch's result")
    formulas: list[str]
    generate_uuid: str
    screen_uuid: str
    reused_from: str | None = None


class Run(BaseModel):
    """One attempt, put together from its records."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    request_hash: str
    request: dict[str, Any]
    command: str | None
    process: Process
    who: str | None = None
    libraries: dict[str, str]
    started_at: str
    ended_at: str | None = None
    outcome: Outcome
    error: str | None = None
    batches: list[Batch] = Field(default_factory=list)
    science_hashes: list[str] = Field(default_factory=list, description="of the screening documents, one a batch")


class RunRecord(BaseModel):
    """One record, of a run or of an attempt at a job, as far as commands read it. Raises for what an event lacks."""

    model_config = ConfigDict(extra="allow", strict=True)

    record_id: str = Field(min_length=1)
    schema_version: int
    event: Literal["start", "batch", "end", "job-start", "job-end"]
    at: str
    run_id: str | None = None
    request_hash: str | None = None
    request: dict[str, Any] | None = None
    command: str | None = None
    process: Process | None = None
    who: str | None = None
    libraries: dict[str, str] | None = None
    batch: Batch | None = None
    outcome: Literal["finished", "failed", "interrupted"] | None = None
    error: str | None = None
    science_hashes: list[str] | None = None
    attempt_id: str | None = None
    job_uuid: str | None = None
    job_index: int | None = None
    job_name: str | None = None
    function: str | None = None
    parents: list[str] | None = None
    seconds: float | None = None
    science_hash: str | None = None
    reused_from: str | None = None
    result: str | None = None
    parts: dict[str, str] | None = None
    envelope: dict[str, str] | None = None
    content_hash: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> RunRecord:
        lacking = [name for name in NEEDED[self.event] if getattr(self, name) is None]
        lacking += [name for name in STATED.get(self.event, ()) if name not in self.model_fields_set]
        if lacking:
            raise ValueError(f"a record of {self.event} lacks {', '.join(lacking)}")
        return self


class RunLog:
    """Writes the records of one run. Entering logs the start; leaving logs how it ended, by an exception too."""

    def __init__(
        self,
        store: Store,
        request_hash: str,
        request: dict[str, Any],
        libraries: dict[str, str],
        command: Sequence[str],
    ) -> None:
        self.store = store
        self.run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.request_hash = request_hash
        self.science_hashes: list[str] = []
        self._count = 0
        remember_environment()
        self._start = {
            "request_hash": request_hash,
            "request": request,
            "libraries": libraries,
            "command": mask(shlex.join(command)) if command else None,
            "process": Process.current().model_dump(),
            "who": who(),
        }

    def __enter__(self) -> RunLog:
        self._append("start", self._start)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        outcome: Outcome = "finished" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
        text = f"{type(error).__name__}: {one_line(error)}" if error is not None and outcome == "failed" else None
        end = {"outcome": outcome, "error": text, "science_hashes": self.science_hashes}
        if error is None:
            self._append("end", end)
            return
        try:
            self._append("end", end)
        except Exception:  # the store may be what failed; the first error is the one to show
            return

    def begin(self, batch: Batch) -> None:
        """Log a batch before it runs."""
        self._append("batch", {"batch": batch.model_dump()})

    def _append(self, event: str, content: dict[str, Any]) -> None:
        self._count += 1
        record_id = f"{self.run_id}-{self._count:06d}"
        at = datetime.now(UTC).isoformat()
        record = {"record_id": record_id, "run_id": self.run_id, "event": event, "at": at}
        append(self.store, {"schema_version": SCHEMA_VERSION, **record, **content})


def assemble(records: Iterable[dict[str, Any]]) -> Run:
    """A run from all of its records."""
    ordered = sorted(records, key=lambda record: record["record_id"])
    start = ordered[0]
    process = Process(**start["process"])
    run = Run(
        started_at=start["at"],
        process=process,
        who=start.get("who"),
        outcome="running" if process.is_alive() else "interrupted",
        **{key: start[key] for key in ("run_id", "request_hash", "request", "command", "libraries")},
    )
    for record in ordered[1:]:
        if record["event"] == "batch":
            run.batches.append(Batch(**record["batch"]))
        elif record["event"] == "end":
            run.ended_at = record["at"]
            run.outcome, run.error = record["outcome"], record["error"]
            run.science_hashes = record["science_hashes"]
    return run


def read(store: Store, criteria: dict[str, Any] | None = None, limit: int = 0) -> list[Run]:
    """Runs whose start matches, latest first."""
    wanted = {**(criteria or {}), "event": "start"}
    ids = [d["run_id"] for d in store.query(wanted, properties=["run_id"], sort={"at": -1}, limit=limit)]
    records: dict[str, list[dict[str, Any]]] = {run_id: [] for run_id in ids}
    for record in store.query({"run_id": {"$in": ids}, "event": {"$in": list(EVENTS)}}):
        records[record["run_id"]].append(record)
    return [assemble(found) for found in records.values()]


def unfinished(store: Store, request_hash: str) -> list[Run]:
    """Attempts at the same request since it last finished, latest first: what a new attempt may take over."""
    attempts = []
    for run in read(store, {"request_hash": request_hash}):
        if run.outcome == "finished":
            break
        attempts.append(run)
    return attempts
