"""Where results live: the user's jobflow store, or an embedded one; and the collections that stand beside its jobs."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial, reduce
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
from bson.errors import BSONError
from maggma.core import Sort, Store
from maggma.stores import JSONStore, MemoryStore, MongoStore, MontyStore
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

from dao_flows.configuration import JOBFLOW, described
from dao_flows.errors import SettingsError, StoreError, configuration_guard, explain
from dao_flows.makers.machine.masking import mask, one_line, remember_secret, remember_uri
from dao_flows.makers.machine.whole_files import write_whole
from dao_flows.model.files.places import absolute
from dao_flows.settings import Settings, settings

with configuration_guard():  # jobflow reads its settings when it is imported
    from dao_flows.makers.jobs.attempts import sibling

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

DATABASE, JOBS = "dao_flows", "jobs"
KEYS = {
    "candidates": "candidate_id",
    "runs": "record_id",
    "verifications": "verification_id",
    "comparisons": "comparison_id",
}
INDEXES = {
    "candidates": ("candidate_id", "formula", "screening.execution.job_uuid"),
    "runs": ("record_id", "run_id", "request_hash", "job_uuid", "event", "chain.number"),
    "verifications": ("verification_id", "candidate_id", "formula"),
    "comparisons": ("comparison_id", "formula"),
}
JOB_INDEXES = (["uuid"], ["output.@class", "completed_at"], ["output.provenance.science_hash"])  # jobflow makes none
SHAPES: dict[str, dict[str, type]] = {  # what a document must have for anything to be done with it
    JOBS: {"uuid": str, "index": int},
    "candidates": {
        "candidate_id": str,
        "formula": str,
        **{f"{part}.science_hash": str for part in ("generation", "screening")},
        "screening.execution.ended_at": str,
        **dict.fromkeys(("z", "n_atoms", "rank", "seed"), int),
        "energy.value": float,
        "symmetry_loose.symbol": str,
        "symmetry_loose.number": int,
    },
    "runs": {"record_id": str, "event": str},
    "verifications": {
        "verification_id": str,
        "candidate_id": str,
        "state": str,
        "provenance.science_hash": str,
        "provenance.execution.ended_at": str,
    },
    "comparisons": {"comparison_id": str, "candidate_id": str, "verification_id": str},
}
MAY_BE_NONE = ("symmetry_loose", "seed")
BROKEN = ("malformed", "not a database", "no such table", "corrupt")
RECOVER = "keep a copy of it; `sqlite3 {path} .recover | sqlite3 RECOVERED` saves what can be read into a file"
UNREADABLE = (BSONError, ValueError, TypeError, OverflowError, IndexError, KeyError, RecursionError)
LOG = logging.getLogger("dao_flows")
_TOLD: set[tuple[str, str]] = set()  # rows that were named in this process
CREATE = CREATE_TABLE.format(SQLITE_RECORD_TABLE).replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
FORBIDDEN = (13, 10107, 11602, 13435)  # MongoDB's codes for a user, or a server, that may only read
LOCK_SECONDS = 60.0
KEYS_PAGE = 2000  # rows of which only the beginnings are read
PAGE = 20  # documents read at a time where all of them are wanted; one may have 16 MB


class EmbeddedStore(MontyStore):
    """MontyStore on sqlite, made safe and quick for several processes on one machine.

    The files are montydb's, and a plain MontyStore reads them. What differs: an update is one transaction that finds
    its rows by primary key, so that two processes never add the same document twice; a query lets sqlite pick the
    rows that contain the strings asked for before any document is decoded; the folder is set up under a lock. The
    journal is a rollback journal, because sqlite's write-ahead log fails on network file systems. A store that can
    only be read is read as it is: nothing is set up, and a collection that is not there yet is empty.
    """

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
            matching = (_projected(document, wanted) for document in matching)
        if sort:
            matching = iter(_sorted(list(matching), sort))
        for document in islice(matching, skip, skip + limit if limit else None):
            yield _projected(document, properties) if sort and properties is not None else document

    def examined(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        """Every row's key with its document, or with what is wrong with it, in the order of the keys."""
        for key, value in self._raw():
            yield _text(key), _read(self.collection_name, value)

    def set_aside(self, folder: Path) -> list[Path]:
        """Move every row that cannot be read into a file of its own, as it is; the others are not touched.

        A row is deleted when its file is on the disk, and only if it is still what was written there. Raises OSError.
        """
        damaged = [(k, v) for k, v in self._raw() if isinstance(_read(self.collection_name, v), str)]
        written = []
        for key, value in damaged:
            held = bytes(value) if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
            name = f"{self.collection_name}-{hashlib.sha256(_text(key).encode() + held).hexdigest()[:16]}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.bson"
            write_whole(path, held)
            write_whole(path.with_suffix(".key"), _text(key))
            (k, key_value), (v, held_value) = _bound(key), _bound(value)
            with self._connection() as connection:
                delete = f"DELETE FROM [{SQLITE_RECORD_TABLE}] WHERE k IS {k} AND v IS {v}"  # noqa: S608
                connection.execute(delete, (key_value, held_value))
            written.append(path)
        return written

    def check(self) -> str | None:
        """What sqlite finds wrong with the file: its pages and indexes; None if nothing is."""
        with self._connection() as connection:
            found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
        return None if found == "ok" else " ".join(found.split())

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
            bound, value = _bound(rows[-1][0])
            after, values = f" WHERE k > {bound}", (value,)

    def rows(self, length: int) -> Iterator[tuple[str | bytes, bytes]]:
        """The key of every row, and the first bytes of its document."""
        last = 0
        while True:
            with self._connection() as connection:
                page = f"SELECT rowid, k, substr(CAST(v AS BLOB), 1, ?) FROM [{SQLITE_RECORD_TABLE}]"  # noqa: S608
                page += " WHERE rowid > ? ORDER BY rowid LIMIT ?"
                rows = connection.execute(page, (length, last, KEYS_PAGE)).fetchall()
            yield from ((key, beginning) for _, key, beginning in rows)
            if len(rows) < KEYS_PAGE:
                return
            last = rows[-1][0]

    @staticmethod
    def row_key(held: Any) -> Any:
        """The key of the row in which the document with this `_id` belongs; None if it can have none."""
        with suppress(KeyError, BSONError):
            return montydb_bson.id_encode(held)
        return None

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """The documents that were added last, the last first, without those that cannot be read."""
        with self._connection() as connection:
            last = f"SELECT v FROM [{SQLITE_RECORD_TABLE}] ORDER BY rowid DESC LIMIT ?"  # noqa: S608
            rows = connection.execute(last, (limit,)).fetchall()
        read = [_read(self.collection_name, value) for (value,) in rows]
        return [document for document in read if not isinstance(document, str)]

    def count(self, criteria: dict[str, Any] | None = None, hint: dict[str, Sort | int] | None = None) -> int:
        """The number of documents that match."""
        if criteria:
            return sum(1 for _ in self._matching(criteria))
        with self._connection() as connection:
            return int(connection.execute(f"SELECT count(*) FROM [{SQLITE_RECORD_TABLE}]").fetchone()[0])  # noqa: S608

    def distinct(self, field: str, criteria: dict[str, Any] | None = None, all_exist: bool = False) -> list[Any]:
        """The different values of a field."""
        values = (_get(document, field) for document in self._matching(criteria or {}))
        return list(dict.fromkeys(value for value in values if value is not None))

    def update(self, docs: list[dict[str, Any]] | dict[str, Any], key: list[str] | str | None = None) -> None:
        """Add or replace documents, all of them or none."""
        if self.read_only:
            raise PermissionError(errno.EROFS, "the store can only be read", str(self.path))
        rows = []
        fields = [key] if isinstance(key, str) else key or [self.key]
        for doc in docs if isinstance(docs, list) else [docs]:
            clean = jsanitize(doc, allow_bson=True, recursive_msonable=True)
            clean.setdefault("_id", "/".join(str(clean[field]) for field in fields))
            rows.append((bson.encode(clean), montydb_bson.id_encode(clean["_id"])))
        with self._connection() as connection:
            connection.executemany(UPSERT_RECORD.format(SQLITE_RECORD_TABLE), rows)

    def ensure_index(self, key: str, unique: bool | None = False) -> bool:
        """True: the rows are searched by content, there is nothing to index."""
        return True

    def _matching(self, criteria: dict[str, Any]) -> Iterator[dict[str, Any]]:
        condition, needles = _containing(criteria)
        with self._connection() as connection:
            rows = connection.execute(f"SELECT k, v FROM [{SQLITE_RECORD_TABLE}]{condition}", needles).fetchall()  # noqa: S608
        matches = QueryFilter(criteria) if criteria else None
        for key, value in rows:
            document = _read(self.collection_name, value)
            if isinstance(document, str):
                self._tell(_text(key), document)
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
                connection.text_factory = _lenient
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


def _lenient(value: bytes) -> str:
    """Text of a row, whatever its bytes; no query falls over a key that is damaged."""
    return value.decode("utf-8", "surrogateescape")


def _bound(value: Any) -> tuple[str, Any]:
    """How a value of a row is named in a statement: text by its bytes, which may be no UTF-8."""
    return ("CAST(? AS TEXT)", value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else ("?", value)


def _text(key: Any) -> str:
    """A row's key, to be shown: the `_id` of its document."""
    if isinstance(key, bytes):
        with suppress(*UNREADABLE):
            held = key[:1] + b"_id\0" + key[1:] + b"\0"  # montydb keeps the type and the value
            key = bson.decode((len(held) + 4).to_bytes(4, "little") + held)["_id"]
    text = key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _read(collection_name: str, value: Any) -> dict[str, Any] | str:
    """The document of a row, or what is wrong with it."""
    if not isinstance(value, bytes):
        return f"it holds {type(value).__name__} in place of BSON"
    try:
        document: dict[str, Any] = bson.decode(value)
    except UNREADABLE as error:
        return f"it is no BSON: {_text(one_line(error))}"
    for field, kind in SHAPES.get(collection_name, {}).items():
        found = _get(document, field, _ABSENT)
        parent = field.partition(".")[0]
        if parent in MAY_BE_NONE and document.get(parent) is None:
            continue
        if found is _ABSENT or not isinstance(found, kind) or isinstance(found, bool):
            what = "is not there" if found is _ABSENT else f"is {type(found).__name__}, not {kind.__name__}"
            return f"its {field} {what}"
    return document


def _containing(criteria: dict[str, Any]) -> tuple[str, list[bytes]]:
    """A WHERE clause for rows whose bytes hold the strings that a match must have, and its parameters."""
    clauses, needles = [], []
    for field, wanted in criteria.items():
        choices = wanted.get("$in") if isinstance(wanted, dict) and len(wanted) == 1 else [wanted]
        if field.startswith("$") or not choices or len(choices) > 100 or not all(isinstance(c, str) for c in choices):
            continue
        if field == "_id":
            clauses.append(f"k IN ({', '.join('?' * len(choices))})")
            needles += [montydb_bson.id_encode(choice) for choice in choices]
            continue
        clauses.append("(" + " OR ".join("instr(CAST(v AS BLOB), ?)" for _ in choices) + ")")
        needles += [choice.encode() for choice in choices]
    return (" WHERE " + " AND ".join(clauses) if clauses else ""), needles


def _sorted(documents: list[dict[str, Any]], sort: dict[str, Sort | int]) -> list[dict[str, Any]]:
    """By the fields in their order; None comes first when ascending, as in MongoDB."""

    def value_of(document: dict[str, Any], field: str) -> tuple[bool, Any]:
        value = _get(document, field)
        return value is not None, 0 if value is None else value

    for field, direction in reversed(sort.items()):
        documents.sort(key=partial(value_of, field=field), reverse=direction in (-1, Sort.Descending))
    return documents


def _projected(document: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """The named fields alone, those that are there."""
    out: dict[str, Any] = {}
    for field in fields:
        if (value := _get(document, field, _ABSENT)) is not _ABSENT:
            *parents, last = field.split(".")
            reduce(lambda inner, part: inner.setdefault(part, {}), parents, out)[last] = value
    return out


def _get(document: Any, field: str, default: Any = None) -> Any:
    """The value of a dotted field."""
    for part in field.split("."):
        if not isinstance(document, dict) or part not in document:
            return default
        document = document[part]
    return document


_ABSENT = object()


def job_store(config: Settings | None = None) -> JobStore:
    """The store of jobs: the one of the user's jobflow configuration, else an embedded one in the data folder.

    Raises StoreError if it cannot be reached, SettingsError if the configuration cannot be read.
    """
    config = config or settings()
    store = _configured_store()
    if store is None:
        from jobflow.core.store import JobStore

        store = JobStore(EmbeddedStore(JOBS, str(config.data_dir.expanduser() / "store")))
    docs = store.docs_store
    if not isinstance(docs, MongoStore) or isinstance(docs, JSONStore):
        raise StoreError(
            f"a {type(docs).__name__} cannot hold candidates and runs beside its jobs: "
            "configure a MongoStore for jobflow, or nothing"
        )
    for part in (store.docs_store, *vars(store)["additional_stores"].values()):
        _prepare(part, config)
    _connect(store, store.docs_store)
    return store


def output(store: JobStore, uuid: str) -> dict[str, Any]:
    """The document that a job, or the last one it handed over to, wrote; nothing in it is decoded.

    Raises StoreError where there is none.
    """
    seen: set[str] = set()
    while uuid not in seen:
        seen.add(uuid)
        job = store.query_one({"uuid": uuid}, properties=["output"], sort={"index": Sort.Descending}, load=True)
        found = job.get("output") if job else None
        if not isinstance(found, dict):
            break
        if found.get("@class") != "OutputReference":
            return found
        uuid = str(found.get("uuid"))
    raise StoreError(f"the results of job {uuid} are not in {describe(store)} any more")


def collection(store: JobStore, name: str) -> Store:
    """One of those in KEYS, in the same database as the jobs of `store`. Raises StoreError."""
    try:
        found = sibling(store, name, KEYS[name])
    except Exception as error:  # every kind of store has errors of its own
        raise _unusable(store, error) from error
    if found is None:
        raise StoreError(f"a {type(store.docs_store).__name__} cannot hold {name} beside its jobs")
    if not vars(found).get("_dao_flows_ready"):
        _connect(found, found)
        try:
            for field in INDEXES[name]:
                found.ensure_index(field)
        except Exception as error:
            if not (isinstance(error, NotImplementedError) or forbids_writing(error)):  # a plain MontyStore has none
                raise _unusable(store, error) from error
        vars(found)["_dao_flows_ready"] = True
    return found


def forbids_writing(error: BaseException) -> bool:
    """Whether an error says that a store can only be read: by its files' permissions, a user's role, or the server."""
    if isinstance(error, OSError):
        return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if isinstance(error, sqlite3.OperationalError):
        return any(said in str(error) for said in ("readonly", "read-only", "unable to open"))
    pymongo = sys.modules.get("pymongo.errors")
    return pymongo is not None and isinstance(error, pymongo.OperationFailure) and error.code in FORBIDDEN


def only_read(store: Store) -> bool:
    """Whether it is known that a store can only be read; a server tells when it is written to."""
    docs = getattr(store, "docs_store", store)
    return isinstance(docs, EmbeddedStore) and docs.read_only


def index(store: JobStore) -> None:
    """Index the jobs and all that stands beside them; safe to repeat.

    Before workers write there: without an index each document that they store makes the server read all the others.
    """
    if is_embedded(store):
        return
    try:
        with suppress(NotImplementedError):
            for fields in JOB_INDEXES:
                store.docs_store._collection.create_index([(field, 1) for field in fields])
    except Exception as error:
        raise _unusable(store, error) from error
    for name in KEYS:
        collection(store, name)


def describe(store: Store) -> str:
    """Where a store is, without credentials."""
    docs = getattr(store, "docs_store", store)
    if isinstance(docs, MontyStore):
        return f"{Path(docs.database_path)} (embedded)" if isinstance(docs, EmbeddedStore) else str(docs.database_path)
    if isinstance(docs, MemoryStore):
        return "memory (keeps nothing)"
    if isinstance(docs, MongoStore):
        uri = _uri_of(docs)
        where = mask(uri).split("?")[0] if uri else f"mongodb://{docs.host}"
        where += f":{docs.port}" if not uri and isinstance(docs.port, int) else ""
        return f"{where} database {docs.database}"
    return type(docs).__name__


def _uri_of(store: Store) -> str | None:
    """A store's URI. Some users write it where the host's name goes, which pymongo accepts."""
    host = str(getattr(store, "host", ""))
    return getattr(store, "uri", None) or (host if "://" in host else None)


def is_embedded(store: Store) -> bool:
    """True for the store that needs no set-up."""
    return isinstance(getattr(store, "docs_store", store), EmbeddedStore)


def _configured_store() -> JobStore | None:
    """The store of the user's jobflow configuration, or None if there is no configuration or it names no store."""
    named = os.environ.get("JOBFLOW_CONFIG_FILE")
    if named and not Path(named).expanduser().is_file():
        raise SettingsError(f"JOBFLOW_CONFIG_FILE names {named}, which does not exist")
    try:
        from jobflow.settings import JobflowSettings

        loaded = JobflowSettings()
    except Exception as error:  # jobflow lets its YAML parser's and its stores' own errors through
        raise SettingsError(described(JOBFLOW, error)) from None
    return loaded.JOB_STORE if "JOB_STORE" in loaded.model_fields_set else None


def _prepare(store: Store, config: Settings) -> None:
    """Learn a store's secrets and keep it from waiting half a minute for a server that is not there."""
    remember_secret(getattr(store, "password", None))
    if isinstance(store, MontyStore) and store.database_path != ":memory:":  # jobs run in other folders
        store.database_path = absolute(store.database_path)
    if uri := _uri_of(store):
        remember_uri(uri)
    if isinstance(store, MongoStore) and hasattr(store, "mongoclient_kwargs"):
        patience = int(1000 * config.store_timeout)
        store.mongoclient_kwargs = {
            "serverSelectionTimeoutMS": patience,
            "connectTimeoutMS": patience,
            **store.mongoclient_kwargs,
        }
    if index := getattr(store, "index", None):
        _prepare(index, config)


def _connect(store: Store, docs: Store) -> None:
    """Connect and read one document. Raises StoreError."""
    try:
        store.connect()
        docs.query_one({docs.key: ""}, properties=[docs.key])
    except Exception as error:  # every kind of store has errors of its own
        raise _unusable(store, error) from error


def _unusable(store: Store, error: Exception) -> StoreError:
    return StoreError(f"the store {describe(store)} cannot be used: {explain(error) or one_line(error)}")
