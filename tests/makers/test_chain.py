"""Records name those before them: nobody waits, nobody is lost, and what is gone is missed."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore, MongoStore

from dao_flows.audit.integrity.verify.records import Records, head_of
from dao_flows.makers.jobs import attempts
from dao_flows.makers.jobs import record_chain as chain
from dao_flows.makers.jobs.attempts import append, sibling
from dao_flows.makers.jobs.siblings import beside
from dao_flows.makers.jobs.stage import stage
from dao_flows.store.embedded import EmbeddedStore

MONGO_URI = os.environ.get("DAO_FLOWS_TEST_MONGO_URI")
WRITER = """
import sys
from dao_flows.makers.jobs.attempts import append
{store}
store.connect()
for number in range(int(sys.argv[2])):
    name = f"{{sys.argv[1]}}-{{number + 1:06d}}"
    append(store, {{"record_id": name, "run_id": sys.argv[1], "event": "batch", "at": str(number)}})
"""


@pytest.fixture(params=["embedded", "memory"])
def runs(request, tmp_path):
    store = (
        EmbeddedStore("runs", str(tmp_path), key="record_id")
        if request.param == "embedded"
        else MemoryStore("runs", key="record_id")
    )
    store.connect()
    return store


def write(runs, number, run="r"):
    record = {
        "record_id": f"{run}-{number:06d}",
        "run_id": run,
        "event": "batch",
        "at": f"2026-11-27T00:00:{number:02d}",
    }
    append(runs, record)
    return record


def gone(runs):
    records = Records()
    for record in runs.query():
        assert list(records.see(record)) == []
    records.head(head_of(runs))
    return {(found.problem, found.id) for found in records.gone(runs, None, [])}


def test_each_record_names_the_one_before_and_the_head_the_last(runs):
    written = [write(runs, number) for number in range(1, 6)]
    assert [each["chain"]["number"] for each in written] == [1, 2, 3, 4, 5]
    for one, other in pairwise(written):
        assert other["chain"]["previous"] == [[one["record_id"], one["content_hash"]]]
    assert chain.head(runs)["newest"] == [written[-1]["record_id"], written[-1]["content_hash"]]
    assert gone(runs) == set()


@pytest.mark.parametrize("number", [1, 3, 5])
def test_any_record_that_goes_is_missed(runs, number):
    written = [write(runs, 1, run=f"r{number}") for number in range(1, 6)]
    runs.remove_docs({"record_id": written[number - 1]["record_id"]})
    assert ("missing", written[number - 1]["record_id"]) in gone(runs)
    write(runs, 1, run="later")  # hides nothing
    assert ("missing", written[number - 1]["record_id"]) in gone(runs)


def test_who_is_killed_between_two_writes_leaves_a_whole_chain(runs, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    for number in range(1, 4):  # the first record of a store, too
        with monkeypatch.context() as patch:
            patch.setattr(attempts.chain, "advance", killed)
            with pytest.raises(KeyboardInterrupt):
                write(runs, number)
        assert gone(runs) == set()
        write(runs, 1, run=f"next{number}")
        assert gone(runs) == set()
    assert len(list(runs.query())) == 6


def test_who_sees_no_head_where_another_has_begun_one_goes_on_with_that(runs, monkeypatch):
    write(runs, 1)
    begun = chain.chain_of(chain.head(runs))
    there, seen = chain.head, []

    def before_the_other_began(runs):
        seen.append(runs)
        return None if len(seen) == 1 else there(runs)

    with monkeypatch.context() as patch:
        patch.setattr(chain, "head", before_the_other_began)
        later = write(runs, 2)
    assert chain.chain_of(later) == chain.chain_of(chain.head(runs)) == begun
    assert [record_id for record_id, _ in later["chain"]["previous"]] == ["r-000001"]
    assert gone(runs) == set()


def test_a_record_that_the_store_took_and_refused_is_there_once(runs, monkeypatch):
    write(runs, 1)
    record = {"record_id": "r-000002", "run_id": "r", "event": "batch", "at": "now"}
    with monkeypatch.context() as patch:
        patch.setattr(attempts.chain, "advance", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            append(runs, record)
    write(runs, 3)  # names it
    append(runs, record)
    assert gone(runs) == set()
    assert len(list(runs.query())) == 3


def test_what_is_written_while_the_records_are_read_is_not_missed(runs):
    write(runs, 1)
    records = Records()
    for record in list(runs.query()):
        list(records.see(record))
    later = write(runs, 2)
    document = {"metadata": {"dao_flows": {"attempt": [later["record_id"], later["content_hash"]]}}}
    records.job(document, "j/1")
    records.head(head_of(runs))
    assert list(records.gone(runs, None, [])) == []


def test_records_from_before_chaining_are_counted_and_may_be_named(runs):
    old = [{"_id": f"o-00000{n}", "record_id": f"o-00000{n}", "run_id": "o", "event": "batch"} for n in (1, 2)]
    runs.update(old, key="_id")
    write(runs, 1)
    records = Records()
    for record in runs.query():
        list(records.see(record))
    assert records.before_chaining == 2
    assert gone(runs) == set()


@pytest.mark.parametrize("odd", [7, "x", [], [[1, 2]], {"id": 5}, {"id": "x", "number": "9", "previous": 3}, None])
def test_odd_chains_break_nothing(runs, odd):
    write(runs, 1)
    runs.update([{"_id": "odd", "record_id": "odd", "chain": odd, "content_hash": 4}], key="_id")
    assert write(runs, 2)["chain"]["number"] == 2
    assert gone(runs) == set()


def test_without_its_head_a_chain_is_not_whole(runs):
    write(runs, 1)
    beside(runs, chain.HEADS, chain.HEAD_KEY).remove_docs({})
    assert gone(runs) == {("missing", "runs")}


def test_processes_that_write_at_once_lose_nothing_and_what_goes_is_missed(tmp_path):
    check_processes(
        EmbeddedStore("runs", str(tmp_path), key="record_id"),
        "from dao_flows.store.embedded import EmbeddedStore\n"
        f"store = EmbeddedStore('runs', {str(tmp_path)!r}, key='record_id')",
    )


@pytest.mark.skipif(MONGO_URI is None, reason="DAO_FLOWS_TEST_MONGO_URI names no server")
def test_on_a_server_too():
    name = f"dao_flows_chain_{os.getpid()}"
    store = MongoStore(name, "runs", uri=MONGO_URI, key="record_id")
    text = "from maggma.stores import MongoStore\n"
    text += f"store = MongoStore({name!r}, 'runs', uri={MONGO_URI!r}, key='record_id')"
    try:
        check_processes(store, text)
    finally:
        store._coll.database.client.drop_database(name)


def check_processes(runs, text):
    runs.connect()
    code = WRITER.format(store=text)
    started = [subprocess.Popen([sys.executable, "-c", code, f"w{n}", "12"]) for n in range(4)]
    assert [process.wait(120) for process in started] == [0] * 4
    written = sorted(runs.query(), key=lambda record: record["record_id"])
    assert len(written) == 48
    assert gone(runs) == set()
    write(runs, 1, run="last")
    named = {record_id for record in runs.query() for record_id, _ in record["chain"]["previous"]}
    assert named == {record["record_id"] for record in written}
    runs.remove_docs({"run_id": "w2"})
    assert {record_id for _, record_id in gone(runs)} == {
        each["record_id"] for each in written if each["run_id"] == "w2"
    }


@stage
def number(value):
    """A job."""
    return {"value": value}


def test_a_jobs_document_names_the_record_of_its_beginning():
    store = JobStore(MemoryStore())
    store.connect()
    job = number(1)
    marks = {"run_id": "r"}
    job.update_metadata({"dao_flows": marks})
    job.run(store)
    runs = sibling(store, "runs", "record_id")
    begun = runs.query_one({"event": "job-start"})
    found = store.query_one({"uuid": job.uuid})["metadata"]["dao_flows"]
    assert found == {"run_id": "r", "attempt": [begun["record_id"], begun["content_hash"]]}
    assert marks == {"run_id": "r"}  # which all jobs of a flow share
