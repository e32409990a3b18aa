"""Collections beside another in the same database."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maggma.core import Store

KNOWN = "_dao_flows_siblings"


def beside(store: Store, name: str, key: str) -> Store | None:
    """A collection in the database of a store, connected; None if that kind of store has none."""
    from maggma.stores import JSONStore, MemoryStore, MongoStore, MontyStore

    docs: Any = store
    if not isinstance(docs, MongoStore) or isinstance(docs, JSONStore):
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
