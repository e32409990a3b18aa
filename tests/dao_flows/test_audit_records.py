"""Records that go, documents that are there twice, comparisons that do not follow: all are named."""

import copy
import json
import os
import random
from collections import Counter

import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore, MongoStore

from dao_flows.audit.integrity import comparisons
from dao_flows.audit.integrity.verify import verify
from dao_flows.crate.exporting import export_crate
from dao_flows.crate.importing import import_crate
from dao_flows.crate.reader import open_crate
from dao_flows.makers.jobs.attempts import envelope
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.settings import Settings
from dao_flows.store.collections import JOBS
from dao_flows.store.embedded import EmbeddedStore
from dao_flows.store.stores import collection, job_store

MONGO_URI = os.environ.get("DAO_FLOWS_TEST_MONGO_URI")


@pytest.fixture
def history(audited, mutator):
    return mutator.History(job_store())


@pytest.fixture(params=["memory", "server"])
def elsewhere(request, history, mutator):
    """The same history in another kind of store."""
    if request.param == "memory":
        store = JobStore(MemoryStore())
    elif MONGO_URI is None:
        pytest.skip("DAO_FLOWS_TEST_MONGO_URI names no server")
    else:
        store = JobStore(MongoStore(f"dao_flows_records_{os.getpid()}", JOBS, uri=MONGO_URI))
    store.connect()
    there = mutator.History(store)
    for name, documents in history.documents.items():
        there.put(name, *copy.deepcopy(documents))
    yield mutator.History(store)
    if request.param == "server":
        store.docs_store._coll.database.client.drop_database(store.docs_store.database)


def found(history):
    return {(each.problem, each.collection, each.id) for each in verify(history.jobs).findings}


def test_of_a_history_changes_of_all_kinds_are_found(history, mutator, monkeypatch):
    """Some of what benchmarks/mutate_store.py does, of every kind; all that is not found is what the docs say."""
    few = [change for change in mutator.changes(history, 53) if not change.kind.startswith("changed with all")]
    random.Random(5).shuffle(few)
    left, chosen = Counter(), []
    for change in few:
        left[change.kind, change.collection] += 1
        if left[change.kind, change.collection] == 1:
            chosen.append(change)
    monkeypatch.setattr(mutator, "changes", lambda history, every: chosen)
    outcomes = list(mutator.outcomes(history))
    missed = {(each.change.kind, each.change.collection) for each in outcomes if each.told == "missed"}
    assert missed <= {("deleted", "comparisons")}
    assert len(outcomes) > 40 and len({each.change.kind for each in outcomes}) == len(mutator.TITLES) - 1


@pytest.mark.parametrize("event", ["start", "batch", "end", "job-start", "job-end"])
def test_a_record_of_each_kind_that_goes_is_named(history, event):
    record = [each for each in history.documents["runs"] if each["event"] == event][-1]
    history.remove("runs", record["_id"])
    assert ("missing", "runs", record["record_id"]) in found(history)


def test_a_run_that_goes_is_named_where_only_its_own_id_is_verified_too(history, call):
    uuid = history.jobs.query_one({"output.@class": "GenerationDoc"})["uuid"]
    gone = [each for each in history.documents["runs"] if each.get("job_uuid") == uuid]
    history.remove("runs", *(each["_id"] for each in gone))
    assert {("missing", "runs", each["record_id"]) for each in gone} <= found(history)
    code, out, _ = call("audit", "verify", uuid)
    assert code == 1 and all(f"missing: runs {each['record_id']}" in out for each in gone)


def test_records_from_before_chaining_are_counted_and_no_error(history, call):
    for record in copy.deepcopy(history.documents["runs"]):
        del record["chain"]
        history.put("runs", record | {"content_hash": content_hash(record)})
    for job in copy.deepcopy(history.documents["jobs"]):
        job["metadata"].get("dao_flows", {}).pop("attempt", None)
        history.put("jobs", job)
        attempt = {"job_uuid": job["uuid"], "job_index": job["index"], "event": "job-end"}
        end = history.stores["runs"].query_one(attempt)
        end["envelope"] = envelope(job)
        history.put("runs", end | {"content_hash": content_hash(end)})
    history.remove("heads", "runs")
    code, out, _ = call("audit", "verify", "--all")
    count = len(history.documents["runs"])
    assert code == 0 and f"{count} records of runs are from before chaining" in out
    assert json.loads(call("audit", "verify", "--all", "--json")[1])["before_chaining"] == count


def test_in_another_kind_of_store_too_a_document_is_there_once_and_under_its_id(elsewhere, mutator):
    assert found(elsewhere) == set()
    for name in ("runs", "jobs", "candidates"):
        document = elsewhere.documents[name][0]
        elsewhere.put(name, {**document, "_id": "another"})
        key = (
            f"{document['uuid']}/{document['index']}"
            if name == "jobs"
            else document[f"{name[:-1]}_id".replace("run_", "record_")]
        )
        assert {("duplicated", name, key), ("altered", name, key)} <= found(elsewhere)
        elsewhere.restore(name)
    kinds = {"object id": {"missed": 1, "noted": 3, "found": 1}, "id is an object id": {"found": 5}}
    for kind, expected in kinds.items():
        few = {each.collection: each for each in mutator.changes(elsewhere, 9999) if each.kind == kind}
        for name, change in few.items():
            change.apply()
            told = found(elsewhere)
            elsewhere.restore(name)
            assert told or (kind, name) == ("object id", "jobs")  # whose ids a server makes
        assert len(few) == sum(expected.values())


@pytest.mark.parametrize(
    "path",
    [
        ("energy_per_atom",),
        ("rank",),
        ("structure_change", "volume_ratio"),
        ("cost", "prediction_seconds"),
        ("formula",),
    ],
)
def test_a_comparison_that_was_sealed_anew_does_not_follow(history, mutator, path):
    comparison = history.documents["comparisons"]
    if not comparison:
        pytest.skip("CHGNet is not installed")
    forged = mutator.sealed("comparisons", mutator.with_value(comparison[0], path, mutator.changed))
    history.put("comparisons", forged)
    (finding,) = verify(history.jobs).findings
    assert (finding.problem, finding.collection) == ("altered", "comparisons")
    assert finding.field.startswith(".".join(path))


def test_what_other_libraries_measured_is_not_called_altered(history, mutator, monkeypatch):
    comparison = history.documents["comparisons"]
    if not comparison:
        pytest.skip("CHGNet is not installed")
    path = ("structure_change", "space_group_after")
    history.put("comparisons", mutator.sealed("comparisons", mutator.with_value(comparison[0], path, mutator.changed)))
    monkeypatch.setattr(comparisons, "library_versions", lambda: {"spglib": "99"})
    (finding,) = verify(history.jobs).findings
    assert (finding.problem, finding.field) == ("unverifiable", ".".join(path))


def test_records_that_a_crate_brought_are_missed_and_no_others(history, audited_home, tmp_path, monkeypatch):
    candidate = history.documents["candidates"][0]["candidate_id"]
    export_crate(history.jobs, [candidate], tmp_path / "x.zip")
    monkeypatch.setenv("DAO_FLOWS_CHECKPOINT_DIR", str(tmp_path / "checkpoints"))
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "other" / "store")))
    store.connect()
    with open_crate(tmp_path / "x.zip") as crate:
        import_crate(crate, store, config=Settings(data_dir=tmp_path / "other"))
    assert [
        each for each in verify(store).findings if each.problem != "unverifiable" and each.collection == "runs"
    ] == []
    runs = collection(store, "runs")
    logged = runs.query_one({"event": "import"})
    assert len(logged["brought"]) == runs.count() - 1
    for record_id, _ in logged["brought"]:
        record = runs.query_one({"record_id": record_id})
        runs.remove_docs({"record_id": record_id})
        assert any(each.problem == "missing" and each.id == record_id for each in verify(store).findings)
        runs.update([record], key="_id")
