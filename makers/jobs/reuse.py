"""Stored results in place of running.

A job looks in its store for a document of its own science hash, and writes that one in place of computing it, where
its metadata say so (`{"dao_flows": {"reuse": true}}`). A result counts only while its content hash holds.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from jobflow.core.state import CURRENT_JOB
from pydantic import BaseModel, ValidationError

from dao_flows.makers.schemas.decoding import named
from dao_flows.makers.schemas.document import Science

from .provenance import content_hash, digest, science_hash

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

SCIENCE_HASH = "output.provenance.science_hash"
MARK = "reuse"

Document = TypeVar("Document", bound=BaseModel)

log = logging.getLogger(__name__)

job_store: ContextVar[JobStore | None] = ContextVar("dao_flows_job_store", default=None)


def reusable(kind: type[Document], science: Science) -> Document | None:
    """The stored document of this science, if the running job is to take one and there is one."""
    job, store = CURRENT_JOB.job, job_store.get()
    marks = job.metadata.get("dao_flows") if job is not None else None
    if store is None or not isinstance(marks, dict) or not marks.get(MARK):
        return None
    return stored(store, kind, science_hash(science))


def stored(
    store: JobStore, kind: type[Document], wanted: str, criteria: dict[str, Any] | None = None
) -> Document | None:
    """The latest whole document of this kind and science hash in a store. criteria: what else it must be."""
    asked = {SCIENCE_HASH: wanted, "output.@class": kind.__name__, **(criteria or {})}
    found = [d["uuid"] for d in store.query(asked, properties=["uuid", "completed_at"], sort={"completed_at": -1})]
    for uuid in dict.fromkeys(found):
        for document in store.query({"uuid": uuid, **asked}, properties=["output"], load=True):
            if not is_whole(document["output"]):
                log.error("the result of job %s is not taken: its content is not what its hash says", uuid)
                continue
            try:
                found_one = kind.model_validate(document["output"])
            except ValidationError:
                log.error("the result of job %s is not taken: this version cannot read it", uuid)
                continue
            # its own science is the one asked for, as the hash says; jobflow will decode all of it for the next job
            if (name := named(found_one.model_dump(exclude={"provenance": {"science"}}))) is not None:
                log.error("the result of job %s is not taken: it names %s, as no result does", uuid, name)
                continue
            return found_one
    return None


def is_whole(output: dict[str, Any]) -> bool:
    """Whether a stored document has the hashes that it states, of its science and its content.

    One without a content hash is believed.
    """
    held = output["provenance"]
    try:
        if digest(held["science"]) != held["science_hash"]:
            return False
        return held.get("content_hash") is None or content_hash(output) == held["content_hash"]
    except (KeyError, TypeError, ValueError):
        return False
