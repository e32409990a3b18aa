"""A POSCAR is read as VASP reads it, and elements that it does not name are not made up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Poscar

from dao_flows.makers.datasets.readers.poscar import potcar_symbols, read_poscar
from dao_flows.makers.datasets.readers.refusal import RefusedError

CELL = "3.2 0 0\n0 3.2 0\n0 0 3.2\n"


def poscar(rest: str, scale: str = "1.0", title: str = "H He") -> str:
    return f"{title}\n{scale}\n{CELL}{rest}"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_what_pymatgen_writes_is_read_as_it_was(seed, selective, velocities):
    rng = np.random.default_rng(seed)
    species = [str(s) for s in rng.choice(["Na", "F", "H", "Mg"], rng.integers(1, 30))]
    crystal = Structure(Lattice(4 * np.eye(3) + rng.uniform(-1, 1, (3, 3))), species, rng.random((len(species), 3)))
    flags = rng.random((len(species), 3)) < 0.5
    speeds = rng.random((len(species), 3)).tolist() if velocities else None
    written = Poscar(crystal, selective_dynamics=flags if selective else None, velocities=speeds).get_str()
    found = read_poscar(written)
    assert found.species == crystal.species
    assert np.allclose(found.frac_coords, crystal.frac_coords, atol=1e-9)
    assert np.allclose(found.lattice.matrix, crystal.lattice.matrix, atol=1e-9)


def test_a_negative_scale_is_a_volume_for_cartesian_coordinates_too():
    atoms = "Cs Cl\n1 1\nCartesian\n0 0 0\n1.6 1.6 1.6\n"
    found = read_poscar(poscar(atoms, "-64.0"))
    assert found.volume == pytest.approx(64) and np.allclose(found.frac_coords[1], 0.5)
    assert np.allclose(read_poscar(poscar(atoms, "2.0")).frac_coords[1], 0.5)


def test_symbols_that_a_file_states():
    assert read_poscar(poscar("1 1\nDirect\n0 0 0 Cs\n0.5 0.5 0.5 Cl\n")).formula == "Cs1 Cl1"  # behind each atom
    wrapped = "Cs_sv/0a1b Cl/79d9\nCs\n1 1\n1\nDirect\n0 0 0\n0.5 0.5 0.5\n0.25 0.5 0.5\n"
    assert read_poscar(poscar(wrapped)).formula == "Cs2 Cl1"
    assert read_poscar(poscar("Li D\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n")).formula == "Li1 H1"
    titles = "  TITEL  = PAW_PBE Cs_sv 08Apr2002\n  TITEL  = PAW_PBE Cl 06Sep2000\n"
    assert potcar_symbols(titles) == ["Cs", "Cl"]


@pytest.mark.parametrize("mode", ["Direct", "direct configuration=     1", "D", "Dir", "C", "cart", "Kartesian", "K"])
def test_modes_written_out_or_cut_short(mode):
    site = read_poscar(poscar(f"Cs Cl\n1 1\n{mode}\n0 0 0\n0.5 0.5 0.5\n"))[1]
    found = site.frac_coords if mode[0] in "Dd" else site.coords
    assert found == pytest.approx([0.5] * 3)


REFUSED = {
    "no symbols": ("1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n", "does not name its elements"),
    "flags are no fluorine": ("1 1\nDirect\n0 0 0 F F F\n0.5 0.5 0.5 T T T\n", "does not name its elements"),
    "symbols of some atoms": ("1 1\nDirect\n0 0 0 Cs\n0.5 0.5 0.5\n", "does not name its elements"),
    "symbols that disagree": ("Cs Cl\n1 1\nDirect\n0 0 0 Cl\n0.5 0.5 0.5 Cs\n", "not those above its counts"),
    "more symbols": ("Cs Cl Br\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n", "names 3 elements and counts 2"),
    "fewer symbols": ("Cs\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n", "names 1 elements and counts 2"),
    "no element": ("A B\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n", "'A' is no element"),
    "no mode": ("Cs Cl\n1 1\n0 0 0\n0.5 0.5 0.5\n", "where Direct or Cartesian is expected"),
    "misspelt mode": ("Cs Cl\n1 1\nArtesian\n0 0 0\n0.5 0.5 0.5\n", "where Direct or Cartesian is expected"),
    **{
        f"mode {word}": (f"Cs Cl\n1 1\n{word}\n0 0 0\n0.5 0.5 0.5\n", f"'{word}' stands where Direct")
        for word in ("Drect", "Cartesain", "Crystal", "Cell", "Degrees")
    },
    "fewer atoms": ("Cs Cl\n1 1\nDirect\n0 0 0\n", "coordinates of fewer"),
    "more atoms": ("Cs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n0.1 0.1 0.1\n", "more coordinates than"),
    "two numbers": ("Cs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5\n", "is not three numbers"),
    "not a number": ("Cs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 nan\n", "is not three numbers"),
    "no atoms": ("Cs\n0\nDirect\n", "no atoms"),
    "no counts": ("Cs Cl\nDirect\nx\n", "no counts"),
    "torn": ("", "ends early"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_poscar_does_not_say_is_not_guessed(name):
    rest, says = REFUSED[name]
    with pytest.raises(RefusedError, match=says):
        read_poscar(poscar(rest))


@pytest.mark.parametrize("scale", ["0", "", "nan", "1 1 1", "x"])
def test_a_scale_that_is_none(scale):
    with pytest.raises(RefusedError, match="scale"):
        read_poscar(poscar("Cs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n", scale))
