"""The chain of the records of runs: each names those before it with their hashes, so that one that is gone is missed.

A record names the newest records of its store that nothing names yet: one as a rule, several where several processes
wrote at once. Nobody waits for anybody, and whoever is killed leaves a chain that the next record goes on with.
The head, in a collection of its own, is written anew each time: it says which record was the newest.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .provenance import content_hash
from .siblings import add_if_absent, beside, newest

if TYPE_CHECKING:
    from maggma.core import Store

KEY = "record_id"
CHAIN = "chain"  # field of a record: id of its store's chain, its number there, and what it names
ATTEMPT = "attempt"  # of a job's metadata: the record of its beginning
HEADS, HEAD_KEY, HEAD = "heads", "head_id", "runs"  # collection of the head, its key, and its id there
IMPORT = "import"  # event of a record that names those that a crate brought
WINDOW = 64  # of the newest records are looked at: as many may be written at the same moment
LARGEST = 2**40  # number of a record that came from elsewhere


class Link(NamedTuple):
    """A record, and the hash that it had when it was named."""

    record_id: str
    sha256: str


def link(runs: Store, record: dict[str, Any]) -> None:
    """Let a record that is to be written name what is the newest in the store."""
    begun = _begun(runs)
    chain = begun[CHAIN]["id"]
    last_ones = [each for each in _newest(runs, chain) if isinstance(each.get("content_hash"), str)]
    there = {Link(each[KEY], each["content_hash"]): None for each in last_ones}
    if (last := named_by(begun.get("newest"))) is not None:
        there[last] = None
    named = {each for other in last_ones for each in links(other)}
    number = 1 + max([number_of(begun), *map(number_of, last_ones)])
    record[CHAIN] = {"id": chain, "number": number, "previous": [list(each) for each in there if each not in named]}


def advance(runs: Store, record: dict[str, Any]) -> None:
    """Say in the head that a record, which was written, is the newest."""
    held = record[CHAIN]
    last = [record[KEY], record["content_hash"]]
    _heads(runs).update([_head(held["id"], held["number"], last, record.get("at"))], key="_id")


def begin(runs: Store) -> None:
    """Give a store a chain of its own, if it has none: before records of another store's come into it."""
    _begun(runs)


def head(runs: Store) -> dict[str, Any] | None:
    """What says which record of a store is the newest; None: no record was chained yet."""
    found: dict[str, Any] | None = _heads(runs).query_one({"_id": HEAD})
    return found


def links(record: dict[str, Any]) -> Iterator[Link]:
    """The records that a record names."""
    held = record.get(CHAIN)
    named = held.get("previous") if isinstance(held, dict) else None
    for each in named if isinstance(named, list) else ():
        if (found := named_by(each)) is not None:
            yield found


def named_by(value: Any) -> Link | None:
    """A record's id and hash as they stand in a document; None for what is neither."""
    match value:
        case [str() as record_id, str() as sha256]:
            return Link(record_id, sha256)
    return None


def chain_of(record: dict[str, Any]) -> str | None:
    """The id of the chain that a record is part of; None: it was written before there were chains."""
    held = record.get(CHAIN)
    found = held.get("id") if isinstance(held, dict) else None
    return found if isinstance(found, str) else None


def number_of(record: dict[str, Any]) -> int:
    """Its number in the chain; 0 for what has none that can be."""
    held = record.get(CHAIN)
    found = held.get("number") if isinstance(held, dict) else None
    return found if isinstance(found, int) and 0 <= found < 2 * LARGEST else 0


def _begun(runs: Store) -> dict[str, Any]:
    """The head of a store's chain, which is begun if there is none."""
    if (found := head(runs)) is not None and chain_of(found) is not None:
        return found
    begun = _head(secrets.token_hex(8), 0, None, None)
    if found is None:
        add_if_absent(_heads(runs), begun)  # another process may have begun it since
    else:
        _heads(runs).update([begun], key="_id")
    return head(runs) or begun


def _head(chain: str, number: int, newest: list[str] | None, at: str | None) -> dict[str, Any]:
    held = {HEAD_KEY: HEAD, "at": at, CHAIN: {"id": chain, "number": number}, "newest": newest}
    return {"_id": HEAD, **held, "content_hash": content_hash(held)}


def _heads(runs: Store) -> Store:
    found = beside(runs, HEADS, HEAD_KEY)
    if found is None:
        raise TypeError(f"a {type(runs).__name__} keeps no collection beside its records")
    return found


def _newest(runs: Store, chain: str) -> list[dict[str, Any]]:
    """The newest records of a chain."""
    wanted = {f"{CHAIN}.id": chain, f"{CHAIN}.number": {"$lt": 2 * LARGEST}}
    found = newest(runs, wanted, [KEY, "content_hash", CHAIN], f"{CHAIN}.number", WINDOW)
    return [each for each in found if chain_of(each) == chain]
