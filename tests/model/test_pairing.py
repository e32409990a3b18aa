"""A crystal comes into its template's setting with its atoms beside the template's, and stays the same crystal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from dao_flows.model.crystals import Crystal
from dao_flows.model.templates.pairing import pair

MATCHER = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
CELLS = {
    "rock salt": Crystal(
        np.array([11, 17]),
        np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
        Lattice.from_parameters(4, 4, 4, 60, 60, 60).matrix,
    ),
    "perovskite": Crystal(
        np.array([20, 22, 8, 8, 8]),
        np.array([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
        np.eye(3) * 3.9,
    ),
    "triclinic": Crystal(
        np.array([3, 3, 25, 8, 8, 8]),
        np.random.default_rng(3).random((6, 3)),
        np.array(Lattice.from_parameters(4.2, 5.1, 6.3, 81, 86, 74).matrix),
    ),
}


def structure(crystal):
    return Structure(crystal.lattice, crystal.numbers, crystal.frac)


def disguised(crystal, seed):
    """The same crystal in another setting, with another origin and order of atoms, turned."""
    rng = np.random.default_rng(seed)
    while True:
        setting = rng.integers(-1, 2, (3, 3)).astype(float)
        if abs(abs(np.linalg.det(setting)) - 1) < 0.1 and np.abs(np.linalg.inv(setting)).max() < 1.5:
            break  # and the way back is among those that are tried
    order = rng.permutation(len(crystal))
    frac = crystal.frac[order] @ np.linalg.inv(setting) + rng.random(3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return Crystal(crystal.numbers[order], frac % 1, setting @ crystal.lattice @ turn)


@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_a_disguised_crystal_is_recognised(name, seed):
    template = CELLS[name]
    found = pair(template, disguised(template, seed))
    assert found.rms < 1e-6
    assert found.strain < 1e-6
    moved = found.move(disguised(template, seed))
    assert (moved.numbers == template.numbers).all()
    assert np.allclose(moved.lattice @ moved.lattice.T, template.lattice @ template.lattice.T)
    way = moved.frac - template.frac
    assert np.allclose(way, np.round(way), atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_a_distorted_crystal_is_as_far_away_as_the_matcher_says(name):
    rng = np.random.default_rng(1)
    template = CELLS[name]
    far = Crystal(template.numbers, template.frac + rng.normal(0, 0.02, template.frac.shape), template.lattice)
    found = pair(template, disguised(far, 5))
    expected = MATCHER.get_rms_dist(structure(template), structure(far))[0]
    assert found.rms == pytest.approx(expected, abs=5e-3)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_moved_crystal_is_the_same_crystal_however_unlike_its_template(seed):
    template = CELLS["triclinic"]
    rng = np.random.default_rng(seed)
    crystal = Crystal(template.numbers[::-1].copy(), rng.random((6, 3)), np.eye(3) * 5 + rng.normal(0, 0.8, (3, 3)))
    moved = pair(template, crystal).move(crystal)
    assert (moved.numbers == template.numbers).all()
    assert abs(np.linalg.det(moved.lattice)) == pytest.approx(abs(np.linalg.det(crystal.lattice)))
    before, after = (np.sort(structure(c).distance_matrix, axis=None) for c in (crystal, moved))
    assert np.allclose(before, after, atol=1e-6)
