"""Where a command stands decides what relative paths mean, and nothing else, to its end."""

import json
import os
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from dao_flows.api.predict import predict
from dao_flows.api.prediction.inputs import Entry
from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.api.pretrain import read_config
from dao_flows.audit.replay.materials import Materials
from dao_flows.errors import InputError
from dao_flows.launch.flows import pinned, predict_flows, verify_flows
from dao_flows.launch.project import Project, contents
from dao_flows.launch.remote import project_document
from dao_flows.makers.machine.places import told
from dao_flows.makers.schemas.prediction import CandidateDoc
from dao_flows.makers.stages.rebuilding import Recorded, ReplayError
from dao_flows.makers.stages.verification import reference_file
from dao_flows.makers.verify import VerifyMaker
from dao_flows.settings import settings
from dao_flows.store.embedded import EmbeddedStore
from dao_flows.store.stores import collection, job_store

chgnet = pytest.mark.skipif(find_spec("chgnet") is None, reason="CHGNet is not installed")
NACL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
LEVEL = {"code": "CHGNet", "functional": "CHGNet"}


@pytest.fixture
def known(stored, tmp_path, monkeypatch) -> Path:
    """A folder with reference entries, where a user stands whose store has a candidate of NaCl."""
    like = CandidateDoc.model_validate(collection(job_store(), "candidates").query_one({"formula": "NaCl"}))
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "data"))
    document = like.model_copy(update={"candidate_id": "dao-a00000000001", "structure": NACL, "n_atoms": len(NACL)})
    held = {"_id": document.candidate_id, **json.loads(document.model_dump_json())}
    collection(job_store(), "candidates").update([held], key="candidate_id")
    work = tmp_path / "here"
    work.mkdir()
    monkeypatch.chdir(work)
    entries = [ComputedEntry(f, e, parameters=LEVEL) for f, e in (("Na", -1.3), ("Cl2", -3.6), ("NaCl", -6.8))]
    (work / "entries.json").write_text(json.dumps([entry.as_dict() for entry in entries]))
    return work


@chgnet
def test_a_relative_reference_and_run_folder_are_those_of_the_command(known, call, monkeypatch):
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", "runs")
    documents = {}
    for name in ("entries.json", f"{known}/entries.json"):
        code, out, err = call("verify", "dao-a0", "--reference", name, "--json")
        assert code == 0, err
        (documents[name],) = json.loads(out)["verifications"]
        assert documents[name]["hull"]["energy_above_hull"] is not None and documents[name]["error"] is None
    relative, full = documents.values()
    for document in (relative, full):
        assert document["provenance"]["execution"]["checkpoints"] == {"reference": str(known / "entries.json")}
        told = document["provenance"]["science"]["parameters"]["reference"]
        assert told.startswith("entries.json sha256:") and str(known) not in json.dumps(
            document["provenance"]["science"]
        )
        for step in document["calculations"]:
            folder = Path(step["directory"].partition(":")[2])
            assert folder.is_relative_to(known / "runs") and list(folder.iterdir())
    assert relative["verification_id"] == full["verification_id"]
    assert relative["provenance"]["science_hash"] == full["provenance"]["science_hash"]


def test_a_replay_finds_the_file_of_a_reference_set_where_it_lay_or_by_its_content(tmp_path, jobs):
    path = tmp_path / "entries.json"
    path.write_text("[]")
    science = told(f"{path}?code=abinit")
    recorded = Recorded({"provenance": {"execution": {"checkpoints": {"reference": f"{path}?code=abinit"}}}})
    assert reference_file(science, recorded, Materials(jobs)) == f"{path}?code=abinit"
    assert reference_file("/old/entries.json", recorded, Materials(jobs)) == "/old/entries.json"
    moved = tmp_path / "below" / "other.json"
    moved.parent.mkdir()
    path.rename(moved)
    with pytest.raises(ReplayError, match=r"its reference set entries\.json\?code=abinit is not here"):
        reference_file(science, recorded, Materials(jobs))
    assert reference_file(science, recorded, Materials(jobs, [moved.parent])) == f"{moved}?code=abinit"


@pytest.mark.parametrize("how", ["--checkpoint", "python", "environment", "library"])
def test_a_relative_checkpoint_is_found_where_jobs_run(workplace, tiny_checkpoints, call, monkeypatch, how):
    shutil.copytree(tiny_checkpoints / "dao-g-tiny", "lib/mine")
    options = ["predict", "NaCl", "-n", "5", "--z", "2", "--steps", "4", "--out", "cif"]
    if how == "python":
        assert predict("NaCl", n=5, z=2, steps=4, checkpoint=Path("lib/mine"), out="~/cif").compositions
        assert (Path.home() / "cif").is_dir()
        return
    if how == "--checkpoint":
        options += ["--checkpoint", "lib/mine"]
    elif how == "environment":
        monkeypatch.setenv("DAO_FLOWS_CHECKPOINT", "./lib/mine")
    else:
        shutil.copytree(tiny_checkpoints / "dao-p-tiny", "lib/dao-p-tiny")
        monkeypatch.setenv("DAO_FLOWS_CHECKPOINT_DIR", "lib")
        monkeypatch.setenv("DAO_FLOWS_CHECKPOINT", "mine")
    code, _, err = call(*options)
    assert code == 0, err


def test_a_relative_data_folder_holds_all(workplace, call, monkeypatch):
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", "here")
    assert call("predict", "NaCl", "-n", "5", "--z", "2", "--steps", "4", "--out", "cif")[0] == 0
    assert {path.stem for path in Path("here/store/dao_flows").iterdir()} >= {"jobs", "runs", "candidates"}
    store = EmbeddedStore("jobs", "elsewhere")
    assert store.database_path == str(workplace / "elsewhere")
    assert settings().data_dir == workplace / "here"


def test_what_is_submitted_names_its_files_in_full_or_not_at_all(known, tiny_checkpoints, monkeypatch):
    candidates = collection(job_store(), "candidates")
    with pytest.raises(ValueError, match=r"there is no file .*/here/no\.json"):
        verify_flows(["dao-a0"], candidates, VerifyMaker(backend="forcefield", reference="no.json"))
    verifier = VerifyMaker(backend="forcefield", reference="entries.json")
    asked = PredictionRequest(n=1, z=1, verify_with="forcefield", reference_set="entries.json")
    with pytest.raises(ValueError, match="there is no file"):
        predict_flows([Entry("NaCl")], settings(), replace(asked, reference_set="no.json"))
    planned = verify_flows(["dao-a0"], candidates, verifier)
    planned += predict_flows([Entry("NaCl")], settings(), asked)
    for each in planned:
        text = json.dumps([job.as_dict() for job, _ in each.flow.iterflow()], default=str)
        assert f'"{known}/entries.json"' in text and '"entries.json"' not in text
    keys = [each.key for each in planned]
    monkeypatch.chdir(known.parent)
    full = VerifyMaker(backend="forcefield", reference="here/entries.json")
    again = verify_flows(["dao-a0"], candidates, full)
    again += predict_flows([Entry("NaCl")], settings(), replace(asked, reference_set="here/entries.json"))
    assert [each.key for each in again] == keys
    shutil.copytree(tiny_checkpoints / "dao-g-tiny", "mine")
    assert pinned("./mine", "dao-g") == str(known.parent / "mine")  # no library holds it: no sha256 would find it
    assert len(pinned("dao-g-tiny", "dao-g")) == 64


def test_a_projects_files_name_folders_in_full(tmp_path, monkeypatch, tiny_checkpoints):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAO_FLOWS_CHECKPOINT_DIR", "lib")
    monkeypatch.setenv("DAO_FLOWS_LIBRARY_DIR", "crystals")
    monkeypatch.setenv("DAO_FLOWS_CHECKPOINT", "./mine")
    monkeypatch.setenv("DAO_FLOWS_PREDICTOR", "dao-p-flow")
    monkeypatch.setenv("DAO_FLOWS_JUDGE", "none")
    monkeypatch.setenv("DAO_FLOWS_LIBRARY", "./ours")
    files = contents(Project(Path("project"), "mongodb://host/db"))
    env = files["env.sh"][1]
    assert f"DAO_FLOWS_CHECKPOINT_DIR={tmp_path}/lib\n" in env and f"DAO_FLOWS_CHECKPOINT={tmp_path}/mine\n" in env
    assert f"DAO_FLOWS_LIBRARY_DIR={tmp_path}/crystals\n" in env and f"DAO_FLOWS_LIBRARY={tmp_path}/ours\n" in env
    assert "DAO_FLOWS_PREDICTOR=dao-p-flow\n" in env and "DAO_FLOWS_JUDGE=none\n" in env
    assert f"JOBFLOW_CONFIG_FILE={tmp_path}/project/jobflow.yaml" in env
    assert f"LAUNCHPAD_LOC: {tmp_path}/project/my_launchpad.yaml" in files["FW_config.yaml"][1]
    exported = project_document("p", "mongodb://host/db", "/work")["exec_config"]["gpu"]["export"]
    assert exported["DAO_FLOWS_CHECKPOINT_DIR"] == f"{tmp_path}/lib"
    assert exported["DAO_FLOWS_LIBRARY_DIR"] == f"{tmp_path}/crystals"
    away = project_document("p", "mongodb://host/db", "/work", host="node")["exec_config"]["gpu"]["export"]
    assert not {"DAO_FLOWS_CHECKPOINT_DIR", "DAO_FLOWS_LIBRARY_DIR"} & set(away)


def test_a_pretraining_counts_paths_from_its_file(tmp_path, monkeypatch, tiny_checkpoints):
    shutil.copytree(tiny_checkpoints / "dao-p-tiny", tmp_path / "below" / "judge")
    text = """
name: mine
sources: [data.csv, 'more.csv?split=val', 'mp:?elements=N']
out: ~/out
held_out: held
dataset: {held_out: [test.csv]}
predictor: {steps: 1, start: judge}
stage_one: {steps: 1, start: ./one, judge: dao-p-flow}
relax: {predictor: judge}
stage_two: {steps: 1}
evaluate: {predictor: judge}
"""
    path = tmp_path / "below" / "mine.yaml"
    path.write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config, here = read_config(Path("below/mine.yaml")), str(tmp_path / "below")
    assert config.sources == [f"{here}/data.csv", f"{here}/more.csv?split=val", "mp:?elements=N"]
    assert (str(config.out), str(config.held_out)) == (str(tmp_path / "out"), f"{here}/held")
    assert config.dataset["held_out"] == [f"{here}/test.csv"]
    assert config.predictor["start"] == config.relax["predictor"] == config.evaluate["predictor"] == f"{here}/judge"
    assert config.stage_one == {"steps": 1, "start": f"{here}/one", "judge": "dao-p-flow"}
    assert read_config(path) == config


def test_a_name_that_no_store_can_keep_is_refused_before_anything_runs(workplace, monkeypatch):
    with pytest.raises(ValueError, match="is not UTF-8"):
        predict("NaCl", checkpoint=os.fsdecode(b"./\xff"))
    with pytest.raises((ValueError, InputError), match="is not UTF-8"):
        predict("NaCl", verify_with="forcefield", reference_set=os.fsdecode(b"\xff.json"))
    assert not Path(settings().data_dir, "runs").exists()
