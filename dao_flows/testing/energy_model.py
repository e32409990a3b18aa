"""`python -m dao_flows.testing.energy_model NAME`: whether an energy model does what judges and labels ask of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dao_flows.makers.models.energy_model import energy_model
from dao_flows.makers.models.force_field import ForceField, ForceFieldError, Labels

from .checks import Check, main

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
# symbols, cubic lattice constant (Å), fractional coordinates; displaced, so that symmetry makes nothing zero
CRYSTALS = {
    "Cu": (["Cu"] * 4, 3.7, FCC),
    "Si": (["Si"] * 8, 5.4, [*FCC, *(np.array(FCC) + 0.25).tolist()]),
    "NaCl": (["Na", "Cl"], 3.4, [[0, 0, 0], [0.5, 0.5, 0.5]]),
}
DISPLACED = 0.05  # Å, and as a strain
STEP = 1e-3  # Å, and as a strain, of finite differences
CLOSE = 2e-3  # eV/atom in energies; relative, in slopes
DOUBLED = 0.05  # eV/atom: a network that sees one cell may tell it from two
RELAXED = 5  # steps


def conformance(name: str, device: str = "cpu") -> Iterator[Check]:
    """All checks of a model, one after another. Raises ParameterError where it cannot be opened."""
    model, again = energy_model(name), energy_model(name)
    yield Check("it says what its zero is", None if isinstance(model.zero, str) and model.zero else "it does not")
    same = model.version == again.version and bool(model.version)
    yield Check("its version is the same each time", None if same else f"{model.version!r}, then {again.version!r}")
    field = ForceField(name, device)
    structure = _known(field)
    if structure is None:
        yield Check("it has an energy for a simple crystal", f"for none of {', '.join(CRYSTALS)}")
        return
    energy = field.energy(structure)
    yield Check("it has an energy for a simple crystal")
    for what, other in _images(structure):
        yield Check(f"the energy does not change when the crystal is {what}", _far(energy, field.energy(other)))
    yield Check("the same structure has the same energy", _far(energy, field.energy(structure), 0.0))
    doubled = field.energy(structure * (1, 1, 2))
    yield Check("it hardly changes with the number of cells", _far(energy, doubled, DOUBLED))
    try:
        labels = field.labels(structure)
    except ForceFieldError as error:
        yield Check("it has forces and stress, which it may lack", f"{error}" if "property" not in str(error) else None)
        return
    yield Check("its forces are the slopes of its energy", _forces(field, structure, labels))
    yield Check("its stress is the slope of its energy", _stress(field, structure, labels))
    before, after = labels.energy, field.relax(structure, RELAXED).labels.energy
    yield Check("a relaxation lowers its energy", None if after <= before else f"{before:.4f} → {after:.4f} eV/atom")


def _known(field: ForceField) -> Structure | None:
    """The first of the simple crystals that it knows, displaced and strained."""
    random = np.random.default_rng(0)
    for symbols, a, places in CRYSTALS.values():
        cell = a * (np.eye(3) + DISPLACED * random.normal(size=(3, 3)))
        moved = np.array(places) + DISPLACED / a * random.normal(size=(len(places), 3))
        structure = Structure(Lattice(cell), symbols, moved)
        try:
            field.energy(structure)
        except ForceFieldError:
            continue
        return structure
    return None


def _images(structure: Structure) -> Iterator[tuple[str, Structure]]:
    """The same crystal, told otherwise."""
    lattice, species, frac = structure.lattice.matrix, structure.species, structure.frac_coords
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    yield "shifted", Structure(Lattice(lattice), species, frac + np.array([0.1, 0.2, 0.3]))
    yield "turned", Structure(Lattice(lattice @ turn), species, frac)
    yield "told in another order", Structure(Lattice(lattice), species[::-1], frac[::-1])


def _far(one: float, other: float, close: float = CLOSE) -> str | None:
    return None if abs(one - other) <= close else f"{one:.6f} and {other:.6f} eV/atom"


def _forces(field: ForceField, structure: Structure, labels: Labels) -> str | None:
    shape = (len(structure), 3)
    if labels.forces.shape != shape:
        return f"their shape is {labels.forces.shape}, not {shape}"
    largest = max(np.abs(labels.forces).max(), 0.1)
    for axis in range(3):
        ends = []
        for sign in (1, -1):
            moved = structure.copy()
            moved.translate_sites([0], sign * STEP * np.eye(3)[axis], frac_coords=False)
            ends.append(len(structure) * field.energy(moved))
        slope = -(ends[0] - ends[1]) / (2 * STEP)
        if abs(slope - labels.forces[0, axis]) > 10 * CLOSE * largest + _noise(structure):
            return f"{labels.forces[0, axis]:.4f} eV/Å along axis {axis} of the first atom, by differences {slope:.4f}"
    return None


def _stress(field: ForceField, structure: Structure, labels: Labels) -> str | None:
    from ase import units

    largest = max(np.abs(labels.stress).max(), 0.1)
    for a, b in ((0, 0), (1, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] += STEP / 2
        strain[b, a] += STEP / 2
        cells = [structure.lattice.matrix @ (np.eye(3) + sign * strain) for sign in (1, -1)]
        strained = [Structure(Lattice(cell), structure.species, structure.frac_coords) for cell in cells]
        ends = [len(structure) * field.energy(each) for each in strained]
        slope = (ends[0] - ends[1]) / (2 * STEP) / structure.volume / units.GPa
        if abs(slope - labels.stress[a, b]) > 10 * CLOSE * largest + _noise(structure):
            return f"{labels.stress[a, b]:.4f} GPa in ({a}, {b}), by differences {slope:.4f}"
    return None


def _noise(structure: Structure) -> float:
    """What float32 leaves of a difference of two energies, in eV/Å."""
    return len(structure) * 1e-6 / STEP


if __name__ == "__main__":
    sys.exit(main(conformance, "an energy model"))
