"""A run that diverges goes back to a good state at a lower rate, however often it is killed meanwhile."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.data.table import read_crystals
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.training.config import TrainConfig, TrainingError
from dao_flows.model.training.divergence import WINDOWS, RunningLevel
from dao_flows.model.training.metrics import METRICS, read
from dao_flows.model.training.plot import write_plot
from dao_flows.model.training.state import LOCK, STATE, good_state, locked, read_state, write_state
from dao_flows.model.training.trainer import ROLLBACK_RATE, Trainer

losses = st.floats(0.1, 10, allow_nan=False)


class KilledError(Exception):
    """Stands for a kill -9: nothing of the trainer runs after it."""


class Faulty(Trainer):
    """A trainer whose weights are spoilt after given steps, as long as its rate is above a bound.

    killed_after: optimiser steps of this process, in its order, after which it dies.
    """

    spoilt: tuple[int, ...] = ()
    cured_at: float = 0.0
    value = math.nan
    killed_after: int | None = None
    taken = 0

    def take_step(self, bucket, rows):
        if self.taken == self.killed_after:
            raise KilledError
        self.taken += 1
        rate = self.rate
        found = super().take_step(bucket, rows)
        if self.step in self.spoilt and rate > self.cured_at:
            with torch.no_grad():
                self.model.network.score_out.weight.mul_(self.value)
        return found


@pytest.fixture
def trainer(parquet, tmp_path, monkeypatch):
    """Makes a faulty trainer in a folder of this name, which judges every ten steps."""
    monkeypatch.setattr("dao_flows.model.training.trainer.WINDOW", 10)
    table = read_crystals(parquet(), "train")

    def make(folder: str, **faults) -> Faulty:
        torch.manual_seed(0)
        network = CrysformerConfig(hidden=8, layers=1, heads=2, frequencies=2, time_width=8)
        fields = {"steps": 50, "batch_size": 8, "constant": 1, "warm_up": 0, "snapshot_every": 20, "save_every_s": 0}
        settings = {name: faults.pop(name) for name in list(faults) if name in ("max_rollbacks", "steps", "rate")}
        made = Faulty(DaoG(DaoConfig(network)), TrainConfig(**fields | settings), table, None, tmp_path / folder)
        for name, value in faults.items():
            setattr(made, name, value)
        return made

    return make


def told(trainer: Trainer) -> list[dict]:
    """The metrics without what the clock says."""
    return [{k: v for k, v in r.items() if "_s" not in k} for r in read(trainer.folder / METRICS)]


def test_a_spike_goes_back_to_the_last_good_state_and_then_to_the_one_before(trainer):
    run = trainer("run", spoilt=(45,), cured_at=0.3e-3)
    assert run.run()
    assert [(r["step"], r["from_step"], r["rate_factor"]) for r in run.rollbacks] == [(40, 50, 0.5), (20, 50, 0.25)]
    assert all("not finite" in r["reason"] for r in run.rollbacks)
    records = told(run)
    assert [r["step"] for r in records if "rate" in r] == [10, 20, 30, 40, 50]
    assert [r["rollback"] for r in records if "rollback" in r] == run.rollbacks
    assert [r["rate"] for r in records if "rate" in r] == [1e-3, 1e-3, 0.25e-3, 0.25e-3, 0.25e-3]
    assert run.good == [40, 50]
    assert sorted(p.name for p in run.folder.glob("good-*")) == [good_state(40), good_state(50)]
    assert write_plot(run.folder, "run") is not None


def test_a_finite_spike_is_seen_too(trainer):
    run = trainer("run", steps=90, spoilt=(75,), cured_at=0.9e-3, value=1e3)
    assert run.run()
    assert [(r["step"], r["from_step"]) for r in run.rollbacks] == [(60, 80)]
    assert "rose to" in run.rollbacks[0]["reason"]


def test_a_run_killed_anywhere_around_a_rollback_ends_like_one_that_was_not(trainer):
    faults = {"spoilt": (25, 45), "cured_at": 0.3e-3}
    calm = trainer("calm", **faults)
    assert calm.run()
    assert [r["step"] for r in calm.rollbacks] == [20, 0]
    for after in (29, 31, 64):
        killed = trainer(f"killed-{after}", **faults, killed_after=after)
        with pytest.raises(KilledError):
            killed.run()
        again = trainer(f"killed-{after}", **faults)
        assert again.resume()
        assert again.run()
        assert again.rollbacks == calm.rollbacks
        assert told(again) == told(calm)
        assert all(torch.equal(a, b) for a, b in zip(again.average, calm.average, strict=True))


def test_a_run_that_keeps_diverging_stops_with_the_last_good_state(trainer):
    fault = {"spoilt": (45,), "max_rollbacks": 2}
    with pytest.raises(TrainingError, match=r"not finite at step 50 after 2 rollbacks: .*\(it goes on from step 40\)"):
        trainer("run", **fault).run()
    again = trainer("run", **fault)
    assert again.resume()
    assert again.step == 40
    assert all(torch.isfinite(p).all() for p in again.parameters)
    assert again.rate == 0.25e-3
    with pytest.raises(TrainingError, match="at step 50 after 2 rollbacks"):
        again.run()
    cured = trainer("run", rate=0.6e-3, **fault | {"cured_at": 0.4e-3})
    assert cured.resume()
    assert cured.rate == 0.6e-3  # a rate given anew is taken as it is, and may be lowered as often
    assert cured.run()
    assert [r["rate_factor"] for r in cured.rollbacks] == [0.5, 0.25, 0.5]
    with pytest.raises(TrainingError, match="at step 50: lower --rate"):
        trainer("strict", **fault | {"max_rollbacks": 0}).run()


def test_rollbacks_draw_other_noise_at_a_lower_rate(trainer):
    once = trainer("once", spoilt=(25,), cured_at=0.9e-3)
    assert once.run()
    calm = trainer("calm")
    assert calm.run()
    a, b = ({r["step"]: r["coordinate"] for r in told(t) if "coordinate" in r} for t in (once, calm))
    assert a[20] == b[20]
    assert a[30] != b[30]
    assert once.rate == pytest.approx(ROLLBACK_RATE * calm.rate)


@given(st.lists(losses, max_size=30), losses)
def test_the_level_is_that_of_the_last_windows_and_nothing_below_it_diverges(before, loss):
    level = RunningLevel(3.0)
    for known in before:
        level.add(known)
    assert level.losses == before[-WINDOWS:]
    assert level.diverged(math.nan) and level.diverged(math.inf)
    if not before or loss <= 3 * min(before[-WINDOWS:]):
        assert level.diverged(loss) is None
    assert RunningLevel(0, before).diverged(1e9) is None
    assert RunningLevel(3.0, level.losses).diverged(loss) == level.diverged(loss)  # as it comes out of a file


@given(st.floats(0.1, 10), st.floats(1.5, 10))
def test_a_steady_loss_diverges_beyond_the_multiple_alone(steady, spike):
    level = RunningLevel(spike, [steady] * 5)
    assert level.diverged(steady * spike * 1.01)
    assert level.diverged(steady * spike * 0.99) is None


def test_a_loss_that_jumps_about_is_let_be():
    assert RunningLevel(3.0, [0.1, 1.0] * 5).diverged(3.0) is None


def test_a_state_written_after_a_kill_in_between_spoils_no_good_one(tmp_path):
    good, state = tmp_path / good_state(1), tmp_path / STATE
    write_state(good, {"a": torch.ones(3)}, {"step": 1})
    (tmp_path / f"{STATE}.partial").hardlink_to(good)  # what is left of a kill between linking and renaming
    write_state(state, {"a": torch.zeros(3)}, {"step": 2})
    assert read_state(good)[1] == {"step": 1}
    assert torch.equal(read_state(good)[0]["a"], torch.ones(3))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with locked(tmp_path), pytest.raises(TrainingError, match="another process is training"), locked(tmp_path, 0.3):
        pass
    with locked(tmp_path):
        assert (tmp_path / LOCK).exists()
