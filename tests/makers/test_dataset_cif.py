"""A CIF becomes rows only where it says all that is needed of its crystal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.symmetry.groups import SpaceGroup

from dao_flows.makers.datasets.cleaning import Clean, clean
from dao_flows.makers.datasets.config import BuildConfig
from dao_flows.makers.datasets.readers.cif import blocks, read_cif
from dao_flows.makers.datasets.readers.cif_statements import closed
from dao_flows.makers.datasets.readers.raw import Raw
from dao_flows.makers.datasets.readers.refusal import Rejected

CELL = """data_{name}
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {c}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma {gamma}
{stated}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{more}
{atoms}
"""
P1 = "_symmetry_space_group_name_H-M 'P 1'"
ROCK = "_symmetry_space_group_name_H-M 'F m -3 m'"
OCCUPANCY = "_atom_site_occupancy"
BRUCITE = "_symmetry_space_group_name_H-M 'P -3 m 1'\n_chemical_formula_sum 'H2 Mg O2'\n_cell_formula_units_Z 1"
SALT = "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5"


def cif(stated: str, atoms: str, more: str = "", a: float = 5.64, c: float | None = None, gamma: float = 90) -> str:
    return CELL.format(name="x", a=a, c=c or a, gamma=gamma, stated=stated, atoms=atoms, more=more)


def brucite(atoms: str, stated: str = BRUCITE) -> str:
    return cif(stated, atoms, OCCUPANCY, 3.142, 4.766, 120)


def read(text: str) -> Clean | Rejected:
    return clean(Raw(0, "cif", text), BuildConfig(), compare=False)


TAKEN = {
    "a group by its name": (cif(ROCK, SALT), "NaCl", 8),
    "charges and a deviation": (cif(ROCK, "Na1 Na+ 0 0 0 1.0\nCl1 Cl- 0.5 0.5 0.5 1.00(1)", OCCUPANCY), "NaCl", 8),
    "formula of a unit": (cif(f"{ROCK}\n_chemical_formula_sum 'Cl Na'\n_cell_formula_units_Z 4", SALT), "NaCl", 8),
    "formula of the cell": (cif(f"{ROCK}\n_chemical_formula_sum 'Na4 Cl4'\n_cell_formula_units_Z 4", SALT), "NaCl", 8),
    "no formula": (cif(f"{ROCK}\n_chemical_formula_sum ?\n_cell_formula_units_Z ?", SALT), "NaCl", 8),
    "deuterium": (cif(f"{ROCK}\n_chemical_formula_sum 'D Li'", "Li Li 0 0 0\nD D 0.5 0.5 0.5", a=4.06), "LiH", 8),
    "labels alone": (
        cif(ROCK, "Na1 0 0 0\nCl1A 0.5 0.5 0.5").replace("_atom_site_type_symbol\n", ""),
        "NaCl",
        8,
    ),
    "all of brucite": (
        brucite("Mg Mg 0 0 0 1\nO O 0.33333 0.66667 0.2203 1\nH H 0.33333 0.66667 0.43 1"),
        "Mg(HO)2",
        5,
    ),
    "no symmetry, but Z": (
        cif("_chemical_formula_sum 'Cs Cl'\n_cell_formula_units_Z 1", SALT.replace("Na", "Cs")),
        "CsCl",
        2,
    ),
    "an origin that Z confirms": (
        cif(
            "_symmetry_space_group_name_H-M 'F d -3 m'\n_chemical_formula_sum Si\n_cell_formula_units_Z 8",
            "Si Si 0 0 0",
            a=5.43,
        ),
        "Si",
        8,
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_cif_says_in_full_is_a_row(name):
    text, formula, atoms = TAKEN[name]
    found = read(text)
    assert isinstance(found, Clean), found
    assert (found.formula, found.row["n_atoms"]) == (formula, atoms)


REFUSED = {
    "lost hydrogen": (brucite("Mg Mg 0 0 0 1\nO O 0.33333 0.66667 0.2203 1"), "its own formula is H2 Mg O2"),
    "hydroxide as a symbol": (brucite("Mg Mg 0 0 0 1\nOH OH 0.33333 0.66667 0.2203 1", P1), "'OH' in its list"),
    "hydroxide with a dash": (brucite("Mg Mg 0 0 0 1\nO1 O-H 0.33333 0.66667 0.2203 1", P1), "'O-H' in its list"),
    "water as a label": (cif(ROCK, "Ow1 0 0 0").replace("_atom_site_type_symbol\n", ""), "'Ow1' in its list"),
    "capital label": (cif(ROCK, "NA1 0 0 0").replace("_atom_site_type_symbol\n", ""), "'NA1' in its list"),
    "attached hydrogens": (cif(ROCK, "O O 0 0 0 2", "_atom_site_attached_hydrogens"), "hydrogens that are not"),
    "unknown place": (cif(P1, "Li Li 0.5 0.5 0.5\nH1 H . . ."), "the position of H1 is not known"),
    "asked place": (cif(P1, "Li Li 0.5 0.5 0.5\nH1 H ? ? ?"), "the position of H1 is not known"),
    "a place in words": (cif(P1, "Li Li 0.5 0.5 x"), "the position of Li is not known"),
    "an infinite place": (cif(P1, "Li Li 0.5 0.5 inf"), "the position of Li is not known"),
    "unknown angle": (cif(ROCK, SALT, gamma="."), "_cell_angle_gamma is not known"),  # type: ignore[arg-type]
    "half occupied": (cif(ROCK, "Na Na 0 0 0 1\nCl Cl 0.5 0.5 0.5 0.5", OCCUPANCY), "occupied by 0.5"),
    "nearly whole": (cif(ROCK, "Na Na 0 0 0 1\nCl Cl 0.5 0.5 0.5 0.99", OCCUPANCY), "occupied by 0.99"),
    "more than whole": (cif(ROCK, "Na Na 0 0 0 1\nCl Cl 0.5 0.5 0.5 1.2", OCCUPANCY), "occupied by 1.2"),
    "not occupied": (cif(ROCK, "Na Na 0 0 0 1\nCl Cl 0.5 0.5 0.5 0", OCCUPANCY), "occupied by 0"),
    "occupancy unknown": (cif(ROCK, "Na Na 0 0 0 1\nCl Cl 0.5 0.5 0.5 ?", OCCUPANCY), "an occupancy is not known"),
    "occupancy left out": (cif(ROCK, "Na Na 0 0 0 1\nCl Cl 0.5 0.5 0.5 .", OCCUPANCY), "an occupancy is not known"),
    "two on a site": (cif(P1, "Na Na 0 0 0\nK K 0 0 0"), "ccupanc"),
    "disordered groups": (cif(P1, "Na Na 0 0 0 1\nCl Cl 0.5 0.5 0.5 2", "_atom_site_disorder_group"), "disordered"),
    "wrong Z": (cif(f"{ROCK}\n_chemical_formula_sum 'Cl Na'\n_cell_formula_units_Z 2", SALT), "Z say 2 of Cl Na"),
    "wrong ratio": (cif(f"{ROCK}\n_chemical_formula_sum 'Cl2 Na'", SALT), "its own formula is Cl2 Na"),
    "no formula at all": (cif(f"{ROCK}\n_chemical_formula_sum 'salt, pure'", SALT), "formula is not understood"),
    "wrong volume": (cif(f"{ROCK}\n_cell_volume 250.0(1)", SALT), "its own volume is 250"),
    "no symmetry": (cif("", SALT), "states no symmetry"),
    "unit without its group": (
        cif("_chemical_formula_sum 'Cl Na'\n_cell_formula_units_Z 4", SALT),
        "Z say 4 of Cl Na",
    ),
    "odd group": (cif("_symmetry_space_group_name_H-M 'F m 5 m'", SALT), "F m 5 m|Fm5m is not understood"),
    "odd setting": (
        cif("_symmetry_space_group_name_H-M 'F d -3 m :1'\n_space_group_IT_number 227", "Si Si 0 0 0", a=5.43),
        "Fd-3m:1 is not understood",
    ),
    "untold origin": (cif("_symmetry_space_group_name_H-M 'F d -3 m'", "Si Si 0 0 0", a=5.43), "the origin of"),
    "number of a monoclinic group": (cif("_space_group_IT_number 14", SALT), "the axes of its space group 14"),
    "cell of another symmetry": (cif(ROCK, SALT, c=6.0), "does not have the symmetry"),
    "rhombohedral axes": (cif("_symmetry_space_group_name_H-M 'R -3 m'", "Bi Bi 0 0 0.23", a=4.7), "symmetry"),
    "list that is cut": (
        cif(f"{ROCK}\nloop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'-x,-y,z'\n'y,x,-z'", SALT),
        "it is no group",
    ),
    "list of one of many": (cif(f"{ROCK}\nloop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'", SALT), "space group has 192"),
    "list not understood": (
        cif(f"{ROCK}\nloop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'a,b,c'", SALT),
        "ymmetr|ccupanc",
    ),
    "modulated": (cif(f"{ROCK}\n_cell_modulation_dimension 1", SALT), "modulated"),
    "no atoms": ("data_x\n_cell_length_a 3\n", "not known"),
    "no crystal": ("data_x\n_audit_author 'me'\n", "holds no crystals"),
    "empty": ("", "empty"),
    "two crystals": (cif(ROCK, SALT) + cif(ROCK, SALT), "holds 2 crystals"),
    "a ragged list": (cif(ROCK, "Na Na 0 0 0\nCl Cl 0.5 0.5"), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_cif_leaves_open_or_contradicts_is_rejected_with_the_reason(name):
    text, says = REFUSED[name]
    found = read(text)
    assert isinstance(found, Rejected), found.row
    assert any(part in found.reason for part in says.split("|")), found
    assert "\n" not in found.reason


def test_blocks_are_told_apart_and_text_fields_are_none():
    text = f"# a file\ndata_global\n_title\n;\ndata_none\n;\nDATA_one\n_cell_length_a 1\n data_two\n{cif(ROCK, SALT)}"
    found = blocks(text)
    assert [(block.name, block.holds_atoms) for block in found] == [
        ("global", False),
        ("one", True),
        ("two", False),
        ("x", True),
    ]
    assert read_cif(found[-1].text).composition.reduced_formula == "NaCl"
    assert blocks("no block") == []


GROUPS = ["P1", "P-1", "P2_1/c", "Pnma", "C2/m", "I4/mmm", "R-3m", "P6_3/mmc", "Fm-3m", "Ia-3d", "P4_12_12"]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(GROUPS), st.integers(0, 10**6), st.booleans())
def test_what_pymatgen_writes_is_read_as_it_was(name, seed, symmetric):
    rng = np.random.default_rng(seed)
    group = SpaceGroup(name)
    system = group.crystal_system
    a, b, c = rng.uniform(4, 9, 3)
    lattice = {
        "cubic": Lattice.cubic(a),
        "tetragonal": Lattice.tetragonal(a, c),
        "hexagonal": Lattice.hexagonal(a, c),
        "trigonal": Lattice.hexagonal(a, c),
        "orthorhombic": Lattice.orthorhombic(a, b, c),
        "monoclinic": Lattice.monoclinic(a, b, c, 104.0),
        "triclinic": Lattice.from_parameters(a, b, c, 82, 77, 95),
    }[system]
    crystal = Structure.from_spacegroup(name, lattice, ["Na", "Cl"], [[0, 0, 0], rng.random(3)])
    if not crystal.is_valid(0.4):
        return
    text = str(CifWriter(crystal, symprec=0.01 if symmetric else None))
    assert len(read_cif(text)) == len(crystal)
    assert closed(list(group.symmetry_ops))
    assert len(group.symmetry_ops) < 3 or not closed(list(group.symmetry_ops)[:-1])
