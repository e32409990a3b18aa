"""Jobs are given files and folders in full, and no science depends on where a command stood."""

import json
import os
from pathlib import Path

import pytest
from jobflow import run_locally
from pymatgen.entries.computed_entries import ComputedEntry

from dao_flows.makers.compare_stages import CompareStagesMaker
from dao_flows.makers.crosscheck import CrossCheckMaker
from dao_flows.makers.evaluate import EvaluateMaker
from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.ingest import IngestMaker
from dao_flows.makers.label import LabelMaker, MergeLabelsMaker, label_jobs
from dao_flows.makers.machine.environment import FOLDERS, check_environment, environment_in_full
from dao_flows.makers.machine.places import LIBRARY, maker_in_full, reference, source, told
from dao_flows.makers.merge import MergeShardsMaker
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.predict import PredictFlowMaker
from dao_flows.makers.pretrain import PretrainFlowMaker
from dao_flows.makers.relax_dataset import RelaxDatasetMaker, relax_jobs
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.train import TrainMaker
from dao_flows.makers.verify import VerifyMaker, verify_screening

RELATIVE = ("./mine", "data/x", "out", "entries.json", "~/judge")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with an entry file, where a user stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "entries.json").write_text(json.dumps([ComputedEntry("Si", -5.0).as_dict()]))
    return tmp_path


def strings(value):
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


JOBS = {
    "generate": lambda: GenerateMaker(checkpoint="./mine", predictor="~/judge").make("Si"),
    "screen": lambda: ScreenMaker(predictor="~/judge").make(None),
    "evaluate": lambda: EvaluateMaker(predictor=Path("~/judge")).make(Path("./mine"), "data/x"),
    "evaluate, by name": lambda: EvaluateMaker().make(checkpoint="./mine", data=Path("data/x"), predictor="~/judge"),
    "train": lambda: TrainMaker(start="./mine", config={"judge": "~/judge"}).make("data/x"),
    "ingest": lambda: IngestMaker(held_out=["data/x?split=val"]).make(["data/x", "mp:?elements=N"], "out"),
    "relax": lambda: RelaxDatasetMaker(predictor="~/judge").make("data/x", 0, "out"),
    "relax all": lambda: relax_jobs("data/x", "out", RelaxDatasetMaker(predictor="./mine"), predictor="~/judge"),
    "merge": lambda: MergeShardsMaker().make("data/x", [], "out"),
    "label": lambda: LabelMaker().make("data/x", 0, "out"),
    "label all": lambda: label_jobs("data/x", "out", LabelMaker()),
    "merge labels": lambda: MergeLabelsMaker().make("data/x", [], "out"),
    "cross-check": lambda: CrossCheckMaker().make("data/x", {"path": "/data/y"}),
    "compare": lambda: CompareStagesMaker().make([], [], "out"),
    "verify": lambda: verify_screening(None, VerifyMaker(reference="entries.json?code=abinit")),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_made_by_hand_names_its_files_in_full(here, name):
    held = json.loads(json.dumps(JOBS[name]().as_dict(), default=str))
    found = set(strings({key: held[key] for key in ("function", "function_args", "function_kwargs")}))
    assert not [text for text in found if text.startswith(RELATIVE)]
    assert any(text.startswith(str(here)) for text in found)
    assert name != "ingest" or "mp:?elements=N" in found


def test_a_flow_made_by_hand_names_its_files_in_full(here):
    generate, screen = GenerateMaker(checkpoint="./mine"), ScreenMaker(predictor="./judge")
    predict = PredictFlowMaker(generate=generate, screen=screen, verify=VerifyMaker(reference="entries.json"))
    flows = [predict.make("Si")]
    flows.append(PretrainFlowMaker(relax=RelaxDatasetMaker(predictor="./mine")).make(["data/x"], "out", "data/x"))
    for flow in flows:
        for job, _ in flow.iterflow():
            held = json.loads(json.dumps(job.as_dict(), default=str))
            assert not [text for text in strings(held) if text.startswith(RELATIVE)], job.name


def test_the_users_own_pseudopotentials_go_along_in_full(here):
    pytest.importorskip("atomate2")
    from atomate2.abinit.jobs.core import StaticMaker
    from atomate2.abinit.sets.core import StaticSetGenerator

    (here / "Si.psp8").write_text("x")
    given = StaticMaker(input_set_generator=StaticSetGenerator(pseudos=["Si.psp8", "a-table:of-abipy"]))
    steps = maker_in_full(VerifyMaker(steps={"static": given, "relax": None})).steps
    assert steps["static"].input_set_generator.pseudos == [str(here / "Si.psp8"), "a-table:of-abipy"]
    assert given.input_set_generator.pseudos == ["Si.psp8", "a-table:of-abipy"]


def test_a_reference_set_is_the_same_science_wherever_its_file_lies(here, monkeypatch):
    (here / "below").mkdir()
    (here / "below" / "entries.json").write_bytes((here / "entries.json").read_bytes())
    first = told("entries.json?code=abinit")
    assert first.startswith("entries.json?code=abinit sha256:") and str(here) not in first
    assert told(reference("entries.json?code=abinit")) == first
    monkeypatch.chdir(here / "below")
    assert told("entries.json?code=abinit") == first
    Path("entries.json").write_text("[]")
    assert told("entries.json?code=abinit") != first
    assert told("nowhere/x.json") == "x.json"
    for query in ("store:", "mp:Li-O"):
        assert told(query) == reference(query) == query


def test_sources_that_are_no_files_stay_as_they_are(here):
    for query in ("mp:?elements=N", 'optimade:alexandria?filter=elements HAS "O"' + " " * 400, "store:"):
        assert source(query) == query
    (here / "odd?name.csv").touch()
    assert source("odd?name.csv") == str(here / "odd?name.csv")
    assert source("val.csv?split=val//x") == f"{here}/val.csv?split=val//x"
    assert source("val.csv", "/data") == "/data/val.csv"


def test_libraries_that_are_paths_are_told_from_names(here):
    (here / "ours").mkdir()
    (here / "ours" / "index.json").touch()
    named = ["known", "ours", "./not-there", Path("~/x"), "0123456789abcdef", None]
    full = ["known", f"{here}/ours", f"{here}/not-there", f"{here}/x", "0123456789abcdef", None]
    assert LIBRARY(named) == full


def test_within_a_job_folders_are_named_in_full_or_refused(here, monkeypatch, job_store, tiny_library):
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", "runs")
    monkeypatch.setenv("PATH", f"bin:{here}")
    with environment_in_full():
        check_environment()
        assert os.environ["DAO_FLOWS_RUN_DIR"] == str(here / "runs")
        assert os.environ["PATH"] == f"{here}/bin:{here}"
    assert os.environ["DAO_FLOWS_RUN_DIR"] == "runs"
    job = GenerateMaker(checkpoint="dao-g-tiny", steps=2, candidates=1, z=1).make("Si")
    with pytest.raises(ParameterError, match="DAO_FLOWS_RUN_DIR is 'runs': name it in full"):
        run_locally(job, store=job_store, raise_immediately=True)
    for name in FOLDERS:
        monkeypatch.setenv(name, "~/x")
    check_environment()
