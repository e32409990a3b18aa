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
    generator: Generator = plugins.opened(GROUP, "generator", name, lambda found: _fault(found, name))
    return generator


def _fault(found: Any, name: str) -> str | None:
    """What a generator lacks."""
    if not isinstance(found, Generator):
        asked = ("name", "sha256", "elements", "max_atoms", "reproducible", "sample")
        return f"cannot be used: it has no {', '.join(each for each in asked if not hasattr(found, each))}"
    if found.name != name:
        return f"cannot be used: its name is {found.name!r}, not that of its entry point"
    if not (isinstance(found.sha256, str) and re.fullmatch("[0-9a-f]{64}", found.sha256)):
        return "cannot be used: its sha256 is not 64 hexadecimal digits"
    if not found.elements or found.max_atoms < 1:
        return "cannot be used: it covers no element, or no cell"
    return None
