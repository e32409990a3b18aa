"""The command as users meet it: processes that start, are killed, compete, and run out of disk."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dao_flows.store import runs, stores

FORMULAS = ["NaCl", "MgO", "CaO"]
SLOW = ["predict", *FORMULAS, "-n", "2", "--z", "2", "--steps", "60"]  # nothing passes: cells of an untrained network
PATIENCE = 120.0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds while the process runs."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def begun(count: int) -> Callable[[], bool]:
    """Whether the latest run has begun so many batches."""

    def condition() -> bool:
        found = runs.read(stores.collection(stores.job_store(), "runs"), limit=1)
        return bool(found) and len(found[0].batches) >= count

    return condition


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_loses_no_finished_batch(workplace, monkeypatch, start, stop):
    monkeypatch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "1")
    process = start(*SLOW)
    wait_for(begun(2), process)
    os.killpg(process.pid, stop)
    code, _, err = finish(process)
    if stop is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        assert "goes on from there" in err.splitlines()[-1]
        assert "Traceback" not in err
    assert list(workplace.iterdir()) == []
    code, out, err = finish(start(*SLOW, "--json"))
    assert code == 0, err
    assert json.loads(out)["reused_batches"] >= 1
    assert [c["formula"] for c in json.loads(out)["compositions"]] == FORMULAS
    latest, first = runs.read(stores.collection(stores.job_store(), "runs"))
    assert (latest.outcome, first.outcome) == ("finished", "interrupted")


def test_two_at_once_share_a_store(workplace, start):
    command = ["predict", "NaCl", "-n", "4", "--z", "2", "--steps", "4", "--json", "--out"]
    together = [start(*command, name) for name in ("a", "b")]
    results = [finish(process) for process in together]
    assert [code for code, _, _ in results] == [0, 0], results
    first, second = ([r["candidate_id"] for r in json.loads(out)["compositions"][0]["ranked"]] for _, out, _ in results)
    assert first == second != []
    store = stores.job_store()
    stored = [doc["candidate_id"] for doc in stores.collection(store, "candidates").query()]
    assert sorted(stored) == sorted(first)
    assert store.count() == 4
    code, out, _ = finish(start("list", "--json"))
    assert code == 0
    assert {doc["candidate_id"] for doc in json.loads(out)} == set(first)


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_store_that_cannot_grow_gets_one_line(workplace, start):
    process = start("predict", "NaCl", "-n", "20", "--z", "2", "--steps", "4", preexec_fn=small_files)
    code, out, err = finish(process)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("dao-flows: the embedded store: ")
    assert list(workplace.iterdir()) == []
    code, out, err = finish(start("list", "--runs", "--json"))
    assert code == 0, "the store is whole"
    assert json.loads(out)[0]["outcome"] in ("failed", "interrupted")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_stdout_gets_one_line(stored, start):
    with Path("/dev/full").open("w") as full:
        code, _, err = finish(start("list", stdout=full))
    assert code == 2
    assert err.count("\n") == 1
    assert "No space left" in err


def test_help_is_quick_for_it_loads_nothing_heavy(workplace, start):
    heavy = "'torch', 'pymatgen', 'jobflow', 'numpy', 'maggma'"
    loaded = f"import sys, dao_flows.cli; print(*{{{heavy}}} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "\n"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, out, _ = finish(start("--help"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0
    assert "predict" in out
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5, "CPU seconds"


def test_shell_completion_knows_the_commands(workplace, monkeypatch, start):
    monkeypatch.setenv("_DAO_FLOWS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "dao-flows pre")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert finish(start())[1].split() == ["predict", "pretrain"]
