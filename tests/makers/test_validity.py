"""Distances, volumes, charges: verdicts that do not depend on how a crystal is written down."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
from pymatgen.core import Lattice, Structure
from scipy.spatial.transform import Rotation

from dao_flows.makers.science.validity import Rules, charge_neutral, contact_fault, contacts, volume_fault

RULES = Rules(distance_ratio=0.5, distance=0.5, min_volume=2.0, max_volume=250.0)


def random_structure(seed: int, n: int) -> Structure:
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(*rng.uniform(3, 7, 3), *rng.uniform(60, 120, 3))
    return Structure(lattice, rng.choice([3, 8, 14, 26, 56], n).tolist(), rng.random((n, 3)))


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_verdicts_do_not_depend_on_how_the_crystal_is_written(seed, n):
    structure, rng = random_structure(seed, n), np.random.default_rng(seed + 1)
    order = rng.permutation(n)
    rotation = Rotation.random(rng=rng).as_matrix() * rng.choice([-1, 1])
    variants = [
        Structure.from_sites([structure[int(i)] for i in order]),
        Structure(structure.lattice, structure.species, structure.frac_coords + rng.random(3)),
        Structure(structure.lattice.matrix @ rotation, structure.species, structure.frac_coords),
        structure.make_supercell([[1, 1, 0], [0, 1, 0], [0, -1, 2]], in_place=False),
        structure.make_supercell([[1, 0, 0], [90, 1, 0], [0, 90, 1]], in_place=False),
    ]
    found = contacts(structure)
    for variant in variants:
        other = contacts(variant)
        assert other.distance == pytest.approx(found.distance, abs=1e-6)
        assert other.ratio == pytest.approx(found.ratio, abs=1e-6)
        assert (volume_fault(variant, RULES) is None) == (volume_fault(structure, RULES) is None)


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_the_closest_contact_is_that_of_a_plain_search_over_images(seed, n):
    structure = random_structure(seed, n)
    images = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    frac = structure.frac_coords
    apart = (frac[:, None] - frac[None])[:, :, None] + images
    distances = np.linalg.norm(apart @ structure.lattice.matrix, axis=-1)
    distances[np.arange(n), np.arange(n), len(images) // 2] = np.inf
    assert contacts(structure).distance == pytest.approx(distances.min(), abs=1e-6)


def test_known_crystals_are_valid_and_measured(crystals):
    for structure in crystals.values():
        assert volume_fault(structure, RULES) is None
        assert contact_fault(contacts(structure), RULES) is None
    found = contacts(crystals["rock salt"])
    assert (found.pair, found.distance) == ("Cl-Na", pytest.approx(2.82))
    assert contacts(Structure(Lattice.cubic(2.5), ["Fe"], [[0, 0, 0]])).distance == pytest.approx(2.5)  # its own image
    assert contacts(Structure(Lattice.cubic(40), ["H"], [[0, 0, 0]])).distance == pytest.approx(40)


def test_reasons_carry_the_figure():
    cell = Lattice.cubic(4)
    close = Structure(cell, ["Si", "O"], [[0, 0, 0], [0.1025, 0, 0]])
    assert contact_fault(contacts(close), RULES) == (
        "shortest distance O-Si 0.41 Å is below 0.5 × the sum of covalent radii"
    )
    hydrogen = Structure(cell, ["H", "H"], [[0, 0, 0], [0.1, 0, 0]])
    assert contact_fault(contacts(hydrogen), RULES) == "shortest distance H-H 0.40 Å is below 0.5 Å"
    flat = Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 0, 0.001]]), ["Si"], [[0, 0, 0]])
    assert volume_fault(flat, RULES) == "cell volume 0.009 Å³ is not above 0.1 Å³"
    assert volume_fault(Structure(Lattice.cubic(1.2), ["Si"], [[0, 0, 0]]), RULES) == (
        "volume 1.73 Å³ per atom is below 2 Å³"
    )
    assert volume_fault(Structure(Lattice.cubic(10), ["Si"], [[0, 0, 0]]), RULES) == (
        "volume 1000.0 Å³ per atom is above 250 Å³"
    )


@pytest.mark.parametrize(
    ("formula", "neutral"),
    [
        ("NaCl", True),
        ("SrTiO3", True),
        ("Fe3O4", True),
        ("Cr3Os", True),
        ("Si", True),
        ("Na2Cl", False),
        ("NaCl4", False),
    ],
)
def test_charge_neutrality_as_a_chemist_would_have_it(formula, neutral):
    assert charge_neutral(formula) is neutral


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_the_tightest_contact_is_found_where_large_atoms_are_further_apart_than_small_ones(seed, n):
    sparse = random_structure(seed, n)
    sparse.scale_lattice(110 * n)
    found = contacts(sparse)
    centres, partners, _, distances = sparse.get_neighbor_list(3 * found.ratio_distance + 6)
    radii = np.array([CovalentRadius.radius[site.specie.symbol] for site in sparse])
    assert found.ratio == pytest.approx((distances / (radii[centres] + radii[partners])).min())
