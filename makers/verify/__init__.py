"""Verification: the best candidates go through a DFT code, or a force field, by atomate2's own makers.

`codes` has a file for each code, which says all there is to say of it, and the list of them. `backends` are their
presets by name, each an ordered set of makers; `calculation` runs one of the makers as one job whose failure is a
document; `verify` makes the flows.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends import Backend, backend
    from .calculation import CalculateMaker
    from .verify import VerifyMaker, verify_screening

__all__ = ["Backend", "CalculateMaker", "VerifyMaker", "backend", "verify_screening"]

HOMES = {
    **dict.fromkeys(("Backend", "backend"), "backends"),
    "CalculateMaker": "calculation",
    **dict.fromkeys(("VerifyMaker", "verify_screening"), "verify"),
}


def __getattr__(name: str) -> Any:
    """Loaded when first asked for: the command line reads the list of codes, and starts without jobflow."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
