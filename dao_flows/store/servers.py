"""A store of maggma's own: a database server as a rule, or what a user's jobflow configuration names in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from maggma.core import Store
from maggma.stores import MemoryStore, MongoStore, MontyStore

from dao_flows.makers.machine.masking import mask

from .interface import Damaged


class Served:
    """Answers what `ResultStore` asks, for a store that keeps its documents whole by itself and shows no rows."""

    shared = True
    own_ids = False
    read_only = False
    remedy = "start the server, or correct your jobflow configuration; without one an embedded store is used"

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> str:
        """The server and its database, or a folder, without credentials."""
        store = self._store
        if isinstance(store, MontyStore):
            return str(store.database_path)
        if isinstance(store, MemoryStore):
            return "memory (keeps nothing)"
        if isinstance(store, MongoStore):
            uri = uri_of(store)
            where = mask(uri).split("?")[0] if uri else f"mongodb://{store.host}"
            where += f":{store.port}" if not uri and isinstance(store.port, int) else ""
            return f"{where} database {store.database}"
        return type(store).__name__

    def documents(self, fields: Sequence[str] | None = None) -> Iterator[dict[str, Any] | Damaged]:
        """Every document, with these fields alone."""
        yield from self._store.query(properties=None if fields is None else list(fields))

    def document(self, key: str) -> dict[str, Any] | None:
        """By the collection's key, which is indexed: earlier versions left the `_id` to the server."""
        found: dict[str, Any] | None = self._store.query_one({self._store.key: key})
        return found

    def make_indexes(self, indexes: Sequence[Sequence[str]]) -> None:
        """On the server."""
        with suppress(NotImplementedError):  # MontyStore
            for fields in indexes:
                self._store._collection.create_index([(field, 1) for field in fields])

    def misplaced(self) -> Iterator[tuple[str, str]]:
        """None: a server finds a document by what stands in it."""
        yield from ()

    def damage(self) -> Iterator[Damaged]:
        """None that could be told from here: a server watches over its files itself."""
        yield from ()

    def set_aside(self, folder: Path) -> list[Path]:
        """Nothing, as there is no damage."""
        return []


def uri_of(store: Store) -> str | None:
    """A store's URI. Some users write it where the host's name goes, which pymongo accepts."""
    host = str(getattr(store, "host", ""))
    return getattr(store, "uri", None) or (host if "://" in host else None)
