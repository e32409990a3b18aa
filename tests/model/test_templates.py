"""Templates: fingerprints, supercells, ordered derivatives, and which known crystals are found."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from dao_flows.model.crystals import Crystal
from dao_flows.model.templates.derivatives import compact_supercell, reduction, shared, supercell, superlattices
from dao_flows.model.templates.fingerprints import SAME, exchanged, fingerprint, groups
from dao_flows.model.templates.library import Library
from dao_flows.model.templates.search import find_templates

ROCK_SALT = Crystal(np.array([11, 17]), np.array([[0.0] * 3, [0.5] * 3]), 2.82 * (1 - np.eye(3)))
CESIUM_CHLORIDE = Crystal(np.array([11, 17]), np.array([[0.0] * 3, [0.5] * 3]), 3.4 * np.eye(3))


@pytest.fixture(scope="module")
def library(known_crystals) -> Library:
    return Library(known_crystals)


def cell(**atoms: int) -> np.ndarray:
    from pymatgen.core.periodic_table import Element

    return np.concatenate([[Element(symbol).Z] * count for symbol, count in atoms.items()])


def space_group(crystal: Crystal) -> int:
    structure = Structure(crystal.lattice, crystal.numbers.tolist(), crystal.frac)
    return int(SpacegroupAnalyzer(structure, 0.01).get_space_group_number())


def a_crystal(seed: int, atoms: int) -> Crystal:
    rng = np.random.default_rng(seed)
    lattice = 4 * np.eye(3) + rng.normal(0, 0.4, (3, 3))
    return Crystal(rng.choice([8, 22, 38], atoms), rng.random((atoms, 3)), lattice)


def own_print(crystal: Crystal) -> np.ndarray:
    return fingerprint(crystal, np.unique(crystal.numbers)).ravel()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_a_fingerprint_does_not_depend_on_how_a_crystal_is_described(seed, atoms):
    crystal, rng = a_crystal(seed, atoms), np.random.default_rng(seed)
    order, rotation = rng.permutation(atoms), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    other = Crystal(crystal.numbers[order], crystal.frac[order] + rng.normal(size=3), 1.7 * crystal.lattice @ rotation)
    np.testing.assert_allclose(own_print(other), own_print(crystal), atol=1e-5)


def test_a_fingerprint_is_that_of_a_supercell_and_tells_structures_apart():
    for size in (2, 3, 12):
        np.testing.assert_allclose(own_print(compact_supercell(ROCK_SALT, size)), own_print(ROCK_SALT), atol=1e-5)
    assert np.abs(own_print(ROCK_SALT) - own_print(CESIUM_CHLORIDE)).mean() > 2 * SAME
    assert groups([own_print(c) for c in (ROCK_SALT, CESIUM_CHLORIDE, ROCK_SALT)]).tolist() == [0, 1, 0]


def test_a_fingerprint_with_exchanged_elements_is_that_of_the_exchanged_crystal():
    crystal = a_crystal(3, 6)
    old = np.unique(crystal.numbers)
    for new in permutations((57, 9, 26)):
        exchange = dict(zip(old.tolist(), new, strict=True))
        other = Crystal(np.array([exchange[int(z)] for z in crystal.numbers]), crystal.frac, crystal.lattice)
        found = exchanged(fingerprint(crystal, old), np.array(new))
        np.testing.assert_allclose(found, own_print(other), atol=1e-6)


def test_superlattices_are_as_many_as_theory_says():
    # the sum over divisors a of n of a·σ(a): Hart and Forcade, Phys. Rev. B 77, 224115 (2008)
    assert [len(superlattices(n)) for n in (1, 2, 3, 4, 6)] == [1, 7, 13, 35, 91]
    assert np.allclose(np.linalg.det(superlattices(4)), 4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_a_supercell_is_the_same_crystal(seed, size):
    crystal = a_crystal(seed, 3)
    matrices = superlattices(size)
    made = supercell(crystal, matrices[seed % len(matrices)])
    assert Counter(made.numbers.tolist()) == {z: size * n for z, n in Counter(crystal.numbers.tolist()).items()}
    assert abs(np.linalg.det(made.lattice)) == pytest.approx(size * abs(np.linalg.det(crystal.lattice)))
    # every atom of it is an atom of the crystal
    back = made.frac @ made.lattice @ np.linalg.inv(crystal.lattice)
    for frac, number in zip(back, made.numbers, strict=True):
        way = crystal.frac[crystal.numbers == number] - frac
        assert np.abs(way - np.round(way)).max(1).min() < 1e-6


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_reduced_vectors_span_the_lattice_and_are_the_shortest(seed):
    rng = np.random.default_rng(seed)
    short = 4 * np.eye(3) + rng.normal(0, 0.3, (3, 3))
    long = np.array([[1, 0, 0], [3, 1, 0], [-2, 5, 1]]) @ short
    change = reduction(long)
    assert np.allclose(change, np.round(change)) and np.linalg.det(change) == pytest.approx(1)
    lengths = sorted(np.linalg.norm(change @ long, axis=1))
    assert sum(lengths) <= np.linalg.norm(short, axis=1).sum() + 1e-9


def test_a_shared_sublattice_is_dealt_as_asked_and_its_arrangements_differ():
    iron = Crystal(np.array([0]), np.zeros((1, 3)), 2.87 * np.eye(3))
    made = shared(iron, 0, (26, 13), 1, 2)
    assert 1 < len(made) <= 4
    assert all(sorted(crystal.numbers.tolist()) == [13, 26] for crystal in made)
    assert len(set(groups([own_print(crystal) for crystal in made]).tolist())) == len(made)
    assert 225 in map(space_group, made)  # of a simple cubic lattice, that in which they alternate: rock salt


def test_the_crystal_of_the_same_composition_comes_first_and_is_left_out_on_demand(library):
    found = [template for _, template in find_templates(library, [cell(Na=1, Cl=1)], 10)]
    assert [template.known for template in found[:2]] == [True, True]
    assert all(set(t.exchange.items()) == {(11, (11,)), (17, (17,))} for t in found[:2])
    assert found[0].energy == 0 and found[1].energy == pytest.approx(0.05)
    others = [template for _, template in find_templates(library, [cell(Na=1, Cl=1)], 10, known=False)]
    assert others and not any(template.known for template in others)
    assert not {t.place for t in others} & {t.place for t in found if t.known}


def test_templates_have_the_atoms_that_are_asked_for_at_a_volume_that_fits_them(library):
    for numbers in (cell(K=1, Br=1), cell(Sn=2, O=4), cell(Nb=6, Ge=2), cell(Ba=1, Zr=1, O=3)):
        found = find_templates(library, [numbers], 20)
        assert found
        for at, template in found:
            assert at == 0
            assert sorted(template.crystal.numbers.tolist()) == sorted(numbers.tolist())
            known = library.crystal(template.place)
            ratio = abs(np.linalg.det(template.crystal.lattice) / np.linalg.det(known.lattice)) / template.cells
            volumes = library.volumes[template.crystal.numbers].sum() / library.volumes[known.numbers].sum()
            assert ratio == pytest.approx(volumes / template.cells)


def test_the_nearest_elements_are_exchanged(library):
    (_, first), *_ = find_templates(library, [cell(Ba=1, Zr=1, O=3)], 5)
    assert first.exchange == {38: (56,), 22: (40,), 8: (8,)}
    assert space_group(first.crystal) == 221  # the symmetry is the template's


def test_likelihoods_add_up_and_order(library):
    found = [template for _, template in find_templates(library, [cell(K=1, Br=1)], 50)]
    weights = [template.weight for template in found]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1)
    alike = [template for template in found if template.copies > 1]
    assert alike  # rock salt comes twice, from NaCl and from MgO
    assert len(find_templates(library, [cell(K=1, Br=1)], 2)) == 2
    assert find_templates(library, [cell(K=1, Br=1)], 0) == []


def test_the_order_of_atoms_does_not_matter(library):
    numbers = cell(Ba=1, Zr=1, O=3)

    def told(n):
        return [(t.place, t.exchange, t.weight) for _, t in find_templates(library, [n], 9)]

    assert told(numbers) == told(numbers[::-1]) == told(np.random.default_rng(0).permutation(numbers))


def test_a_cell_of_several_known_cells_is_a_supercell_unless_the_smaller_one_is_asked_for_too(library):
    (_, alone), *_ = find_templates(library, [cell(K=4, Br=4)], 3)
    assert alone.cells == 4 and len(alone.crystal) == 8
    assert space_group(alone.crystal) in (221, 225)
    both = find_templates(library, [cell(K=1, Br=1), cell(K=4, Br=4)], 9)
    assert {at for at, _ in both} == {0} and all(template.cells == 1 for _, template in both)


def test_where_no_crystal_has_the_multiplicities_two_elements_share_a_sublattice(library):
    assert (1, 1, 2, 6) not in library.groups
    numbers = cell(Fe=1, Mo=1, Sr=2, O=6)
    found = [template for _, template in find_templates(library, [numbers], 4)]
    assert found
    for template in found:
        assert sorted(template.crystal.numbers.tolist()) == sorted(numbers.tolist())
    first = found[0]
    assert first.exchange == {22: (26, 42), 38: (38,), 8: (8,)} and first.cells == 2  # from SrTiO3
    assert space_group(first.crystal) == 225  # iron and molybdenum alternate, as in the real crystal
    assert sum(template.weight for template in found) <= 1 + 1e-9


def test_elements_beyond_plutonium_and_unheard_of_cells_find_nothing(library):
    assert find_templates(library, [np.array([95, 17])], 5) == []
    assert find_templates(library, [cell(Li=1, Be=2, B=3, C=4, N=5, O=7, F=11)], 5) == []
