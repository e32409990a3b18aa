"""Templates: known crystals of the multiplicities that are asked for, with their elements exchanged.

Of a composition with so many atoms of each element a cell, every crystal of the library with the same multiplicities
may be a template. Its elements are exchanged for those asked for in the way in which they are most alike; its cell is
scaled by volumes of elements. Templates come in the order of that distance and of their own energy above hull.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np

from ..crystals import Crystal
from .library import LARGEST_ELEMENT, Cell, Library
from .similarity import element_distances

UNKNOWN_ENERGY = 0.05  # eV/atom above hull, for the order, where the source gives none
ENERGY_WEIGHT = 4.0  # of an eV/atom, in units of the distance of elements
SOFTNESS = 0.1  # of the distance: templates that differ by so much are alike likely


@dataclass(frozen=True)
class Template:
    """A known crystal with its elements exchanged, in a cell scaled to what the new ones need.

    crystal: the result (Å). place, row: of the known crystal, in the index and in the dataset. exchange: its elements
    and those that took their place. distance: mean over atoms of how unlike they are. energy: of the known crystal,
    eV/atom above hull, NaN where unknown. weight: how likely it is the right one, of all that were looked at, as a
    share of 1. copies: templates that gave the same structure, this one included. cells: of the known crystal in this
    one. known: nothing was exchanged, the library has this very crystal.
    """

    crystal: Crystal
    place: int
    row: int
    exchange: dict[int, int]
    distance: float
    energy: float
    weight: float
    copies: int = 1
    cells: int = 1
    known: bool = False


@dataclass(frozen=True)
class _Ranked:
    """Crystals of one group by how well they fit a cell. total: (m,) distance and energy; new: (m, e), for old."""

    cell: int
    places: np.ndarray
    old: np.ndarray
    new: np.ndarray
    distance: np.ndarray
    energy: np.ndarray
    total: np.ndarray


def find_templates(
    library: Library, cells: Sequence[np.ndarray], count: int, *, known: bool = True
) -> list[tuple[int, Template]]:
    """The `count` best templates for cells of one composition, best first, each with the number of its cell.

    cells: (n,) atomic numbers of each cell that may be asked for, as of 1, 2, … formula units. known: crystals of this
    very composition are templates too, and come first. Nothing here is random.
    """
    ranked = [found for at, numbers in enumerate(cells) if (found := _rank(library, at, Cell.of(numbers), known))]
    if not ranked or count < 1:
        return []
    total = np.concatenate([found.total for found in ranked])
    owner = np.repeat(np.arange(len(ranked)), [len(found.total) for found in ranked])
    place = np.concatenate([np.arange(len(found.total)) for found in ranked])
    weights = np.exp(-(total - total.min()) / SOFTNESS)
    weights /= weights.sum()
    templates = []
    for best in np.argsort(total, kind="stable")[:count]:
        found = ranked[owner[best]]
        templates.append((found.cell, _template(library, found, int(place[best]), float(weights[best]))))
    return templates


@cache
def exchanges(multiplicities: tuple[int, ...]) -> np.ndarray:
    """All orders of the elements that leave the multiplicities as they are: (orders, elements)."""
    groups = [[i for i, m in enumerate(multiplicities) if m == n] for n in sorted(set(multiplicities))]
    return np.array([sum(each, ()) for each in product(*(permutations(group) for group in groups))])


def _rank(library: Library, at: int, cell: Cell, known: bool) -> _Ranked | None:
    if cell.multiplicities not in library.groups or int(cell.elements.max()) > LARGEST_ELEMENT:
        return None
    start, end = library.groups[cell.multiplicities]
    old, energy = library.elements(start, end, len(cell.elements)), library.energies(start, end)
    own = (old == cell.elements).all(1)
    if not known and own.any():
        old, energy = old[~own], energy[~own]
    places = np.flatnonzero(~own if not known else np.ones(end - start, bool)) + start
    if not len(places):
        return None
    weights = np.array(cell.multiplicities) / sum(cell.multiplicities)
    new = cell.elements[exchanges(cell.multiplicities)]  # (orders, e)
    distances = element_distances()
    cost = np.zeros((len(new), len(old)))
    for slot, weight in enumerate(weights):
        cost += weight * distances[new[:, slot][:, None], old[:, slot][None]]
    best = cost.argmin(0)
    distance = cost[best, np.arange(len(old))]
    filled = np.where(np.isnan(energy), UNKNOWN_ENERGY, energy)
    return _Ranked(at, places, old, new[best], distance, energy, distance + ENERGY_WEIGHT * filled)


def _template(library: Library, found: _Ranked, at: int, weight: float) -> Template:
    place = int(found.places[at])
    exchange = dict(zip(found.old[at].tolist(), found.new[at].tolist(), strict=True))
    return Template(
        crystal=decorated(library.crystal(place), exchange, library.volumes),
        place=place,
        row=library.row(place),
        exchange=exchange,
        distance=float(found.distance[at]),
        energy=float(found.energy[at]),
        weight=weight,
        known=all(old == new for old, new in exchange.items()),
    )


def decorated(crystal: Crystal, exchange: dict[int, int], volumes: np.ndarray) -> Crystal:
    """A crystal with its elements exchanged and its cell scaled. volumes: (95,) Å³ an atom of each element."""
    become = np.zeros(LARGEST_ELEMENT + 1, int)
    become[list(exchange)] = list(exchange.values())
    numbers = become[crystal.numbers]
    scale = (volumes[numbers].sum() / volumes[crystal.numbers].sum()) ** (1 / 3)
    return Crystal(numbers, crystal.frac, crystal.lattice * scale)
