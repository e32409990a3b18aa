"""Paths of a bridge begin at templates where there are some, at the base where not, and the network is told which."""

import numpy as np
import pytest
import torch

from dao_flows.model.crystals import Crystal
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.data.table import BucketedBatches, CrystalTable
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.process.bridge import BEND, COORDINATE_NOISE, normal_of_uniform
from dao_flows.model.process.flow_matching import log_stretch, wrap
from dao_flows.model.process.objective import Draw
from dao_flows.model.runtime.random import stream
from dao_flows.model.sampling.bridge import mend

SMALL = CrysformerConfig(hidden=32, layers=2, heads=4, frequencies=8, time_width=16)
BRIDGE = DaoG(DaoConfig(SMALL, volume_scaling=True, objective="bridge")).double()
FLOW = DaoG(DaoConfig(SMALL, volume_scaling=True, objective="flow")).double()
LAST = BRIDGE.config.noise.steps


def crystal(seed, atoms=4):
    rng = np.random.default_rng(seed)
    lattice = np.eye(3) * 4.5 + rng.normal(0, 0.4, (3, 3))
    return Crystal(np.array([3, 8, 8, 25, 25, 25][:atoms]), rng.random((atoms, 3)), lattice)


REAL = [crystal(i) for i in range(6)]
TEMPLATES = [crystal(100 + i) for i in range(6)]


def noised(model, t, known):
    real = model.to_model_units(model.collate(REAL))
    t = torch.full((len(REAL),), t)
    draw = Draw(t, *model.objective.noise(real, stream(0)))
    start = model.start(model.collate(TEMPLATES), torch.tensor(known)) if known is not None else None
    return real, model.objective.corrupt(real, draw, start=start)


def test_a_path_begins_around_the_template_and_ends_at_the_crystal():
    real, begin = noised(BRIDGE, LAST, [True] * 6)
    templates = BRIDGE.to_model_units(BRIDGE.collate(TEMPLATES))
    away = wrap(begin.crystals.frac - templates.frac)
    assert 0.5 * COORDINATE_NOISE < away.std() < 2 * COORDINATE_NOISE
    assert (log_stretch(begin.crystals.lattice) - log_stretch(templates.lattice)).abs().max() < 0.1
    _, near = noised(BRIDGE, 1, [True] * 6)
    assert wrap(near.crystals.frac - real.frac).abs().max() < 1 / LAST
    assert (begin.t == 2 * LAST).all()
    assert (near.t == LAST + 1).all()


def test_without_templates_a_bridge_is_flow_matching():
    _, flow = noised(FLOW, 400, None)
    for known in (None, [False] * 6):
        _, free = noised(BRIDGE, 400, known)
        assert (free.t == 400).all()
        assert torch.equal(free.crystals.frac, flow.crystals.frac)
        assert torch.equal(free.coordinates, flow.coordinates)
        assert torch.equal(free.lattice, flow.lattice)


def test_rows_with_and_without_a_template_share_a_batch():
    known = [True, False, True, False, False, True]
    _, mixed = noised(BRIDGE, 700, known)
    _, all_known = noised(BRIDGE, 700, [True] * 6)
    _, free = noised(BRIDGE, 700, None)
    for row, from_template in enumerate(known):
        expected = all_known if from_template else free
        assert torch.equal(mixed.coordinates[row], expected.coordinates[row])
        assert mixed.t[row] == expected.t[row]


def test_on_the_way_from_a_template_a_large_error_counts_by_its_root():
    square = torch.tensor([1e-6, 1.0, 4.0]).double()
    free = BRIDGE.objective.penalty(square, torch.full((3,), LAST))
    mended = BRIDGE.objective.penalty(square, torch.full((3,), LAST + 1)).tolist()
    assert torch.equal(free, square)
    assert mended[0] == pytest.approx(1e-6, rel=1e-3)
    assert mended[2] == pytest.approx(2 * mended[1], rel=0.1)
    assert mended[1] < 2 * BEND


def test_uniform_numbers_become_normal_ones():
    normal = normal_of_uniform(torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    assert normal.mean().abs() < 0.02
    assert abs(normal.std() - 1) < 0.02


def test_batches_carry_templates_and_those_without_one():
    table = CrystalTable(REAL, np.zeros(6, np.float32), "", starts=[TEMPLATES[0], None, *TEMPLATES[2:]])
    (bucket,) = BucketedBatches(table, 4, 0).buckets
    assert bucket.known.tolist() == [True, False, True, True, True, True]
    assert torch.allclose(bucket.templates.lattice[3].double(), torch.from_numpy(TEMPLATES[3].lattice), atol=1e-6)


@pytest.mark.parametrize("renoise", [True, False])
def test_a_network_that_changes_nothing_gives_templates_back(renoise):
    model = DaoG(DaoConfig(SMALL, volume_scaling=True, objective="bridge"))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    templates = [*TEMPLATES[:2], crystal(7, atoms=6)]
    for template, found in zip(templates, mend(model, templates, 0, steps=3, renoise=renoise), strict=True):
        assert (found.crystal.numbers == template.numbers).all()
        away = found.crystal.frac - template.frac
        assert np.abs(away - np.round(away)).max() < 6 * COORDINATE_NOISE
        assert found.way < 3 * COORDINATE_NOISE
        ratio = np.linalg.det(found.crystal.lattice) / abs(np.linalg.det(template.lattice))
        assert 0.8 < abs(ratio) < 1.25
