"""Rounds on a handful of metals, with a cheap teacher: whole, killed, stopped, audited, replayed and misconfigured."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel
from pymatgen.core import Element

from dao_flows.api.rounds.improve import improve, read_config
from dao_flows.launch.flows import improve_flows
from dao_flows.launch.routes import apply_routes, defaults
from dao_flows.makers.models.energy_model import GROUP
from dao_flows.makers.rounds.rows import formula_of_numbers
from dao_flows.makers.schemas.prediction import GenerationDoc
from dao_flows.makers.schemas.rounds import (
    CandidateSetDoc,
    ExtendedDatasetDoc,
    ProposalDoc,
    RoundDoc,
    RoundsDoc,
    Standing,
)
from dao_flows.makers.schemas.training import TrainingDoc
from dao_flows.model.checkpoint.library import card_of
from dao_flows.model.data.shards import dataset_rows
from dao_flows.model.files.user_folders import CHECKPOINTS
from dao_flows.store.stores import job_store

pytest.importorskip("ase.calculators.emt")

ROOT = Path(__file__).parents[2]
EMT = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.S)[1]
EXAMPLE = ROOT / "examples" / "improve_small.yaml"
TRAINING = {"steps": 8, "batch_size": 16, "rate": 2e-3, "warm_up": 4, "save_every_s": 0, "threads": 1}
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "sources": ["metals.parquet"],
    "device": "cpu",
    "rounds": 2,
    "dataset": {"val_share": 0.2},
    "network": {"hidden": 8, "layers": 1, "heads": 2, "frequencies": 2, "time_width": 8, "volume_scaling": True},
    "generator": TRAINING | {"max_energy": 1.0},
    "predictor": TRAINING,
    "teacher": "emt",
    "propose": {"known": 4, "new": 2, "max_atoms": 4},
    "generate": {"candidates": 4, "templates": 1, "steps": 4, "max_atoms": 4},
    "label": {"steps": [0, 2], "chunk_rows": 10},
    "relax": {"iterations": 2, "chunk_rows": 10},
    "choose": {"bound": 1.0, "per_formula": 2},
    "cross_check": {"sample": 4},
    "evaluate": {"steps": 3, "chunk": 4},
    "min_gain": -1.0,  # so that every round is kept
}
PATIENCE = 240.0
FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
SIZE = {"Cu": 3.6, "Ag": 4.1, "Au": 4.1, "Ni": 3.5, "Pd": 3.9, "Pt": 3.9}  # Å, cubic


def metals() -> list[dict[str, Any]]:
    """Six metals and their ordered alloys A3B, with energies above hull that are known for most."""
    rows = []
    cells = [([a] * 4) for a in SIZE]
    cells += [[a, b, b, b] for a, b in permutations(SIZE, 2)]
    for number, cell in enumerate(cells):
        a = float(np.mean([SIZE[each] for each in cell]))
        rows.append(
            {
                "material_id": f"metal-{number}",
                "numbers": [Element(each).Z for each in cell],
                "lattice": (a * np.eye(3)).ravel().tolist(),
                "frac": np.ravel(FCC).tolist(),
                "e_above_hull": None if number % 9 == 8 else 0.02 * (number % 5),
            }
        )
    return rows


@pytest.fixture
def place(workplace, monkeypatch, tmp_path, install) -> Path:
    """A workplace with the metals and the energy model `emt`, in this process and in others."""
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "checkpoints"))
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    install("lab_emt_model", EMT, f"[{GROUP}]\nemt = lab_emt_model:Emt\n")
    pq.write_table(pa.Table.from_pylist(metals()), workplace / "metals.parquet")
    return workplace


@pytest.fixture
def write(place) -> Callable[..., Path]:
    """Writes the configuration with changes: a key set to `...` is left out."""

    def write(**changes: Any) -> Path:
        content = {key: value for key, value in (CONFIG | changes).items() if value is not ...}
        path = place / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def documents(kind: type[BaseModel]) -> list[Any]:
    """All documents of a class in the store."""
    found = job_store().query({"output.@class": kind.__name__}, properties=["output"], load=True)
    return [kind.model_validate(each["output"]) for each in found]


def sha256s(standing: Standing) -> list[str]:
    """What a standing is, wherever it lies."""
    return [each.sha256 for each in (standing.dataset, standing.generator, standing.predictor, *standing.labels)]


def test_killed_and_finished_as_if_nothing_had_been(write, tmp_path, call, start, monkeypatch):
    """Two rounds, killed in the first one; and one that stops, for it is not better, with the same checkpoints."""
    runs, config = tmp_path / "runs", str(write())
    process = start("improve", config)
    wait_for(runs, "improve-tiny/round-1/labels/*.parquet", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert not list(runs.glob("improve-tiny/round-1/dataset/manifest.json"))
    code, out, err = call("improve", config, "--json")
    assert code == 0, err
    assert "2 rounds at most, each 6 formulas with 24 candidates" in err
    document = RoundsDoc.model_validate_json(out)
    assert [(each.round, each.kept) for each in document.rounds] == [(1, True), (2, True)]
    one, two = document.rounds
    assert two.before == one.after
    assert document.standing == two.after
    check_the_chain(document)
    code, out, err = call("audit", "verify", "--all")
    assert code == 0, out + err
    code, out, err = call("audit", "graph", two.after.dataset.sha256, "--direction", "back")
    assert code == 0, err
    for told in (
        "proposal of round 1",
        "choice of round 2",
        "generation of",
        "labelled shard 0",
        "building of a dataset",
    ):
        assert told in out
    for kind in (ProposalDoc, CandidateSetDoc, ExtendedDatasetDoc, RoundDoc, RoundsDoc):
        code, out, err = call("audit", "replay", str(documents(kind)[0].provenance.execution.job_uuid))
        assert (code, "identical" in out) == (0, True), f"{kind.__name__}: {out}{err}"
    code, out, err = call("export-crate", one.after.generator.sha256, "rounds.zip")
    assert code == 0, err
    with monkeypatch.context() as patch:
        patch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "elsewhere"))
        assert call("import-crate", "rounds.zip")[0] == 0
        code, out, err = call("audit", "verify", "--all")
        assert code == 0, out + err
    with monkeypatch.context() as patch:
        patch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "calm"))
        patch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "calm data"))
        stopped = improve(read_config(write(min_gain=1.0)))
    assert [(each.round, each.kept, each.registered) for each in stopped.rounds] == [(1, False, [])]
    assert stopped.standing == stopped.rounds[0].before
    assert sha256s(stopped.rounds[0].before) == sha256s(one.before)
    assert sha256s(stopped.rounds[0].after) == sha256s(one.after)


def check_the_chain(document: RoundsDoc) -> None:
    """Every crystal that joined says where it comes from, and checkpoints say what they were trained on."""
    one, two = document.rounds
    assert two.registered == ["tiny-dao-g", "tiny-dao-p"]
    generator, predictor = (card_of(name) for name in two.registered)
    assert (generator.sha256, predictor.sha256) == (two.after.generator.sha256, two.after.predictor.sha256)
    assert (generator.parent, predictor.parent) == (one.after.generator.sha256, one.after.predictor.sha256)
    assert generator.training["data"]["sha256"] == two.after.dataset.sha256
    judges = {each.provenance.science.checkpoints.get("judge") for each in documents(TrainingDoc)}
    assert judges == {None, one.after.predictor.sha256, two.after.predictor.sha256}
    rows = {row["material_id"]: row for row in dataset_rows(Path(two.after.dataset.path))}
    first, held = dataset_rows(Path(one.before.dataset.path)), set()
    for row in first:
        assert rows[row["material_id"]]["e_above_hull"] == row["e_above_hull"]
        held |= {formula_of_numbers(row["numbers"])} if row["split"] == "val" else set()
    extended = {each.round: each for each in documents(ExtendedDatasetDoc)}
    generated = {c.candidate_id: c for each in documents(GenerationDoc) for c in each.candidates}
    for number, each in extended.items():
        assert each.chosen and each.turned_away
        for chosen in each.chosen:
            row = rows[chosen.candidate_id]
            assert (row["source"], row["round"], row["split"]) == (f"round-{number}", number, "train")
            assert (row["e_above_hull"], row["teacher"]) == (None, one.teacher)
            assert row["predicted_e_above_hull"] == chosen.predicted_e_above_hull <= 1.0
            origin = generated[chosen.candidate_id].origin
            assert row["template"] == (origin.told() if origin is not None and origin.kind != "drawn" else None)
            assert chosen.formula not in held
    assert {row["candidate_id"] for row in rows.values()} - {None} == {
        chosen.candidate_id for each in extended.values() for chosen in each.chosen
    }


def wait_for(folder: Path, pattern: str, process: "subprocess.Popen[str]") -> None:
    """Wait until there is such a file, which a running process makes."""
    end = time.monotonic() + PATIENCE
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a/b"}, "name: "),
        ({"rounds": 0}, "rounds: "),
        ({"generator": {}}, "generator: .*steps is missing"),
        ({"predictor": ...}, "predictor: Field required"),
        ({"measure": "luck"}, "measure: "),
        ({"measure": "stable_share"}, "name the predictor of evaluate"),
        ({"teacher": "nobody"}, "nobody"),
        ({"propose": {"knwon": 1}}, "propose: there is no setting 'knwon'; there are: known"),
        ({"generate": {"checkpoint": "dao-g-base"}}, "generate: leave checkpoint out"),
        ({"relax": {"unlabelled": False}}, "relax: leave unlabelled out"),
        ({"generate": {"candidates": 1000}}, "6000 candidates of a round are too many"),
        ({"choose": {"per_formula": 0}}, "per_formula must be at least 1"),
        ({"generator": TRAINING | {"start": "nobody"}}, "no checkpoint called 'nobody'"),
        ({"label": {"steps": [-1]}}, "steps must be"),
        ({"relax": {"low": 2}}, "the window is empty"),
        ({"cross_check": {"sample": 0}}, "sample must lie between"),
        ({"generate": {"candidates": 0}}, "candidates must be at least 1"),
        ({"propose": {"max_atoms": 5}}, "do not fit into cells of 4"),
        ({"generate": {"sampler": "euler", "max_atoms": 4}}, "learned by diffusion is not sampled by 'euler'"),
        ({"sources": ["nowhere.parquet"]}, "nowhere.parquet"),
    ],
)
def test_a_mistaken_configuration_is_refused_before_anything_runs(write, tmp_path, call, changes, says):
    code, _, err = call("improve", str(write(**changes)))
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(says, err), err
    assert not (tmp_path / "runs").exists()


def test_the_plan_runs_nothing(write, tmp_path, call):
    code, out, err = call("improve", str(write()), "--plan", "--json")
    assert code == 0, err
    (plan,) = json.loads(out)
    jobs = {job["name"]: job["jobs"] for job in plan["jobs"]}
    assert jobs == {
        **{"ingest": 1, "generate": 2, "label by emt": 2, "train DAO-P": 3, "relax": 2, "choose": 2},
        **{"train DAO-G": 3, "evaluate": 3},
    }
    assert plan["throughput"]["emt"] > 0
    assert not (tmp_path / "runs").exists()


def test_the_example_is_one_and_its_paths_count_from_its_folder(place):
    config = read_config(EXAMPLE)
    assert config.sources == [str(EXAMPLE.parent / "data" / "crystals_small.parquet")]
    assert [job.name for job, _ in config.flow().iterflow()] == [
        *("ingest", "train DAO-G first", "train DAO-P first", "evaluate", "improve")
    ]


def test_rounds_are_submitted_as_one_flow_and_ask_for_what_their_trainings_do(write):
    config = read_config(write(processes=4, nodes=2))
    (planned,) = improve_flows(config)
    assert (planned.kind, planned.label) == ("improve", "tiny")
    assert improve_flows(config)[0].key == planned.key
    apply_routes(planned.flow, defaults(), "slurm")
    *_, rounds = (job for job, _ in planned.flow.iterflow())
    asked = rounds.config.manager_config["_queueadapter"]
    assert (asked["nodes"], asked["gres"]) == (2, "gpu:4")
