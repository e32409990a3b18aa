"""The level of a calculation as an entry says it: code, functional, pseudopotentials, Hubbard's U, cut-off."""

from __future__ import annotations

from math import isclose
from typing import Any, NamedTuple

from pymatgen.core.structure import Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from dao_flows.makers.schemas.verification import Level

from .elements import plain_structure

LEVEL = "level"  # among an entry's parameters: the whole level, where the entry is one of ours
SAME_CUTOFF = 1e-4  # relative: codes round differently
FUNCTIONALS = {"gga": "PBE", "gga+u": "PBE", "pbe": "PBE", "pbe+u": "PBE", "r2scan": "r2SCAN", "r2scan+u": "r2SCAN"}


class Known(NamedTuple):
    """What an entry says of its level; None where it says nothing."""

    code: str | None
    functional: str | None
    pseudopotentials: dict[str, str]
    hubbard_u: dict[str, float] | None
    cutoff: float | None
    code_version: str | None


def functional_of(name: str) -> str:
    """The name that a functional has here: 'PBE' for GGA, GGA+U and PBE+U, whose U is a matter of the level."""
    return FUNCTIONALS.get(name.lower(), name)


def entry_of(structure: Structure, energy: float, level: Level, entry_id: str | None = None) -> ComputedStructureEntry:
    """An entry that says its level. energy: of the cell, eV, raw."""
    structure = plain_structure(structure)
    parameters: dict[str, Any] = {LEVEL: level.model_dump(), "hubbards": dict(level.hubbard_u)}
    functional = functional_of(level.functional)
    if level.code == "vasp":
        plus_u = bool(level.hubbard_u) or level.functional.endswith("+U")
        parameters["run_type"] = ("GGA+U" if plus_u else "GGA") if functional == "PBE" else functional
        parameters["potcar_spec"] = [
            {"titel": name if " " in name else f"PAW_PBE {name}", "hash": None}
            for element, name in level.pseudopotentials.items()
            if element in structure.symbol_set
        ]
    return ComputedStructureEntry(structure, float(energy), parameters=parameters, entry_id=entry_id)


def known(entry: ComputedEntry) -> Known:
    """What an entry says: ours say all, VASP's of pymatgen and the Materials Project the most of it."""
    parameters = entry.parameters
    if LEVEL in parameters:
        level = Level.model_validate(parameters[LEVEL])
        functional = functional_of(level.functional)
        return Known(level.code, functional, level.pseudopotentials, level.hubbard_u, level.cutoff, level.code_version)
    symbols = [spec["titel"] for spec in parameters.get("potcar_spec") or [] if spec and spec.get("titel")]
    symbols = symbols or [symbol for symbol in parameters.get("potcar_symbols") or [] if symbol]
    run_type = parameters.get("functional") or parameters.get("run_type")
    code = parameters.get("code") or parameters.get("software") or ("vasp" if symbols else None)
    u = parameters.get("hubbards")
    return Known(
        str(code).lower() if symbols else code,
        functional_of(str(run_type)) if run_type else None,
        {pseudopotential(symbol).split("_")[0]: symbol for symbol in symbols},
        {element: float(value) for element, value in u.items() if value} if u is not None else {} if symbols else None,
        None,
        None,
    )


def difference(said: Known, level: Level) -> str | None:
    """What of an entry differs from a level, as far as it says; Hubbard's U apart."""
    if said.code is not None and said.code != level.code:
        return f"the code {said.code}, not {level.code}"
    if said.functional is not None and said.functional != functional_of(level.functional):
        return f"the functional {said.functional}, not {level.functional}"
    for element, name in said.pseudopotentials.items():
        ours = level.pseudopotentials.get(element)
        if ours is not None and pseudopotential(ours) != pseudopotential(name):
            return f"the pseudopotential {name} of {element}, not {ours}"
    if said.cutoff and level.cutoff and not isclose(said.cutoff, level.cutoff, rel_tol=SAME_CUTOFF):
        return f"the cut-off {said.cutoff:.1f} eV, not {level.cutoff:.1f} eV"
    is_force_field = level.code == level.functional
    if is_force_field and said.code_version and level.code_version and said.code_version != level.code_version:
        return f"version {said.code_version} of {level.code}, not {level.code_version}"
    return None


def pseudopotential(name: str) -> str:
    """'Fe_pv' of VASP's 'PAW_PBE Fe_pv 02Aug2007' and the Materials Project's 'PBE Fe_pv'; other names as they are."""
    words = name.split()
    return words[1] if len(words) > 1 and words[0] in ("PBE", "PAW_PBE", "PAW") else name


def described(level: Level) -> str:
    """'vasp PBE', or the name of a force field, for messages."""
    return level.functional if level.code == level.functional else f"{level.code} {level.functional}"
