"""Property heads: trained on a DAO-P, they answer in the units of their data, and say what they spoilt."""

import numpy as np
import pytest
import torch

from dao_flows.model.checkpoint.format import load, read_card
from dao_flows.model.dao_p import PropertyError, PropertyHead, predict_energy, predict_property
from dao_flows.model.data.table import read_crystals
from dao_flows.model.train import main, parser, recorded_command

TINY = ["--hidden", "8", "--layers", "1", "--heads", "2", "--frequencies", "2", "--time-width", "8"]
TINY += ["--batch-size", "8", "--threads", "1", "--warm-up", "10", "--device", "cpu"]


@pytest.fixture
def tc(parquet):
    """A file with a property that follows from the atoms: 0.1 to 8.3 K, unknown for every fourth crystal."""
    crystals = read_crystals(parquet()).crystals
    values = [None if i % 4 == 3 else float(np.mean(c.numbers)) / 10 for i, c in enumerate(crystals)]
    return parquet("tc.parquet", tc=values)


def test_a_head_on_a_tuned_network_answers_in_units(tc, tmp_path, capsys):
    data, base, out = str(tc), tmp_path / "base", tmp_path / "tc"
    assert main(["dao-p", data, "--out", str(base), *TINY, "--steps", "10"]) == 0
    tune = ["dao-p", data, "--start", str(base / "checkpoint"), "--property", "tc", "--log", "--out", str(out), *TINY]
    assert main([*tune, "--steps", "150", "--rate", "2e-2", "--ema", "0.9"]) == 0
    model, card = load(out / "checkpoint")
    (head,) = card.architecture["properties"]
    table = read_crystals(tc, "train", target="tc").labelled()
    logs = np.log(table.labels.astype(float))
    assert head == {"name": "tc", "mean": logs.mean(), "std": logs.std(), "log": True, "tuned": True}
    assert card.parent == read_card(base / "checkpoint").sha256
    assert (card.training["property"], card.training["data"]["rows"]) == ("tc", len(table))
    predicted = predict_property(model, "tc", table.crystals)
    error, constant = (np.abs(np.log(p) - logs).mean() for p in (predicted, np.exp(np.median(logs))))
    assert error < 0.5 * constant
    for ask, says in (
        (lambda: predict_property(model, "gap", table.crystals), "does not predict gap; its properties: tc"),
        (lambda: predict_energy(model, table.crystals), "its energies no longer hold"),
    ):
        with pytest.raises(PropertyError, match=says):
            ask()
    # on from there for the energies: the head is left behind
    assert (
        main(["dao-p", data, "--start", str(out / "checkpoint"), "--out", str(tmp_path / "e"), *TINY, "--steps", "5"])
        == 0
    )
    assert read_card(tmp_path / "e" / "checkpoint").architecture["properties"] == []


def test_a_head_on_a_frozen_network_leaves_all_else_as_it_is(tc, tmp_path):
    data, base = str(tc), tmp_path / "base"
    assert main(["dao-p", data, "--out", str(base), *TINY, "--steps", "10"]) == 0
    start = base / "checkpoint"
    for name in ("tc", "n"):
        freeze = ["--property", "tc" if name == "tc" else "e_above_hull", "--freeze-backbone"]
        out = tmp_path / name
        assert main(["dao-p", data, "--start", str(start), "--out", str(out), *freeze, *TINY, "--steps", "60"]) == 0
        start = out / "checkpoint"
    (before, _), (tuned, _), (after, card) = (load(tmp_path / n / "checkpoint") for n in ("base", "tc", "n"))
    crystals = read_crystals(tc).crystals
    assert [head["name"] for head in card.architecture["properties"]] == ["tc", "e_above_hull"]
    assert np.array_equal(predict_energy(after, crystals), predict_energy(before, crystals))
    assert np.array_equal(predict_property(after, "tc", crystals), predict_property(tuned, "tc", crystals))
    ours, theirs = after.state_dict(), before.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_killed_property_run_resumes(tc, tmp_path):
    once = ["dao-p", str(tc), "--property", "tc", *TINY, "--steps", "30", "--validate-every", "1000"]
    assert main([*once, "--out", str(tmp_path / "calm")]) == 0
    parts = [*once, "--out", str(tmp_path / "parts")]
    assert main([*parts, "--wall-time-s", "1e-3"]) == 75
    assert main(parts) == 0
    assert len({read_card(tmp_path / name / "checkpoint").sha256 for name in ("calm", "parts")}) == 1


def test_values_that_cannot_be_learned_get_one_line(tc, parquet, tmp_path, capsys):
    for file, more, says in (
        (tc, ["--property", "gap"], "has no column gap; there are: "),
        (tc, ["--property", "split"], "split does not hold numbers"),
        (parquet("a", tc=[0.0, 1.0] * 30), ["--property", "tc", "--log"], "tc is not positive in "),
        (parquet("b", tc=[2.0] * 60), ["--property", "tc"], "its values are all the same"),
        (parquet("c", tc=[None] * 59 + [1.0]), ["--property", "tc"], "whose value is known"),
        (parquet("d", tc=[1.0, float("inf")] * 30), ["--property", "tc"], "not finite"),
        (parquet("e", values=[1.0, 2.0] * 30), ["--property", "values"], "cannot have this name"),
        (tc, ["--property", "tc", "--freeze-backbone"], "give --start"),
    ):
        assert main(["dao-p", str(file), "--out", str(tmp_path / "run"), *TINY, "--steps", "5", *more]) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(error) == 1
        assert says in error[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("log", [False, True])
def test_standardising_can_be_undone(log):
    head, values = PropertyHead("tc", 0.3, 2.0, log), torch.linspace(0.1, 30, 50)
    assert torch.allclose(head.in_units(head.standardise(values)), values)


def test_the_recorded_command_has_no_folder_of_this_machine(tmp_path):
    argv = ["dao-p", str(tmp_path / "set"), f"--out={tmp_path}/run", "--start", "base", "--steps", "3", "--log"]
    command = recorded_command([*argv, "--wall-time-s", "30", "--wall-time-s=4"])
    assert command == "python -m dao_flows.model.train dao-p set --out=run --start base --steps 3 --log"
    assert parser().parse_args(command.split()[3:]).steps == 3
