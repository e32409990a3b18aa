"""What `audit verify` finds of changes to a history: one change at a time, to every document, in ways of every kind.

    python benchmarks/mutate_store.py [--every N] [--only KIND] [--mongo URI] [--missed]

A real history is made once: a dataset, small networks, a few candidates, a verification by a force field (where CHGNet
is installed), a comparison, a failed job, and what a crate brought from another store. The changes are to a copy of it,
each is taken back before the next. Prints a table in Markdown: kinds of changes, how many were made, how many found.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson import ObjectId
from jobflow import JobStore
from maggma.core import Store

from dao_flows.store.rows import row_key

COLLECTIONS = ("runs", "jobs", "candidates", "verifications", "comparisons")
PLACES = (*COLLECTIONS, "heads")
TITLES = {
    "field changed": "a field has another value",
    "field removed": "a field is gone",
    "field added": "there is a field more",
    "deleted": "a document is gone",
    "deleted with what follows": "a run is gone, with all of its records",
    "duplicated": "a document is there twice, under another `_id`",
    "renamed": "the `_id` is another string",
    "object id": "the `_id` is an `ObjectId`",
    "id is an object id": "the document's own id is an `ObjectId`",
    "row key": "the row has another key (embedded store)",
    "changed and sealed": "a field has another value, and the document's own hash fits",
    "changed with its record": "a result of a job has another value, all its hashes and its record fit",
    "changed with all records": "the same, and all records after it are chained anew",
}


@dataclass(frozen=True)
class Change:
    """One change. apply: makes it; touched: collections that must be put back."""

    kind: str
    collection: str
    where: str
    apply: Callable[[], None]
    touched: tuple[str, ...]


class History:
    """A store whose documents can be changed and put back."""

    def __init__(self, jobs: JobStore) -> None:
        from dao_flows.makers.jobs.record_chain import HEAD_KEY, HEADS
        from dao_flows.makers.jobs.siblings import beside
        from dao_flows.store.stores import collection

        self.jobs = jobs
        self.stores: dict[str, Store] = {"jobs": jobs.docs_store}
        self.stores |= {name: collection(jobs, name) for name in COLLECTIONS if name != "jobs"}
        heads = beside(self.stores["runs"], HEADS, HEAD_KEY)
        assert heads is not None
        self.stores[HEADS] = heads
        self.documents = {name: [dict(d) for d in store.query()] for name, store in self.stores.items()}

    def put(self, name: str, *documents: dict[str, Any]) -> None:
        """Write documents as they are."""
        self.stores[name].update(list(documents), key="_id")

    def remove(self, name: str, *ids: Any) -> None:
        """Take documents away."""
        store: Any = self.stores[name]
        if hasattr(store, "_connection"):
            with store._connection() as connection:
                keys = [(row_key(each),) for each in ids]
                connection.executemany("DELETE FROM documents WHERE k = ?", keys)
        else:
            store._coll.delete_many({"_id": {"$in": list(ids)}})

    def restore(self, name: str) -> None:
        """Put a collection back."""
        store: Any = self.stores[name]
        if hasattr(store, "_connection"):
            with store._connection() as connection:
                connection.execute("DELETE FROM documents")
        else:
            store._coll.delete_many({})
        if self.documents[name]:
            self.put(name, *copy.deepcopy(self.documents[name]))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values that hold no others."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    empty = True
    for key, inner in items:
        empty = False
        yield from leaves(inner, (*path, key))
    if empty and path:
        yield path


def changed(value: Any) -> Any:
    """Another value of the same type, as a slip or a forger writes it."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 1.01 + 0.01
        case str():
            return f"{value[:-1]}{'x' if value[-1:] != 'x' else 'y'}"
        case None:
            return 0
        case list():
            return [0]
    return {"x": 0}


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def with_value(document: dict[str, Any], path: tuple[Any, ...], make: Callable[[Any], Any]) -> dict[str, Any]:
    """A copy with another value at a path."""
    new = copy.deepcopy(document)
    inner: Any = new
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = make(inner[path[-1]])
    return new


def without(document: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """A copy without the value at a path."""
    new = copy.deepcopy(document)
    inner: Any = new
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return new


def sealed(name: str, document: dict[str, Any]) -> dict[str, Any]:
    """A document with hashes that fit its content."""
    from dao_flows.makers.jobs.provenance import content_hash, digest

    held = document["output"] if name == "jobs" else document
    if not isinstance(held, dict):
        return document
    own = held.get("provenance")
    if isinstance(own, dict):
        if isinstance(own.get("science"), dict):
            own["science_hash"] = digest(own["science"])
        own["content_hash"] = content_hash(held)
    elif name != "jobs":
        held["content_hash"] = content_hash(held)
    return document


def with_record(history: History, job: dict[str, Any]) -> None:
    """Write a job's document, and let the record of its attempt say that it was so."""
    from dao_flows.makers.jobs.attempts import envelope, parts
    from dao_flows.makers.jobs.provenance import content_hash

    history.put("jobs", job)
    for record in copy.deepcopy(history.documents["runs"]):
        ours = record.get("event") == "job-end" and record["job_uuid"] == job["uuid"]
        if ours and record["job_index"] == job["index"]:
            record |= {"result": content_hash(job["output"]), "parts": parts(job["output"])}
            history.put("runs", sealed("runs", record | {"envelope": envelope(job)}))


def chained_anew(history: History) -> None:
    """Let all records and the head fit each other, as one who may write everywhere can."""
    from dao_flows.makers.jobs.attempts import envelope
    from dao_flows.makers.jobs.record_chain import advance, number_of

    runs = history.stores["runs"]
    jobs = {(job["uuid"], job["index"]): job for job in history.stores["jobs"].query()}
    hashes: dict[str, str] = {}
    last = None
    own = history.documents["heads"][0]["chain"]["id"]
    for record in sorted(runs.query(), key=number_of):
        record["chain"]["previous"] = [[name, hashes.get(name, old)] for name, old in record["chain"]["previous"]]
        if isinstance(record.get("brought"), list):
            record["brought"] = [[name, hashes.get(name, old)] for name, old in record["brought"]]
        job = jobs.get((str(record.get("job_uuid")), record.get("job_index", 0)))
        if record["event"] == "job-end" and job is not None and record["outcome"] == "finished":
            record["envelope"] = envelope(job)
        hashes[record["record_id"]] = sealed("runs", record)["content_hash"]
        history.put("runs", record)
        if record["event"] == "job-start" and job is not None:
            named = job["metadata"]["dao_flows"].get("attempt")
            if named is not None and named[0] == record["record_id"]:
                named[1] = record["content_hash"]
                history.put("jobs", job)
        last = record if record["chain"]["id"] == own else last
    assert last is not None
    advance(runs, last)


def changes(history: History, every: int) -> Iterator[Change]:
    """All changes; of those to single fields one in `every`."""
    for name, documents in history.documents.items():
        for document in documents:
            yield from _to_fields(history, name, document, every)
            yield from _to_documents(history, name, document)
    yield from _to_runs(history)
    yield from _to_science(history)
    yield from to_files(history)


def to_files(history: History) -> Iterator[Change]:
    """Changes to the files that documents name: none are made here."""
    yield from ()


def _to_fields(history: History, name: str, document: dict[str, Any], every: int) -> Iterator[Change]:
    def change(kind: str, path: tuple[Any, ...], make: Callable[[], dict[str, Any]]) -> Change:
        where = f"{document['_id']} {'.'.join(map(str, path))}"
        return Change(kind, name, where, lambda: history.put(name, make()), (name,))

    paths = [path for path in leaves(document) if path[0] != "_id"]
    for number, path in enumerate(paths):
        if (number + len(str(document["_id"]))) % every:
            continue
        yield change("field changed", path, lambda path=path: with_value(document, path, changed))
        yield change("field removed", path, lambda path=path: without(document, path))
        own = path[-1] in ("content_hash", "science_hash") or name == "jobs"
        if not own and "@version" not in path:
            yield change(
                "changed and sealed", path, lambda path=path: sealed(name, with_value(document, path, changed))
            )
    yield change("field added", ("added",), lambda: copy.deepcopy(document) | {"added": 1})
    inner = document.get("output") if name == "jobs" else None
    if isinstance(inner, dict):
        yield change("field added", ("output", "added"), lambda: copy.deepcopy(document) | {"output": inner | {"x": 1}})


def _to_documents(history: History, name: str, document: dict[str, Any]) -> Iterator[Change]:
    held, store = document["_id"], history.stores[name]
    other = {"_id": ObjectId(), **{key: value for key, value in document.items() if key != "_id"}}

    def change(kind: str, apply: Callable[[], None]) -> Change:
        return Change(kind, name, str(held), apply, (name,))

    def moved(new: dict[str, Any]) -> None:
        history.remove(name, held)
        history.put(name, new)

    def rowed() -> None:
        with store._connection() as connection:  # type: ignore[attr-defined]
            key = row_key(f"{held}x")
            connection.execute("UPDATE documents SET k = ? WHERE k = ?", (key, row_key(held)))

    yield change("deleted", lambda: history.remove(name, held))
    if name != "heads":
        yield change("duplicated", lambda: history.put(name, other | {"_id": f"{held}-2"}))
        yield change("renamed", lambda: moved(other | {"_id": f"{held}x"}))
        yield change("object id", lambda: moved(other))
        key = {"jobs": "uuid", "runs": "record_id"}.get(name, f"{name[:-1]}_id")
        yield change("id is an object id", lambda: history.put(name, document | {key: ObjectId()}))
    if hasattr(store, "_connection"):
        yield change("row key", rowed)


def _to_runs(history: History) -> Iterator[Change]:
    """Whole runs and attempts."""
    groups: dict[str, list[Any]] = {}
    for record in history.documents["runs"]:
        for name in {record.get("run_id"), record.get("attempt_id"), record.get("job_uuid")} - {None}:
            groups.setdefault(str(name), []).append(record["_id"])
    for name, ids in groups.items():
        yield Change("deleted with what follows", "runs", name, lambda ids=ids: history.remove("runs", *ids), ("runs",))


def _to_science(history: History) -> Iterator[Change]:
    """What only a signature can tell, and what is almost that."""
    for job in history.documents["jobs"]:
        output = job.get("output")
        provenance = output.get("provenance") if isinstance(output, dict) else None
        science = provenance.get("science") if isinstance(provenance, dict) else None
        if not isinstance(science, dict):
            continue
        results = {name: value for name, value in output.items() if name != "provenance"}
        places = sorted(leaves(results), key=lambda place, held=results: not isinstance(_at(held, place), float))
        path = ("output", *places[0])

        def forge(again: bool, job: dict[str, Any] = job, path: tuple[Any, ...] = path) -> None:
            with_record(history, sealed("jobs", with_value(job, path, changed)))
            if again:
                chained_anew(history)

        touched = ("jobs", "runs", "heads")
        yield Change("changed with its record", "jobs", str(job["_id"]), lambda f=forge: f(False), touched)
        yield Change("changed with all records", "jobs", str(job["_id"]), lambda f=forge: f(True), touched)


@dataclass(frozen=True)
class Outcome:
    """Of one change whether it was found (missing, altered, …), only noted (unverifiable), or missed."""

    change: Change
    told: str


def outcomes(history: History, every: int = 1, only: str | None = None) -> Iterator[Outcome]:
    """Make each change, verify, and take it back. The history must be whole."""
    from dao_flows.audit.integrity.verify import verify

    def found() -> set[str]:
        return {f"{each.problem} {each.line()}" for each in verify(history.jobs).findings}

    whole = found()
    for change in changes(history, every):
        if only is not None and change.kind != only:
            continue
        change.apply()
        new = {text.partition(" ")[0] for text in found() - whole}
        for name in change.touched:
            history.restore(name)
        grave = new & {"missing", "altered", "duplicated", "orphaned"}
        yield Outcome(change, "found" if grave else "noted" if new else "missed")
    assert found() == whole


def make(home: Path) -> None:
    """Make the history in the user's store, as the tests of the audit do, and bring in a crate of another's."""
    root = Path(__file__).parent.parent
    flow = [sys.executable, "-W", "ignore", str(root / "tests" / "dao_flows" / "audit_flow.py")]
    theirs = {**os.environ, "DAO_FLOWS_DATA_DIR": str(home / "theirs"), "OMP_NUM_THREADS": "1"}
    subprocess.run([*flow, str(home / "flow")], check=True, env=os.environ, capture_output=True)
    code = [sys.executable, "-W", "ignore", "-c", "from dao_flows.cli import main; main()"]
    predict = [
        "predict",
        "NaCl",
        "-n",
        "3",
        "--z",
        "2",
        "--steps",
        "4",
        "--checkpoint",
        "artist",
        "--predictor",
        "judge",
    ]
    subprocess.run([*code, *predict], check=True, env=theirs, capture_output=True, cwd=home)
    listed = subprocess.run([*code, "list", "--json"], check=True, env=theirs, capture_output=True, text=True, cwd=home)
    candidate = next(word for word in listed.stdout.split('"') if word.startswith("dao-"))
    crate = str(home / "theirs.zip")
    subprocess.run([*code, "export-crate", candidate, crate], check=True, env=theirs, cwd=home)
    subprocess.run([*code, "import-crate", crate], check=True, env=os.environ, cwd=home)


def table(counts: Counter[tuple[str, str, str]]) -> str:
    """Kinds of changes in Markdown; by collection what was not found."""
    lines = ["| change | made | found | noted | missed |", "|---|---|---|---|---|"]
    for kind, title in TITLES.items():
        told = {word: sum(counts[kind, name, word] for name in PLACES) for word in ("found", "noted", "missed")}
        if total := sum(told.values()):
            at = ", ".join(
                f"{counts[kind, name, 'missed']} of {name}" for name in PLACES if counts[kind, name, "missed"]
            )
            lines.append(f"| {title} | {total} | {told['found']} | {told['noted']} | {at or 0} |")
    return "\n".join(lines)


def main() -> None:
    """Make a history, change it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="change only one field of so many")
    parser.add_argument("--only", choices=TITLES, help="only changes of this kind")
    parser.add_argument("--mongo", help="URI of a server; without one, the embedded store")
    parser.add_argument("--missed", action="store_true", help="name the changes that were missed, on stderr")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dao-mutate-") as folder:
        home = Path(folder)
        os.environ |= {"DAO_FLOWS_DATA_DIR": f"{folder}/data", "DAO_FLOWS_CHECKPOINT_DIR": f"{folder}/checkpoints"}
        make(home)
        from dao_flows.settings import settings
        from dao_flows.store.stores import job_store

        jobs = job_store(settings())
        server = None
        if asked.mongo:
            jobs, server = _on_server(History(jobs), asked.mongo)
        began, counts = time.monotonic(), Counter[tuple[str, str, str]]()
        try:
            for each in outcomes(History(jobs), asked.every, asked.only):
                counts[each.change.kind, each.change.collection, each.told] += 1
                if asked.missed and each.told == "missed":
                    print(f"missed: {each.change.kind}: {each.change.collection} {each.change.where}", file=sys.stderr)
        finally:
            if server is not None:
                server.close()
    print(table(counts))
    store = "MongoDB" if asked.mongo else "embedded store"
    print(f"\n{sum(counts.values())} changes, {store}, {time.monotonic() - began:.0f} s")


def _on_server(history: History, uri: str) -> tuple[JobStore, Any]:
    """The same history in a database of its own, and what drops it."""
    from maggma.stores import MongoStore

    jobs = JobStore(MongoStore(f"dao_flows_mutate_{os.getpid()}", "jobs", uri=uri))
    jobs.connect()
    there = History(jobs)
    for name, documents in history.documents.items():
        there.put(name, *documents)
    database = jobs.docs_store._coll.database
    return jobs, _Dropping(database)


class _Dropping:
    def __init__(self, database: Any) -> None:
        self.database = database

    def close(self) -> None:
        """Drop it."""
        self.database.client.drop_database(self.database.name)


if __name__ == "__main__":
    main()
