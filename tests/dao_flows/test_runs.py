"""The log of runs: added to, never changed, and true about how a run ended."""

import subprocess
import sys
from contextlib import suppress

import pytest

from dao_flows.store import runs
from dao_flows.store.embedded import EmbeddedStore
from dao_flows.store.runs import Batch, Process, RunLog


@pytest.fixture
def store(tmp_path):
    store = EmbeddedStore("runs", database_path=str(tmp_path), key="record_id")
    store.connect()
    return store


def log(store, request_hash="r", command=()):
    return RunLog(store, request_hash, {"formulas": ["NaCl"]}, {"python": "3"}, command)


def batch(key):
    return Batch(key=key, formulas=["NaCl"], generate_uuid=f"g{key}", screen_uuid=f"s{key}")


def test_the_latest_run_comes_first_within_a_second_too(store, monkeypatch):
    begun = []
    for token in ("ffffff", "000000", "888888"):
        monkeypatch.setattr(runs.secrets, "token_hex", lambda _, token=token: token)
        with log(store) as run:
            begun.append(run.run_id)
    assert [run.run_id for run in runs.read(store)] == begun[::-1]
    assert [run.run_id for run in runs.read(store, limit=2)] == begun[:0:-1]


def test_a_finished_run(store):
    with log(store, command=["dao-flows", "predict", "NaCl"]) as run:
        run.begin(batch("1"))
        run.science_hashes.append("1")
        assert runs.read(store)[0].outcome == "running"
    (found,) = runs.read(store)
    assert (found.outcome, found.error, found.science_hashes) == ("finished", None, ["1"])
    assert found.batches == [batch("1")]
    assert found.command == "dao-flows predict NaCl"
    assert found.started_at <= found.ended_at


@pytest.mark.parametrize(("error", "outcome"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_run_that_ends_in_an_error_says_so_without_secrets(store, error, outcome):
    with pytest.raises(error), log(store, command=["dao-flows", "--x", "mongodb://me:hunter2@host"]):
        raise error("cannot reach mongodb://me:hunter2@host")
    (found,) = runs.read(store)
    assert found.outcome == outcome
    assert (found.error is not None) == (outcome == "failed")
    assert "hunter2" not in found.model_dump_json()


def test_records_are_only_added(store):
    before = []
    for number in range(3):
        with log(store) as run:
            run.begin(batch(str(number)))
        after = list(store.query())
        assert all(record in after for record in before)
        assert len(after) == len(before) + 3
        before = after


def test_a_dead_process_was_interrupted_and_a_living_one_runs(store, monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    alive = Process.of(child.pid)
    assert alive.is_alive()
    assert not alive.model_copy(update={"born": "another process of the same pid"}).is_alive()
    assert not alive.model_copy(update={"host": "elsewhere"}).is_alive()
    child.communicate(b"\n")
    assert not alive.is_alive()
    monkeypatch.setattr(Process, "current", lambda: alive)
    log(store).__enter__()
    assert runs.read(store)[0].outcome == "interrupted"


def test_only_attempts_since_the_last_finish_are_unfinished(store):
    def attempt(request_hash, error=None):
        run = log(store, request_hash)
        run.run_id = f"{len(runs.read(store)):03d}"  # in order, however quick the test
        with suppress(ValueError, KeyboardInterrupt), run:
            if error:
                raise error
        return run.run_id

    attempt("a", KeyboardInterrupt)
    attempt("a")
    wanted = [attempt("a", ValueError), attempt("a", KeyboardInterrupt)]
    attempt("b", KeyboardInterrupt)
    assert [run.run_id for run in runs.unfinished(store, "a")] == wanted[::-1]
    assert runs.unfinished(store, "c") == []


def test_a_store_that_fails_does_not_hide_the_first_error(store, monkeypatch):
    with pytest.raises(ZeroDivisionError), log(store):
        monkeypatch.setattr(store, "update", lambda *_, **__: 1 / 0)
        raise ZeroDivisionError("first")
