"""Every document in scope, read once: what is wrong with it, and what it says of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dao_flows.audit.integrity.reading import documents
from dao_flows.store.collections import KEYS
from dao_flows.store.interface import Damaged

from .candidates import read_candidate
from .inspection import Inspection
from .jobs import read_job
from .runs import read_record
from .verifications import read_comparison, read_verification

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

    from dao_flows.audit.integrity.scope import Scope

Tell = Callable[[int, int, str], None]
READERS: dict[str, Callable[[Inspection, dict[str, Any]], None]] = {  # in an order in which each can use the others
    "runs": read_record,
    "jobs": read_job,
    "candidates": read_candidate,
    "verifications": read_verification,
    "comparisons": read_comparison,
}
COLLECTIONS = tuple(READERS)


def untold(done: int, total: int, stage: str) -> None:
    """Tell nobody how far it is."""


def read(jobs: JobStore, scope: Scope | None = None, tell: Tell = untold) -> Inspection:
    """Read what is in scope (None: all) in a job store and its collections, one document at a time.

    tell: is told how many documents are done of how many. Raises StoreError.
    """
    inspection = Inspection(jobs, scope)
    total = sum(store.count() for store in inspection.stores.values()) if scope is None else _size(scope)
    done = 0
    for name in COLLECTIONS:
        for document in _documents(inspection, name):
            if isinstance(document, Damaged):
                inspection.find("altered", name, document.key, document.reason)
            else:
                read_document(inspection, name, document)
            inspection.checked[name] += 1
            done += 1
            tell(done, max(done, total), "documents")
    return inspection


def read_document(inspection: Inspection, name: str, document: dict[str, Any]) -> None:
    """Read one document of a collection, against what is known from those that were read before."""
    READERS[name](inspection, document)


def _size(scope: Scope) -> int:
    return len(scope.jobs) * 3 + len(scope.candidates) + len(scope.verifications) + len(scope.comparisons)


def _documents(inspection: Inspection, name: str) -> Iterator[dict[str, Any] | Damaged]:
    store, scope = inspection.stores[name], inspection.scope
    if scope is None:
        yield from documents(store)
    elif name == "jobs":
        yield from documents(store, "uuid", scope.jobs)
    elif name == "runs":
        yield from documents(store, "job_uuid", scope.jobs)
        for document in documents(store, "run_id", scope.runs):
            if isinstance(document, Damaged) or "job_uuid" not in document:
                yield document
    else:
        yield from documents(store, KEYS[name], getattr(scope, name))
