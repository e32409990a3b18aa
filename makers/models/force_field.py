"""Energies, forces and stresses of crystals by an energy model, and a few steps of relaxation."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dao_flows.model.errors import DaoError

from .atomate import CHGNET
from .checkpoints import ParameterError
from .energy_model import energy_model
from .plugins import in_one_line

FORCE = 0.05  # eV/Å, below which nothing is left to relax
SYMPREC = 0.01  # Å, at which the symmetry that a relaxation keeps is found


class ForceFieldError(DaoError):
    """A force field has no figures for a structure; one line that says why."""


@dataclass(frozen=True)
class Labels:
    """What a force field says of a structure.

    energy: eV/atom; forces: (n, 3), eV/Å; stress: (3, 3), GPa, as ase has it, dE/dε over the volume: positive on the
    diagonal where the crystal would shrink.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray


@dataclass(frozen=True)
class Frame:
    """A structure on the way of a relaxation."""

    structure: Structure
    labels: Labels


@dataclass(frozen=True)
class Relaxed:
    """Where a relaxation ended. steps: that were taken; frames: the way, the start and the end too, if asked for."""

    structure: Structure
    labels: Labels
    steps: int
    converged: bool
    frames: tuple[Frame, ...] = ()


class ForceField:
    """An energy model on a device ('cpu', 'cuda', 'cuda:0'), opened when the first figure is asked for.

    Raises ParameterError for a name that is not known, or cannot be used here. Whatever goes wrong with one structure
    is a ForceFieldError; the next one can be computed.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.model = energy_model(name)
        self.name = self.model.name
        self.device = device
        self._dtype: Any = None

    @property
    def version(self) -> str:
        """Of the model."""
        return self.model.version

    def energy(self, structure: Structure) -> float:
        """Of the structure as it is, eV/atom; the cheapest way to it that the calculator has."""
        with self._one_structure() as calculator:
            atoms = _atoms(structure)
            if "task" in inspect.signature(calculator.calculate).parameters:  # CHGNet's, without gradients
                calculator.reset()
                try:
                    calculator.calculate(atoms, ["energy"], task="e")
                    total = float(calculator.results["energy"])
                finally:
                    calculator.reset()  # else it holds the forces of another structure for this one's
            else:
                atoms.calc = calculator
                total = float(atoms.get_potential_energy())
            return _finite(total / len(atoms))

    def labels(self, structure: Structure) -> Labels:
        """Energy, forces and stress of the structure as it is."""
        with self._one_structure() as calculator:
            atoms = _atoms(structure)
            atoms.calc = calculator
            return _labels(atoms)

    def relax(self, structure: Structure, steps: int, frames: bool = False) -> Relaxed:
        """At most so many steps of L-BFGS with free cell and atoms; the symmetry that it has is kept.

        frames: keep all structures of the way. What the structure holds beside cell, elements and places is dropped.
        """
        from ase.filters import FrechetCellFilter
        from ase.optimize import LBFGS

        with self._one_structure() as calculator:
            atoms = _atoms(structure)
            _keep_symmetry(atoms)
            atoms.calc = calculator
            optimizer, way = LBFGS(FrechetCellFilter(atoms), logfile=None), []
            if frames:
                optimizer.attach(lambda: way.append(Frame(_structure(atoms), _labels(atoms))))
            converged = optimizer.run(fmax=FORCE, steps=steps)
            return Relaxed(_structure(atoms), _labels(atoms), optimizer.nsteps, bool(converged), tuple(way))

    @cached_property
    def _calculator(self) -> Any:
        try:
            with redirect_stdout(io.StringIO()):  # stdout is the user's
                return self.model.calculator(self.device)
        except DaoError:
            raise
        except Exception as error:  # what is missing depends on the package
            said = in_one_line(error)
            raise ParameterError(f"the energy model {self.name} cannot be used here: {said}; take {CHGNET}") from None

    @contextmanager
    def _one_structure(self) -> Iterator[Any]:
        """The calculator, with torch's default dtype as it likes it; errors become ForceFieldErrors."""
        import torch

        before = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype or before)
        try:
            yield self._calculator
        except (ParameterError, ForceFieldError):
            raise
        except Exception as error:
            raise ForceFieldError(in_one_line(error)) from error
        finally:
            self._dtype = torch.get_default_dtype()
            torch.set_default_dtype(before)


def _atoms(structure: Structure) -> Any:
    from ase import Atoms

    numbers, cell = structure.atomic_numbers, structure.lattice.matrix
    return Atoms(numbers=numbers, cell=cell, scaled_positions=structure.frac_coords, pbc=True)


def _structure(atoms: Any) -> Structure:
    return Structure(Lattice(np.array(atoms.cell)), list(atoms.numbers), atoms.get_scaled_positions(wrap=False))


def _labels(atoms: Any) -> Labels:
    """Of atoms with a calculator, without what a constraint makes of them."""
    from ase import units

    energy = float(atoms.get_potential_energy()) / len(atoms)
    forces = np.asarray(atoms.get_forces(apply_constraint=False), dtype=float)
    stress = np.asarray(atoms.get_stress(voigt=False, apply_constraint=False), dtype=float) / units.GPa
    if not (np.isfinite(forces).all() and np.isfinite(stress).all()):
        raise ForceFieldError("its forces are not finite")
    return Labels(_finite(energy), forces, stress)


def _finite(energy: float) -> float:
    if not np.isfinite(energy):
        raise ForceFieldError("its energy is not finite")
    return energy


def _keep_symmetry(atoms: Any) -> None:
    """Where spglib finds no symmetry, there is none to keep."""
    from ase.constraints import FixSymmetry
    from ase.spacegroup.symmetrize import check_symmetry

    if check_symmetry(atoms, SYMPREC) is not None:
        atoms.set_constraint(FixSymmetry(atoms, SYMPREC))
