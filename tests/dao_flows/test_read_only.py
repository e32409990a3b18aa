"""What only reads works on a store that can only be read."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobflow import JobStore
from maggma.stores import MongoStore
from pymatgen.core import Lattice, Structure
from pymongo.errors import OperationFailure

from dao_flows.api.compare import compare
from dao_flows.errors import StoreError, explain
from dao_flows.store import embedded, stores
from dao_flows.store.interface import forbids_writing

NACL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
WEAK = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"]  # root that is held back
MANY = """
import json, sys
from dao_flows.cli import run
print(json.dumps([run(words) for words in json.loads(sys.argv[1])]), file=sys.stderr)
"""


def held_back() -> list[str]:
    """What starts a command that permissions hold back."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("permissions do not hold root back, and setpriv is not installed")
    return WEAK


@pytest.fixture
def sealed(stored_home, tiny_checkpoints, tmp_path, monkeypatch) -> Iterator[Path]:
    """A data folder with predictions that can only be read, and no collection but those of a prediction."""
    data = tmp_path / "sealed"
    shutil.copytree(stored_home / "data", data)
    environment = {"HOME": str(tmp_path), "DAO_FLOWS_DATA_DIR": str(data)}
    for name, value in {**environment, "DAO_FLOWS_CHECKPOINT_DIR": str(tiny_checkpoints)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for path in [*data.rglob("*"), data]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield data
    for path in [data, *data.rglob("*")]:
        path.chmod(0o755)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_commands_that_read(sealed):
    candidate = stores.collection(stores.job_store(), "candidates").query_one()["candidate_id"]
    before = snapshot(sealed)
    commands = [
        ["list", "--json"],
        ["list", "--runs"],
        ["show", candidate],
        ["export", candidate, "--out", "out"],
        ["export-crate", candidate, "x.zip"],
        ["import-crate", "--dry-run", "x.zip"],
        ["audit", "verify", "--all"],
        ["audit", "verify", candidate],
        ["audit", "graph"],
        ["audit", "graph", candidate],
        ["audit", "replay", candidate],
        ["checkpoint", "list"],
        ["build"],
        ["compare"],  # nothing is verified: said, as where the store can be written
        ["predict", "NaCl", "-n", "1", "--steps", "2"],  # it does more than read
    ]
    script = [*held_back(), sys.executable, "-W", "ignore", "-c", MANY, json.dumps(commands)]
    done = subprocess.run(script, capture_output=True, text=True)
    codes = json.loads(done.stderr.splitlines()[-1])
    assert dict(zip(map(" ".join, commands), codes, strict=True)) == {
        **{" ".join(words): 0 for words in commands[:-2]},
        "compare": 2,
        " ".join(commands[-1]): 2,
    }, done.stderr
    assert "nothing verified yet" in done.stderr and "the store can only be read" in done.stderr
    assert snapshot(sealed) == before


@pytest.fixture
def forbidden(monkeypatch) -> Callable[[], None]:
    """From then on embedded stores meet files and folders that they may not write, whoever runs the test."""

    def forbid() -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied", "store")

        monkeypatch.setattr(embedded.EmbeddedStore, "_set_up_alone", refuse)
        monkeypatch.setattr(embedded.os, "access", lambda *_: False)

    return forbid


def test_what_was_verified_is_compared_in_memory(tmp_path, monkeypatch, forbidden, a_candidate, a_verification, put):
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path))
    first, second = a_candidate("dao-0123456789ab", NACL), a_candidate("dao-123456789abc", NACL, energy=0.1)
    jobs = stores.job_store()
    put(jobs, first, second, name="candidates")
    put(jobs, a_verification(first))
    assert len(compare().comparisons) == 1
    put(jobs, a_verification(second, -2.9))  # since then
    for name in ("verifications", None):
        if name is None:  # never compared at all
            for each in ("verifications", "comparisons"):
                stores.collection(jobs, each).path.unlink()
        before = snapshot(tmp_path)
        forbidden()
        found = compare()
        assert {document.candidate_id for document in found.comparisons} == {first.candidate_id, second.candidate_id}
        assert snapshot(tmp_path) == before


def test_a_write_is_refused_in_one_line(tmp_path, monkeypatch, forbidden):
    store = embedded.EmbeddedStore("c", str(tmp_path), key="k")
    store.connect()
    store.update([{"k": "1"}])
    forbidden()
    for name in ("c", "not there yet"):
        other = embedded.EmbeddedStore(name, str(tmp_path), key="k")
        other.connect()
        assert other.count() == (name == "c") and other.distinct("k") == ["1"] * (name == "c")
        assert list(other.documents()) == [{"_id": "1", "k": "1"}] * (name == "c")
        with pytest.raises(PermissionError) as caught:
            other.update([{"k": "2"}])
        assert "the store can only be read" in (explain(caught.value) or "")
    with pytest.raises(PermissionError):
        embedded.EmbeddedStore("c", str(tmp_path / "nowhere"), key="k").connect()


def test_a_store_whose_lock_is_another_users_is_written(tmp_path, monkeypatch):
    """As in a folder that a group shares."""
    store = embedded.EmbeddedStore("c", str(tmp_path), key="k")
    store.connect()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", ".lock")

    monkeypatch.setattr(embedded.EmbeddedStore, "_set_up_alone", refuse)
    other = embedded.EmbeddedStore("c", str(tmp_path), key="k")
    other.connect()
    other.update([{"k": "2"}])
    assert store.distinct("k") == ["2"]


@pytest.mark.parametrize(("code", "raised"), [(13, False), (13435, False), (2, True)])
def test_a_role_that_may_only_read_needs_no_index(monkeypatch, code, raised):
    mongomock = pytest.importorskip("mongomock")
    docs = MongoStore("d", "jobs")
    docs._coll = mongomock.MongoClient()["d"]["jobs"]
    jobs = JobStore(docs)
    monkeypatch.setattr(MongoStore, "connect", lambda *_, **__: None)

    def refuse(*_: object, **__: object) -> None:
        raise OperationFailure("not authorized on d to execute command { createIndexes }", code)

    monkeypatch.setattr(MongoStore, "ensure_index", refuse)
    if raised:
        with pytest.raises(StoreError):
            stores.collection(jobs, "candidates")
    else:
        assert stores.collection(jobs, "candidates").count() == 0
    assert forbids_writing(OperationFailure("x", code)) is not raised
