"""Whether each document is there once, under the id that it should have and no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import bson
from bson.errors import BSONError

from dao_flows.makers.jobs.record_chain import chain_of
from dao_flows.store.stores import EmbeddedStore

from .findings import Problem

if TYPE_CHECKING:
    from maggma.core import Store

HEAD_OF_ROW = 600  # bytes; the id stands first in a document


class Fault(NamedTuple):
    """What is wrong with a document's identity."""

    problem: Problem
    field: str | None
    reason: str


class Identities:
    """Is told of each document once; holds a number for each."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def see(self, store: Store, where: str, keys: tuple[str, ...], document: dict[str, Any]) -> Iterator[Fault]:
        """What is wrong with a document's identity. keys: ids that it may be stored as, the last one its own."""
        own, held = hash((where, keys[-1])), document.get("_id")
        if own in self._seen:
            yield Fault("duplicated", None, f"another document is the same one; this one is stored as {held!r}")
        self._seen.add(own)
        if isinstance(held, str) and held in keys:
            return
        if isinstance(held, str) or isinstance(store, EmbeddedStore) or chain_of(document) is not None:
            yield Fault("altered", "_id", f"it is stored as {held!r}")
        elif where != "jobs" and held is not None:  # a server names the documents of jobs itself
            reason = f"it is stored as {held!r}, as versions did that are long gone, or somebody since"
            yield Fault("unverifiable", "_id", reason)


def misplaced(store: Store) -> Iterator[tuple[str, str]]:
    """Ids of an embedded store's documents that stand in a row with another key, and that key."""
    if not isinstance(store, EmbeddedStore):
        return
    for key, beginning in store.rows(HEAD_OF_ROW):
        held = _id_of(beginning)
        if held is not None and store.row_key(held) != key:
            yield str(held), repr(key)


def _id_of(beginning: bytes) -> Any:
    """The id at the beginning of a document; None for what is no document or begins with something else."""
    with suppress(BSONError, ValueError, TypeError, OverflowError, IndexError):
        kind, name = beginning[4], beginning[5:9]
        if name != b"_id\0":
            return None
        if kind == 2:
            length = 4 + int.from_bytes(beginning[9:13], "little")
        elif kind == 7:
            length = 12
        else:
            return None
        element = beginning[4 : 9 + length]
        mini = (len(element) + 5).to_bytes(4, "little") + element + b"\0"
        return bson.decode(mini)["_id"]
    return None
