"""The documents of a collection, without holding them all, and without falling over a damaged one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import bson
from bson.errors import BSONError
from maggma.utils import grouper

from ..stores import EmbeddedStore

if TYPE_CHECKING:
    from jobflow.core.store import JobStore
    from maggma.core import Store

CHUNK = 50  # the embedded store looks for up to 100 words at a time without decoding every document
BLOB = {"blob_uuid", "store"}


class Damaged(NamedTuple):
    """What cannot be read: its number among the documents, and why."""

    number: int
    reason: str


def documents(store: Store, field: str | None = None, wanted: Iterable[str] = ()) -> Iterator[dict[str, Any] | Damaged]:
    """All documents (field None), or those whose field is one of `wanted`."""
    try:
        if field is not None:
            for chunk in grouper(sorted(set(wanted)), CHUNK):
                yield from store.query({field: {"$in": list(chunk)}})
        elif isinstance(store, EmbeddedStore):
            for number, raw in enumerate(store.raw()):
                yield _decoded(number, raw)
        else:
            yield from store.query()
    except (sqlite3.DatabaseError, BSONError) as error:
        yield Damaged(-1, f"the collection cannot be read: {error}")


def _decoded(number: int, raw: bytes) -> dict[str, Any] | Damaged:
    try:
        decoded: dict[str, Any] = bson.decode(raw)
    except (BSONError, ValueError, TypeError, OverflowError) as error:
        return Damaged(number, f"it is no BSON: {error}")
    return decoded


def with_blobs(jobs: JobStore, document: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A job's document with what its output keeps in additional stores, and the references that lead nowhere."""
    references = list(blobs(document.get("output")))
    if not references:
        return document, []
    here = [reference for reference in references if reference["store"] in vars(jobs)["additional_stores"]]
    if here:
        criteria = {"uuid": document.get("uuid"), "index": document.get("index")}
        loaded = jobs.query_one(criteria, load={reference["store"]: True for reference in here})
        document = loaded if loaded is not None else document
    return document, list(blobs(document.get("output")))


def blobs(value: Any) -> Iterator[dict[str, Any]]:
    """References to an additional store, as jobflow puts them into a document."""
    pending = [value]
    while pending:
        held = pending.pop()
        if isinstance(held, dict):
            if held.keys() >= BLOB:
                yield held
            else:
                pending += held.values()
        elif isinstance(held, list):
            pending += held
