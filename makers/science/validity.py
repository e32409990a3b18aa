"""Whether a structure can be a crystal at all: distances by species, volume; and whether its charges can balance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
from pymatgen.core.structure import Structure

from .structures import compact

# SMACT's settings: pure metals and alloys count as neutral, anions must be the more electronegative, and an element may
# stand in two oxidation states at once, as in Fe3O4.
NEUTRALITY: dict[str, Any] = {"use_pauling_test": True, "include_alloys": True, "mixed_valence": True}
SMALLEST_CELL = 0.1  # Å³, as in the evaluation scripts of DiffCSP and DAO
LARGEST_RADIUS = max(CovalentRadius.radius.values())  # Å; for elements without a tabulated one


@dataclass(frozen=True)
class Rules:
    """What a valid geometry is. distance_ratio: of the sum of covalent radii; distance: Å; volumes per atom: Å³."""

    distance_ratio: float = 0.6
    distance: float = 0.5
    min_volume: float = 2.0
    max_volume: float = 250.0


@dataclass(frozen=True)
class Contacts:
    """The shortest distance (Å) and the one shortest by its covalent radii, with their pairs; periodic images count."""

    distance: float
    pair: str
    ratio: float
    ratio_pair: str
    ratio_distance: float


def volume_fault(structure: Structure, rules: Rules) -> str | None:
    """Why the cell is too small or too large, or None."""
    volume, per_atom = structure.volume, structure.volume / len(structure)
    if volume <= SMALLEST_CELL:
        return f"cell volume {volume:.3g} Å³ is not above {SMALLEST_CELL} Å³"
    if per_atom < rules.min_volume:
        return f"volume {per_atom:.2f} Å³ per atom is below {rules.min_volume:g} Å³"
    if per_atom > rules.max_volume:
        return f"volume {per_atom:.1f} Å³ per atom is above {rules.max_volume:g} Å³"
    return None


def contacts(structure: Structure) -> Contacts:
    """The closest contacts of a structure whose volume is sensible."""
    structure = compact(structure)
    radii = np.array([CovalentRadius.radius.get(site.specie.symbol, LARGEST_RADIUS) for site in structure])
    reach = 2 * radii.max()
    while True:
        centres, partners, _, distances = structure.get_neighbor_list(reach)
        ratios = distances / (radii[centres] + radii[partners])
        # beyond the reach, the largest atoms could still be closer by their radii
        if len(ratios) and ratios.min() * 2 * radii.max() <= reach:
            break
        reach = max(1.5 * reach, ratios.min() * 2 * radii.max()) if len(ratios) else 1.5 * reach

    def pair(k: int) -> str:
        return "-".join(sorted(structure[int(i)].specie.symbol for i in (centres[k], partners[k])))

    near, tight = int(distances.argmin()), int(ratios.argmin())
    return Contacts(float(distances[near]), pair(near), float(ratios[tight]), pair(tight), float(distances[tight]))


def contact_fault(found: Contacts, rules: Rules) -> str | None:
    """Why atoms are too close, or None."""
    if found.ratio < rules.distance_ratio:
        return (
            f"shortest distance {found.ratio_pair} {found.ratio_distance:.2f} Å is below {rules.distance_ratio:g} × "
            "the sum of covalent radii"
        )
    if found.distance < rules.distance:
        return f"shortest distance {found.pair} {found.distance:.2f} Å is below {rules.distance:g} Å"
    return None


@lru_cache(maxsize=4096)
def charge_neutral(formula: str) -> bool | None:
    """Whether SMACT finds oxidation states that balance; None where it does not know an element."""
    from smact.screening import smact_validity

    try:
        return bool(smact_validity(formula, **NEUTRALITY))
    except (KeyError, NameError, TypeError, AttributeError):
        return None
