"""All generators by name: ours, and those of installed packages."""

from __future__ import annotations

import re
from typing import Any

from dao_flows.makers.models import plugins
from dao_flows.makers.models.checkpoints import ParameterError

from .generator import DAO_G, GROUP, TEMPLATES, Generator


def names() -> list[str]:
    """All generators. Nothing is loaded."""
    return list(dict.fromkeys([DAO_G, TEMPLATES, *plugins.names(GROUP)]))


def installed(name: str) -> Generator:
    """The generator of an installed package. Raises ParameterError if there is none, or it cannot be used."""
    if name not in plugins.names(GROUP):
        known = ", ".join(names())
        raise ParameterError(f"there is no generator {name!r}: take one of {known}, or install its package")
    made = plugins.load(GROUP, name)
    try:
        found = made()
        fault = _fault(found, name)
    except Exception as error:  # whatever the package raises
        raise ParameterError(f"the generator {name!r} cannot be opened: {plugins.in_one_line(error)}") from None
    if fault is not None:
        raise ParameterError(f"the generator {name!r} cannot be used: {fault}")
    generator: Generator = found
    return generator


def _fault(found: Any, name: str) -> str | None:
    """What a generator lacks."""
    if not isinstance(found, Generator):
        asked = ("name", "sha256", "elements", "max_atoms", "reproducible", "sample")
        return f"it has no {', '.join(each for each in asked if not hasattr(found, each))}"
    if found.name != name:
        return f"its name is {found.name!r}, not that of its entry point"
    if not (isinstance(found.sha256, str) and re.fullmatch("[0-9a-f]{64}", found.sha256)):
        return "its sha256 is not 64 hexadecimal digits"
    if not found.elements or found.max_atoms < 1:
        return "it covers no element, or no cell"
    return None
