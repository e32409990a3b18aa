"""Entries and structures by their elements alone: neither a charge nor an isotope changes a formation energy here."""

from __future__ import annotations

from typing import Any

from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import DummySpecies, Element, Species
from pymatgen.core.structure import Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from dao_flows.makers.science.chemistry import ISOTOPES


def element(species: Element | Species | DummySpecies) -> str:
    """The symbol of a species' element, H for its isotopes. Raises ValueError for a dummy, which is none."""
    if isinstance(species, DummySpecies):
        raise ValueError(f"{species} is no element")
    return ISOTOPES.get(species.symbol, species.symbol)


def is_plain(composition: Composition) -> bool:
    """Whether it is of elements and nothing else."""
    return all(isinstance(each, Element) and each.symbol not in ISOTOPES for each in composition.elements)


def plain_composition(composition: Composition) -> Composition:
    """The composition by elements. Raises ValueError."""
    amounts: dict[str, float] = {}
    for species, amount in composition.items():
        amounts[element(species)] = amounts.get(element(species), 0.0) + amount
    return Composition(amounts)


def plain_structure(structure: Structure) -> Structure:
    """The structure by elements: itself, or a copy without oxidation states and isotopes. Raises ValueError."""
    if is_plain(structure.composition):
        return structure
    sites = [plain_composition(site.species) for site in structure]
    return Structure(structure.lattice, sites, structure.frac_coords, site_properties=structure.site_properties)


def plain_entry(entry: ComputedEntry) -> ComputedEntry:
    """The entry by elements: itself, or a copy with the same energies. Raises ValueError."""
    structure = getattr(entry, "structure", None)
    if is_plain(entry.composition) and (structure is None or is_plain(structure.composition)):
        return entry
    shared: dict[str, Any] = {
        "energy_adjustments": list(entry.energy_adjustments),
        "parameters": entry.parameters,
        "data": entry.data,
        "entry_id": entry.entry_id,
    }
    if isinstance(entry, ComputedStructureEntry):
        return ComputedStructureEntry(plain_structure(entry.structure), entry.uncorrected_energy, **shared)
    return ComputedEntry(plain_composition(entry.composition), entry.uncorrected_energy, **shared)
