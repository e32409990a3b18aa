"""A store and a crate that were written when the modules had other names: they are verified, replayed and imported."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dao_flows.makers.jobs.renamed import RENAMED, current
from dao_flows.model.files.user_folders import CHECKPOINTS, DATA, LIBRARIES
from dao_flows.store.stores import collection, job_store

PACKED = Path(__file__).parent / "data" / "before_rooms.tar.xz"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    return folder / "before"


@pytest.fixture
def before(unpacked, workplace, monkeypatch) -> Path:
    """The place of a user who has that store, its checkpoints and its library."""
    monkeypatch.setenv(DATA, str(unpacked))
    monkeypatch.setenv(CHECKPOINTS, str(unpacked / "checkpoints"))
    monkeypatch.setenv(LIBRARIES, str(unpacked / "libraries"))
    return unpacked


def named_modules(value) -> set[str]:
    """Modules of ours that a stored document names."""
    if isinstance(value, dict):
        own = {value["@module"]} if str(value.get("@module")).startswith("dao_flows") else set()
        return own.union(*map(named_modules, value.values()))
    return set().union(*map(named_modules, value)) if isinstance(value, list) else set()


def test_all_that_it_names_is_importable(before):
    jobs = job_store()
    names = set()
    for name in ("candidates", "verifications", "comparisons"):
        names |= named_modules(list(collection(jobs, name).query()))
    names |= named_modules(list(jobs.query(load=True)))
    assert {"dao_flows.makers.schemas", "dao_flows.makers.verification_schemas"} <= names
    assert names & set(RENAMED) == names - {name for name in names if current(name) == name}
    code = "import importlib, json, sys\nfor name in json.loads(sys.argv[1]): importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(sorted(names))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_former_name_is_the_same_module():
    code = (
        "import sys\nfrom dao_flows.makers.verification_schemas import VerificationDoc as former\n"
        "from dao_flows.makers.schemas.verification import VerificationDoc as present\n"
        "module = sys.modules['dao_flows.makers.schemas.verification']\n"
        "assert sys.modules['dao_flows.makers.verification_schemas'] is module\n"
        "assert module.__spec__.name == module.__name__ == 'dao_flows.makers.schemas.verification'\n"
        "assert former is present\nimport dao_flows.makers.no_such_schemas"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "AssertionError" not in done.stderr
    assert "No module named 'dao_flows.makers.no_such_schemas'" in done.stderr


def assert_nothing_is_altered(call) -> None:
    """All documents are as they were; files that lay elsewhere when they were written are not here any more."""
    _, out, _ = call("audit", "verify", "--all", "--json")
    report = json.loads(out)
    assert report["checked"]["jobs"] >= 10
    assert {each["problem"] for each in report["findings"]} <= {"missing", "unverifiable"}
    gone = {(each["collection"], each["reason"].partition("; ")[0].partition(" at ")[0]) for each in report["findings"]}
    assert gone <= {("files", "it is not here"), ("datasets", "it is not")}, report["findings"]


def test_it_is_verified(before, call):
    assert_nothing_is_altered(call)


def test_it_is_replayed_bit_for_bit(before, call):
    pytest.importorskip("chgnet")  # which judged
    [candidate, *_] = collection(job_store(), "candidates").query(sort={"rank": 1})
    code, out, _ = call("audit", "replay", candidate["candidate_id"])
    assert code == 0, out
    assert f"candidate:{candidate['candidate_id']}: identical, bit for bit" in out


def test_its_crate_is_imported(before, call, monkeypatch, tmp_path):
    monkeypatch.setenv(DATA, str(tmp_path / "imported"))
    code, out, err = call("import-crate", str(before / "crate.zip"))
    assert (code, "the crate is whole" in out) == (0, True), err
    assert_nothing_is_altered(call)
