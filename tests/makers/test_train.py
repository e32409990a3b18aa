"""TrainMaker: the same checkpoint whether a run was left alone, killed, or dealt over several jobs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jobflow import Flow, run_locally

from dao_flows.makers.machine import torchrun
from dao_flows.makers.machine.queue_time import parse_time_left, queue_seconds_left
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.register import register
from dao_flows.makers.schemas.training import TrainingDoc
from dao_flows.makers.train import TrainMaker, seconds_to_train
from dao_flows.model.checkpoint import format as checkpoint
from dao_flows.model.checkpoint.format import load, read_card, save, verify, weight_files
from dao_flows.model.checkpoint.library import find
from dao_flows.model.checkpoint.lineage import checkpoint_lineage
from dao_flows.model.data.shards import Manifest, columns, write_manifest, write_shards
from dao_flows.model.files import user_folders
from dao_flows.model.files.user_folders import CHECKPOINTS
from dao_flows.model.runtime.deadline import Stop
from dao_flows.model.train import words
from dao_flows.model.training.config import TrainingError
from dao_flows.model.training.metrics import METRICS, read

CONFIG = {"hidden": 8, "layers": 1, "heads": 2, "frequencies": 2, "time_width": 8, "batch_size": 8, "warm_up": 10}
CONFIG |= {"steps": 130, "save_every_s": 0, "threads": 1, "volume_scaling": True}

SCRIPT = """
import json, sys
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from dao_flows.makers.train import TrainMaker, seconds_to_train
fields, dataset = json.loads(sys.argv[1]), sys.argv[2]
job = TrainMaker(**fields).make(dataset)
responses = run_locally(job, store=JobStore(MemoryStore()), ensure_success=True)
"""


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A dataset of 40 random crystals in two shards."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "material_id": f"r-{i}",
            "n_atoms": n,
            "numbers": rng.integers(1, 84, n).tolist(),
            "frac": rng.random(3 * n).tolist(),
            "lattice": (n ** (1 / 3) * (2 * np.eye(3) + rng.normal(0, 0.3, (3, 3)))).ravel().tolist(),
            "e_above_hull": float(rng.random()),
            "split": "val" if i % 5 == 0 else "train",
        }
        for i, n in enumerate(rng.integers(1, 5, 40).tolist())
    ]
    shards, counts = write_shards(tmp_path / "crystals", rows, columns(), 25)
    write_manifest(tmp_path / "crystals", Manifest("crystals", columns(), shards, dict(counts), "0"))
    return tmp_path / "crystals"


def test_settings_that_came_later_are_part_of_the_science_only_where_they_change_it(dataset):
    def science(**more):
        return TrainMaker(kind="dao-g", config=CONFIG | more).resolve(dataset)[2]

    ever = science()
    assert not {"store_as", "cuda_graphs", "fused", "fit_wall_time"} & ever.parameters.keys()
    assert science(cuda_graphs=False, fused=True) == ever
    assert science(store_as="float16").parameters == ever.parameters | {"store_as": "float16"}
    with pytest.raises(ParameterError, match="config cannot set fit_wall_time"):
        science(fit_wall_time=True)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Runs and checkpoints of this test alone."""
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "library"))
    for name in ("SLURM_JOB_END_TIME", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def outcome(job, job_store) -> tuple[TrainingDoc, int]:
    """The final document, as it comes out of the store, and how many jobs it took."""
    responses = run_locally(job, store=job_store, ensure_success=True)[job.uuid]
    assert all(response.output is None for index, response in responses.items() if index < max(responses))
    return TrainingDoc.model_validate(job_store.get_output(job.uuid, load=True)), len(responses)


def test_left_alone_killed_or_in_parts_it_ends_in_the_same_checkpoint(dataset, tmp_path, monkeypatch, job_store):
    calm, jobs = outcome(TrainMaker(kind="dao-p", config=CONFIG, device="cpu").make(str(dataset)), job_store)
    assert jobs == 1

    runs = tmp_path / "killed"
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(runs))
    fields = {"kind": "dao-p", "config": CONFIG, "device": "cpu"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(fields), str(dataset)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    metrics, deadline = runs / calm.run / METRICS, time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed, jobs = outcome(TrainMaker(**fields).make(str(dataset)), job_store)
    assert jobs == 1

    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "parts"))
    parts, jobs = outcome(TrainMaker(**fields, wall_time_s=calm.wall_time_s / 4).make(str(dataset)), job_store)
    assert jobs > 2

    assert calm.checkpoint_sha256 == killed.checkpoint_sha256 == parts.checkpoint_sha256
    assert calm.run == killed.run == parts.run
    for other in (killed, parts):
        assert other.losses == calm.losses
        assert other.validation == calm.validation
        assert other.provenance.science == calm.provenance.science
        assert len(other.loss_curve) == len(calm.loss_curve)
    assert (killed.steps, killed.dataset_rows, killed.property_name) == (130, 32, None)


def test_a_stage_goes_on_from_another_and_the_cards_tell_the_way(dataset, tmp_path, job_store):
    config = CONFIG | {"steps": 20}
    first = TrainMaker(stage="stage-1", config=config, device="cpu", register_as="g").make(str(dataset))
    second = TrainMaker(
        stage="stage-2", config={"steps": 10, "batch_size": 8, "threads": 1, "seed": 4}, device="cpu", register_as="g2"
    ).make(str(dataset), start=first.output)
    responses = run_locally(Flow([first, second]), store=job_store, ensure_success=True)
    one, two = (responses[job.uuid][1].output for job in (first, second))
    assert two.parent_sha256 == one.checkpoint_sha256
    assert two.provenance.science.checkpoints == {"start": one.checkpoint_sha256}
    assert "hidden" in one.provenance.science.parameters
    assert "hidden" not in two.provenance.science.parameters
    for document, name in ((one, "g"), (two, "g2")):
        card = verify(find(name))
        assert (card.name, card.sha256) == (name, document.checkpoint_sha256)
        assert card.training["stage"] == document.stage
        assert card.training["data"]["sha256"] == document.dataset_sha256
        assert str(tmp_path) not in (find(name) / "card.json").read_text()
    assert f"--start {one.run}/checkpoint" in read_card(find("g2")).training["command"]
    assert Path(one.plot).stat().st_size > 1000


def test_a_name_that_is_taken_loses_nothing(dataset, job_store):
    maker = TrainMaker(config=CONFIG | {"steps": 5}, device="cpu", register_as="g")
    first, _ = outcome(maker.make(str(dataset)), job_store)
    again, _ = outcome(maker.make(str(dataset)), job_store)
    assert again.checkpoint_sha256 == first.checkpoint_sha256
    other, _ = outcome(
        TrainMaker(config=CONFIG | {"steps": 6}, device="cpu", register_as="g").make(str(dataset)), job_store
    )
    assert verify(find("g")).sha256 == other.checkpoint_sha256
    assert verify(find(first.checkpoint_sha256)).sha256 == first.checkpoint_sha256
    assert find(first.checkpoint_sha256).name == f"g-{first.checkpoint_sha256[:8]}"


def test_what_decides_the_result_names_the_folder_and_nothing_else_does(dataset):
    def science(**changes):
        fields = {"config": CONFIG, "device": "cpu"} | changes
        return TrainMaker(**fields).resolve(str(dataset))[2]

    same = [science(wall_time_s=5.0), science(processes=2), science(stage="x"), science(register_as="y")]
    same += [science(config=CONFIG | {"threads": 2, "save_every_s": 1.0, "bf16": False})]
    assert all(other == science() for other in same)
    for change in ({"steps": 131}, {"seed": 1}, {"bf16": True}, {"max_energy": 0.08}, {"hidden": 16}):
        assert science(config=CONFIG | change) != science()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "dao-x"}, "kind must be dao-g or dao-p"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"nodes": 0}, "nodes must be at least 1"),
        ({"nodes": 2, "launcher": ["no-such-launcher"]}, "needs a launcher"),
        ({"wall_time_s": 0.0}, "wall_time_s must be positive"),
        ({"register_as": "../g"}, "cannot be the name of a checkpoint"),
        ({"config": CONFIG | {"out": "x"}}, "config cannot set out"),
        ({"config": CONFIG | {"colour": "red"}}, "unrecognized arguments: --colour=red"),
        ({"config": CONFIG | {"rate": -1}}, "--rate must be positive"),
        ({"config": {}}, "the following arguments are required: --steps"),
        ({"start": "dao-p-base"}, "is a DAO-P checkpoint; a DAO-G checkpoint is needed"),
        ({"start": "nowhere"}, "no checkpoint called 'nowhere'"),
    ],
)
def test_settings_that_cannot_be_get_one_line(dataset, fields, says):
    with pytest.raises(ValueError, match=says) as caught:
        TrainMaker(**{"config": CONFIG, "device": "cpu"} | fields).resolve(str(dataset))
    assert "\n" not in str(caught.value)


def test_datasets_that_are_not_there_get_one_line(dataset, tmp_path):
    maker = TrainMaker(config=CONFIG, device="cpu")
    for given, says in (
        ("crystals", "with its full path"),
        (tmp_path / "none", "there is no dataset or file"),
        (3, "a dataset is given as"),
    ):
        with pytest.raises(ValueError, match=says):
            maker.resolve(given)
    shard = dataset / "shard-00000.parquet"
    by = [maker.resolve(given)[2].inputs for given in (dataset, {"path": str(dataset)}, str(shard))]
    assert by[0] == by[1] != by[2]


def test_the_queues_time_is_known(monkeypatch, tmp_path):
    assert queue_seconds_left() is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 1000))
    assert queue_seconds_left() == pytest.approx(1000, abs=5)
    assert seconds_to_train(None) == pytest.approx(880, abs=5)
    assert seconds_to_train(7) == 7
    assert seconds_to_train(1e6) == pytest.approx(880, abs=5)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 100))
    with pytest.raises(ParameterError, match="are left of the queue's time limit"):
        seconds_to_train(None)
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$3" = 7 ] && echo " 1-00:01:40"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert queue_seconds_left() == 86_500


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:05", 5), ("12:34", 754), ("1:00:00\n", 3600), ("2-00:00:01", 172_801), ("UNLIMITED", None), ("", None)],
)
def test_squeues_times_are_read(text, seconds):
    assert parse_time_left(text) == seconds


def test_several_processes_share_a_job_and_its_stops(dataset, tmp_path, job_store):
    maker = TrainMaker(config=CONFIG | {"steps": 20}, device="cpu", processes=2, wall_time_s=1e-3)
    document, jobs = outcome(maker.make(str(dataset)), job_store)
    assert jobs == 2  # they agree on stopping every ten steps
    assert document.processes == 2
    assert [r["step"] for r in read(Path(document.path).parent / METRICS) if "rate" in r] == [20]


def test_several_processes_train_on_from_a_checkpoint(dataset, job_store):
    first, _ = outcome(TrainMaker(config=CONFIG | {"steps": 5}, device="cpu").make(str(dataset)), job_store)
    config = {"steps": 5, "batch_size": 8, "threads": 1}
    second, _ = outcome(
        TrainMaker(config=config, device="cpu", processes=2, start=first.path).make(str(dataset)), job_store
    )
    assert (second.processes, second.parent_sha256) == (2, first.checkpoint_sha256)


def test_the_judge_of_the_data_is_part_of_what_decides(dataset, tmp_path, job_store):
    few = CONFIG | {"steps": 5}
    judges = [
        outcome(TrainMaker(kind="dao-p", config=few | {"seed": seed}, device="cpu").make(str(dataset)), job_store)[0]
        for seed in (1, 2)
    ]
    config = few | {"max_energy": 0.5}
    documents = [
        outcome(TrainMaker(config=config | {"judge": judge.path}, device="cpu").make(str(dataset)), job_store)[0]
        for judge in judges
    ]
    for judge, document in zip(judges, documents, strict=True):
        science = document.provenance.science
        assert science.checkpoints == {"judge": judge.checkpoint_sha256}
        assert "judge" not in science.parameters  # where it lay decides nothing
        assert [each.role for each in checkpoint_lineage(document.path).parents] == ["judge of its data"]
    assert documents[0].run != documents[1].run
    with pytest.raises(ValueError, match="a DAO-P checkpoint is needed"):
        TrainMaker(config=config | {"judge": documents[0].path}, device="cpu").resolve(str(dataset))
    with pytest.raises(ValueError, match="no checkpoint called 'nowhere'"):  # before anything is submitted
        TrainMaker(config=config | {"judge": "nowhere"}, device="cpu").check()


def test_runs_lie_where_the_user_says_or_with_the_users_data(monkeypatch, tmp_path):
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "data"))
    assert user_folders.runs() == tmp_path / "runs"  # as DAO_FLOWS_RUN_DIR says
    monkeypatch.delenv("DAO_FLOWS_RUN_DIR")
    assert user_folders.runs() == tmp_path / "data" / "runs"
    monkeypatch.delenv("DAO_FLOWS_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_folders.runs() == tmp_path / "dao_flows" / "runs"


def test_nodes_train_as_one_process_would(dataset, job_store):
    both = ["sh", "-c", '"$@" & "$@"; wait', "sh"]  # two nodes, as far as torchrun can tell
    config = CONFIG | {"steps": 20}
    two = TrainMaker(config=config, device="cpu", nodes=2, launcher=both)
    assert "--nodes=3" in torchrun.command(1, 3, TrainMaker().launcher, "run")
    spread, _ = outcome(two.make(str(dataset)), job_store)
    assert spread.processes == 2
    alone, _ = outcome(TrainMaker(config=config | {"seed": 0}, device="cpu").make(str(dataset)), job_store)
    assert alone.checkpoint_sha256 == spread.checkpoint_sha256 or alone.losses == pytest.approx(spread.losses, rel=1e-3)


def test_what_the_processes_complain_of_is_told(dataset, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    maker = TrainMaker(config=CONFIG | {"max_atoms": 0}, device="cpu")
    folder = tmp_path / "runs" / "x"
    with pytest.raises(TrainingError, match=r"^[^\n]* at most 0 atoms$"), Stop() as stop:
        torchrun.train(torchrun.command(1, 1, [], "x"), words(maker.settings(dataset, folder, None)), folder, stop)


def test_a_damaged_checkpoint_is_not_registered(tiny_checkpoints, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoints / "dao-g-tiny", copy)
    with (copy / "weights.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x01")
    with pytest.raises(ValueError, match="is damaged"):
        register(copy, "g")
    assert not (tmp_path / "library").exists()


def test_weights_in_parts_are_registered_whole_or_not_at_all(tiny_checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "library"))
    model, card = load(tiny_checkpoints / "dao-g-tiny")
    monkeypatch.setattr(checkpoint, "PART", 8000)
    saved = save(tmp_path / "g", model, {"elements": card.elements, "max_atoms": card.max_atoms})
    files = weight_files(tmp_path / "g")
    assert len(files) > 2
    target = register(tmp_path / "g", "mine")
    assert verify(target).sha256 == saved.sha256
    assert [file.read_bytes() for file in weight_files(target)] == [file.read_bytes() for file in files]
    files[1].unlink()
    with pytest.raises(ValueError, match=f"lacks {files[1].name}"):
        register(tmp_path / "g", "other")
    assert [folder.name for folder in (tmp_path / "library").iterdir()] == ["mine"]
