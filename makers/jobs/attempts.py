"""Attempts at jobs: what is appended to the `runs` collection beside the jobs whenever a job begins and ends.

Nothing is ever changed or taken away: a killed attempt is one that began and did not end.
"""

from __future__ import annotations

import getpass
import logging
import os
import platform
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from dao_flows.makers.machine.masking import mask, one_line, remember_environment, remember_store, storable

from . import record_chain as chain
from .provenance import content_hash, digest, library_versions
from .siblings import beside

if TYPE_CHECKING:
    from jobflow.core.job import Job
    from jobflow.core.store import JobStore
    from maggma.core import Store

RUNS, RECORD_ID = "runs", "record_id"
SCHEMA_VERSION = 2  # 1: without content hashes and attempts
BEGAN, ENDED = "job-start", "job-end"
WHO_VARIABLE, NOBODY = "DAO_FLOWS_WHO", "off"
# of a job's document: all but the output, which has a hash of its own
ENVELOPE = ("uuid", "index", "name", "metadata", "hosts", "completed_at", "@module", "@class", "@version")

PART = 12  # digits: enough to tell fields apart; that nothing was altered is the whole hash's to say

Outcome = Literal["finished", "failed", "interrupted"]

log = logging.getLogger(__name__)


class Process(BaseModel):
    """Who runs: enough to see later whether it still does. born: tells it from a later process of the same pid."""

    host: str
    pid: int
    born: str

    @classmethod
    def current(cls) -> Process:
        """The process that asks."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Process:
        """A process of this machine."""
        return cls(host=platform.node(), pid=pid, born=_born(pid))

    def is_alive(self) -> bool:
        """True if it runs, on this host; of another host's processes nothing is known, and they count as dead."""
        return self.host == platform.node() and self.born == _born(self.pid) != ""


def _born(pid: int) -> str:
    """The boot and the process's start in clock ticks since; empty if there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return ""


class Attempt:
    """One attempt at a job. Entering appends that it begins; leaving appends how it ended, by an exception too.

    A store that fails to take a record costs a line on stderr and nothing else.
    """

    def __init__(self, job: Job, store: JobStore) -> None:
        self.job, self.store = job, store
        self.attempt_id = f"{job.uuid}-{job.index}-{secrets.token_hex(4)}"
        self.science_hash: str | None = None
        self.reused_from: str | None = None  # uuid of the job whose result was taken
        self.result: str | None = None
        self.parts: dict[str, str] = {}
        self._waiting: list[dict[str, Any]] = []

    def __enter__(self) -> Attempt:
        self._began = datetime.now(UTC)
        try:
            remember_environment()
            remember_store(self.store)
            content = {
                "job_name": mask(self.job.name),
                "function": getattr(self.job.function, "__qualname__", ""),
                "parents": sorted(self.job.input_uuids),
                "process": Process.current().model_dump(),
                "who": who(),
                "libraries": library_versions(),
            }
        except Exception as error:  # nothing of this may cost a result
            self._complain(error)
            content = {}
        self._append(1, BEGAN, self._began, content)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        ended = datetime.now(UTC)
        outcome: Outcome = "finished" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
        content: dict[str, Any] = {
            "outcome": outcome,
            "error": None if error is None else f"{type(error).__name__}: {one_line(error)}",
            "seconds": (ended - self._began).total_seconds(),
            "science_hash": self.science_hash,
            **({"reused_from": self.reused_from} if self.reused_from else {}),
            "result": self.result,
            "parts": self.parts,
            "envelope": None,
        }
        if error is None:
            content["envelope"] = self._envelope()
        self._append(2, ENDED, ended, content)

    def _envelope(self) -> dict[str, str] | None:
        """Hashes of what the store keeps of the job beside its output, read back from there."""
        try:
            found = self.store.docs_store.query_one(
                {"uuid": self.job.uuid, "index": self.job.index}, properties=list(ENVELOPE)
            )
            return None if found is None else envelope(found)
        except Exception as error:
            self._complain(error)
            return None

    def _append(self, number: int, event: str, at: datetime, content: dict[str, Any]) -> None:
        marks = self.job.metadata.get("dao_flows")
        record = {
            "record_id": f"{self.attempt_id}-{number}",
            "schema_version": SCHEMA_VERSION,
            "event": event,
            "at": at.isoformat(),
            "attempt_id": self.attempt_id,
            "job_uuid": self.job.uuid,
            "job_index": self.job.index,
            "run_id": marks.get("run_id") if isinstance(marks, dict) else None,
            **content,
        }
        self._waiting.append(record)
        try:
            runs = sibling(self.store, RUNS, RECORD_ID)
            if runs is None:
                raise TypeError(f"a {type(self.store.docs_store).__name__} keeps no collection beside its jobs")
            while self._waiting:  # the first, too, if the store did not take it then
                append(runs, self._waiting[0])
                taken = self._waiting.pop(0)
                if event == BEGAN and "content_hash" in taken:
                    self._mark(taken)
        except Exception as error:  # every kind of store has errors of its own, and none may cost the result
            self._complain(error)

    def _mark(self, record: dict[str, Any]) -> None:
        """Let the job's document, which tells its metadata, name the record of its beginning."""
        marks = self.job.metadata.get("dao_flows")
        named = [record[RECORD_ID], record["content_hash"]]
        self.job.metadata["dao_flows"] = {**(marks if isinstance(marks, dict) else {}), chain.ATTEMPT: named}

    def _complain(self, error: Exception) -> None:
        log.error("the attempt at %s (%s) is not logged: %s", mask(self.job.name), self.job.uuid, one_line(error))


def envelope(document: dict[str, Any]) -> dict[str, str]:
    """The hash of each field that a stored job's document has beside its output."""
    return {name: digest(value, extended=True) for name, value in document.items() if name not in ("_id", "output")}


def parts(output: Any) -> dict[str, str]:
    """The beginning of the hash of each field of an output, to name one that was altered."""
    if not isinstance(output, dict):
        return {}
    kept = {name: value for name, value in output.items() if name != "provenance"}
    if isinstance(held := output.get("provenance"), dict):
        kept |= {f"provenance.{name}": value for name, value in held.items() if name != "content_hash"}
    return {name.replace(".", "/"): digest(value, extended=True)[:PART] for name, value in kept.items()}


def append(runs: Store, record: dict[str, Any]) -> None:
    """Add a record, with its place in the chain and its content hash, which the record then has.

    One that was refused may be appended again: it stays the same, so that it is there once if the store had taken it.
    """
    if "content_hash" not in record:
        chain.link(runs, record)
        record["content_hash"] = content_hash(record)
    runs.update([{"_id": record[RECORD_ID], **record}], key="_id")
    chain.advance(runs, record)


def who() -> str | None:
    """The name under which attempts are logged: $DAO_FLOWS_WHO, else the login name; None where it is 'off'."""
    if (wanted := os.environ.get(WHO_VARIABLE)) is not None:
        return None if wanted.strip().lower() in ("", NOBODY) else storable(wanted.strip())
    with suppress(Exception):  # a container may have no name for its user
        return getpass.getuser()
    return None


def sibling(store: JobStore, name: str, key: str) -> Store | None:
    """A collection in the same database as the jobs of a store, connected; None if that kind of store has none."""
    return beside(store.docs_store, name, key)
