"""Two-stage pretraining on a handful of real crystals: whole, killed at every stage, planned, and misconfigured."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from dao_flows.api.plan import CRYSDB, plan_pretraining
from dao_flows.api.pretrain import pretrain, read_config
from dao_flows.errors import InputError
from dao_flows.makers.compare_stages import StagesDoc
from dao_flows.model.checkpoint.library import card_of
from dao_flows.model.checkpoint.lineage import checkpoint_lineage
from dao_flows.model.data.shards import read_manifest
from dao_flows.model.files.user_folders import CHECKPOINTS

CRYSTALS = Path(__file__).parent.parent.parent / "examples" / "data" / "crystals_small.parquet"
EXAMPLE = CRYSTALS.parent.parent / "pretrain_small.yaml"
TRAINING = {"steps": 120, "batch_size": 16, "rate": 2e-3, "warm_up": 10, "save_every_s": 0}
CONFIG = {
    "name": "tiny",
    "sources": [str(CRYSTALS)],
    "device": "cpu",
    "dataset": {"max_atoms": 4, "rows_per_shard": 40, "val_share": 0.2},
    "network": {"hidden": 8, "layers": 1, "heads": 2, "frequencies": 2, "time_width": 8, "volume_scaling": True},
    "predictor": TRAINING,
    "stage_one": TRAINING,
    "relax": {"iterations": 2, "chunk_rows": 10},
    "stage_two": TRAINING,
    "evaluate": {"steps": 3, "limit": 6, "chunk": 2},
}
PATIENCE = 240.0


@pytest.fixture
def place(workplace, monkeypatch, tmp_path):
    """A workplace where checkpoints may be registered, and where runs have a folder of their own."""
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "checkpoints"))
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    return workplace


@pytest.fixture
def write(place):
    """Writes the configuration with changes: a key set to `...` is left out."""

    def write(**changes) -> Path:
        content = {key: value for key, value in (CONFIG | changes).items() if value is not ...}
        path = place / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_the_whole_flow_and_the_same_again(write, tmp_path):
    document = pretrain(read_config(write()))
    assert isinstance(document, StagesDoc)
    assert list(document.stages) == ["Stage I", "Stage I+II"]
    two, one, judge = (card_of(f"tiny-{stage}") for stage in ("stage-2", "stage-1", "dao-p"))
    assert document.checkpoint == two.sha256
    assert two.parent == one.sha256
    assert two.training["data"]["made_by"]["checkpoints"] == {"predictor": judge.sha256}
    raw, relaxed = (read_manifest(tmp_path / "runs" / "pretrain-tiny" / name) for name in ("dataset", "relaxed"))
    assert relaxed.parent == raw.sha256
    assert relaxed.rows == raw.rows
    assert relaxed.made_by["outcomes"].get("relaxed", 0) > 0
    assert {a.sha256 for a in checkpoint_lineage("tiny-stage-2").ancestors()} == {two.sha256, one.sha256, judge.sha256}
    assert all(a.here for a in checkpoint_lineage("tiny-stage-2").ancestors())
    assert str(tmp_path) not in json.dumps(two.training)
    assert Path(document.picture).read_bytes().startswith(b"\x89PNG")
    before = {path: path.read_text() for path in (tmp_path / "runs").rglob("metrics.jsonl")}
    again = pretrain(read_config(write()))
    assert again.checkpoint == document.checkpoint
    assert {path: path.read_text() for path in before} == before  # with all times: nothing was trained again


def test_stages_that_start_from_checkpoints_and_a_control(write, tiny_checkpoints, tmp_path):
    starts = {kind: str(tiny_checkpoints / f"{kind}-tiny") for kind in ("dao-p", "dao-g")}
    few = TRAINING | {"steps": 5}
    content = {"predictor": few | {"start": starts["dao-p"]}, "stage_one": few | {"start": starts["dao-g"]}}
    path = write(network=..., stage_two=few, control=True, relax={"iterations": 1, "high": 0.1}, **content)
    assert len(plan_pretraining(read_config(path))[0].jobs) == 9
    document = pretrain(read_config(path))
    assert list(document.stages) == ["Stage I", "Stage I, longer", "Stage I+II"]
    assert card_of("tiny-dao-p").parent == card_of(starts["dao-p"]).sha256
    assert card_of("tiny-stage-1").parent == card_of(starts["dao-g"]).sha256
    two, control = card_of("tiny-stage-2"), card_of("tiny-control")
    assert two.parent == control.parent == card_of("tiny-stage-1").sha256
    assert control.training["data"]["sha256"] == card_of("tiny-stage-1").training["data"]["sha256"]
    assert document.checkpoint == two.sha256


def test_killed_at_every_stage_it_ends_with_the_same_checkpoint(write, tmp_path, monkeypatch, start):
    calm = tmp_path / "calm"
    with monkeypatch.context() as patch:
        patch.setenv("DAO_FLOWS_RUN_DIR", str(calm / "runs"))
        patch.setenv(CHECKPOINTS, str(calm / "checkpoints"))
        expected = pretrain(read_config(write())).checkpoint
    runs, config = tmp_path / "runs", str(write())
    signs = [  # files whose appearance says that a stage has begun, in their order
        "pretrain-tiny/.dataset*/*",
        "dao-p-*/state.safetensors",
        "dao-g-*/state.safetensors",
        "pretrain-tiny/relaxed/*.parquet",
        "dao-g-*/checkpoint/card.json",
        "evaluate-*/samples-*.npz",
    ]
    killed = 0
    for sign in signs:
        process = start("pretrain", config)
        if wait_for(runs, sign, process):
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate(timeout=PATIENCE)
    assert killed >= 4  # a stage may end before it is seen
    process = start("pretrain", config, "--json")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert json.loads(out)["checkpoint"] == expected


def wait_for(folder: Path, pattern: str, process: "subprocess.Popen[str]") -> bool:
    """Wait until there is such a file; False if the process ended first, or the file was there before it began."""
    known = set(folder.glob(pattern))
    end = time.monotonic() + PATIENCE
    while process.poll() is None:
        if set(folder.glob(pattern)) - known:
            return True
        assert time.monotonic() < end
        time.sleep(0.005)
    return False


def test_the_plan_runs_nothing_and_scales(write, tmp_path, call):
    plan, large = plan_pretraining(read_config(write()))
    names = [job.name for job in plan.jobs]
    assert names == [job.name for job in large.jobs]
    assert names[0] == "ingest"
    assert [job.route for job in plan.jobs].count("cpu") == 1
    assert (plan.crystals, large.crystals) == (240, CRYSDB)
    for small, big in zip(plan.jobs[1:5], large.jobs[1:5], strict=True):
        assert big.seconds == pytest.approx(small.seconds * CRYSDB / 240)
    assert large.stored > plan.stored > 0
    assert not (tmp_path / "runs").exists()
    code, out, _ = call("pretrain", str(write()), "--plan")
    assert code == 0
    assert "940,000 crystals" in out
    code, out, err = call("pretrain", str(write(sources=["optimade:mp"])), "--plan")
    assert code == 2
    assert "build the dataset first" in err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a/b"}, "name: "),
        ({"sources": []}, "sources: "),
        ({"stage_one": {}}, "stage_one: .*steps is missing"),
        ({"stage_one": ...}, "stage_one: Field required"),
        ({"stages": 2}, "stages: Extra inputs"),
        ({"relax": {"hihg": 1}}, "relax: there is no setting 'hihg'; there are: .*high"),
        ({"dataset": {"max_atom": 1}}, "dataset: there is no setting 'max_atom'"),
        ({"evaluate": {"sample": 1}}, "evaluate: there is no setting 'sample'"),
        ({"predictor": TRAINING | {"rats": 1}}, "rats"),
        ({"stage_two": TRAINING | {"rate": -1}}, "--rate must be positive"),
        ({"stage_two": TRAINING | {"start": "dao-g-base"}}, "stage_two: .*leave start out"),
        ({"predictor": TRAINING | {"start": "nobody"}}, "no checkpoint called 'nobody'"),
        ({"relax": {"low": 2}}, "the window is empty"),
        ({"dataset": {"min_atoms": 0}}, "min_atoms"),
        ({"evaluate": {"samples": 0}}, "samples must be at least 1"),
        ({"evaluate": {"sampler": "euler"}}, "learned by diffusion is not sampled by 'euler'"),
        (
            {"evaluate": {"sampler": "ancestral"}, "stage_one": TRAINING | {"objective": "flow"}},
            "learned by flow is not sampled by 'ancestral'",
        ),
        ({"sources": ["nowhere.parquet"]}, "nowhere.parquet"),
    ],
)
def test_a_mistaken_configuration_is_refused_before_anything_runs(write, tmp_path, call, changes, says):
    import re

    code, _, err = call("pretrain", str(write(**changes)))
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(says, err), err
    assert not (tmp_path / "runs").exists()


def test_files_that_are_no_configuration_are_refused(place):
    (place / "list.yaml").write_text("- a\n")
    (place / "torn.yaml").write_text("name: [\n")
    (place / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name, says in (
        ("absent.yaml", "cannot be read"),
        ("list.yaml", "is to hold settings"),
        ("torn.yaml", "line 2: not YAML"),
        ("bytes.yaml", "not text in UTF-8"),
    ):
        with pytest.raises(InputError, match=says):
            read_config(place / name)


def test_paths_count_from_the_files_folder(write):
    (folder := (path := write(dataset={"held_out": ["held.parquet"]})).parent).joinpath("held.parquet").touch()
    assert read_config(path).dataset["held_out"] == [str(folder / "held.parquet")]


def test_the_example_is_one_and_its_paths_count_from_its_folder(place):
    config = read_config(EXAMPLE)
    assert config.sources == [str(CRYSTALS)]
    assert config.flow().name == "pretrain"
    routes = {job.name: job.config.manager_config["_category"] for job, _ in config.flow().iterflow()}
    assert routes.pop("ingest") == routes.pop("compare stages") == "cpu"
    assert set(routes.values()) == {"gpu"}


def test_fine_tuning_and_evaluation(place, call, tiny_checkpoints, tmp_path):
    start, quick = str(tiny_checkpoints / "dao-g-tiny"), ["--steps", "4"]
    tune = ["finetune", start, str(CRYSTALS), *quick, "--name", "mine", "--set", "warm_up=1", "--set", "ema=0.9"]
    code, out, _ = call(*tune, "--plan")
    assert code == 0
    assert "fine-tune" in out
    code, out, err = call(*tune)
    assert code == 0, err
    assert card_of("mine").parent == card_of(start).sha256
    assert card_of("mine").training["config"]["ema"] == 0.9
    evaluate = ["evaluate", "mine", str(CRYSTALS), "--split", "val", "--limit", "3", *quick]
    evaluate += ["--predictor", str(tiny_checkpoints / "dao-p-tiny")]
    code, out, _ = call(*evaluate, "--auto-bf16", "--plan")
    assert code == 0
    assert "evaluate" in out
    code, out, err = call(*evaluate, "--json")
    assert code == 0, err
    assert json.loads(out)["n"] == 3
    code, out, err = call(*evaluate, "--auto-bf16", "--json")
    assert code == 0, err
    provenance = json.loads(out)["provenance"]
    assert provenance["science"]["parameters"]["bf16"] == provenance["execution"]["precision"]["bf16"]
    for bad, says in (
        (["finetune", "nobody", str(CRYSTALS), *quick], "no checkpoint called"),
        (["finetune", start, "nowhere.parquet", *quick], "nowhere.parquet"),
        ([*tune, "--set", "rate"], "write KEY=VALUE"),
        ([*tune, "--set", "hue=3"], "hue"),
        (["finetune", start, str(CRYSTALS), *quick, "--property", "tc"], "dao-p"),
        (["evaluate", start, str(CRYSTALS), "--split", "other"], "no crystal"),
        (["evaluate", start, str(CRYSTALS), "--sampler", "euler"], "not sampled by 'euler'"),
        (["evaluate", start, str(CRYSTALS), "--sampler", "ancestral", "--churn", "1"], "churn must be 0"),
    ):
        code, _, err = call(*bad)
        assert code == 2, bad
        assert says in err
        assert err.count("\n") == 1, err
