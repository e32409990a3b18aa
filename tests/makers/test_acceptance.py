"""Whether a relaxed crystal may take its original's place, against pymatgen's own geometry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher

from dao_flows.makers.science.acceptance import (
    Bounds,
    closest_contact,
    displacement,
    in_niggli_cell,
    in_other_cell,
    judge,
    single_precision,
)
from dao_flows.makers.science.structures import to_crystal, to_structure
from dao_flows.makers.science.validity import contacts
from dao_flows.model.crystals import Crystal
from dao_flows.model.relax import Relaxed

BOUNDS = Bounds(0.7, 1.4, 0.6)
STEPS = np.array([[1, 1, 0], [0, 1, 0], [0, -2, 1]])  # to another cell of the same crystal


def random_crystal(seed: int) -> Crystal:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 8))
    cell = 3 * size ** (1 / 3) * (np.eye(3) + rng.normal(0, 0.25, (3, 3)))
    structure = to_structure(Crystal(rng.integers(1, 84, size), rng.random((size, 3)), cell))
    return to_crystal(structure.get_reduced_structure("niggli"))


def relaxed_to(crystal: Crystal) -> Relaxed:
    return Relaxed(crystal, 0.2, 0.1, 5, False)


crystals = st.integers(0, 10_000).map(random_crystal)


@settings(max_examples=60, deadline=None)
@given(crystals)
def test_the_closest_contact_is_pymatgens(crystal):
    expected = contacts(to_structure(crystal))
    for cell in (crystal, in_other_cell(crystal, STEPS)):
        ratio, distance, _ = closest_contact(cell)
        assert ratio == pytest.approx(expected.ratio, rel=1e-6)
        assert distance == pytest.approx(expected.ratio_distance, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(crystals, st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_a_translation_and_whole_cells_are_no_displacement(crystal, shift):
    images = np.random.default_rng(0).integers(-2, 3, (len(crystal), 3))
    moved = Crystal(crystal.numbers, crystal.frac + shift + images, crystal.lattice)
    assert displacement(crystal, moved) == pytest.approx(0, abs=1e-9)


def test_the_displacement_is_that_of_the_atoms():
    cell = Crystal(np.array([11, 17]), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 4 * np.eye(3))
    moved = Crystal(cell.numbers, np.array([[0.99, 0, 0], [0.51, 0.5, 0.5]]), cell.lattice)  # 0.04 Å apart each
    assert displacement(cell, moved) == pytest.approx(0.04)


@settings(max_examples=40, deadline=None)
@given(crystals)
def test_a_broken_cell_is_reduced_and_stays_the_same_crystal(crystal):
    broken = in_other_cell(crystal, STEPS)
    reduced, changed = in_niggli_cell(broken, crystal)
    assert changed
    assert np.linalg.det(reduced.lattice) == pytest.approx(np.linalg.det(crystal.lattice))
    lengths = np.linalg.norm(crystal.lattice, axis=1)
    assert np.linalg.norm(reduced.lattice, axis=1) == pytest.approx(lengths, rel=0.02)
    one = Crystal(crystal.numbers, crystal.frac, crystal.lattice)
    matcher = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1, primitive_cell=False, scale=False)
    assert matcher.fit(to_structure(one), to_structure(reduced))


def test_a_cubic_cell_stays_a_cubic_cell():
    cubic = Crystal(np.array([26]), np.zeros((1, 3)), 2.87 * np.eye(3))
    for seed in range(50):
        strain = np.random.default_rng(seed).normal(0, 5e-4, (3, 3))
        strained = Crystal(cubic.numbers, cubic.frac, cubic.lattice @ (np.eye(3) + strain))
        assert not in_niggli_cell(strained, cubic)[1]


def test_volume_and_distances_are_judged():
    salt = Crystal(np.array([11, 17]), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 3.4 * np.eye(3))
    assert judge(salt, relaxed_to(salt), BOUNDS).fault is None
    blown = judge(salt, relaxed_to(Crystal(salt.numbers, salt.frac, 1.2 * salt.lattice)), BOUNDS)
    assert blown.fault == "volume: 1.728 of before is not within 0.7 to 1.4"
    near = Crystal(salt.numbers, np.array([[0.0, 0, 0], [0.2, 0.2, 0.2]]), salt.lattice)
    assert judge(salt, relaxed_to(near), BOUNDS).fault.startswith(
        "distance: Cl-Na 1.18 Å is 0.44 of the covalent radii"
    )
    further = Crystal(salt.numbers, np.array([[0.0, 0, 0], [0.22, 0.22, 0.22]]), salt.lattice)
    assert judge(near, relaxed_to(further), BOUNDS).fault is None  # it was closer before


def test_coordinates_stay_below_one_in_single_precision():
    stored = single_precision(Crystal(np.array([1]), np.array([[-1e-9, 1.0, 0.3]]), np.eye(3)))
    assert stored.frac.dtype == np.float32
    assert stored.frac.tolist() == [[0, 0, pytest.approx(0.3)]]
