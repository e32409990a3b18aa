"""Space groups and prototypes of known crystals."""

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from dao_flows.makers.science.structures import primitive_niggli
from dao_flows.makers.science.symmetry import prototype, prototypes, prototypes_of, space_group


@pytest.mark.parametrize(
    ("name", "number", "label"),
    [
        ("rock salt", 225, "B1 (AB_cF8_225_a_b)"),
        ("caesium chloride", 221, "B2 (AB_cP2_221_b_a)"),
        ("A15", 223, "A15 (A3B_cP8_223_c_a)"),
        ("perovskite", 221, "E2_1 (AB3C_cP5_221_a_c_b)"),
        ("rutile", 136, "C4 (A2B_tP6_136_f_a)"),
    ],
)
def test_known_crystals_are_recognised(crystals, name, number, label):
    primitive = crystals[name].get_primitive_structure()
    found, refined = space_group(primitive, 0.01)
    assert found is not None
    assert (found.number, found.symprec) == (number, 0.01)
    assert refined is not None
    assert len(refined) == len(crystals[name])
    assert prototype(primitive) == label


def test_no_label_shows_how_its_source_escapes_it():
    labels = [label for entries in prototypes().values() for label, _ in entries]
    assert "L'2 (A2B_tI6_139_d_a)" in labels
    assert "Lavarevićite (AB3C4_cP8_215_a_c_e)" in labels
    assert not [label for label in labels if set(label) & set("\\${}")]


def test_tolerances_tell_distorted_from_symmetric(crystals):
    structure = crystals["rock salt"]
    structure.translate_sites([0], [0.005, 0, 0])  # 0.028 Å
    tight, loose = space_group(structure, 0.01)[0], space_group(structure, 0.1)[0]
    assert tight is not None
    assert loose is not None
    assert tight.number < loose.number == 225


def test_what_has_no_name_has_none():
    odd = Structure(
        Lattice.from_parameters(4, 5, 6, 70, 80, 95), ["Na", "Cl", "Na"], [[0] * 3, [0.3, 0.5, 0.1], [0.7, 0.2, 0.6]]
    )
    assert prototype(odd) is None
    assert (
        prototype(Structure(odd.lattice, ["Na", "Cl", "K", "Br", "F", "I"], [[i / 6, i / 7, i / 5] for i in range(6)]))
        is None
    )
    on_top = Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [1e-4, 0, 0]])
    assert space_group(on_top, 0.1) == (None, None)


def by_the_matcher_alone(structure: Structure) -> str | None:
    """The prototype, every pair of cells given to StructureMatcher."""
    cell, tolerance = primitive_niggli(structure), 1.0
    found = prototypes_of(structure.composition.anonymized_formula)
    while found:
        matcher = StructureMatcher(ltol=0.2 * tolerance, stol=0.3 * tolerance, angle_tol=5 * tolerance)
        closer = [e for e in found if matcher.fit_anonymous(e[1], cell, skip_structure_reduction=True)]
        if tolerance < 1 and not closer:
            break
        found, tolerance = closer, tolerance * 0.8
        if len(found) == 1 or tolerance < 0.05:
            break
    return found[0][0] if found else None


def test_sorting_cells_out_beforehand_changes_no_name(crystals):
    rng, found, expected = np.random.default_rng(0), [], []
    for name in ("rock salt", "caesium chloride", "zinc blende", "rutile", "A15"):
        for size in (0.0, 0.1, 0.3, 0.6):
            primitive = crystals[name].get_primitive_structure()
            lattice = primitive.lattice.matrix @ (np.eye(3) + rng.normal(0, size / 5, (3, 3)))
            structure = Structure(lattice, primitive.species, primitive.frac_coords)
            structure.perturb(size)
            found.append(prototype(structure))
            expected.append(by_the_matcher_alone(structure))
    assert found == expected
    assert None in found
    assert len(set(found)) > 4
