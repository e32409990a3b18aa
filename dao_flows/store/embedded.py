"""The store that needs no set-up: collections in sqlite files, for several processes of one machine."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import bson
from maggma.core import Sort
from maggma.stores import MontyStore
from monty.json import jsanitize
from montydb import MontyClient, set_storage  # type: ignore[import-untyped]
from montydb.engine.queries import QueryFilter  # type: ignore[import-untyped]
from montydb.storage.sqlite import (  # type: ignore[import-untyped]
    CREATE_TABLE,
    SQLITE_DB_EXT,
    SQLITE_RECORD_TABLE,
    UPSERT_RECORD,
)
from montydb.types import bson as montydb_bson  # type: ignore[import-untyped]

from dao_flows.errors import StoreError
from dao_flows.makers.machine.whole_files import write_whole
from dao_flows.model.files.places import absolute

from .collections import DATABASE
from .fields import get, in_order, projected
from .interface import Damaged, forbids_writing
from .rows import bound, containing, decoded, id_at_beginning, lenient, row_key, shown

BROKEN = ("malformed", "not a database", "no such table", "corrupt")
RECOVER = "keep a copy of it; `sqlite3 {path} .recover | sqlite3 RECOVERED` saves what can be read into a file"
LOG = logging.getLogger("dao_flows")
_TOLD: set[tuple[str, str]] = set()  # rows that were named in this process
CREATE = CREATE_TABLE.format(SQLITE_RECORD_TABLE).replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
LOCK_SECONDS = 60.0
KEYS_PAGE = 2000  # rows of which only the beginnings are read
PAGE = 20  # documents read at a time where all of them are wanted; one may have 16 MB
HEAD_OF_ROW = 600  # bytes; the id stands first in a document


def _row(document: dict[str, Any], fields: Sequence[str]) -> tuple[bytes, str]:
    """A document's value and key in the file. fields: which together are its key, if it has no `_id`."""
    clean = jsanitize(document, allow_bson=True, recursive_msonable=True)
    clean.setdefault("_id", "/".join(str(clean[field]) for field in fields))
    return bson.encode(clean), montydb_bson.id_encode(clean["_id"])


class EmbeddedStore(MontyStore):
    """MontyStore on sqlite, made safe and quick for several processes on one machine.

    The files are montydb's, and a plain MontyStore reads them. What differs: an update is one transaction that finds
    its rows by primary key, so that two processes never add the same document twice; a query lets sqlite pick the
    rows that contain the strings asked for before any document is decoded; the folder is set up under a lock. The
    journal is a rollback journal, because sqlite's write-ahead log fails on network file systems. A store that can
    only be read is read as it is: nothing is set up, and a collection that is not there yet is empty. It answers what
    `ResultStore` asks.
    """

    shared = False
    own_ids = True
    remedy = "set DAO_FLOWS_DATA_DIR to a folder that can be written"
    read_only: bool = False  # told when it is connected

    def __init__(
        self, collection_name: str, database_path: str | None = None, database_name: str = DATABASE, **kwargs: Any
    ) -> None:
        kwargs.setdefault("storage_kwargs", {"use_bson": True, "mongo_version": "4.0", "journal_mode": "DELETE"})
        super().__init__(
            collection_name,
            database_path=database_path and absolute(database_path),
            database_name=database_name,
            **kwargs,
        )

    @property
    def path(self) -> Path:
        """The sqlite file of this collection."""
        return Path(self.database_path) / self.database_name / f"{self.collection_name}{SQLITE_DB_EXT}"

    def connect(self, force_reset: bool = False) -> None:
        """Open the collection; the first process creates it."""
        if self._coll is not None and not force_reset:
            return
        try:
            with self._set_up_alone():
                marker = Path(self.database_path) / ".monty.storage"
                if not marker.exists() or marker.read_text() != self.storage:
                    set_storage(self.database_path, storage=self.storage, **self.storage_kwargs)
                self.path.parent.mkdir(exist_ok=True)
                if self.path.exists() and self.path.stat().st_size == 0:  # sqlite would take it for a new one
                    told = "it held documents, or was never begun: restore it from a copy, or delete it"
                    raise StoreError(f"{self.path} is an empty file; {told}")
                with self._connection() as connection:
                    connection.execute(CREATE)
        except (OSError, sqlite3.OperationalError) as error:
            if not (forbids_writing(error) and self.path.parent.is_dir()):
                raise
        self.read_only = not all(
            os.access(place, os.W_OK) for place in (self.path, self.path.parent)
        )  # for its journal
        self._coll = MontyClient(self.database_path)[self.database_name][self.collection_name]

    def query(  # type: ignore[override]  # MongoStore itself departs from Store here
        self,
        criteria: dict[str, Any] | None = None,
        properties: dict[str, Any] | list[str] | None = None,
        sort: dict[str, Sort | int] | None = None,
        hint: dict[str, Sort | int] | None = None,
        skip: int = 0,
        limit: int = 0,
        **kwargs: Any,
    ) -> Iterator[dict[str, Any]]:
        """Documents that match, as for every maggma store; `properties` names the fields wanted."""
        if isinstance(properties, dict):
            properties = [field for field, wanted in properties.items() if wanted]
        matching = self._matching(criteria or {})
        if properties is not None:  # at once, so that whole documents are not held
            wanted = list(dict.fromkeys([*properties, *(sort or {})]))
            matching = (projected(document, wanted) for document in matching)
        if sort:
            matching = iter(in_order(list(matching), sort))
        for document in islice(matching, skip, skip + limit if limit else None):
            yield projected(document, properties) if sort and properties is not None else document

    def describe(self) -> str:
        """Its folder."""
        return f"{Path(self.database_path)} (embedded)"

    def document(self, key: str) -> dict[str, Any] | None:
        """The document of a key that is its `_id`, too."""
        found: dict[str, Any] | None = self.query_one({"_id": key})
        return found

    def documents(self, fields: Sequence[str] | None = None) -> Iterator[dict[str, Any] | Damaged]:
        """Every row's document, whole, or what is wrong with it, in the order of the keys."""
        for key, value in self._raw():
            found = decoded(self.collection_name, value)
            yield Damaged(shown(key), found) if isinstance(found, str) else found

    def damage(self) -> Iterator[Damaged]:
        """What sqlite finds wrong with the file, its pages and indexes, and every row that cannot be read."""
        with self._connection() as connection:
            found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
        if found != "ok":
            yield Damaged("", f"{self.path}: {' '.join(found.split())}", RECOVER.format(path=self.path))
        yield from (each for each in self.documents() if isinstance(each, Damaged))

    def set_aside(self, folder: Path) -> list[Path]:
        """Move every row that cannot be read into a file of its own, as it is; the others are not touched.

        A row is deleted when its file is on the disk, and only if it is still what was written there. Raises OSError.
        """
        damaged = [(k, v) for k, v in self._raw() if isinstance(decoded(self.collection_name, v), str)]
        written = []
        for key, value in damaged:
            held = bytes(value) if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
            name = f"{self.collection_name}-{hashlib.sha256(shown(key).encode() + held).hexdigest()[:16]}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.bson"
            write_whole(path, held)
            write_whole(path.with_suffix(".key"), shown(key))
            (k, key_value), (v, held_value) = bound(key), bound(value)
            with self._connection() as connection:
                delete = f"DELETE FROM [{SQLITE_RECORD_TABLE}] WHERE k IS {k} AND v IS {v}"  # noqa: S608
                connection.execute(delete, (key_value, held_value))
            written.append(path)
        return written

    def _raw(self) -> Iterator[tuple[Any, Any]]:
        """Every row, in the order of the keys; memory holds some of them, and writers do not wait."""
        after = ""
        values: tuple[Any, ...] = ()
        while True:
            with self._connection() as connection:
                page = f"SELECT k, v FROM [{SQLITE_RECORD_TABLE}]{after} ORDER BY k LIMIT {PAGE}"  # noqa: S608
                rows = connection.execute(page, values).fetchall()
            yield from rows
            if len(rows) < PAGE:
                return
            named, value = bound(rows[-1][0])
            after, values = f" WHERE k > {named}", (value,)

    def misplaced(self) -> Iterator[tuple[str, str]]:
        """Ids of documents that stand in a row with another key, and that key; only their beginnings are read."""
        last = 0
        while True:
            with self._connection() as connection:
                page = f"SELECT rowid, k, substr(CAST(v AS BLOB), 1, ?) FROM [{SQLITE_RECORD_TABLE}]"  # noqa: S608
                page += " WHERE rowid > ? ORDER BY rowid LIMIT ?"
                rows = connection.execute(page, (HEAD_OF_ROW, last, KEYS_PAGE)).fetchall()
            for _, key, beginning in rows:
                held = id_at_beginning(beginning)
                if held is not None and row_key(held) != key:
                    yield str(held), repr(key)
            if len(rows) < KEYS_PAGE:
                return
            last = rows[-1][0]

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """The documents that were added last, the last first, without those that cannot be read."""
        with self._connection() as connection:
            last = f"SELECT v FROM [{SQLITE_RECORD_TABLE}] ORDER BY rowid DESC LIMIT ?"  # noqa: S608
            rows = connection.execute(last, (limit,)).fetchall()
        read = [decoded(self.collection_name, value) for (value,) in rows]
        return [document for document in read if not isinstance(document, str)]

    def count(self, criteria: dict[str, Any] | None = None, hint: dict[str, Sort | int] | None = None) -> int:
        """The number of documents that match."""
        if criteria:
            return sum(1 for _ in self._matching(criteria))
        with self._connection() as connection:
            return int(connection.execute(f"SELECT count(*) FROM [{SQLITE_RECORD_TABLE}]").fetchone()[0])  # noqa: S608

    def distinct(self, field: str, criteria: dict[str, Any] | None = None, all_exist: bool = False) -> list[Any]:
        """The different values of a field."""
        values = (get(document, field) for document in self._matching(criteria or {}))
        return list(dict.fromkeys(value for value in values if value is not None))

    def update(self, docs: list[dict[str, Any]] | dict[str, Any], key: list[str] | str | None = None) -> None:
        """Add or replace documents, all of them or none."""
        if self.read_only:
            raise PermissionError(errno.EROFS, "the store can only be read", str(self.path))
        fields = [key] if isinstance(key, str) else key or [self.key]
        rows = [_row(doc, fields) for doc in (docs if isinstance(docs, list) else [docs])]
        with self._connection() as connection:
            connection.executemany(UPSERT_RECORD.format(SQLITE_RECORD_TABLE), rows)

    def add_if_absent(self, document: dict[str, Any]) -> None:
        """Add a document, unless one of its `_id` is there."""
        value, key = _row(document, ["_id"])
        with self._connection() as connection:
            add = f"INSERT OR IGNORE INTO [{SQLITE_RECORD_TABLE}] (k, v) VALUES (?, ?)"  # noqa: S608
            connection.execute(add, (key, value))

    def make_indexes(self, indexes: Sequence[Sequence[str]]) -> None:
        """Nothing: the rows are searched by content."""

    def ensure_index(self, key: str, unique: bool | None = False) -> bool:
        """True: the rows are searched by content, there is nothing to index."""
        return True

    def _matching(self, criteria: dict[str, Any]) -> Iterator[dict[str, Any]]:
        condition, needles = containing(criteria)
        with self._connection() as connection:
            rows = connection.execute(f"SELECT k, v FROM [{SQLITE_RECORD_TABLE}]{condition}", needles).fetchall()  # noqa: S608
        matches = QueryFilter(criteria) if criteria else None
        for key, value in rows:
            document = decoded(self.collection_name, value)
            if isinstance(document, str):
                self._tell(shown(key), document)
            elif matches is None or matches(document):
                yield document

    def _tell(self, key: str, fault: str) -> None:
        """Name a row that is passed over, once."""
        if (place := (str(self.path), key)) not in _TOLD:
            _TOLD.add(place)
            LOG.error(
                "dao-flows: %s %s is passed over: %s; `dao-flows doctor` says how to get it out",
                self.collection_name, key, fault,
            )  # fmt: skip

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        missing = self.read_only and not self.path.exists()
        where = ":memory:" if missing else f"{self.path.as_uri()}?mode=ro" if self.read_only else str(self.path)
        try:
            with closing(sqlite3.connect(where, timeout=LOCK_SECONDS, uri=self.read_only)) as connection, connection:
                connection.text_factory = lenient
                if missing:
                    connection.execute(CREATE)
                yield connection
        except sqlite3.DatabaseError as error:
            if any(said in str(error) for said in BROKEN):
                raise StoreError(f"{self.path} is damaged ({error}): {RECOVER.format(path=self.path)}") from error
            raise

    @contextmanager
    def _set_up_alone(self) -> Iterator[None]:
        folder = Path(self.database_path)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
