"""A full flow leaves as a crate, comes into an empty store, and is verified, replayed and guarded there."""

import json
import random
import struct
from importlib.util import find_spec

import pytest

from dao_flows.audit.integrity.verify import COLLECTIONS, verify
from dao_flows.model.files import user_folders
from dao_flows.model.files.user_folders import CHECKPOINTS
from dao_flows.store.stores import collection, job_store

LEAVES = 4  # flipped of each kind of document; test_audit_verify flips every one


def quiet(done, total, stage):
    pass


def leaves(value, path=()):
    """The paths of all values that hold no others."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inside = [leaf for key, inner in items for leaf in leaves(inner, (*path, key))]
    return inside or [path]


def flipped(value):
    """A value that differs as little as it may."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 1
    if isinstance(value, float):
        return struct.unpack(">d", struct.pack(">Q", struct.unpack(">Q", struct.pack(">d", value + 0.0))[0] ^ 1))[0]
    if isinstance(value, str):
        return chr(ord(value[0]) ^ 1) + value[1:] if value else "x"
    return {"None": False, "[]": [None], "{}": {"x": None}}[str(value)]


def with_flip(document, path):
    """A copy with the value at this path flipped."""
    if not path:
        return flipped(document)
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = with_flip(copy[path[0]], path[1:])
    return copy


def raw(jobs, name):
    return jobs.docs_store if name == "jobs" else collection(jobs, name)


def kind_of(name, document):
    output = document.get("output")
    return name, output.get("@class") if isinstance(output, dict) else document.get("event")


PREDICTION = ("GenerationDoc", "ScreeningDoc", "VerificationDoc")


@pytest.mark.skipif(find_spec("rocrate") is None, reason="exporting needs the extra `crates`")
@pytest.mark.skipif(find_spec("chgnet") is None, reason="the flow ends with CHGNet, which is not installed")
def test_a_flow_is_whole_elsewhere(audited, audited_home, call, tmp_path, monkeypatch):
    jobs = job_store()
    wanted = [f"comparison:{d['comparison_id']}" for d in collection(jobs, "comparisons").query({})]
    wanted += [job["uuid"] for job in jobs.query({"output.@class": "EvaluationDoc"}, properties=["uuid"])]
    labelled = jobs.query_one({"output.@class": "LabelledDatasetDoc"}, properties=["output.sha256"])
    wanted.append(f"dataset:{labelled['output']['sha256']}")
    crate = str(tmp_path / "flow.zip")
    code, _, err = call("export-crate", *wanted, crate, "--weights", "--shards")
    assert code == 0, err

    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "elsewhere" / "checkpoints"))
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "elsewhere" / "data"))
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "elsewhere" / "runs"))
    away = {audited_home / name: audited_home / f"{name}.away" for name in ("flow", "checkpoints", "data")}
    try:
        for place, aside in away.items():
            place.rename(aside)
        arrives(call, crate, wanted, tmp_path / "elsewhere")
    finally:
        for place, aside in away.items():
            aside.rename(place)


def arrives(call, crate, wanted, home):
    """The crate comes into the empty store of `home`, which nothing else is left to help."""
    jobs = job_store()
    assert jobs.count() == 0
    code, _, err = call("import-crate", crate)
    assert code == 0, err
    code, out, err = call("audit", "verify", "--all")
    assert code == 0, out + err

    makers = set()
    for wanted_id in wanted:
        code, out, err = call("audit", "replay", wanted_id, "--dft", "--yes", "--json")
        assert code == 0, out + err
        makers |= {step["maker"] for step in json.loads(out)["steps"]}
    for kind in ("DatasetDoc", "TrainingDoc", "RelaxationDoc", "LabellingDoc", *PREDICTION):
        for job in jobs.query({"output.@class": kind}, properties=["uuid"]):
            code, out, err = call("audit", "replay", job["uuid"], "--dft", "--yes", "--json")
            assert code == 0, out + err
            found = json.loads(out)
            assert found["outcome"] == "identical", out
            makers |= {step["maker"] for step in found["steps"]}
    assert makers >= {"IngestMaker", "TrainMaker", "RelaxDatasetMaker", "GenerateMaker", "ScreenMaker", "VerifyMaker"}
    assert makers >= {"CalculateMaker", "EvaluateMaker", "LabelMaker", "MergeLabelsMaker"}

    flip_documents(jobs)
    flip_files(jobs, home)


def flip_documents(jobs):
    """Some leaves of a document of each kind, one at a time."""
    draw, kinds = random.Random(0), {}
    for name in COLLECTIONS:
        for document in raw(jobs, name).query({}):
            kinds.setdefault(kind_of(name, document), (name, document))
    assert len(kinds) >= 14
    for name, document in kinds.values():
        own = str(document["_id"]).split("/")[0]
        for path in draw.sample([leaf for leaf in leaves(document) if leaf != ("_id",)], LEAVES):
            raw(jobs, name).update([with_flip(document, path)], key="_id")
            found = [f for f in verify(jobs, None, quiet).findings if f.problem in ("missing", "altered", "orphaned")]
            assert any(own in f"{f.id} {f.reason}" for f in found), (name, path, found)
            raw(jobs, name).update([document], key="_id")
    assert verify(jobs, None, quiet).sound


def flip_files(jobs, home):
    """A byte of each file that came along, one at a time."""
    files = [path for path in home.rglob("*") if path.is_file() and "store" not in path.relative_to(home).parts]
    assert {path.suffix for path in files} >= {".safetensors", ".parquet", ".json"}
    assert any(user_folders.checkpoints() in path.parents for path in files)
    draw = random.Random(1)
    for path in files:
        content = path.read_bytes()
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = [f for f in verify(jobs, None, quiet).findings if f.problem in ("missing", "altered", "orphaned")]
        assert found, path
        path.write_bytes(content)
    assert verify(jobs, None, quiet).sound
