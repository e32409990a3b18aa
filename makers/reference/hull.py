"""Where a calculation lies against the hull of a reference set, if the two have one zero."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from math import isclose
from typing import NamedTuple

from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core.structure import Structure
from pymatgen.entries.computed_entries import ComputedEntry

from dao_flows.makers.schemas.verification import HullEnergy, Level

from .elements import plain_structure
from .levels import described, difference, entry_of, functional_of, known
from .sets import MP2020, NONE, ReferenceSet, ReferenceSetError, scheme_version


class _Hull(NamedTuple):
    corrected: PhaseDiagram
    raw: PhaseDiagram


def hull_energy(reference: ReferenceSet, structure: Structure, energy: float, level: Level) -> HullEnergy:
    """Where a calculation lies against a reference set. energy: raw total of the cell, eV.

    Both sides carry the Materials Project's corrections of 2020 (Wang et al., Sci. Rep. 11, 15496, 2021) where they
    were made for such calculations: VASP, PBE or PBE+U, its pseudopotentials and U; else neither carries any. An energy
    below 0 means that the structure lies below the set's hull. Elements that have no elemental entry in the set are
    named, and there is no hull then. Raises ReferenceSetError where the two sides have different zeros.
    """
    structure = plain_structure(structure)
    elements = {element.symbol for element in structure.composition.elements}
    reference = reference.within(elements, level)
    _check_level(reference, level)
    entries = _comparable(reference, elements, level)
    own, reason = _corrected(entry_of(structure, energy, level))
    scheme = NONE
    if reason is None and all(_is_correctable(entry) for entry in entries):
        scheme = MP2020
    elif reference.scheme != NONE:
        reason = reason or "some of its entries say neither run type nor pseudopotentials"
        raise ReferenceSetError(
            f"{reference.name} carries corrections ({reference.scheme}) that cannot be put on this calculation with "
            f"{described(level)}: {reason}"
        )
    else:
        entries = _of_same_u(reference, entries, level)
        own.energy_adjustments = []
    shared = {
        "reference": reference.name,
        "reference_sha256": reference.sha256,
        "scheme": scheme,
        "scheme_version": scheme_version() if scheme == MP2020 else "",
        "correction_per_atom": own.correction_per_atom,
        "corrected_energy_per_atom": own.energy_per_atom,
    }
    key = (scheme, frozenset(elements), level.model_dump_json(exclude={"kpoints"}) if reference.selects else "")
    if key not in reference._hulls:
        reference._hulls[key] = _hull(entries, scheme, elements)
    built = reference._hulls[key]
    if isinstance(built, list):
        return HullEnergy(**shared, formation_energy_per_atom=None, energy_above_hull=None, missing=built)
    raw = ComputedEntry(own.composition, own.uncorrected_energy)
    return HullEnergy(
        **shared,
        formation_energy_per_atom=float(built.corrected.get_form_energy_per_atom(own)),
        energy_above_hull=_above(built.corrected, own),
        raw_energy_above_hull=_above(built.raw, raw),
    )


def _hull(entries: Sequence[ComputedEntry], scheme: str, elements: Collection[str]) -> _Hull | list[str]:
    """The phase diagrams with and without corrections, or the elements for which there is no entry."""
    used = (
        [corrected for corrected, fault in map(_corrected, entries) if fault is None] if scheme == MP2020 else entries
    )
    bare = [ComputedEntry(entry.composition, entry.uncorrected_energy) for entry in used]
    there = {entry.composition.elements[0].symbol for entry in used if entry.composition.is_element}
    if missing := sorted(set(elements) - there):
        return missing
    return _Hull(PhaseDiagram(used if scheme == MP2020 else bare), PhaseDiagram(bare))


def _above(diagram: PhaseDiagram, entry: ComputedEntry) -> float:
    """eV/atom above the hull, negative below it; 0 within the rounding of the simplex."""
    value = diagram.get_e_above_hull(entry, allow_negative=True)
    assert value is not None  # it is None only where the caller asks for no error
    return 0.0 if abs(value) < PhaseDiagram.numerical_tol else float(value)


def _corrected(entry: ComputedEntry) -> tuple[ComputedEntry, str | None]:
    """A copy with the corrections of 2020, and why it cannot have them, if so."""
    from pymatgen.entries.compatibility import CompatibilityError, MaterialsProject2020Compatibility

    entry = deepcopy(entry)
    if known(entry).code != "vasp":
        return entry, f"{MP2020} is for VASP"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = MaterialsProject2020Compatibility().process_entry(entry, on_error="raise")
    except CompatibilityError as error:
        return entry, " ".join(str(error).split(" for {")[0].split())
    except (KeyError, ValueError, AttributeError) as error:  # pseudopotentials that are not named as VASP names them
        return entry, f"its parameters cannot be read ({' '.join(str(error).split())[:100]})"
    return (done, None) if done is not None else (entry, f"{MP2020} discards it")


def _is_correctable(entry: ComputedEntry) -> bool:
    """Whether the entry says what corrections depend on; whether it was computed as they ask is another matter."""
    parameters = entry.parameters
    return "run_type" in parameters and bool(parameters.get("potcar_spec") or parameters.get("potcar_symbols"))


def _check_level(reference: ReferenceSet, level: Level) -> None:
    """Raises ReferenceSetError if code or functional differ, or the set does not say."""
    if reference.selects:
        return
    for what, theirs in (("code", reference.code), ("functional", reference.functional)):
        if theirs is None:
            raise ReferenceSetError(
                f"{reference.name} does not say the {what} of its energies: write it behind the file, as in "
                f"{reference.name}?code={level.code}&functional={functional_of(level.functional)}"
            )
    if reference.code != level.code:
        raise ReferenceSetError(
            f"{reference.name} holds energies of {reference.code}, the calculation's are of {described(level)}: "
            "total energies of different codes have different zeros"
        )
    if reference.functional != functional_of(level.functional):
        raise ReferenceSetError(
            f"{reference.name} holds energies of {reference.functional}, the calculation's are of {described(level)}: "
            "energies of different functionals cannot be put on one hull"
        )


def _comparable(reference: ReferenceSet, elements: set[str], level: Level) -> list[ComputedEntry]:
    """The entries of the chemical system, all of this level. Raises ReferenceSetError for others, or selects."""
    kept = []
    for entry in (entry for system, own in reference.by_system.items() if system <= elements for entry in own):
        fault = difference(known(entry), level)
        if fault is None:
            kept.append(entry)
        elif not reference.selects:
            who = f"{entry.entry_id or ''} {entry.composition.reduced_formula}".strip()
            raise ReferenceSetError(f"{reference.name} cannot be used for {described(level)}: {who} has {fault}")
    return kept


def _of_same_u(reference: ReferenceSet, entries: Iterable[ComputedEntry], level: Level) -> list[ComputedEntry]:
    """Those of the level's U: without corrections for it an element has one everywhere. Raises ReferenceSetError."""
    kept = []
    for entry in entries:
        theirs = known(entry).hubbard_u
        for symbol in sorted(element.symbol for element in entry.composition.elements):
            ours = level.hubbard_u.get(symbol, 0.0)
            other = ours if theirs is None else theirs.get(symbol, 0.0)
            if isclose(ours, other, abs_tol=1e-6):
                continue
            if reference.selects:
                break
            who = f"{entry.entry_id or ''} {entry.composition.reduced_formula}".strip()
            raise ReferenceSetError(
                f"{reference.name} cannot be used for {described(level)}: {who} has U = {other:g} eV on {symbol}, "
                f"not {ours:g} eV, and {MP2020} does not apply"
            )
        else:
            kept.append(entry)
    return kept
