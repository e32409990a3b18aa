"""Collections beside another in the same database, and the newest documents of one, whatever keeps them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maggma.core import Store

KNOWN = "_dao_flows_siblings"


def has_siblings(store: Store) -> bool:
    """Whether that kind of store can hold other collections beside its own."""
    from maggma.stores import JSONStore, MongoStore

    return isinstance(store, MongoStore) and not isinstance(store, JSONStore)


def newest(store: Store, criteria: dict[str, Any], fields: list[str], number: str, limit: int) -> list[dict[str, Any]]:
    """The newest documents that match, the last first. number: the field by which they are numbered.

    A store without indexes that knows which documents were added last is asked for those, and some may not match.
    """
    if (added_last := getattr(store, "newest", None)) is not None:
        found: list[dict[str, Any]] = added_last(limit)
        return found
    return list(store.query(criteria, properties=fields, sort={number: -1}, limit=limit))


def add_if_absent(store: Store, document: dict[str, Any]) -> None:
    """Add a document, unless one of its `_id` is there: of several processes that do so at once, one has its way."""
    if (add := getattr(store, "add_if_absent", None)) is not None:
        add(document)
        return
    rest = {field: value for field, value in document.items() if field != "_id"}
    store._collection.update_one({"_id": document["_id"]}, {"$setOnInsert": rest}, upsert=True)


def beside(store: Store, name: str, key: str) -> Store | None:
    """A collection in the database of a store, connected; None if that kind of store has none."""
    from maggma.stores import MemoryStore, MontyStore

    docs: Any = store
    if not has_siblings(docs):
        return None
    known: dict[str, tuple[Any, Store]] = vars(docs).setdefault(KNOWN, {})
    client = docs._coll  # the store may have been closed and opened again since
    if name not in known or known[name][0] is not client:
        found: Any = copy.copy(docs)
        vars(found).pop(KNOWN, None)
        found.collection_name, found.key, found._coll = name, key, None
        if isinstance(docs, MemoryStore | MontyStore) or client is None:
            found.connect()  # a file of its own, or a dictionary
        else:
            found._coll = client.database[name]  # the same connections to the server
        known[name] = (client, found)
    return known[name][1]
