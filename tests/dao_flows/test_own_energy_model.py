"""An energy model of an installed package judges candidates and labels crystals; what is wrong with one is found."""

import json
import re
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.energy_model import GROUP, energy_model
from dao_flows.makers.models.force_field import ForceField
from dao_flows.store.stores import collection, job_store
from dao_flows.testing.energy_model import conformance

emt_of_ase = pytest.importorskip("ase.calculators.emt")
PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
EMT = re.findall(r"```python\n(.*?)```", PAGE, re.S)[1]  # the energy model that the page shows
WRONG = """
        class Wrong(EMT):
            calls = 0

            def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
                super().calculate(atoms, properties, system_changes)
                Wrong.calls += 1
                {change}

        return Wrong()
"""
FAULTS = {  # what goes wrong in a calculation -> the check that finds it
    "self.results['forces'] = -self.results['forces']": "its forces are the slopes of its energy",
    "self.results['stress'] = 2 * self.results['stress']": "its stress is the slope of its energy",
    "self.results['energy'] += Wrong.calls": "the same structure has the same energy",
    "self.results['energy'] += atoms.get_scaled_positions()[:, 0].sum()": (
        "the energy does not change when the crystal is shifted"
    ),
    "self.results['energy'] += atoms.cell[0, 0]": "the energy does not change when the crystal is turned",
    "self.results['energy'] += atoms.positions[0] @ atoms.positions[0]": (
        "the energy does not change when the crystal is told in another order"
    ),
    "self.results['energy'] += len(atoms) ** 2": "it hardly changes with the number of cells",
}


@pytest.fixture
def emt(install) -> None:
    """A package with the energy model `emt` is installed."""
    install("lab_emt_model", EMT, f"[{GROUP}]\nemt = lab_emt_model:Emt\n")


def test_the_pages_model_conforms(workplace, emt):
    checks = list(conformance("emt"))
    assert len(checks) == 11 and [check for check in checks if check.fault] == []


@pytest.mark.parametrize("change", FAULTS)
def test_the_suite_finds_faults(workplace, install, change):
    source = EMT.replace("        return EMT()", WRONG.format(change=change))
    install("lab_emt_model", source, f"[{GROUP}]\nemt = lab_emt_model:Emt\n")
    assert FAULTS[change] in {check.what for check in conformance("emt") if check.fault}


def test_it_judges_is_traced_and_replayed(workplace, emt, call):
    code, _, err = call("predict", "Cu3Au", "-n", "4", "--z", "1", "--steps", "4", "--judge", "emt")
    assert code == 0, err
    held = list(collection(job_store(), "candidates").query())
    judged = [each["judgement"] for each in held]
    assert {(each["model"], each["model_version"]) for each in judged} == {("emt", energy_model("emt").version)}
    assert call("audit", "verify", "--all")[0] == 0
    code, out, err = call("audit", "replay", held[0]["candidate_id"])
    assert (code, out.count("identical")) == (0, 3), out + err


def test_dao_p_is_one_by_the_name_of_its_checkpoint(workplace):
    field = ForceField("dao-p-tiny")
    structure = Structure(
        Lattice([[4.1, 0.1, 0], [0, 4.0, 0.2], [0.1, 0, 4.3]]), ["Na", "Cl"], [[0] * 3, [0.5, 0.4, 0.6]]
    )
    labels = field.labels(structure)
    assert labels.forces.sum(0) == pytest.approx([0] * 3, abs=1e-5)  # nothing but distances matters
    assert field.energy(structure) == pytest.approx(labels.energy, abs=1e-6)
    assert {check.what for check in conformance("dao-p-tiny") if check.fault} == set()


def test_one_that_cannot_be_used_is_told_in_one_line(workplace, install, call):
    install("lab_none", "class Odd:\n    name = 'odd'\n", f"[{GROUP}]\nodd = lab_none:Odd\nlost = lab_none:Lost\n")
    for name, said in {"odd": "needs this name, a version", "lost": "cannot be loaded"}.items():
        with pytest.raises(ParameterError, match=said):
            energy_model(name)
        code, _, err = call("predict", "NaCl", "--judge", name)
        assert (code, err.count("\n")) == (2, 1) and said in err
    told = {check["name"]: check for check in json.loads(call("doctor", "--json")[1])}
    assert "needs this name" in told["energy model odd"]["detail"] and told["energy model lost"]["status"] == "missing"
    code, out, _ = call("predict", "NaCl", "--judge", "nothing", "--json")
    assert code == 2 and out == ""


def test_labels_are_its_own(workplace, emt):
    copper = Structure(Lattice.cubic(3.6), ["Cu"] * 4, [[0.01, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    atoms = copper.to_ase_atoms()
    atoms.calc = emt_of_ase.EMT()
    labels = ForceField("emt").labels(copper)
    assert labels.energy == pytest.approx(atoms.get_potential_energy() / 4)
    assert labels.forces == pytest.approx(atoms.get_forces())
