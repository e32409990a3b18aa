"""Where results live: the user's jobflow store, or an embedded one; and the collections that stand beside its jobs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maggma.core import Sort, Store
from maggma.stores import MongoStore, MontyStore

from dao_flows.configuration import JOBFLOW, described
from dao_flows.errors import SettingsError, StoreError, explain
from dao_flows.makers.jobs.siblings import beside, has_siblings
from dao_flows.makers.machine.masking import one_line, remember_secret, remember_uri
from dao_flows.model.files import user_folders
from dao_flows.model.files.places import absolute
from dao_flows.settings import Settings, settings

from .collections import INDEXES, JOB_INDEXES, JOBS, KEYS
from .embedded import EmbeddedStore
from .interface import ResultStore, forbids_writing
from .servers import Served, uri_of

if TYPE_CHECKING:
    from jobflow.core.store import JobStore


def job_store(config: Settings | None = None) -> JobStore:
    """The store of jobs: the one of the user's jobflow configuration, else an embedded one in the data folder.

    Raises StoreError if it cannot be reached, SettingsError if the configuration cannot be read.
    """
    config = config or settings()
    store = _configured_store()
    if store is None:
        from jobflow.core.store import JobStore

        store = JobStore(EmbeddedStore(JOBS, str(config.data_dir / user_folders.STORE)))
    docs = store.docs_store
    if not has_siblings(docs):
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
        found = beside(store.docs_store, name, KEYS[name])
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


def index(store: JobStore) -> None:
    """Index the jobs and all that stands beside them; safe to repeat.

    Before workers write there: without an index each document that they store makes the server read all the others.
    """
    try:
        result_store(store).make_indexes(JOB_INDEXES)
    except Exception as error:  # every kind of store has errors of its own
        raise _unusable(store, error) from error
    for name in KEYS:
        collection(store, name)


def result_store(store: Store) -> ResultStore:
    """What a store of jobs, or a collection beside them, answers beyond queries: the one place that asks its kind."""
    docs = getattr(store, "docs_store", store)
    return docs if isinstance(docs, EmbeddedStore) else Served(docs)


def describe(store: Store) -> str:
    """Where a store is, without credentials."""
    return result_store(store).describe()


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
    if uri := uri_of(store):
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
    text = f"the store {describe(store)} cannot be used: {explain(error) or one_line(error)}"
    return StoreError(text, result_store(store).remedy)
