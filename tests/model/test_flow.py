"""Flow matching: its paths begin at the base, end at the crystal, and know neither orientation nor translation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dao_flows.model.crystals import Crystals
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.process.flow_matching import (
    BASE_SIZE,
    COORDINATE_UNIT,
    LATTICE_UNIT,
    base_lattice,
    centred,
    log_stretch,
    stretch,
    wrap,
)
from dao_flows.model.runtime.random import stream

SMALL = CrysformerConfig(hidden=32, layers=2, heads=4, frequencies=8, time_width=16)
MODEL = DaoG(DaoConfig(SMALL, volume_scaling=True, objective="flow")).double()


def crystals(batch=5, size=6, seed=0):
    rng = np.random.default_rng(seed)
    numbers = torch.from_numpy(rng.integers(1, 90, (batch, size)))
    numbers[0, 4:] = 0  # padding
    frac = torch.from_numpy(rng.random((batch, size, 3)))
    lattice = torch.from_numpy(np.eye(3) * 2.6 + rng.normal(0, 0.4, (batch, 3, 3)))
    return Crystals(numbers, frac * (numbers > 0)[..., None], lattice)


def orthogonal(seed):
    return torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 3))))[0]


def times(value, batch=5):
    return torch.full((batch,), value)


@given(st.integers(0, 10_000))
def test_a_lattice_is_its_stretch_turned(seed):
    lattice = crystals(seed=seed).lattice
    log = log_stretch(lattice)
    assert torch.allclose(log, log.mT)
    back = stretch(log)
    assert torch.allclose(back @ back.mT, lattice @ lattice.mT, atol=1e-8)
    assert torch.allclose(log_stretch(lattice @ orthogonal(seed)), log, atol=1e-8)
    assert torch.allclose(log_stretch(back), log, atol=1e-8)


def test_paths_lead_from_the_base_to_the_crystal():
    real = crystals()
    end = MODEL.add_noise(real, times(0), stream(0))
    assert torch.allclose(wrap(end.crystals.frac - real.frac), torch.zeros(()).double(), atol=1e-12)
    assert torch.allclose(log_stretch(end.crystals.lattice), log_stretch(real.lattice), atol=1e-9)
    start = MODEL.add_noise(real, times(1000), stream(0))
    torch.manual_seed(0)
    generator = stream(0)
    normal = torch.randn(real.lattice.shape, generator=generator, dtype=torch.float64)
    uniform = torch.rand(real.frac.shape, generator=generator, dtype=torch.float64)
    here = real.mask[..., None]
    assert torch.allclose(log_stretch(start.crystals.lattice), base_lattice(normal), atol=1e-9)
    assert torch.allclose(wrap(start.crystals.frac - uniform) * here, torch.zeros(()).double(), atol=1e-12)


@pytest.mark.parametrize("t", [1000, 700, 10])
def test_the_targets_lead_to_the_crystal_in_one_step(t):
    real = crystals()
    noised = MODEL.add_noise(real, times(t), stream(1))
    ahead = noised.crystals.frac + t / 1000 * COORDINATE_UNIT * noised.coordinates
    # up to a shift of all atoms, which the targets leave out
    gap = wrap(real.frac - ahead)
    shift = wrap(gap - gap[:, :1]) * real.mask[..., None]
    assert shift.abs().max() < 1e-9
    log = log_stretch(noised.crystals.lattice) + t / 1000 * LATTICE_UNIT * noised.lattice
    assert torch.allclose(log, log_stretch(real.lattice), atol=1e-8)


def test_targets_do_not_depend_on_orientation_and_are_of_order_one():
    real = crystals(batch=4000, seed=3)
    turned = real.with_geometry(real.frac, real.lattice @ orthogonal(1))
    here, there = (MODEL.add_noise(c, times(500, 4000), stream(2)) for c in (real, turned))
    assert torch.allclose(here.lattice, there.lattice, atol=1e-7)
    assert torch.allclose(here.coordinates, there.coordinates)
    per_atom = (here.coordinates**2).sum() / (3 * real.mask.sum())
    assert float(per_atom) == pytest.approx(1 - 1 / 6, rel=0.05)  # a mean over 6 atoms is taken out
    assert 0.3 < float(here.lattice.std()) < 3


def test_the_networks_word_has_no_drift_and_turns_no_cell():
    batch = crystals()
    output = MODEL.network(batch, times(300).double())
    coordinates, lattice = MODEL.objective.predicted(output, batch)
    assert torch.allclose(coordinates.sum(1), torch.zeros(()).double(), atol=1e-9)
    assert not coordinates[0, 4:].any()
    assert torch.equal(lattice, lattice.mT)
    assert torch.allclose(centred(coordinates, batch.mask), coordinates, atol=1e-12)


def test_the_base_is_a_cell_of_a_common_volume_per_atom():
    normal = torch.randn((20_000, 3, 3), generator=stream(0), dtype=torch.float64)
    log = base_lattice(normal)
    assert torch.equal(log, log.mT)
    assert float(log.diagonal(dim1=1, dim2=2).mean()) == pytest.approx(BASE_SIZE, abs=0.01)
    assert log[:, 0, 0].std() == pytest.approx(0.25, rel=0.03)
    assert log[:, 0, 1].std() == pytest.approx(0.2, rel=0.03)


def test_flow_matching_needs_cells_in_units_of_their_size():
    with pytest.raises(ValueError, match="needs volume_scaling"):
        DaoConfig(SMALL, objective="flow")
    with pytest.raises(ValueError, match="must be one of diffusion, flow"):
        DaoConfig(SMALL, objective="guess")
