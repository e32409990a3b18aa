"""What knows energies of crystals: DAO-P, force fields of atomate2, and models of installed packages, all by name.

A package adds one as an entry point of the group `dao_flows.energy_models`, whose value is called without arguments and
returns an `EnergyModel` of the entry point's name: `mine = "my_package:MyModel"`. Weights are better loaded by
`calculator`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from . import atomate, plugins
from .dao_p import OfCheckpoint

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

GROUP = "dao_flows.energy_models"


@runtime_checkable
class EnergyModel(Protocol):
    """Energies of crystals and, where it has them, forces and stresses, by a calculator of ASE."""

    @property
    def name(self) -> str:
        """As users call it."""

    @property
    def version(self) -> str:
        """Identity: another version may give other figures. Raises ParameterError where it cannot be used here."""

    @property
    def zero(self) -> str:
        """What an energy of 0 means: 'hull' for the convex hull; else only energies of one composition compare."""

    def calculator(self, device: str) -> Calculator:
        """Opened on a device, as torch names it; energies in eV, forces in eV/Å, stress in eV/Å³."""


def energy_model(name: str) -> EnergyModel:
    """The model of this name: of an installed package, a DAO-P checkpoint, or a force field of atomate2's list.

    Raises ParameterError if there is none, or it cannot be used.
    """
    if name in plugins.names(GROUP):
        return _installed(name)
    return OfCheckpoint.find(name) or atomate.OfAtomate(atomate.known_name(name))


def _installed(name: str) -> EnergyModel:
    def fault(found: Any) -> str | None:
        usable = isinstance(found, EnergyModel) and found.name == name
        return None if usable else "is none: it needs this name, a version, a zero, a calculator"

    model: EnergyModel = plugins.opened(GROUP, "energy model", name, fault)
    return model
