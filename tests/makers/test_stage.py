"""`@stage`: documents are sealed, attempts are logged, and neither costs a result or tells a secret."""

import json
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from jobflow import Flow, JobStore, Maker, Response, run_locally
from maggma.stores import JSONStore, MemoryStore
from monty.json import MontyDecoder
from pydantic import BaseModel

from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.jobs import attempts
from dao_flows.makers.jobs.attempts import sibling
from dao_flows.makers.jobs.provenance import content_hash, execution_record, provenance
from dao_flows.makers.jobs.stage import StageJob, seal, stage
from dao_flows.makers.machine import masking
from dao_flows.makers.schemas.document import Provenance, Science


class SumDoc(BaseModel):
    """A document of a test."""

    schema_version: int = 1
    value: Any
    provenance: Provenance


def document(value: Any) -> SumDoc:
    science = Science(maker="Sum", parameters={"v": 1}, inputs={}, checkpoints={}, code_version="0")
    return SumDoc(value=value, provenance=provenance(science, execution_record(datetime.now(UTC), "cpu", {})))


@dataclass
class SumMaker(Maker):
    """A maker of a test."""

    name: str = "sum"

    @stage(output_schema=SumDoc)
    def make(self, one: float, two: float) -> SumDoc:
        """The sum, as a document; of a string, whatever goes wrong."""
        if isinstance(one, str):
            raise RuntimeError(one)
        return document(one + two)


@stage
def many(count: int) -> Response[Any]:
    """A flow in place of the job, whose output is a list of documents."""
    jobs = [SumMaker().make(number, 1.0) for number in range(count)]
    return Response(replace=Flow(jobs, output=[job.output for job in jobs]))


@stage
def unhashable() -> dict[str, Any]:
    """What is nested deeper than any hash is taken of."""
    value: Any = 1.0
    for _ in range(250):
        value = [value]
    return {"x": value}


@pytest.fixture
def store() -> JobStore:
    found = JobStore(MemoryStore())
    found.connect()
    return found


def records(store: JobStore, **criteria: Any) -> list[dict[str, Any]]:
    return list(sibling(store, "runs", "record_id").query(criteria))


def test_a_document_is_sealed_and_its_attempt_logged(store):
    first = SumMaker().make(1.0, 2.0)
    second = SumMaker("after").make(first.output.value, 4.0)
    flow = Flow([first, second])
    flow.update_metadata({"dao_flows": {"run_id": "r1"}})
    responses = run_locally(flow, store=store, ensure_success=True)
    for job in (first, second):
        assert isinstance(job, StageJob)
        stored = store.query_one({"uuid": job.uuid})
        stated = stored["output"]["provenance"]["content_hash"]
        assert content_hash(stored["output"]) == stated == responses[job.uuid][1].output.provenance.content_hash
        begin, end = sorted(records(store, job_uuid=job.uuid), key=lambda record: record["record_id"])
        assert (begin["event"], end["event"], end["outcome"], end["error"]) == (
            "job-start",
            "job-end",
            "finished",
            None,
        )
        assert begin["at"] <= end["at"] and end["seconds"] >= 0
        assert begin["attempt_id"] == end["attempt_id"] and {begin["run_id"], end["run_id"]} == {"r1"}
        assert end["result"] == stated and end["science_hash"] == stored["output"]["provenance"]["science_hash"]
        assert end["envelope"] == attempts.envelope(stored)
        assert begin["function"] == "SumMaker.make" and begin["libraries"]["python"]
        assert begin["process"]["host"] and begin["process"]["pid"] == os.getpid()
        for record in (begin, end):
            assert content_hash(record) == record["content_hash"]
    assert records(store, job_uuid=second.uuid, event="job-start")[0]["parents"] == [first.uuid]


def test_failed_and_interrupted_attempts_are_logged_and_every_one_of_them(store):
    job = SumMaker().make("mongodb://me:hunter2@host is not there\nsecond line", 1.0)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="hunter2"):
            job.run(store)
    ended = records(store, event="job-end")
    assert [record["outcome"] for record in ended] == ["failed", "failed"]
    assert {record["error"] for record in ended} == {"RuntimeError: mongodb://***@host is not there second line"}
    assert len({record["attempt_id"] for record in ended}) == 2
    assert all(record["envelope"] is None and record["result"] is None for record in ended)

    @stage
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted().run(store)
    assert records(store, outcome="interrupted")[0]["error"].startswith("KeyboardInterrupt")
    assert store.count() == 0


def test_an_input_that_is_gone_is_a_failed_attempt_too(store):
    lost = SumMaker().make(1.0, 1.0)
    job = SumMaker().make(lost.output.value, 1.0)
    with pytest.raises(ValueError, match="not in store"):
        job.run(store)
    assert records(store, event="job-end")[0]["outcome"] == "failed"
    assert records(store, event="job-start")[0]["parents"] == [lost.uuid]


def test_what_takes_a_jobs_place_is_logged_with_it(store):
    job = many(2)
    run_locally(job, store=store, ensure_success=True)
    indices = {doc["index"] for doc in store.query({"uuid": job.uuid})}
    assert indices == {1, 2}
    ended = {r["job_index"]: r for r in records(store, event="job-end", job_uuid=job.uuid)}
    for index in (1, 2):
        stored = store.query_one({"uuid": job.uuid, "index": index})
        assert ended[index]["envelope"] == attempts.envelope(stored)
        assert ended[index]["result"] == content_hash(stored["output"])
    assert len(records(store, event="job-end")) == 4


def test_the_wrapper_survives_serialisation_and_finds_its_function(store):
    job = SumMaker("there and back").make(1.0, 2.0)
    again = MontyDecoder().process_decoded(json.loads(json.dumps(job.as_dict())))
    assert type(again) is StageJob
    again.run(store)
    assert store.query_one({"uuid": job.uuid})["output"]["value"] == 3.0
    assert len(records(store)) == 2
    described = GenerateMaker().make("NaCl").as_dict()["function"]
    assert (described["@module"], described["@callable"]) == ("dao_flows.makers.generate", "GenerateMaker.make")


def test_without_a_store_there_is_a_sealed_document_and_no_record():
    sealed = SumMaker.make.original(SumMaker(), 1.0, 2.0)
    assert sealed.value == 3.0
    assert len(sealed.provenance.content_hash) == 64


def test_sealing_changes_neither_the_science_hash_nor_the_document_that_it_was_given():
    given = document(1)
    sealed = seal(given)
    assert given.provenance.content_hash is None
    assert sealed.provenance.science_hash == given.provenance.science_hash
    assert seal(sealed) == sealed
    changed = seal(sealed.model_copy(update={"value": 2}))  # as for a result that is taken over
    assert changed.provenance.content_hash != sealed.provenance.content_hash


@pytest.mark.parametrize("what", ["append", "sibling", "envelope", "content_hash"])
def test_a_record_that_cannot_be_written_costs_no_result_and_is_told(store, monkeypatch, caplog, what):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk of mongodb://me:hunter2@host is full")

    monkeypatch.setattr(attempts, what, fail)
    job = SumMaker().make(1.0, 2.0)
    with caplog.at_level(logging.ERROR):
        run_locally(job, store=store, ensure_success=True, log=False)
    assert store.query_one({"uuid": job.uuid})["output"]["value"] == 3.0
    assert "is not logged" in caplog.text and "hunter2" not in caplog.text


def test_a_record_that_the_store_refused_is_written_later(store, monkeypatch):
    refused, real = [], attempts.append

    def once(runs: Any, record: dict[str, Any]) -> None:
        if not refused:
            refused.append(record)
            raise OSError("not now")
        real(runs, record)

    monkeypatch.setattr(attempts, "append", once)
    SumMaker().make(1.0, 2.0).run(store)
    assert [record["event"] for record in records(store)] == ["job-start", "job-end"]


def test_a_store_of_files_logs_nothing_and_says_so(tmp_path, caplog):
    store = JobStore(JSONStore(str(tmp_path / "jobs.json"), read_only=False))
    store.connect()
    job = SumMaker().make(1.0, 2.0)
    with caplog.at_level(logging.ERROR):
        job.run(store)
    assert store.count() == 1
    assert "keeps no collection" in caplog.text


def test_what_cannot_be_hashed_is_stored_all_the_same(store, caplog):
    with caplog.at_level(logging.ERROR):
        unhashable().run(store)
    assert "without a content hash" in caplog.text
    assert records(store, event="job-end")[0]["outcome"] == "finished"


@pytest.mark.parametrize(("said", "logged"), [("Ada L.", "Ada L."), ("off", None), ("", None), (" OFF ", None)])
def test_who_runs_a_job_is_as_the_user_wants_it(store, monkeypatch, said, logged):
    monkeypatch.setenv("DAO_FLOWS_WHO", said)
    SumMaker().make(1.0, 2.0).run(store)
    assert records(store, event="job-start")[0]["who"] == logged


def test_by_default_it_is_the_login_name(store, monkeypatch):
    monkeypatch.delenv("DAO_FLOWS_WHO", raising=False)
    monkeypatch.setenv("LOGNAME", "ada")
    assert attempts.who() == "ada"
    monkeypatch.setattr(attempts.getpass, "getuser", lambda: 1 / 0)
    assert attempts.who() is None


SECRETS = ("pw-in-uri-7261", "token-value-8842", "pw-of-store-1190", "pw-in-options-5563", "k3y-0f-s3-4417")


def test_no_secret_reaches_a_record(monkeypatch, caplog):
    monkeypatch.setattr(masking, "_secrets", set())
    monkeypatch.setenv("SOME_DATABASE", f"mongodb://ada:{SECRETS[0]}@db.example/x")
    monkeypatch.setenv("MP_API_KEY", SECRETS[1])
    docs, index = MemoryStore(), MemoryStore()
    vars(docs).update(
        username="ada", password=SECRETS[2], mongoclient_kwargs={"tlsCertificateKeyFilePassword": SECRETS[3]}
    )
    vars(index).update(aws_secret_access_key=SECRETS[4])
    store = JobStore(docs, additional_stores={"data": index})
    store.connect()
    job = SumMaker().make(f"cannot reach it with {' or '.join(SECRETS)}", 1.0)
    job.name = f"sum of {SECRETS[1]}"
    with pytest.raises(RuntimeError):
        job.run(store)
    monkeypatch.setattr(attempts, "append", lambda *_: (_ for _ in ()).throw(OSError(" ".join(SECRETS))))
    with pytest.raises(RuntimeError), caplog.at_level(logging.ERROR):
        job.run(store)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("dao_flows")]
    written = json.dumps([records(store), ours], default=str)
    assert "cannot reach it with" in written and "is not logged" in written
    assert [secret for secret in SECRETS if secret in written] == []


def test_a_store_that_was_closed_and_opened_again_is_written_to(store):
    SumMaker().make(1.0, 2.0).run(store)
    store.close()
    store.connect(force_reset=True)
    SumMaker().make(1.0, 2.0).run(store)
    assert len(records(store)) == 2  # a MemoryStore forgets


@pytest.mark.skipif(not os.environ.get("DAO_FLOWS_TEST_MONGO_URI"), reason="DAO_FLOWS_TEST_MONGO_URI names no server")
def test_on_a_server_the_records_share_the_connection_of_the_jobs():
    from maggma.stores import MongoStore

    name = f"dao_flows_stage_{os.getpid()}"
    store = JobStore(MongoStore(name, "jobs", uri=os.environ["DAO_FLOWS_TEST_MONGO_URI"]))
    store.connect()
    try:
        job = SumMaker().make(1.0, 2.0)
        job.run(store)
        stored = store.query_one({"uuid": job.uuid})
        end = records(store, event="job-end")[0]
        assert end["envelope"] == attempts.envelope(stored)
        assert end["result"] == content_hash(stored["output"])
        runs = sibling(store, "runs", "record_id")
        assert runs._coll.database.client is store.docs_store._coll.database.client
    finally:
        store.docs_store._coll.database.client.drop_database(name)
        store.close()


@pytest.mark.skipif(not os.environ.get("DAO_FLOWS_TEST_MONGO_URI"), reason="DAO_FLOWS_TEST_MONGO_URI names no server")
def test_under_fireworks_attempts_are_logged_failed_ones_too(tiny_library, tmp_path, monkeypatch):
    pytest.importorskip("fireworks")
    from fireworks import LaunchPad
    from fireworks.core.rocket_launcher import rapidfire
    from jobflow.managers.fireworks import flow_to_workflow
    from maggma.stores import MongoStore

    uri, name = os.environ["DAO_FLOWS_TEST_MONGO_URI"], f"dao_flows_stage_fw_{os.getpid()}"
    monkeypatch.chdir(tmp_path)
    store = JobStore(MongoStore(name, "jobs", uri=uri))
    pad = LaunchPad(host=f"{uri.rstrip('/')}/{name}", name=name, uri_mode=True, strm_lvl="ERROR")
    try:
        pad.reset("", require_password=False)
        for checkpoint in ("dao-g-tiny", "no-such-checkpoint"):
            maker = GenerateMaker(checkpoint=checkpoint, predictor=None, candidates=1, z=1, steps=2, device="cpu")
            pad.add_wf(flow_to_workflow(Flow([maker.make("NaCl")]), store=store))
        rapidfire(pad, strm_lvl="ERROR")
        store.connect()
        (document,) = store.query()
        ended = {record["outcome"]: record for record in records(store, event="job-end")}
        assert set(ended) == {"finished", "failed"}
        assert "no checkpoint called" in ended["failed"]["error"]
        assert ended["finished"]["result"] == document["output"]["provenance"]["content_hash"]
        assert ended["finished"]["envelope"] == attempts.envelope(document)
        assert "fw_id" in document["metadata"]
    finally:
        pad.connection.drop_database(name)
        store.close()
