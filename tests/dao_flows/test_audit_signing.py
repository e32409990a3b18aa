"""Signatures hold for what was signed, and for nothing else."""

import json
import stat

import pytest

pytest.importorskip("cryptography")

from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.store.stores import collection, job_store


@pytest.fixture
def key(audited, tmp_path, call):
    path = tmp_path / "lab.key"
    assert call("audit", "keygen", str(path))[0] == 0
    return path


@pytest.fixture
def signed(audited, call, key, tmp_path):
    """A candidate that is signed, in the store and in a file."""
    candidate = collection(job_store(), "candidates").query_one(sort={"rank": 1})["candidate_id"]
    code, out, err = call("audit", "sign", candidate, "--key", str(key), "--out", str(tmp_path / "signature.json"))
    assert code == 0, err
    assert "root hash" in out
    return candidate


def checked(call, what, key, *more):
    return call("audit", "verify", what, "--public-key", f"{key}.pub", *more)


def test_a_key_is_for_its_owner_alone(key, call, tmp_path):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    code, _, err = call("audit", "keygen", str(key))
    assert code == 2 and "is there already" in err
    key.chmod(0o640)
    code, _, err = call("audit", "sign", "dao-1", "--key", str(key))
    assert code == 2 and "chmod 600" in err and err.count("\n") == 1
    other = tmp_path / "lab2.key"
    other.with_name("lab2.key.pub").write_text("")
    assert call("audit", "keygen", str(other))[0] == 2
    assert not other.exists()


def test_a_signature_holds_and_goes_on_to_hold(signed, call, key, tmp_path):
    code, out, _ = checked(call, signed, key)
    assert code == 0 and "holds" in out and "does not" not in out
    assert checked(call, signed, key, "--signature", str(tmp_path / "signature.json"))[0] == 0
    assert (
        call(
            "predict", "NaCl", "-n", "2", "--z", "1", "--steps", "2", "--checkpoint", "artist", "--predictor", "judge"
        )[0]
        == 0
    )
    assert checked(call, signed, key)[0] == 0  # what comes later is not its concern
    told = json.loads(checked(call, signed, key, "--json")[1])
    assert told["signatures"][0]["fault"] is None
    assert 0 <= told["unsigned"] < told["checked"]["jobs"]


def test_what_no_signature_covers_is_counted(signed, call):
    _, out, _ = call("audit", "verify", "--all")
    told = json.loads(call("audit", "verify", "--all", "--json")[1])
    assert 0 < told["unsigned"] < told["checked"]["jobs"]
    assert f"unsigned: {told['unsigned']} of {told['checked']['jobs']} documents of jobs" in out


def test_what_was_sealed_anew_does_not_fit_the_signature(signed, call, key, mutator):
    """Somebody alters a training's document, its hash, and the attempt's record: only the signature tells."""
    from dao_flows.makers.jobs.attempts import envelope, parts

    jobs = job_store()
    history = mutator.History(jobs)
    runs = collection(jobs, "runs")
    training = jobs.query_one({"output.@class": "TrainingDoc"})
    training["output"]["losses"]["coordinate"] = 0.001
    training["output"]["provenance"]["content_hash"] = content_hash(training["output"])
    jobs.docs_store.update([training], key=["uuid", "index"])
    end = runs.query_one({"job_uuid": training["uuid"], "event": "job-end"})
    forged = {"result": content_hash(training["output"]), "parts": parts(training["output"])}
    end |= {**forged, "envelope": envelope(training)}
    end["content_hash"] = content_hash(end)
    runs.update([end], key="record_id")
    assert "sealed anew" in call("audit", "verify", training["uuid"])[1]
    mutator.chained_anew(history)
    assert call("audit", "verify", training["uuid"])[0] == 1  # the signature is in the store
    code, out, _ = checked(call, signed, key)
    assert code == 1
    assert "does not hold: jobs " in out and "is not what was signed" in out
    assert "altered" not in out


@pytest.mark.parametrize("part", ["root_hash", "who", "at", "nodes", "signature", "public_key", "one of the nodes"])
def test_an_altered_signature_does_not_hold(signed, call, key, tmp_path, part):
    path = tmp_path / "signature.json"
    content = json.loads(path.read_text())
    statement = content["statement"]
    if part == "signature":
        held = content["signature"]
        content["signature"] = held[:5] + ("A" if held[5] != "A" else "B") + held[6:]
    elif part == "one of the nodes":
        content["nodes"][3][2] = "0" * 64
    elif part == "nodes":
        statement["nodes"] += 1
    else:
        statement[part] = ("0" if statement[part][0] != "0" else "1") + statement[part][1:]
    path.write_text(json.dumps(content))
    code, out, _ = call("audit", "verify", signed, "--signature", str(path))
    assert code == 1
    assert f"signature {path}" in out.replace("\n", " ") and "does not hold: " in out


def test_another_key_did_not_sign(signed, call, tmp_path):
    other = tmp_path / "other.key"
    call("audit", "keygen", str(other))
    code, out, err = checked(call, signed, other)
    assert (code, out) == (2, "") and "carries a signature by" in err


def test_what_is_not_whole_is_not_signed(audited, call, key):
    jobs = job_store()
    generation = jobs.query_one({"output.@class": "GenerationDoc"})
    generation["output"]["candidates"][0]["z"] = 9
    jobs.docs_store.update([generation], key=["uuid", "index"])
    code, out, err = call("audit", "sign", generation["uuid"], "--key", str(key))
    assert code == 2 and "is not signed" in err and "altered" in out
    assert collection(jobs, "runs").query_one({"event": "signature"}) is None


def test_a_run_is_signed_with_its_jobs(audited, call, key):
    start = collection(job_store(), "runs").query_one({"event": "start"})
    code, _, err = call("audit", "sign", start["run_id"], "--key", str(key))
    assert code == 0, err
    record = collection(job_store(), "runs").query_one({"event": "signature"})
    assert {name for name, _, _ in record["nodes"]} == {"jobs", "datasets", "checkpoints"}
    assert len([1 for name, _, _ in record["nodes"] if name == "jobs"]) >= 10
    assert checked(call, start["run_id"], key)[0] == 0


@pytest.mark.parametrize("content", ["", "nonsense", "{}", '{"statement": 1, "signature": "x", "nodes": []}'])
def test_files_that_are_no_keys_and_no_signatures_are_refused_in_one_line(audited, call, tmp_path, content):
    path = tmp_path / "file"
    path.write_text(content)
    path.chmod(0o600)
    for arguments in (
        ["sign", "dao-1", "--key", str(path)],
        ["verify", "--all", "--public-key", str(path)],
        ["verify", "--all", "--signature", str(path)],
        ["sign", "dao-1", "--key", str(tmp_path / "none")],
    ):
        code, _, err = call("audit", *arguments)
        assert code == 2 and err.count("\n") == 1, err
