"""Force fields that atomate2 knows, by name.

Their energies are total energies on a scale of their own: only those of one composition compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from .checkpoints import ParameterError

CHGNET = "CHGNet"
INSTALL = "pip install 'dao-flows[forcefields]'"
# what calculators call the device; those that are not here choose it by themselves
DEVICE = {CHGNET: "use_device"} | dict.fromkeys(
    ("MACE", "MACE-MP-0", "MACE-MPA-0", "MACE-MP-0b3", "SevenNet", "MatterSim", "Nequip", "Allegro", "UPET"), "device"
)
OWN: dict[str, dict[str, Any]] = {CHGNET: {"on_isolated_atoms": "error"}}  # else it goes on, with wrong figures


def names() -> dict[str, str]:
    """The closed list: each way to write the name of a force field of atomate2 -> its name.

    atomate2 takes others, too, and imports what they name. Raises ParameterError if it is not installed.
    """
    if find_spec("atomate2") is None:
        raise ParameterError(f"force fields need atomate2: {INSTALL}")
    from atomate2.forcefields.utils import MLFF

    known = [member for member in MLFF if member is not MLFF.Forcefield]
    return {str(key): str(member.value) for member in known for key in (member.name, member.value)}


def known_name(name: str) -> str:
    """A force field's name as atomate2's list has it. Raises ParameterError for one that is not on it."""
    known = names()
    if (found := known.get(name.removeprefix("MLFF."))) is None:
        raise ParameterError(
            f"atomate2 has no force field {name!r}: take one of {', '.join(sorted(set(known.values())))}"
        )
    return found


def package_version(name: str) -> str:
    """The version of the package that computes a force field. Raises ParameterError if it is not installed."""
    from atomate2.forcefields.utils import MLFF, _get_pkg_name, _get_pkg_version

    label = MLFF(known_name(name))
    if (version := _get_pkg_version(label)) is None:
        fix = INSTALL if label is MLFF.CHGNet else f"install {_get_pkg_name(label) or label.value}"
        raise ParameterError(f"the package of the force field {label.value} is not installed: {fix}")
    return str(version)


@dataclass(frozen=True)
class OfAtomate:
    """A force field of atomate2's list, by its name there."""

    name: str

    zero = "its own"

    @cached_property
    def version(self) -> str:
        """Of the package that computes it. Raises ParameterError if that is not installed."""
        return package_version(self.name)

    def calculator(self, device: str) -> Any:
        """As atomate2 opens it."""
        from atomate2.forcefields.utils import _DEFAULT_CALCULATOR_KWARGS, MLFF, ase_calculator

        _ = self.version
        label = MLFF(self.name)
        settings = {**_DEFAULT_CALCULATOR_KWARGS.get(label, {}), **OWN.get(self.name, {})}
        if (keyword := DEVICE.get(self.name)) is not None:
            settings[keyword] = device
        return ase_calculator(label, **settings)
