"""Deduplication: the same groups as comparing everything with everything, in whatever form a structure comes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from dao_flows.makers.science import duplicates as dedup
from dao_flows.makers.science.chemistry import formula_of
from dao_flows.makers.science.duplicates import Tolerance, find_duplicates, fingerprint, lattices_fit
from dao_flows.makers.science.structures import primitive_niggli

from .conftest import CRYSTALS


def distorted(structure: Structure, rng: np.random.Generator, size: float) -> Structure:
    """Moved atoms (size: Å), strained, rescaled, permuted, rotated, shifted; at times a supercell."""
    if rng.random() < 0.3 and len(structure) < 10:
        structure = structure.make_supercell([[1, 0, 0], [0, 2, 0], [0, 0, 1]], in_place=False)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    lattice = structure.lattice.matrix @ (np.eye(3) + rng.normal(0, size / 10, (3, 3))) @ rotation
    moved = Structure(lattice * rng.uniform(0.95, 1.05), structure.species, structure.frac_coords + rng.random(3))
    moved.perturb(size)
    return Structure.from_sites([moved[int(i)] for i in rng.permutation(len(moved))])


def by_brute_force(structures: list[Structure]) -> list[int | None]:
    """Every structure against every one kept so far, by StructureMatcher alone."""
    same: list[int | None] = []
    for structure in structures:
        kept = [i for i, place in enumerate(same) if place is None]
        same.append(next((i for i in kept if StructureMatcher().fit(structures[i], structure)), None))
    return same


def formulas(structures: list[Structure]) -> list[str]:
    return [formula_of(s.composition).name for s in structures]


@pytest.mark.parametrize("seed", range(3))
def test_blocking_changes_no_group(seed):
    rng = np.random.default_rng(seed)
    names = ["rock salt", "caesium chloride", "zinc blende", "A15", "L12", "rutile", "perovskite"]
    structures = []
    for _ in range(36):
        structure = CRYSTALS[str(rng.choice(names))].get_primitive_structure()
        structures.append(distorted(structure, rng, float(rng.choice([0.01, 0.05, 0.15, 0.3]))))
    found = find_duplicates(structures, formulas(structures), Tolerance())
    assert found == by_brute_force(structures)
    assert 5 <= sum(place is None for place in found) < 36


def test_lattices_are_turned_away_exactly_where_the_matcher_finds_no_setting():
    rng = np.random.default_rng(2)
    matcher, found = StructureMatcher(), set()
    for _ in range(60):
        pair = [CRYSTALS[str(rng.choice(["rock salt", "quartz", "A15", "rutile"]))] for _ in range(2)]
        first, second = (primitive_niggli(distorted(s.get_primitive_structure(), rng, 0.3)) for s in pair)
        one, other, fu, _ = matcher._preprocess(first, second, skip_structure_reduction=True)
        expected = next(matcher._get_lattices(other.lattice, one, fu), None) is not None
        assert lattices_fit(first.lattice, second.lattice, Tolerance()) is expected
        found.add(expected)
    assert found == {True, False}


def test_random_structures_get_the_same_groups_as_brute_force():
    rng = np.random.default_rng(5)
    structures = []
    for n in (2, 4, 8):
        lattice = np.eye(3) * (20.0 * n) ** (1 / 3)
        for _ in range(6):
            frac = rng.random((n, 3))
            structures.append(Structure(lattice, ["Na", "Cl"] * (n // 2), frac))
            structures.append(Structure(lattice, ["Na", "Cl"] * (n // 2), frac + rng.normal(0, 0.03, (n, 3))))
    found = find_duplicates(structures, formulas(structures), Tolerance())
    assert found == by_brute_force(structures)
    assert None in found
    assert set(found) - {None}


def test_large_blocks_are_shared_out_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(1)
    names = ["rock salt", "caesium chloride", "zinc blende"]
    structures = [
        distorted(CRYSTALS[str(rng.choice(names))].get_primitive_structure(), rng, 0.3 * rng.random())
        for _ in range(36)
    ]
    names = formulas(structures)
    whole = find_duplicates(structures, names, Tolerance())
    monkeypatch.setattr(dedup, "LARGE", 6)
    monkeypatch.setattr(dedup, "ROUND", 4)
    monkeypatch.setattr(dedup, "CHUNK", 5)
    assert find_duplicates(structures, names, Tolerance()) == whole


def test_a_supercell_is_a_duplicate_and_another_formula_is_not(crystals):
    salt = crystals["rock salt"]
    potassium = salt.copy()
    potassium.replace_species({"Na": "K"})
    structures = [salt, salt.get_primitive_structure(), salt * (1, 1, 2), potassium, crystals["zinc blende"]]
    assert find_duplicates(structures, formulas(structures), Tolerance()) == [None, 0, 0, None, None]
    assert find_duplicates([], [], Tolerance()) == []


def test_long_skew_cells_are_no_trap(crystals):
    quartz = crystals["quartz"]
    sheared = [quartz.make_supercell([[1, 0, 0], [k, 1, 0], [0, k, 1]], in_place=False) for k in (1, 50, 333)]
    assert find_duplicates([quartz, *sheared], ["SiO2"] * 4, Tolerance()) == [None, 0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(CRYSTALS)))
def test_fingerprints_are_those_of_the_crystal(seed, name):
    rng, structure = np.random.default_rng(seed), CRYSTALS[name]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    scaled = structure.lattice.matrix @ rotation * rng.uniform(0.5, 2)
    other = Structure(scaled, structure.species, structure.frac_coords + rng.random(3)) * (1, 2, 1)
    other = Structure.from_sites([other[int(i)] for i in rng.permutation(len(other))])
    assert np.allclose(fingerprint(other), fingerprint(structure), atol=1e-6)
