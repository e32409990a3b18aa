"""The command line of training is made from the class of its settings: the same names, defaults, types and help."""

from pathlib import Path

import pytest
import torch

from dao_flows.model.train import main, parser, words
from dao_flows.model.training.config import TrainingError, TrainRequest, flag, settings

NEEDED = ["dao-g", "crystals", "--out", "runs/g", "--steps", "5"]
OPTIONS = {  # scripts of users have them
    **{"name": None, "start": None, "max_atoms": None, "max_energy": None, "judge": None, "pairs": None},
    **{"fit_all": False, "threads": None, "wall_time_s": None, "fit_wall_time": False, "store_as": "float32"},
    **{"cuda_graphs": True, "fused": False, "property": None, "log": False, "freeze_backbone": False},
    **{"hidden": 384, "layers": 12, "heads": 8, "frequencies": 128, "time_width": 256, "feed_forward": 4},
    **{"volume_scaling": False, "objective": None, "optimizer": "adam", "muon_rate": 2.0, "batch_size": 64},
    **{"rate": 1e-3, "final_rate": 1e-6, "warm_up": 500, "constant": 0.0, "weight_decay": 0.0, "gate_rate": 0.1},
    **{"coordinate_weight": 1.0, "clip_value": 0.5, "clip_norm": 1.0, "ema": 0.999, "seed": 0, "save_every_s": 120.0},
    **{"validate_every": 2000, "spike": 3.0, "snapshot_every": 1000, "max_rollbacks": 3},
    **{"labels": None, "label_batch": 32, "label_weight": 1.0, "force_weight": 0.0, "stress_weight": 0.0},
    **{"device": "cuda" if torch.cuda.is_available() else "cpu", "bf16": torch.cuda.is_available()},
}


def exact(values: dict) -> dict:
    """So that 1 and 1.0 and True differ, as they do in a hash."""
    return {name: (type(value).__name__, value) for name, value in values.items()}


def test_the_options_and_their_defaults_are_those_that_they_were():
    given = {"kind": "dao-g", "data": Path("crystals"), "out": Path("runs/g"), "steps": 5}
    assert exact({**vars(parser().parse_args(NEEDED)), "data": given["data"], "out": given["out"]}) == exact(
        OPTIONS | given
    )


def test_the_help_has_every_option_with_its_text(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for setting in settings():
        assert setting.positional or flag(setting.name) in said
        assert " ".join(setting.told.get("help", "").split()) in said
    for heading in ("network (default: the published size):", "a property instead of the energy (dao-p):", "training:"):
        assert heading in said
    for text in ("leave larger cells out", "bf16 autocast", "numbers of the checkpoint; float16 halves its size"):
        assert text in said


@pytest.mark.parametrize(
    "more",
    [
        {"kind": "dao-p", "property": "tc", "log": True, "freeze_backbone": True, "start": "base"},
        {"judge": "dao-p-base", "max_energy": 1, "max_atoms": 20, "threads": 2, "fit_all": True, "store_as": "float16"},
        {"pairs": ["a.npz", "b.npz"], "objective": "bridge", "name": "b", "wall_time_s": 60, "fit_wall_time": True},
        {"kind": "dao-p", "labels": ["a", "b"], "label_batch": 8, "force_weight": 0.5, "stress_weight": 2},
        {"cuda_graphs": False, "bf16": False, "fused": True, "optimizer": "muon", "rate": "1e-4", "hidden": 16},
    ],
)
def test_settings_by_name_and_their_words_ask_for_the_same(more):
    told = {"kind": "dao-g", "data": Path("crystals"), "out": Path("run"), "device": "cpu", "bf16": True, "steps": 5}
    request = TrainRequest.of(told | more)
    assert TrainRequest.of(vars(parser().parse_args(words(told | more)))) == request
    assert TrainRequest.of(request.settings()) == request
    assert exact(request.settings()).keys() == {*OPTIONS, "kind", "data", "out", "steps"}


def test_numbers_get_their_settings_type():
    request = TrainRequest.of({"kind": "dao-g", "data": "d", "out": "o", "steps": "7", "max_energy": 1, "rate": "1e-4"})
    assert exact(
        {"steps": request.training.steps, "max_energy": request.max_energy, "rate": request.training.rate}
    ) == {
        "steps": ("int", 7),
        "max_energy": ("float", 1.0),
        "rate": ("float", 1e-4),
    }


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"colour": "red"}, "unrecognized arguments: --colour=red"),
        ({"steps": 10.5}, "--steps takes a whole number, not '10.5'"),
        ({"steps": True}, "--steps takes a whole number, not True"),
        ({"rate": "fast"}, "--rate takes a number, not 'fast'"),
        ({"fused": 1}, "--fused takes true or false, not 1"),
        ({"objective": "x"}, "--objective must be one of diffusion, flow, bridge, not 'x'"),
        ({"hidden": 9}, r"there is no such network: hidden \(9\) must be a multiple of heads \(8\)"),
        ({"batch_size": 0}, "--batch-size must be positive, not 0"),
        ({"data": None}, "the following arguments are required: data"),
    ],
)
def test_settings_by_name_that_cannot_be_get_one_line(more, says):
    with pytest.raises(TrainingError, match=says):
        TrainRequest.of({"kind": "dao-g", "data": "crystals", "out": "run", "steps": 5} | more)
