"""Batches whose results are in the store already, by science hash: what a new run may take over in place of computing.

What an interrupted attempt at the same request finished is always taken over; what any other run or flow left, where
that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maggma.utils import grouper

from dao_flows.makers.jobs.reuse import MARK, SCIENCE_HASH, is_whole
from dao_flows.makers.schemas.prediction import ScreeningDoc

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

CHUNK = 50  # hashes looked for at a time
FIELDS = ["uuid", "completed_at", "metadata.dao_flows.run_id", SCIENCE_HASH, "output.generation.execution.job_uuid"]


@dataclass(frozen=True)
class Stored:
    """A finished batch. made_by: the run, or the job where there was no run."""

    key: str
    generate_uuid: str
    screen_uuid: str
    made_by: str


def stored_batches(jobs: JobStore, keys: Iterable[str], uuids: Sequence[str] | None = None) -> dict[str, Stored]:
    """Finished screenings by their science hash, the latest of each. uuids: of these jobs alone (None: of any)."""
    found: dict[str, tuple[str, Stored]] = {}
    for chunk in grouper(sorted(set(keys)), CHUNK):
        criteria: dict[str, Any] = {SCIENCE_HASH: {"$in": list(chunk)}, "output.@class": ScreeningDoc.__name__}
        if uuids is not None:
            criteria["uuid"] = {"$in": list(uuids)}
        for document in jobs.query(criteria, properties=FIELDS):
            output = document["output"]
            uuid, key = document["uuid"], output["provenance"]["science_hash"]
            when = str(document.get("completed_at"))
            if key not in found or when > found[key][0]:
                generate = ((output.get("generation") or {}).get("execution") or {}).get("job_uuid") or ""
                run_id = ((document.get("metadata") or {}).get("dao_flows") or {}).get("run_id")
                found[key] = when, Stored(key, generate, uuid, run_id or f"job {uuid}")
    return {key: stored for key, (_, stored) in found.items()}


def whole(jobs: JobStore, batch: Stored) -> bool:
    """Whether a batch's document has the content that its hash says."""
    found = jobs.query_one({"uuid": batch.screen_uuid, SCIENCE_HASH: batch.key}, properties=["output"], load=True)
    return found is not None and is_whole(found["output"])


def marks(run_id: str, reuse: bool) -> dict[str, Any]:
    """The metadata of a run's jobs; with `reuse`, they take stored results of their science."""
    return {"dao_flows": {"run_id": run_id, **({MARK: True} if reuse else {})}}
