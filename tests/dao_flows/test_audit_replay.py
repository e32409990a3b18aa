"""Replay: every stage comes out again bit for bit, in other processes too; what was changed or is gone is told."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dao_flows.api.predict import predict
from dao_flows.audit.graph.from_store import build
from dao_flows.audit.replay.replay import Options, replay
from dao_flows.makers.jobs.provenance import content_hash, digest
from dao_flows.store.stores import collection, job_store

FORCE_FIELD = find_spec("chgnet") is not None
STAGES = {
    *("IngestMaker", "TrainMaker", "RelaxDatasetMaker", "MergeShardsMaker", "EvaluateMaker", "CompareStagesMaker"),
    *("GenerateMaker", "ScreenMaker"),
    *({"CalculateMaker", "VerifyMaker", "LabelMaker", "MergeLabelsMaker"} if FORCE_FIELD else ()),
}


@pytest.fixture
def jobs(audited):
    return job_store()


@pytest.fixture
def id_of(jobs):
    """An id of the first document of a kind."""
    graph = build(jobs)
    return lambda kind: next(f"{node[0]}:{node[1]}" for node in graph.nodes if node[0] == kind)


def alter(jobs, name, change):
    """Change the output of the job whose document has this class."""
    document = next(iter(jobs.docs_store.query({"output.@class": name})))
    change(document["output"])
    jobs.docs_store.update([document], key=["uuid", "index"])
    return document["uuid"]


def test_all_stages_of_a_run_are_identical(jobs, id_of):
    before = jobs.count()
    found = replay(jobs, id_of("run"), Options(dft=True, yes=True))
    told = {step.maker: (step.outcome, step.how, step.first, step.reason) for step in found.steps}
    assert set(told) == STAGES
    assert set(told.values()) == {("identical", "run", None, None)}
    assert all(step.replayed_science_hash == step.science_hash for step in found.steps)
    assert jobs.count() == before  # nothing of it is in the user's store


def test_identical_in_another_process(audited, id_of):
    """Another hash seed, another number of threads to begin with."""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"}
    program = "from dao_flows.cli import main; main()"
    for kind in ("candidate", "relaxation"):
        command = [sys.executable, "-W", "ignore", "-c", program, "audit", "replay", id_of(kind), "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["outcome"] == "identical"
        expected = ["GenerateMaker", "ScreenMaker"] if kind == "candidate" else ["RelaxDatasetMaker"]
        assert [step["maker"] for step in found["steps"]] == expected


def test_identical_with_another_number_of_workers(jobs, id_of, monkeypatch):
    """The dataset has more rows than one process cleans alone."""
    from joblib import cpu_count

    if cpu_count() == 1:
        pytest.skip("one core alone: there are no workers")
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert cpu_count() == 1
    assert replay(jobs, id_of("ingestion")).outcome == "identical"


def test_identical_in_other_batches(jobs):
    """A candidate is the same bit for bit, drawn among others and with fewer of its own."""
    from dao_flows.makers.generate import GenerateMaker

    settings = {"checkpoint": "artist", "predictor": "judge", "z": 2, "steps": 4, "device": "cpu"}
    stored = next(iter(jobs.query({"output.@class": "GenerationDoc"})))["output"]["candidates"]
    structures = {each["candidate_id"]: each["structure"] for each in stored}
    make = GenerateMaker.make.__wrapped__
    for compositions, candidates in ((["LiF", "NaCl"], 3), ("NaCl", 1)):
        job = make(GenerateMaker(candidates=candidates, **settings), compositions)
        drawn = [each for each in job.run(_memory()).output.candidates if each.formula == "NaCl"]
        assert len(drawn) == candidates
        for each in drawn:
            again = each.structure.as_dict()
            assert again["lattice"]["matrix"] == structures[each.candidate_id]["lattice"]["matrix"]
            assert [s["abc"] for s in again["sites"]] == [s["abc"] for s in structures[each.candidate_id]["sites"]]


def _memory():
    from jobflow import JobStore
    from maggma.stores import MemoryStore

    store = JobStore(MemoryStore())
    store.connect()
    return store


@pytest.mark.parametrize(
    ("name", "change", "path"),
    [
        (
            "GenerationDoc",
            lambda d: d["candidates"][1]["structure"]["lattice"]["matrix"][0].__setitem__(0, 9.0),
            "candidates.1.structure.lattice.matrix.0.0",
        ),
        ("TrainingDoc", lambda d: d["loss_curve"][0].__setitem__("coordinate", 2.5), "loss_curve.0.coordinate"),
        ("RelaxationDoc", lambda d: d["outcomes"].__setitem__("relaxed", 99), "outcomes.relaxed"),
        ("EvaluationDoc", lambda d: d["all"].__setitem__("match_rate", 0.75), "all.match_rate"),
    ],
)
def test_a_changed_figure_is_found_and_named(audited, jobs, call, name, change, path):
    uuid = alter(jobs, name, change)
    code, out, err = call("audit", "replay", uuid)
    assert code == 1, out + err
    assert path in out
    assert "different" in out


def test_a_change_within_the_tolerance_is_told(audited, jobs):
    def nudge(document):
        document["candidates"][0]["structure"]["lattice"]["matrix"][0][0] += 1e-6
        document["provenance"]["execution"]["code_sha256"] = None  # who edits while tests run has another

    found = replay(jobs, alter(jobs, "GenerationDoc", nudge))
    (step,) = found.steps
    assert (step.recomputed, step.first.path) == ("equal", "candidates.0.structure.lattice.matrix.0.0")
    assert (found.outcome, step.own.path) == ("different", "candidates")  # somebody altered it, however little
    assert step.largest["lattice"] == pytest.approx(1e-6, rel=1e-3)
    assert "audit verify" in step.note  # on the same machine it should be identical


@pytest.mark.parametrize("seconds", [(2.0, 1.0), (1.0, 2.0)])
def test_what_bf16_auto_came_to_is_replayed_and_not_measured_again(workplace, call_takes, seconds):
    timed = call_takes(*seconds)
    predict("NaCl", n=2, z=2, steps=4, bf16="auto")
    assert len(timed) == 1
    timed = call_takes(*reversed(seconds))
    found = replay(job_store(), next(iter(job_store().query({"output.@class": "GenerationDoc"})))["uuid"])
    assert (found.outcome, timed) == ("identical", [])
    assert found.steps[0].replayed_science_hash == found.steps[0].science_hash


def test_science_that_was_altered(audited, jobs, call):
    def lie(document):
        document["provenance"]["science"]["seed"] = 5

    code, out, _ = call("audit", "replay", alter(jobs, "GenerationDoc", lie))
    assert (code, "provenance.science_hash" in out) == (1, True)


@pytest.mark.skipif(not FORCE_FIELD, reason="no force field is installed")
def test_a_calculation_is_compared_by_what_went_in_and_came_out(audited, jobs, id_of, call):
    code, out, _ = call("audit", "replay", id_of("calculation"))
    assert (code, "by inputs and outputs" in out, "--dft" in out) == (0, True, True)

    def warm(document):
        document["energy_per_atom"] += 0.5

    code, out, _ = call("audit", "replay", alter(jobs, "CalculationDoc", warm))
    assert (code, "energy_per_atom" in out) == (1, True)


@pytest.mark.skipif(not FORCE_FIELD, reason="no force field is installed")
def test_a_maker_of_ones_own_is_replayed_where_its_module_is_trusted(audited, jobs, call, monkeypatch, tmp_path):
    (tmp_path / "lab_makers.py").write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\n"
        "from atomate2.forcefields.jobs import ForceFieldRelaxMaker\n"
        f"Path({str(tmp_path / 'imported')!r}).touch()\n\n"
        "@dataclass\nclass LabMaker(ForceFieldRelaxMaker):\n    own: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def by_another_maker(document):
        science = document["provenance"]["science"]
        science["parameters"]["calculator"] = "lab_makers.LabMaker"
        science["parameters"]["settings"] |= {"@module": "lab_makers", "@class": "LabMaker", "own": 1}
        document["provenance"]["science_hash"] = digest(science)
        document["provenance"]["content_hash"] = content_hash(document)

    uuid = alter(jobs, "CalculationDoc", by_another_maker)
    collection(jobs, "runs").remove_docs({"job_uuid": uuid})  # whose record would say that this is another document
    for options in ([], ["--dft"], ["--dft", "--trust", "lab_maker"], ["--dft", "--trust", "os"]):
        code, _, err = call("audit", "replay", uuid, *options)
        assert (code, err.count("\n"), "--trust lab_makers" in err) == (2, 1, True)
        assert not (tmp_path / "imported").exists()
    code, out, err = call("audit", "replay", uuid, "--dft", "--trust", "another", "--trust", "lab_makers")
    assert (code, (tmp_path / "imported").exists()) == (0, True), out + err


def test_what_cannot_be_replayed_says_why(audited, jobs, id_of, call, monkeypatch, tmp_path):
    for arguments, said in ((["nothing-of-the-kind"], "nothing in the store has the id"), (["reference:x"], "nothing")):
        code, _, err = call("audit", "replay", *arguments)
        assert (code, said in err, "Traceback" in err) == (2, True, False)
    lonely = tmp_path / "library"
    lonely.mkdir()
    wanted = id_of("generation")
    library = Path(os.environ["DAO_FLOWS_CHECKPOINT_DIR"])
    monkeypatch.setenv("DAO_FLOWS_CHECKPOINT_DIR", str(lonely))

    def elsewhere(document):
        document["path"] = "/gone"

    for job in list(jobs.docs_store.query({"output.@class": "TrainingDoc"})):
        elsewhere(job["output"])
        jobs.docs_store.update([job], key=["uuid", "index"])
    code, out, err = call("audit", "replay", wanted)
    assert (code, "--from" in err, "not replayed" in out) == (2, True, True)
    moved = tmp_path / "moved"
    shutil.copytree(library, moved)
    code, out, err = call("audit", "replay", wanted, "--from", str(moved))
    assert code == 0, out + err


def test_what_takes_long_is_confirmed(audited, jobs, id_of, call):
    def slow(document):
        document["wall_time_s"] = 3000.0

    uuid = alter(jobs, "TrainingDoc", slow)
    code, _, err = call("audit", "replay", uuid)
    assert (code, "50 min" in err, "--yes" in err) == (2, True, True)


def test_another_version_of_the_code_is_told(audited, jobs, id_of, monkeypatch):
    """The science hash differs with the version; the content may still be the same, ids of candidates aside."""
    from dao_flows.makers import generate, screen

    monkeypatch.setattr(generate, "__version__", "9.9")
    monkeypatch.setattr(screen, "__version__", "9.9")
    found = replay(jobs, id_of("candidate"))
    assert [step.outcome for step in found.steps] == ["identical", "identical"]
    assert all(step.replayed_science_hash != step.science_hash for step in found.steps)
