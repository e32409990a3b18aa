"""Whether each document is there once, under the id that it should have and no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from dao_flows.audit.integrity.findings import Problem
from dao_flows.makers.jobs.record_chain import chain_of
from dao_flows.store.stores import result_store

if TYPE_CHECKING:
    from maggma.core import Store


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
        if isinstance(held, str) or result_store(store).own_ids or chain_of(document) is not None:
            yield Fault("altered", "_id", f"it is stored as {held!r}")
        elif where != "jobs" and held is not None:  # a server names the documents of jobs itself
            reason = f"it is stored as {held!r}, as versions did that are long gone, or somebody since"
            yield Fault("unverifiable", "_id", reason)
