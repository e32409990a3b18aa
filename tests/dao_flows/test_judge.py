"""A judge in predictions, from the default to the replay: a real force field, wherever one is installed."""

import json
from importlib.util import find_spec

import pytest

from dao_flows.api.predict import predict
from dao_flows.api.prediction import makers
from dao_flows.api.prediction.inputs import Entry
from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.audit.replay.replay import replay
from dao_flows.launch.flows import predict_flows
from dao_flows.makers.jobs.provenance import content_hash, digest
from dao_flows.makers.models import atomate
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.screening import judge
from dao_flows.settings import settings
from dao_flows.store.candidates import find
from dao_flows.store.stores import collection, job_store

pytestmark = pytest.mark.skipif(
    not (find_spec("atomate2") and find_spec("chgnet")), reason="needs dao-flows[forcefields]"
)
ASKED = {"n": 4, "z": 2, "steps": 4}
PREDICT = ("predict", "NaCl", "-n", "4", "--z", "2", "--steps", "4")


def science_of() -> dict:
    """Of the latest screening."""
    found = job_store().query({"output.@class": "ScreeningDoc"}, sort={"completed_at": -1})
    return next(iter(found))["output"]["provenance"]["science"]


@pytest.fixture
def judged(workplace, monkeypatch):
    """The working directory of a user who has predicted once, with all defaults."""
    monkeypatch.delenv("DAO_FLOWS_JUDGE")
    assert predict("NaCl", **ASKED).compositions[0].ranked
    return workplace


def test_by_default_chgnet_judges_where_it_is_installed(workplace, call, monkeypatch):
    monkeypatch.delenv("DAO_FLOWS_JUDGE")
    code, out, err = call(*PREDICT, "--out", "cif")
    assert code == 0, err
    assert "CHGNet" in out
    assert "CHGNet will run" not in out + err
    told = science_of()["parameters"]
    assert (told["judge"], told["judge_steps"], told["rank_by"]) == ("CHGNet", 0, "both")
    [run] = collection(job_store(), "runs").query({"event": "start"})
    assert (run["request"]["judge"], run["request"]["rank_by"]) == ("CHGNet", "both")
    first = collection(job_store(), "candidates").query_one({"rank": 1})
    shown = call("show", first["candidate_id"])[1]
    energy = f"{first['judgement']['value']:.4f} eV/atom by CHGNet"
    assert "total energy" in shown
    assert energy in shown
    assert f"total energy {energy}" in next((workplace / "cif").glob("*_01_*")).read_text()
    assert json.loads(call("list", "--json")[1])[0]["judgement"]["quantity"] == "energy_per_atom"


def test_another_ranking_or_none_needs_no_judge(workplace, call, monkeypatch):
    monkeypatch.setenv("DAO_FLOWS_JUDGE", "CHGNet")
    for options, by, rank_by in (
        (("--judge", "none"), None, "agreement"),
        (("--judge", "auto", "--rank-by", "energy"), None, "energy"),
        (("--rank-by", "judge", "--judge-steps", "2"), "CHGNet", "judge"),
    ):
        code, _, err = call(*PREDICT, *options)
        assert code == 0, err
        told = science_of()["parameters"]
        assert (told.get("judge"), told["rank_by"]) == (by, rank_by)
    assert told["judge_steps"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--judge", "os.system"), "no force field 'os.system'"),
        (("--judge", "none", "--rank-by", "judge"), "rank_by 'judge' needs a judge"),
        (("--judge", "none", "--judge-steps", "5"), "judge_steps"),
    ],
)
def test_what_cannot_judge_is_one_line(workplace, call, options, said):
    code, out, err = call(*PREDICT, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert job_store().count() == 0


def test_a_judged_screening_is_replayed_bit_for_bit(judged, call):
    identifier = collection(job_store(), "candidates").query_one({"rank": 1})["candidate_id"]
    code, out, err = call("audit", "replay", identifier)
    assert code == 0, out + err
    assert out.count("identical, bit for bit") == 3
    assert call("audit", "verify", "--all")[0] == 0


def test_another_version_of_the_judge_is_told(judged, monkeypatch):
    monkeypatch.setattr(atomate, "package_version", lambda name: "9.9")
    judge.opened.cache_clear()
    identifier = collection(job_store(), "candidates").query_one({"rank": 1})["candidate_id"]
    _, screening = replay(job_store(), identifier).steps
    assert screening.outcome == "identical"
    assert screening.replayed_science_hash != screening.science_hash
    assert [change.what for change in screening.changes] == ["judge_version"]


def test_a_judge_that_is_not_installed_any_more_is_told(judged, monkeypatch):
    def gone(name: str) -> str:
        raise ParameterError(f"the package of the force field {name} is not installed")

    monkeypatch.setattr(atomate, "package_version", gone)
    identifier = collection(job_store(), "candidates").query_one({"rank": 1})["candidate_id"]
    _, screening = replay(job_store(), identifier).steps
    assert (screening.outcome, "CHGNet is not installed" in screening.reason) == ("not replayed", True)


def test_a_record_names_no_force_field_that_is_not_on_the_list(judged, monkeypatch, tmp_path):
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'called')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    jobs = job_store()
    document = next(iter(jobs.docs_store.query({"output.@class": "ScreeningDoc"})))
    document["output"]["provenance"]["science"]["parameters"]["judge"] = "planted.call"
    held = document["output"]["provenance"]
    held["science_hash"] = digest(held["science"])
    held["content_hash"] = content_hash(document["output"])
    jobs.docs_store.update([document], key=["uuid", "index"])
    [step] = replay(jobs, document["uuid"]).steps
    assert (step.recomputed, "no force field 'planted.call'" in (step.reason or "")) == (None, True)
    assert not (tmp_path / "called").exists()


def test_a_judged_result_is_reused_and_another_judge_is_another_science(judged):
    assert predict("NaCl", **ASKED, reuse=True).reused_batches == 1
    assert predict("NaCl", **ASKED, reuse=True, judge="none").reused_batches == 0
    assert predict("NaCl", **ASKED, reuse=True, judge="CHGNet", judge_steps=1).reused_batches == 0
    assert predict("NaCl", **ASKED, reuse=True, judge="CHGNet").reused_batches == 1


def test_what_is_submitted_is_what_a_local_command_computes(judged):
    [flow] = predict_flows([Entry("NaCl")], settings(), PredictionRequest(**ASKED))
    assert (
        flow.key
        == next(iter(job_store().query({"output.@class": "ScreeningDoc"})))["output"]["provenance"]["science_hash"]
    )
    [other] = predict_flows([Entry("NaCl")], settings(), PredictionRequest(**ASKED, judge="none"))
    assert other.key != flow.key


def test_a_judged_candidate_goes_through_a_crate(judged, call, tmp_path, monkeypatch):
    pytest.importorskip("rocrate", reason="exporting needs the extra `crates`")
    identifier = collection(job_store(), "candidates").query_one({"rank": 1})["candidate_id"]
    before = find(collection(job_store(), "candidates"), identifier)
    assert before.judgement is not None
    code, _, err = call("export-crate", identifier, str(tmp_path / "crate.zip"))
    assert code == 0, err
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "elsewhere"))
    code, _, err = call("import-crate", str(tmp_path / "crate.zip"))
    assert code == 0, err
    assert find(collection(job_store(), "candidates"), identifier) == before
    assert replay(job_store(), identifier).outcome == "identical"


def test_the_judge_is_chosen_when_the_maker_is_built(workplace, monkeypatch):
    monkeypatch.setattr(makers, "chosen", lambda judge, rank_by: ("CHGNet", "judge"))
    [flow] = predict_flows([Entry("NaCl")], settings(), PredictionRequest(**ASKED))
    maker = flow.flow.jobs[1].maker
    assert (maker.judge, maker.rank_by) == ("CHGNet", "judge")
