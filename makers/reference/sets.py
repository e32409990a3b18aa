"""A reference set: entries with known energies, of one code and functional, identified by their content."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any

from monty.json import jsanitize
from pymatgen.entries.computed_entries import ComputedEntry

from dao_flows.makers.jobs.provenance import digest
from dao_flows.makers.schemas.verification import Level
from dao_flows.model.errors import DaoError

from .elements import plain_entry
from .levels import known

MP2020 = "MaterialsProject2020Compatibility"
NONE = "none"
CHEMICAL_DATA = ("oxide_type", "sulfide_type", "oxidation_states")  # what corrections may depend on


class ReferenceSetError(DaoError):
    """A reference set cannot be read, or cannot be used for these energies; one line that says why."""


@dataclass(frozen=True)
class ReferenceSet:
    """Entries with known energies and where they come from.

    code, functional: those of all entries, None where they do not say; scheme: the corrections that they carry, 'none'
    or names. selects: entries of other levels are passed over (the store holds many), not refused. Entries are kept by
    their elements, without oxidation states and isotopes.
    """

    name: str
    entries: tuple[ComputedEntry, ...]
    code: str | None
    functional: str | None
    scheme: str
    scheme_version: str
    selects: bool = False
    _hulls: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ReferenceSetError for an entry with what is no element."""
        object.__setattr__(self, "entries", tuple(_by_elements(self.name, entry) for entry in self.entries))

    @cached_property
    def sha256(self) -> str:
        """Over the entries' content in canonical form, whatever their order, their ids and who wrote the file."""
        return digest([self.code, self.functional, sorted({_entry_digest(entry) for entry in self.entries})])

    @cached_property
    def by_system(self) -> dict[frozenset[str], list[ComputedEntry]]:
        """Entries by their elements."""
        found: dict[frozenset[str], list[ComputedEntry]] = {}
        for entry in self.entries:
            found.setdefault(frozenset(element.symbol for element in entry.composition.elements), []).append(entry)
        return found

    def within(self, elements: Collection[str], level: Level) -> ReferenceSet:
        """The set that serves this chemical system at this level: itself."""
        return self


def agreeing(
    name: str, entries: Sequence[ComputedEntry], declared: Sequence[str | None] = (None, None)
) -> ReferenceSet:
    """A set whose entries agree in code and functional. Raises ReferenceSetError."""
    if not entries:
        raise ReferenceSetError(f"{name} holds no entries")
    found: list[str | None] = []
    for what, said in zip(("code", "functional"), declared, strict=True):
        values: dict[str, str] = {} if said is None else {said: f"?{what}="}
        for entry in entries:
            if (value := getattr(known(entry), what)) is not None:
                values.setdefault(value, entry.composition.reduced_formula)
        if len(values) > 1:
            kinds = " and ".join(f"{value} ({who})" for value, who in sorted(values.items()))
            raise ReferenceSetError(f"{name} mixes energies of different {what}s: {kinds}")
        found.append(next(iter(values), None))
    carried = {_scheme(adjustment) for entry in entries for adjustment in entry.energy_adjustments if adjustment.value}
    scheme = "+".join(sorted(carried)) or NONE
    return ReferenceSet(name, tuple(entries), found[0], found[1], scheme, scheme_version() if scheme == MP2020 else "")


def _by_elements(name: str, entry: ComputedEntry) -> ComputedEntry:
    try:
        return plain_entry(entry)
    except ValueError as error:
        which = entry.entry_id or entry.composition.formula
        raise ReferenceSetError(f"{name}: the entry {which} cannot be used: {error}") from None


def _scheme(adjustment: Any) -> str:
    """The name of the scheme that an adjustment is of."""
    scheme = adjustment.cls  # a dictionary, or the scheme itself where a file was read
    named = scheme.get("@class") if isinstance(scheme, dict) else type(scheme).__name__ if scheme else None
    return str(named or adjustment.name)


def scheme_version() -> str:
    """Of the correction scheme: that of the library which holds its figures."""
    return f"pymatgen-core {version('pymatgen-core')}"


def _entry_digest(entry: ComputedEntry) -> str:
    structure = getattr(entry, "structure", None)
    content: dict[str, Any] = {
        "composition": {element.symbol: amount for element, amount in entry.composition.items()},
        "energy": float(entry.uncorrected_energy),
        "correction": float(entry.correction),
        "level": list(known(entry)),
        "data": {name: entry.data[name] for name in CHEMICAL_DATA if name in entry.data},
    }
    if structure is not None:
        content["cell"] = structure.lattice.matrix.tolist()
        content["sites"] = [[site.species_string, *map(float, site.frac_coords)] for site in structure]
    return digest(jsanitize(content))
