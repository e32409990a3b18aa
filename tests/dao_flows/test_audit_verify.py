"""Whatever is altered, anywhere, is found and named; what is whole is left in peace."""

import copy
import json
import platform
import shutil
import struct
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobflow import JobStore, run_locally
from jobflow.core.job import Job
from maggma.stores import MemoryStore

from dao_flows.audit.integrity.findings import first_difference
from dao_flows.audit.integrity.ledger import Claim, Ledger
from dao_flows.audit.integrity.verify import COLLECTIONS, verify
from dao_flows.audit.integrity.verify.inspection import Inspection
from dao_flows.audit.integrity.verify.read import read, read_document
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.makers.jobs.record_chain import HEAD_KEY, HEADS
from dao_flows.makers.jobs.siblings import beside
from dao_flows.makers.jobs.stage import stage
from dao_flows.model.checkpoint import format as checkpoint
from dao_flows.model.checkpoint.format import load, read_card, save, weight_files, write_card
from dao_flows.model.checkpoint.library import available
from dao_flows.model.files import user_folders
from dao_flows.model.files.user_folders import CHECKPOINTS
from dao_flows.store.embedded import EmbeddedStore
from dao_flows.store.stores import collection, job_store

GRAVE = ("missing", "altered", "orphaned")


def quiet(done, total, stage):
    pass


def leaves(value, path=()):
    """The paths of all values that hold no others."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    empty = True
    for key, inner in items:
        empty = False
        yield from leaves(inner, (*path, key))
    if empty:
        yield path


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


@contextmanager
def flip(document, path):
    """With another value at a path, for as long as it lasts."""
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    kept = inner[path[-1]]
    inner[path[-1]] = flipped(kept)
    yield
    inner[path[-1]] = kept


def replaced(document, path, value):
    """A copy with another value at a path."""
    new = copy.deepcopy(document)
    inner = new
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return new


@pytest.fixture
def jobs(audited) -> JobStore:
    return job_store()


def raw(jobs, name):
    return jobs.docs_store if name == "jobs" else collection(jobs, name)


def put(jobs, name, document):
    raw(jobs, name).update([document], key="_id")


def found(jobs):
    return verify(jobs).findings


def test_a_flow_of_every_stage_is_whole(jobs):
    report = verify(jobs)
    assert report.findings == []
    assert report.sound
    kinds = {job["output"]["@class"] for job in jobs.query() if isinstance(job["output"], dict)}
    assert kinds >= {"DatasetDoc", "TrainingDoc", "RelaxationDoc", "RelaxedDatasetDoc", "EvaluationDoc", "StagesDoc"}
    assert kinds >= {"GenerationDoc", "ScreeningDoc"}
    labelled = "LabelledDatasetDoc" in kinds
    assert labelled == ("LabellingDoc" in kinds) == (find_spec("chgnet") is not None)
    counted = {name: raw(jobs, name).count() for name in COLLECTIONS}
    assert {name: report.checked[name] for name in COLLECTIONS} == counted
    assert (report.checked["datasets"], report.checked["checkpoints"]) == (3 + labelled, 2)
    assert report.checked["files"] >= 8


def test_no_secret_of_the_environment_is_in_any_document_file_or_output(jobs, audited_home):
    failed = collection(jobs, "runs").query_one({"event": "job-end", "outcome": "failed"})
    assert "https://***@host.example" in failed["error"]
    held = [str(document) for name in COLLECTIONS for document in raw(jobs, name).query()]
    held += [path.read_bytes().decode("latin-1") for path in audited_home.rglob("*") if path.is_file()]
    assert len(held) > 100
    assert not [text[:200] for text in held if "planted-" in text]


def test_every_leaf_of_every_document_counts(jobs):
    """One leaf at a time, all of them: each is found, and named by its document."""
    whole = read(jobs)
    assert whole.findings == []
    slipped, unnamed, count = [], [], Counter()
    for name in COLLECTIONS:
        for document in list(raw(jobs, name).query()):
            own = str(document["_id"]).split("/")[0]
            for path in list(leaves(document)):
                with flip(document, path):
                    alone = Inspection(jobs, ledger=replace(whole.ledger, altered=set(), doubtful=set()))
                    read_document(alone, name, document)
                grave = [each for each in alone.findings if each.problem in GRAVE]
                count[name] += 1
                if not grave:
                    slipped.append((name, path))
                elif path != ("_id",) and not any(own in f"{each.id} {each.reason}" for each in grave):
                    unnamed.append((name, path, [each.line() for each in grave]))
    assert slipped == []
    assert unnamed == []
    assert count["jobs"] > 3000 and count["candidates"] > 200 and count["runs"] > 800


PLACES = {
    "runs": ("at",),
    "jobs": ("completed_at",),
    "candidates": ("energy", "value"),
    "verifications": ("energy",),
    "comparisons": ("rank",),
}


@pytest.mark.parametrize(("name", "path"), PLACES.items())
def test_a_flip_in_the_store_is_told_by_the_command(jobs, call, name, path):
    if name in ("verifications", "comparisons"):
        verified(jobs)
    document = next(iter(raw(jobs, name).query()))
    with flip(document, path):
        put(jobs, name, document)
    code, out, _ = call("audit", "verify", "--all")
    assert code == 1
    assert f"altered: {name} {document['_id']}" in out
    code, out, _ = call("audit", "verify", "--all", "--json")
    told = json.loads(out)
    assert code == 1 and not told["sound"] and told["counts"]["altered"] == 1
    assert told["findings"][0]["collection"] == name


def job_of(jobs, kind):
    return jobs.query_one({"output.@class": kind})


FIELDS = [
    ("jobs", "ScreeningDoc", ("output", "accepted", 1, "energy", "value"), "output.accepted"),
    ("jobs", "GenerationDoc", ("output", "candidates", 2, "structure", "lattice", "matrix", 0, 0), "output.candidates"),
    ("jobs", "TrainingDoc", ("output", "losses", "coordinate"), "output.losses"),
    ("jobs", "DatasetDoc", ("output", "provenance", "science", "seed"), "output.provenance.science"),
    ("jobs", "EvaluationDoc", ("output", "provenance", "content_hash"), "output.provenance.content_hash"),
    ("jobs", "EvaluationDoc", ("metadata", "dao_flows", "run_id"), "metadata"),
    ("jobs", "EvaluationDoc", ("name",), "name"),
    ("candidates", None, ("energy", "value"), "energy.value"),
    ("candidates", None, ("structure", "sites", 0, "abc", 1), "structure.sites.0.abc.1"),
    ("candidates", None, ("n_atoms",), "n_atoms"),
    ("verifications", None, ("energy",), "energy"),
]


@pytest.mark.parametrize(("name", "kind", "path", "field"), FIELDS, ids=[".".join(map(str, f[2])) for f in FIELDS])
def test_the_field_is_named(jobs, name, kind, path, field):
    document = job_of(jobs, kind) if kind else raw(jobs, name).query_one()
    if document is None:
        pytest.skip("CHGNet is not installed")
    with flip(document, path):
        put(jobs, name, document)
    (finding,) = [f for f in found(jobs) if f.problem == "altered"]
    assert (finding.collection, finding.field) == (name, field)


def test_a_document_that_was_sealed_anew_does_not_fit_the_others(jobs):
    """Who alters a document and its hash is still caught by the attempt's record and by what was made from it."""
    screening = job_of(jobs, "ScreeningDoc")
    forged = replaced(screening, ("output", "accepted", 0, "energy", "value"), -9.0)
    forged["output"]["provenance"]["content_hash"] = content_hash(forged["output"])
    put(jobs, "jobs", forged)
    findings = [f for f in found(jobs) if f.problem == "altered"]
    assert {f.collection for f in findings} == {"jobs", "candidates"} or findings[0].field
    candidate = replaced(collection(jobs, "candidates").query_one(), ("rank",), 7)
    candidate["content_hash"] = content_hash(candidate)
    put(jobs, "jobs", screening)
    put(jobs, "candidates", candidate)
    (finding,) = found(jobs)
    assert (finding.collection, finding.field) == ("candidates", "rank")


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_document_that_is_gone_is_missed(jobs, name):
    document = (
        job_of(jobs, "GenerationDoc")
        if name == "jobs"
        else collection(jobs, "runs").query_one({"event": "job-start"})
        if name == "runs"
        else raw(jobs, name).query_one({"candidate_id": verified(jobs)})
    )
    raw(jobs, name).remove_docs({"_id": document["_id"]})
    grave = [f for f in found(jobs) if f.problem in ("missing", "orphaned")]
    if name == "comparisons":  # nothing is made from them
        assert grave == []
        return
    assert any(str(document["_id"]).split("/")[0] in f.id for f in grave)


def verified(jobs):
    found = collection(jobs, "verifications").query_one()
    if found is None:
        pytest.skip("CHGNet is not installed")
    return found["candidate_id"]


def test_what_was_written_before_there_were_hashes_is_no_error(jobs, call):
    for name in COLLECTIONS:
        for document in list(raw(jobs, name).query()):
            document.pop("content_hash", None)
            document.pop("chain", None)
            if name == "jobs":
                document["metadata"].get("dao_flows", {}).pop("attempt", None)
            output = document.get("output")
            for holder in (output if isinstance(output, dict) else {}, document):
                if isinstance(holder.get("provenance"), dict):
                    holder["provenance"].pop("content_hash", None)
            put(jobs, name, document)
    collection(jobs, "runs").remove_docs({"event": {"$in": ["job-start", "job-end"]}})
    beside(collection(jobs, "runs"), HEADS, HEAD_KEY).remove_docs({})
    for document in list(raw(jobs, "candidates").query()):
        for key in ("generation", "screening"):
            document[key].pop("content_hash", None)
        put(jobs, "candidates", document)
    screening = job_of(jobs, "ScreeningDoc")
    screening["output"]["generation"].pop("content_hash")
    put(jobs, "jobs", screening)
    findings = found(jobs)
    assert {f.problem for f in findings} == {"unverifiable"}
    assert call("audit", "verify", "--all")[0] == 0
    generation = job_of(jobs, "GenerationDoc")
    put(jobs, "jobs", replaced(generation, ("output", "provenance", "science", "seed"), 5))
    assert [f.field for f in found(jobs) if f.problem == "altered"] == ["provenance.science"]


def test_of_two_attempts_that_finished_the_document_may_be_of_either(jobs):
    job = job_of(jobs, "GenerationDoc")
    runs = collection(jobs, "runs")
    begin, end = (runs.query_one({"job_uuid": job["uuid"], "event": event}) for event in ("job-start", "job-end"))
    for record in (begin, end):  # of a worker that was believed lost, and logs later than it wrote
        other = f"{job['uuid']}-1-0badcafe"
        record |= {"attempt_id": other, "record_id": f"{other}-{record['record_id'][-1]}", "at": "2099-01-01"}
        record["_id"] = record["record_id"]
        if record is end:
            record["result"] = "0" * 64
        record["content_hash"] = content_hash(record)
        put(jobs, "runs", record)
    assert found(jobs) == []


def test_the_science_is_hashed_again_and_a_result_that_was_taken_over_names_its_job(jobs):
    training, evaluation = (job_of(jobs, kind) for kind in ("TrainingDoc", "EvaluationDoc"))
    for path, value, said in (
        (("output", "provenance", "science", "seed"), 77, "its science does not have its science hash"),
        (("output", "provenance", "execution", "job_uuid"), training["uuid"], "which has another science"),
    ):
        forged = replaced(evaluation, path, value)
        forged["output"]["provenance"]["content_hash"] = content_hash(forged["output"])
        put(jobs, "jobs", forged)
        for record in list(collection(jobs, "runs").query({"job_uuid": evaluation["uuid"], "event": "job-end"})):
            record["result"] = content_hash(forged["output"])
            record["content_hash"] = content_hash(record)
            put(jobs, "runs", record)
        assert said in "".join(f.reason for f in found(jobs))


def test_a_newer_schema_is_not_judged(jobs):
    candidate = collection(jobs, "candidates").query_one()
    candidate["schema_version"] = 99
    candidate["content_hash"] = content_hash(candidate)
    put(jobs, "candidates", candidate)
    (finding,) = found(jobs)
    assert (finding.problem, finding.field) == ("unverifiable", "schema_version")


def test_a_document_that_is_no_bson_any_more_stops_nothing(jobs):
    store = collection(jobs, "candidates")
    with store._connection() as connection:
        connection.execute("UPDATE documents SET v = X'0500000001' WHERE rowid = 1")
    findings = found(jobs)
    assert any(f.problem == "altered" and f.collection == "candidates" and "BSON" in f.reason for f in findings)


def test_of_an_id_the_whole_graph_is_verified_and_nothing_else(jobs, call):
    candidate = verified(jobs)
    code, out, _ = call("audit", "verify", candidate, "--json")
    told = json.loads(out)
    assert code == 0 and told["findings"] == []
    assert (
        told["checked"]["candidates"] == 1 and told["checked"]["checkpoints"] == 2 and told["checked"]["datasets"] == 3
    )
    evaluation = job_of(jobs, "EvaluationDoc")
    put(jobs, "jobs", replaced(evaluation, ("output", "n"), 99))
    assert call("audit", "verify", candidate)[0] == 0  # it was not made from it
    training = job_of(jobs, "TrainingDoc")
    put(jobs, "jobs", replaced(training, ("output", "steps"), 99))
    code, out, _ = call("audit", "verify", candidate)
    assert code == 1 and training["uuid"] in out and "output.steps" in out


@pytest.mark.parametrize("arguments", [["verify"], ["verify", "--all", "dao-1"], ["verify", "no-such-id"]])
def test_what_cannot_be_verified_is_said_in_one_line(audited, call, arguments):
    code, out, err = call("audit", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("dao-flows: ")


# files


@pytest.fixture
def with_files(audited, tmp_path, monkeypatch) -> JobStore:
    """The same store, its files copied to where they may be changed: the documents name them there."""
    home = audited.parent
    places = {str(home / name): str(tmp_path / "files" / name) for name in ("flow", "data/runs")}
    for old, new in places.items():
        shutil.copytree(old, new)
    shutil.copytree(home / "checkpoints", tmp_path / "checkpoints")
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "checkpoints"))
    jobs = job_store()
    jobs.__dict__["places"] = places
    return jobs


def moved(jobs, claims):
    """Claims with their paths where the copies lie."""

    def there(path):
        for old, new in jobs.__dict__["places"].items():
            path = path.replace(old, new)
        return path

    return [claim._replace(path=there(claim.path)) for claim in claims]


@pytest.fixture
def ledger(with_files):
    """What the documents say of files, which lie in a copy."""
    held = read(with_files).ledger
    held.files = moved(with_files, held.files)
    held.datasets = {sha: moved(with_files, claims) for sha, claims in held.datasets.items()}
    held.checkpoints = {sha: moved(with_files, claims) for sha, claims in held.checkpoints.items()}
    held.cards = {sha: (moved(with_files, [claim])[0], name) for sha, (claim, name) in held.cards.items()}
    held.manifests = {claim.path: claim for claim in moved(with_files, held.manifests.values())}
    return held


def claimed(ledger, library=True):
    """Every file that the documents claim, and those of the user's library."""
    files = {Path(claim.path) for claim in ledger.files}
    for claims in ledger.datasets.values():
        files |= {path for c in claims if c.path for path in Path(c.path).iterdir() if path.suffix in (".parquet",)}
    files |= {Path(path) for path in ledger.manifests}
    trained = {Path(claim.path) for claims in ledger.checkpoints.values() for claim in claims if claim.path}
    mine = {folder for folder in available().values() if folder.is_relative_to(user_folders.checkpoints())}
    files |= {path for folder in trained | (mine if library else set()) for path in folder.iterdir()}
    return sorted(path for path in files if not path.is_relative_to(Path(__file__).parent.parent.parent))


def of_files(ledger):
    from dao_flows.audit.integrity.files import verify_files

    return verify_files(ledger, quiet).findings


def test_a_byte_flipped_anywhere_in_any_file_is_found(ledger):
    assert of_files(ledger) == []
    files = claimed(ledger)
    assert {path.suffix for path in files} == {".parquet", ".json", ".safetensors", ".png", ".md", ".jsonl"}

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(files), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
    def check(path, where, bits):
        content = path.read_bytes()
        place = int(where * len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :])
        try:
            findings = of_files(ledger)
        finally:
            path.write_bytes(content)
        grave = [f for f in findings if f.problem in ("altered", "missing")]
        assert grave, f"{path} at {place}"
        named = f"{grave}"
        assert path.name in named or path.parent.name in named or str(path.parent) in named, named

    check()
    assert of_files(ledger) == []


def test_every_file_that_is_gone_is_missed(ledger):
    for path in claimed(ledger, library=False):  # a checkpoint may lie anywhere
        aside = path.with_name(f"{path.name}.aside")
        path.rename(aside)
        assert any(f.problem in ("missing", "altered") for f in of_files(ledger)), path
        aside.rename(path)
    assert of_files(ledger) == []


def test_every_part_of_weights_counts(tiny_checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path))
    monkeypatch.setattr(checkpoint, "PART", 8000)
    folder = tmp_path / "g"
    sha256 = save(folder, load(tiny_checkpoints / "dao-g-tiny")[0], {"elements": [3], "max_atoms": 4}).sha256
    claim = Claim(str(tmp_path / "gone"), sha256, platform.node(), "2025-01-01", "job-1")
    held = Ledger(checkpoints={sha256: [claim]}, registered={sha256: {"g"}})

    def found():
        return [(finding.problem, finding.id) for finding in of_files(held)]

    assert found() == [("unverifiable", sha256)]  # of its card nothing is known
    files = weight_files(folder)
    assert len(files) > 2
    for path in (*files, folder / "card.json"):
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        assert found() == [("altered", sha256)], path
        path.write_bytes(content)
    write_card(folder, replace(read_card(folder), sha256="0" * 64))
    assert found() == [("altered", sha256)]  # the weights tell which one it was
    files[1].unlink()
    assert found() == [("missing", sha256)]  # nothing does
    write_card(folder, replace(read_card(folder), sha256=sha256))
    assert found() == [("altered", sha256)]


def test_files_of_another_machine_are_not_missed(ledger, monkeypatch):
    for claims in ledger.datasets.values():
        for claim in claims:
            if claim.path:
                shutil.rmtree(claim.path, ignore_errors=True)
    assert {f.problem for f in of_files(ledger) if f.collection == "datasets"} == {"missing"}
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert {f.problem for f in of_files(ledger) if f.collection == "datasets"} == {"unverifiable"}


# blobs


@stage(data=["volumes"])
def volumes(count):
    """A job that keeps numbers in an additional store."""
    return {"volumes": [1.5 * n for n in range(count)], "count": count}


@pytest.fixture
def with_blob():
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore("blobs", key="blob_uuid")})
    store.connect()
    job = volumes(20)
    assert isinstance(job, Job)
    run_locally(job, store=store, ensure_success=True, log=False)
    assert verify(store).findings == []
    return store


def test_every_number_of_a_blob_counts(with_blob):
    data = vars(with_blob)["additional_stores"]["data"]
    blob = data.query_one()
    for path in leaves(blob):
        if path[0] in ("_id", "@module", "@class", "@version", "blob_uuid"):
            continue
        with flip(blob, path):
            data._coll.replace_one({"_id": blob["_id"]}, copy.deepcopy(blob))
        report = verify(with_blob)
        assert not report.sound, path
        data._coll.replace_one({"_id": blob["_id"]}, blob)
    assert verify(with_blob).findings == []


def test_a_lost_blob_and_one_that_nobody_names(with_blob):
    data = vars(with_blob)["additional_stores"]["data"]
    blob = data.query_one()
    data.update([{**blob, "_id": "other", "blob_uuid": "other"}])
    (finding,) = verify(with_blob).findings
    assert (finding.problem, finding.collection, finding.id) == ("orphaned", "data", "other")
    data.remove_docs({"blob_uuid": blob["blob_uuid"]})
    assert ("missing", "data", blob["blob_uuid"]) in {
        (f.problem, f.collection, f.id) for f in verify(with_blob).findings
    }


def test_jobs_of_others_are_unverifiable():
    store = JobStore(MemoryStore())
    store.connect()
    store.update({"uuid": "1", "index": 1, "output": {"x": 1.0}})
    (finding,) = verify(store).findings
    assert (finding.problem, finding.id) == ("unverifiable", "1/1")
    assert verify(store).sound


def test_an_empty_store_is_sound(tmp_path):
    store = JobStore(EmbeddedStore("jobs", str(tmp_path)))
    store.connect()
    assert verify(store).sound


@given(
    st.recursive(
        st.integers() | st.floats() | st.text() | st.none(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)
    )
)
def test_nothing_differs_from_itself(value):
    assert first_difference(value, copy.deepcopy(value)) is None


def test_the_first_difference_is_named():
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a.1.b"
    assert first_difference({"a": 1}, {"a": 1.0}) == "a"
    assert first_difference({"a": [1]}, {"a": [1, 2]}) == "a.1"
    assert first_difference({"a": 1}, {"b": 1}) == "a"
