"""Computed entries from what a file or a database holds, by the rules of `decoding`.

Apart from it, for pymatgen's entries take a second to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from pymatgen.entries.computed_entries import (
    CompositionEnergyAdjustment,
    ComputedEntry,
    ComputedStructureEntry,
    ConstantEnergyAdjustment,
    EnergyAdjustment,
    ManualEnergyAdjustment,
    TemperatureEnergyAdjustment,
)

from dao_flows.makers.schemas.decoding import REFERENCE, DecodingError, inert, shown, structure

ADJUSTMENTS: dict[str, type[EnergyAdjustment]] = {
    kind.__name__: kind
    for kind in (
        CompositionEnergyAdjustment,
        ConstantEnergyAdjustment,
        ManualEnergyAdjustment,
        TemperatureEnergyAdjustment,
    )
}


def entry(data: Any) -> ComputedEntry:
    """A ComputedEntry or ComputedStructureEntry from its dictionary; its parameters and data are plain data.

    Raises DecodingError for what is neither, or cannot be read.
    """
    kind = data.get("@class") if isinstance(data, Mapping) else None
    if kind not in (ComputedEntry.__name__, ComputedStructureEntry.__name__):
        what = data.get("@class", "a plain object") if isinstance(data, Mapping) else type(data).__name__
        raise DecodingError(f"it is no ComputedEntry but {shown(str(what))}")
    try:
        adjustments = [_adjustment(each) for each in data.get("energy_adjustments") or []]
        common: dict[str, Any] = {
            "correction": 0.0 if adjustments else float(data.get("correction") or 0),
            "energy_adjustments": adjustments,
            "parameters": _fields(data, "parameters"),
            "data": _fields(data, "data"),
            "entry_id": inert(data.get("entry_id")),
        }
        energy, composition = float(data["energy"]), inert(data.get("composition"))
        if kind == ComputedEntry.__name__:
            return ComputedEntry(composition, energy, **common)
        return ComputedStructureEntry(structure(data["structure"]), energy, composition=composition, **common)
    except DecodingError:
        raise
    except Exception as error:  # pymatgen lets through whatever a broken entry causes
        said = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise DecodingError(f"it cannot be read: {said}") from None


def _fields(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    held = inert(data.get(name) or {})
    if not isinstance(held, dict):
        raise DecodingError(f"its {name} are no fields with names")
    return held


def _adjustment(data: Any) -> EnergyAdjustment:
    """An energy adjustment; the scheme that it is of stays a name."""
    kind = ADJUSTMENTS.get(str(data.get("@class"))) if isinstance(data, Mapping) else None
    if kind is None:
        raise DecodingError("one of its energy adjustments is of no known kind")
    fields = {key: inert(value) for key, value in data.items() if not key.startswith("@")}
    if isinstance(scheme := data.get("cls"), Mapping):
        name = scheme.get("@class")
        if name == REFERENCE:
            raise DecodingError("one of its energy adjustments is of a scheme that is none")
        fields["cls"] = {"@class": str(name)} if name is not None else {}  # which pymatgen and we ask for
    made = kind(**fields)
    if not isfinite(made.value):  # a TypeError for what is no number
        raise DecodingError("one of its energy adjustments is not finite")
    return made
