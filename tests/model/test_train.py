"""Training: it learns, a run that was killed ends like one that was not, and bad input gets one line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dao_flows.model.checkpoint.format import load, read_card, verify
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import predict_energy
from dao_flows.model.data.table import read_crystals
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.train import main
from dao_flows.model.training.config import TrainConfig, TrainingError
from dao_flows.model.training.metrics import METRICS, loss_curve, take_back
from dao_flows.model.training.state import STATE
from dao_flows.model.training.trainer import Trainer

TINY = ["--hidden", "8", "--layers", "1", "--heads", "2", "--frequencies", "2", "--time-width", "8"]
TINY += ["--batch-size", "8", "--threads", "1", "--warm-up", "20", "--device", "cpu"]


def arguments(kind: str, data: Path, out: Path, *more: str) -> list[str]:
    return [kind, str(data), "--out", str(out), *TINY, *more]


def losses(out: Path) -> list[dict[str, float]]:
    """The training records, without what the clock says."""
    records = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("crystals_per_s", "elapsed_s")} for r in records]


@pytest.mark.parametrize(("kind", "optimizer"), [("dao-g", "adam"), ("dao-p", "adam"), ("dao-g", "muon")])
def test_a_killed_run_ends_like_one_that_was_not(parquet, tmp_path, kind, optimizer):
    data, steps = parquet(), ["--steps", "150", "--save-every-s", "0", "--validate-every", "100"]
    steps += ["--optimizer", optimizer]
    assert main(arguments(kind, data, tmp_path / "calm", *steps)) == 0
    killed = arguments(kind, data, tmp_path / "killed", *steps)
    process = subprocess.Popen(
        [sys.executable, "-m", "dao_flows.model.train", *killed],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    metrics, deadline = tmp_path / "killed" / METRICS, time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "checkpoint").exists()
    with (tmp_path / "killed" / METRICS).open("a") as lines:
        lines.write('{"step": 10000, "lattice": 1.0}\n{"step": 3')  # of a later step, and torn
    assert main(killed) == 0
    calm, resumed = (verify(tmp_path / name / "checkpoint") for name in ("calm", "killed"))
    assert resumed.sha256 == calm.sha256
    assert losses(tmp_path / "killed") == losses(tmp_path / "calm")
    assert [r["step"] for r in losses(tmp_path / "calm") if "validation" in r] == [100, 150]


def test_it_learns_and_the_card_says_from_what(parquet, tmp_path):
    data, out = parquet(), tmp_path / "run"
    assert main(arguments("dao-p", data, out, "--steps", "600", "--rate", "3e-3", "--ema", "0.99", "--name", "p")) == 0
    curve = losses(out)
    total = [r["lattice"] + r["coordinate"] + r["energy"] for r in curve if "validation" not in r]
    assert np.mean(total[-3:]) < 0.9 * total[0]
    model, card = load(out / "checkpoint")
    assert (card.name, card.kind, card.max_atoms, card.parent) == ("p", "dao-p", 6, None)
    assert card.training["data"]["file"] == "crystals.parquet"
    assert card.training["data"]["rows"] == 42  # of 48 for training, those with an energy
    assert card.training["seed"] == 0
    assert card.training["command"].startswith("python -m dao_flows.model.train dao-p ")
    assert card.training["loss_curve"][-1]["step"] == 600
    assert model.config.energy_std == pytest.approx(0.28, abs=0.03)  # of uniform numbers


def test_seeds_differ_and_a_checkpoint_can_be_trained_on(parquet, tmp_path):
    data = parquet()
    for name, more in (("a", []), ("b", ["--seed", "1"]), ("c", ["--start", str(tmp_path / "a" / "checkpoint")])):
        assert main(arguments("dao-g", data, tmp_path / name, "--steps", "30", "--volume-scaling", *more)) == 0
    cards = {name: read_card(tmp_path / name / "checkpoint") for name in "abc"}
    assert len({card.sha256 for card in cards.values()}) == 3
    assert cards["c"].parent == cards["a"].sha256
    assert cards["c"].architecture == cards["a"].architecture
    small = ["--max-atoms", "2", "--start", str(tmp_path / "a" / "checkpoint")]
    assert main(arguments("dao-g", data, tmp_path / "d", "--steps", "5", *small)) == 0
    child = read_card(tmp_path / "d" / "checkpoint")
    assert (child.max_atoms, child.elements) == (cards["a"].max_atoms, cards["a"].elements)  # seen by its parent


def test_a_judge_lets_crystals_without_an_energy_in(parquet, tmp_path, capsys):
    data, p = parquet(), tmp_path / "p"
    assert main(arguments("dao-p", data, p, "--steps", "5")) == 0
    judge = p / "checkpoint"
    near = ["--max-energy", "0.5", "--judge", str(judge), "--steps", "5"]
    assert main(arguments("dao-g", data, tmp_path / "g", *near)) == 0
    told = read_card(tmp_path / "g" / "checkpoint").training["data"]
    everything = read_crystals(data, "train")
    unknown = [c for c, energy in zip(everything.crystals, everything.energy, strict=True) if np.isnan(energy)]
    predictor, card = load(judge)
    within = int((predict_energy(predictor.double(), unknown) <= 0.5).sum())
    assert within > 0
    assert (told["judge"], told["judged"]) == (card.sha256, within)
    assert told["rows"] == len(read_crystals(data, "train", max_energy=0.5)) + within
    capsys.readouterr()
    for more, says in (
        (["--judge", str(tmp_path / "g" / "checkpoint")], "--judge takes a dao-p one"),
        (["--judge", "nowhere"], "no checkpoint called 'nowhere'"),
    ):
        near = ["--max-energy", "0.5", "--steps", "5", *more]
        assert main(arguments("dao-g", data, tmp_path / "h", *near)) == 2
        assert says in one_line(capsys)
    assert not (tmp_path / "h").exists()


def test_a_finished_run_is_not_trained_again(parquet, tmp_path):
    once = arguments("dao-g", parquet(), tmp_path / "run", "--steps", "30")
    assert main(once) == 0
    before, lines = read_card(tmp_path / "run" / "checkpoint").sha256, (tmp_path / "run" / METRICS).read_text()
    assert main(once) == 0
    assert read_card(tmp_path / "run" / "checkpoint").sha256 == before
    assert (tmp_path / "run" / METRICS).read_text() == lines


def test_averaged_weights_follow_the_raw_ones(parquet, tmp_path):
    # without averaging the checkpoint holds the raw weights; with a decay of 1 it would never leave the start
    for name, ema in (("raw", "0"), ("averaged", "0.999")):
        assert main(arguments("dao-g", parquet(), tmp_path / name, "--steps", "60", "--ema", ema)) == 0
    raw, averaged = (load(tmp_path / name / "checkpoint")[0].state_dict() for name in ("raw", "averaged"))
    from safetensors.torch import load_file

    state = load_file(tmp_path / "averaged" / STATE)
    name = "network.score_out.weight"
    assert torch.equal(raw[name], state[f"model/{name}"])  # averaging does not touch the training
    assert not torch.equal(averaged[name], raw[name])


def test_the_weight_of_the_coordinates_scales_their_gradient_and_not_what_is_reported(parquet, tmp_path):
    table = read_crystals(parquet(), "train")
    gradients, reported = [], []
    for weight in (1.0, 2.0, 4.0):
        torch.manual_seed(0)
        network = CrysformerConfig(hidden=8, layers=1, heads=2, frequencies=2, time_width=8)
        config = TrainConfig(steps=1, batch_size=8, coordinate_weight=weight, clip_value=1e9, clip_norm=1e9)
        trainer = Trainer(DaoG(DaoConfig(network)), config, table, None, tmp_path / f"weight-{weight}")
        reported.append(trainer.take_step(*trainer.batches.epoch(0)[0]))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None]))
    of_coordinates = gradients[1] - gradients[0]
    assert of_coordinates.norm() > 0.01
    assert torch.allclose(gradients[2] - gradients[1], 2 * of_coordinates, atol=1e-5)
    assert reported[0] == reported[1] == reported[2]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    return error[0]


def test_divergence_gets_one_line_and_keeps_the_last_good_state(parquet, tmp_path, capsys):
    data, out = parquet(), tmp_path / "run"
    steps = ["--save-every-s", "0", "--constant", "1"]
    assert main(arguments("dao-g", data, out, "--steps", "100", *steps)) == 0
    good = (out / STATE).read_bytes()
    capsys.readouterr()
    assert main(arguments("dao-g", data, out, "--steps", "300", "--rate", "1e30", *steps)) == 2
    assert "the loss is not finite at step 100 after 3 rollbacks" in one_line(capsys)  # twice it went back to step 0
    assert (out / STATE).read_bytes() == good
    assert main(arguments("dao-g", data, out, "--steps", "300", *steps)) == 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--steps", "0"], "--steps must be positive, not 0"),
        (["--batch-size", "0"], "--batch-size must be positive"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--rate", "nan"], "--rate must be positive, not nan"),
        (["--rate", "inf"], "--rate must be positive, not inf"),
        (["--ema", "1.5"], "--ema must be between 0 and 1"),
        (["--validate-every", "0"], "--validate-every must be positive"),
        (["--threads", "0"], "--threads must be positive"),
        (["--heads", "3"], r"hidden \(8\) must be a multiple of heads \(3\)"),
        (["--time-width", "7"], "time_width must be even"),
        (["--layers", "0"], "layers must be positive"),
        (["--device", "abacus"], "--device abacus cannot be used here"),
        (["--max-atoms", "0"], "no crystal with split == 'train' and at most 0 atoms"),
        (["--start", "nowhere"], "no checkpoint called 'nowhere'"),
        (["--optimizer", "sgd"], "--optimizer must be adam or muon, not sgd"),
        (["--muon-rate", "0"], "--muon-rate must be positive"),
        (["--spike", "0.5"], "--spike must be above 1, or 0"),
        (["--max-rollbacks", "-1"], "--max-rollbacks must be 0 or more"),
        (["--wall-time-s", "0"], "--wall-time-s must be positive"),
        (["--property", "tc"], "--property is for dao-p alone"),
        (["--judge", "dao-p-base"], "--judge is for dao-g, and goes with --max-energy"),
        (["--log"], "--log and --freeze-backbone go with --property"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_settings_that_cannot_be_get_one_line(parquet, tmp_path, capsys, more, says):
    assert main(arguments("dao-g", parquet(), tmp_path / "run", "--steps", "5", *more)) == 2
    import re

    assert re.search(says, one_line(capsys))
    assert not (tmp_path / "run").exists()


def test_bad_data_gets_one_line(parquet, tmp_path, capsys):
    same = parquet("same.parquet", e_above_hull=[0.1] * 60)
    splits = ["train"] * 59 + ["val"]
    bad = parquet("bad.parquet", split=splits, lattice=[[2.0, 0, 0, 0, 2, 0, 0, 0, 2]] * 59 + [[0.0] * 9])
    for kind, data, says in (
        ("dao-g", tmp_path / "absent", "there is no file"),
        ("dao-p", same, "energies that are all the same"),
        ("dao-p", parquet("no.parquet", e_above_hull=None), "e_above_hull holds none"),
        ("dao-g", bad, "row 59"),
    ):
        assert main(arguments(kind, data, tmp_path / "run", "--steps", "5")) == 2
        assert says in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_the_state_of_another_run_is_refused(parquet, tmp_path, capsys):
    data, out = parquet(), tmp_path / "run"
    assert main(arguments("dao-g", data, out, "--steps", "5")) == 0
    other = parquet("other.parquet", e_above_hull=None)
    for kind, file, more, says in (
        ("dao-p", data, [], "another kind"),
        ("dao-g", data, ["--hidden", "16"], "another architecture"),
        ("dao-g", data, ["--layers", "2"], "another architecture"),
        ("dao-g", data, ["--volume-scaling"], "another architecture"),
        ("dao-g", data, ["--seed", "3"], "another seed"),
        ("dao-g", data, ["--batch-size", "4"], "another batch_size"),
        ("dao-g", other, [], "another data"),
        ("dao-g", data, ["--fit-all"], "another crystals"),
    ):
        capsys.readouterr()
        assert main(arguments(kind, file, out, "--steps", "9", *more)) == 2
        assert says in one_line(capsys)
    state = (out / STATE).read_bytes()
    for torn in (b"", state[:50], state[:-9]):
        (out / STATE).write_bytes(torn)
        capsys.readouterr()
        assert main(arguments("dao-g", data, out, "--steps", "9")) == 2
        assert "delete it to begin anew" in one_line(capsys)


def test_a_folder_that_cannot_be_made_gets_one_line(parquet, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(arguments("dao-g", parquet(), tmp_path / "file" / "run", "--steps", "5")) == 2
    assert "file" in one_line(capsys)


def test_the_rate_rises_stays_and_falls():
    config = TrainConfig(steps=1000, rate=1e-3, final_rate=1e-6, warm_up=100, constant=0.5)
    rates = np.array([config.rate_at(step) for step in range(1001)])
    assert np.all(np.diff(rates[:100]) > 0)
    assert np.all(rates[100:501] == 1e-3)
    assert np.all(np.diff(rates[501:]) < 0)
    assert rates[-1] == pytest.approx(1e-6)
    with pytest.raises(TrainingError):
        TrainConfig(steps=-1)


def test_metrics_are_cut_back_to_a_step_and_thinned(tmp_path):
    path = tmp_path / METRICS
    records = [{"step": s, "lattice": 1.0} for s in range(1, 501)] + [{"step": 250, "validation": {"lattice": 2.0}}]
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + '{"step": 50')
    take_back(path, 400)
    assert [json.loads(line) for line in path.read_text().splitlines()] == sorted(
        (r for r in records if r["step"] <= 400), key=lambda r: r["step"]
    )
    curve = loss_curve(path, 10)
    assert [r["step"] for r in curve if "validation" not in r] == list(range(40, 401, 40))
    assert {"step": 250, "validation": {"lattice": 2.0}} in curve
    take_back(tmp_path / "absent", 3)
    assert not (tmp_path / "absent").exists()
