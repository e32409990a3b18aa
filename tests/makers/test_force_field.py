"""Force fields of atomate2: what they say of a structure does not depend on what they were asked before."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from dao_flows.makers.models import force_field
from dao_flows.makers.models.atomate import known_name, package_version
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.force_field import ForceField, ForceFieldError

pytestmark = pytest.mark.skipif(
    not (find_spec("atomate2") and find_spec("chgnet")), reason="needs dao-flows[forcefields]"
)
SALT = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5] * 3, [0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0]]
ATOM = Structure(Lattice.cubic(15), ["Ne"], [[0, 0, 0]])


@pytest.fixture(scope="module")
def chgnet() -> ForceField:
    return ForceField("CHGNet")


def crystal(seed: int) -> Structure:
    """A displaced cell of a few atoms, in P1."""
    rng = np.random.default_rng(seed)
    lattice = Lattice(4 * np.eye(3) + rng.normal(0, 0.2, (3, 3)))
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    return Structure(lattice, rng.choice(["Na", "Cl", "Ti", "O"], 4), corners + rng.normal(0, 0.02, (4, 3)))


def rutile() -> Structure:
    return Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.9, 2.8), ["Ti", "O"], [[0, 0, 0], [0.33, 0.33, 0]]
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**16), st.integers(0, 2**16))
def test_figures_do_not_depend_on_what_was_asked_before(chgnet, one, other):
    first = chgnet.labels(crystal(one))
    chgnet.energy(crystal(other))
    assert chgnet.energy(crystal(one)) == pytest.approx(first.energy, abs=1e-5)
    chgnet.labels(crystal(other))
    chgnet.energy(crystal(one))  # leaves no forces of the other's behind
    again = chgnet.labels(crystal(one))
    assert again.energy == first.energy
    assert np.array_equal(again.forces, first.forces)
    assert np.array_equal(again.stress, first.stress)


def test_forces_and_stress_are_slopes_of_the_energy(chgnet):
    wide, h = Structure(Lattice.cubic(6), ["Na"] * 4 + ["Cl"] * 4, SALT), 0.01
    structure = wide.translate_sites([0], [0.1, 0, 0], frac_coords=False)
    n, labels = len(structure), chgnet.labels(structure)

    def energy_at(shift: float, strain: float) -> float:
        moved = Structure(Lattice(structure.lattice.matrix * (1 + strain)), structure.species, structure.frac_coords)
        moved.translate_sites([0], [shift, 0, 0], frac_coords=False)
        return n * chgnet.energy(moved)

    assert -labels.forces[0, 0] == pytest.approx((energy_at(h, 0) - energy_at(-h, 0)) / (2 * h), abs=0.05)
    slope = (energy_at(0, h) - energy_at(0, -h)) / (2 * h) / structure.volume * 160.21766  # eV/Å³ to GPa
    assert np.trace(labels.stress) == pytest.approx(slope, rel=0.05)
    assert slope > 0  # it would shrink


def test_a_relaxation_lowers_the_energy_keeps_the_symmetry_and_tells_its_way(chgnet):
    start = rutile()
    found = chgnet.relax(start, 3, frames=True)
    assert (found.steps, found.converged, len(found.frames)) == (3, False, 4)
    assert found.frames[0].labels.energy == pytest.approx(chgnet.energy(start), abs=1e-5)
    assert found.frames[-1].structure == found.structure
    assert found.labels.energy == chgnet.labels(found.structure).energy < found.frames[0].labels.energy
    assert {frame.structure.get_space_group_info(1e-3)[1] for frame in found.frames} == {136}
    far = chgnet.relax(start, 100)
    assert (far.converged, far.frames) == (True, ())
    assert np.abs(far.labels.forces).max() < force_field.FORCE
    assert chgnet.relax(far.structure, 5).steps == 0


def test_what_it_cannot_compute_is_told_in_one_line_and_harms_no_other(chgnet, monkeypatch):
    before = chgnet.energy(rutile())
    mixed = Structure(Lattice.cubic(3), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    for structure in (ATOM, mixed):
        for ask in (chgnet.energy, chgnet.labels, lambda s: chgnet.relax(s, 2)):
            with pytest.raises(ForceFieldError) as caught:
                ask(structure)
            assert str(caught.value)
            assert "\n" not in str(caught.value)
    assert chgnet.energy(rutile()) == before
    with monkeypatch.context() as patch:
        patch.setattr(chgnet._calculator.model, "predict_graph", lambda *_, **__: {"e": np.nan, "crystal_fea": None})
        with pytest.raises(ForceFieldError, match="its energy is not finite"):
            chgnet.energy(rutile())
    assert chgnet.energy(rutile()) == before


def test_names_are_on_a_closed_list(tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("raise SystemExit('called')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("planted.call", "MLFF.planted.call", "Forcefield", "chgnet.model.dynamics.CHGNetCalculator", ""):
        with pytest.raises(ParameterError, match="atomate2 has no force field") as caught:
            ForceField(name)
        assert "CHGNet, DeepMD" in str(caught.value)
    assert known_name("MLFF.CHGNet") == known_name("CHGNet") == ForceField("CHGNet").name == "CHGNet"
    assert known_name("MACE_MP_0") == "MACE-MP-0"


@pytest.mark.skipif(find_spec("mace") is not None, reason="MACE is installed")
def test_a_package_that_is_not_installed_is_named():
    field = ForceField("MACE-MP-0")  # nothing is opened yet
    for ask in (lambda: field.version, lambda: field.energy(rutile())):
        with pytest.raises(ParameterError, match="the force field MACE-MP-0 is not installed: install mace-torch"):
            ask()


def test_it_prints_nothing_and_leaves_torch_as_it_was(capsys, monkeypatch):
    field = ForceField("CHGNet")
    before = torch.get_default_dtype()
    field.energy(rutile())
    calculate = type(field._calculator).calculate

    def in_double(self, *args, **kwargs):
        calculate(self, *args, **kwargs)
        torch.set_default_dtype(torch.float64)

    monkeypatch.setattr(type(field._calculator), "calculate", in_double)
    field.labels(rutile())
    assert torch.get_default_dtype() == before
    assert capsys.readouterr().out == ""
    assert field.version == package_version("CHGNet")
