"""Batched L-BFGS relaxation through the energy of DAO-P."""

import numpy as np
import pytest
import torch

from dao_flows.model.crystals import Crystal
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.relax import RelaxConfig, relax


@pytest.fixture(scope="module")
def predictor() -> DaoP:
    torch.manual_seed(3)
    network = CrysformerConfig(hidden=16, layers=2, heads=2, frequencies=3, time_width=8)
    model = DaoP(DaoConfig(network=network, volume_scaling=True, energy_mean=0.1, energy_std=0.2)).double()
    for parameter in model.network.energy_out.parameters():
        parameter.data.mul_(3)  # steep enough for the line search to matter
    return model.eval().requires_grad_(False)


def random_cell(rng: np.random.Generator) -> np.ndarray:
    return 2.5 * np.eye(3) + rng.normal(0, 0.3, (3, 3))


def crystals(count: int, seed: int = 0) -> list[Crystal]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, count)
    return [Crystal(rng.integers(1, 84, n), rng.random((n, 3)), n ** (1 / 3) * random_cell(rng)) for n in sizes]


def test_energy_falls_and_is_that_of_the_relaxed_crystal(predictor):
    start = crystals(12)
    relaxed = relax(predictor, start, RelaxConfig(iterations=15))
    before, after = predict_energy(predictor, start), predict_energy(predictor, [r.crystal for r in relaxed])
    assert np.allclose([r.energy_before for r in relaxed], before, atol=1e-10)
    assert np.allclose([r.energy_after for r in relaxed], after, atol=1e-10)
    assert np.all(after <= before)
    assert np.mean(before - after) > 1e-3


def test_more_iterations_reach_a_stationary_point(predictor):
    relaxed = relax(predictor, crystals(4, seed=5), RelaxConfig(iterations=60, tolerance=1e-6))
    short = relax(predictor, crystals(4, seed=5), RelaxConfig(iterations=5))
    assert all(a.energy_after <= b.energy_after + 1e-12 for a, b in zip(relaxed, short, strict=True))
    assert sum(r.converged for r in relaxed) >= 2


def test_a_crystal_relaxes_alike_alone_and_in_any_batch(predictor):
    start = crystals(7, seed=1)
    together = relax(predictor, start)
    alone = [relax(predictor, [c])[0] for c in start]
    for a, b in zip(together, alone, strict=True):
        assert a.iterations == b.iterations
        assert a.energy_after == pytest.approx(b.energy_after, abs=1e-7)


def test_one_bad_crystal_harms_no_other(predictor):
    good = crystals(3, seed=2)
    n = len(good[0])
    bad = Crystal(good[0].numbers, np.full((n, 3), np.nan), good[0].lattice)
    mixed = relax(predictor, [good[0], bad, *good[1:]])
    clean = relax(predictor, good)
    for a, b in zip([mixed[0], *mixed[2:]], clean, strict=True):
        assert a.energy_after == pytest.approx(b.energy_after, abs=1e-9)
    assert mixed[1].energy_after == np.inf
    assert not mixed[1].converged
    assert mixed[1].iterations == 0


def test_steps_stay_within_their_bounds(predictor):
    start = crystals(6, seed=4)
    config = RelaxConfig(iterations=1, max_displacement=0.01, max_strain=0.02)
    for before, after in zip(start, relax(predictor, start, config), strict=True):
        moved = (after.crystal.frac - before.frac + 0.5) % 1 - 0.5
        assert np.abs(moved).max() <= 0.01 + 1e-9
        assert np.linalg.norm(after.crystal.lattice - before.lattice) <= 0.02 * np.linalg.norm(before.lattice) + 1e-9
