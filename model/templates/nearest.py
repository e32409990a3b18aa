"""The crystals of a library nearest to a cell: same multiplicities, elements exchanged at the least distance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations, product
from math import gcd

import numpy as np

from dao_flows.model.crystals import Crystal
from dao_flows.model.templates.index import LARGEST_ELEMENT

from .library import Cell, Library

UNKNOWN_ENERGY = 0.05  # eV/atom above hull, for the order, where the source gives none
ENERGY_WEIGHT = 4.0  # of an eV/atom, in units of the distance of elements
SUPERCELL = 0.8  # of the distance: a cell that is asked for is hardly ever a multiple of a smaller one
MOST_ORDERS = 5040  # of elements of like multiplicity: of more, the first are tried


@dataclass(frozen=True)
class Nearest:
    """Crystals of a group of the library that fit the cell `at`, or a part of it, `size` of which make the cell.

    places: (m,) of the crystals; old, new: (m, e) their elements and those that take their place; distance: (m,) mean
    over atoms of how unlike these are; energy: (m,) eV/atom above hull, NaN where unknown.
    """

    at: int
    size: int
    places: np.ndarray
    old: np.ndarray
    new: np.ndarray
    distance: np.ndarray
    energy: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """(m,) what templates are ordered by: the smaller, the likelier."""
        energy = np.where(np.isnan(self.energy), UNKNOWN_ENERGY, self.energy)
        return np.asarray(self.distance + ENERGY_WEIGHT * energy + (SUPERCELL if self.size > 1 else 0.0))

    def exchange(self, k: int) -> dict[int, int]:
        """Of one of them the old elements and the new ones."""
        return dict(zip(self.old[k].tolist(), self.new[k].tolist(), strict=True))


def nearest(
    library: Library, cell: Cell, distances: np.ndarray, at: int = 0, size: int = 1, known: bool = True
) -> Nearest | None:
    """The crystals with the multiplicities of a cell, each with the nearest exchange; None if there are none.

    distances: (95, 95), between elements. known: with the crystals of the cell's own composition.
    """
    if cell.multiplicities not in library.groups:
        return None
    start, end = library.groups[cell.multiplicities]
    old = library.elements(start, end, len(cell.elements))
    allowed = np.ones(len(old), bool) if known else ~(old == cell.elements).all(1)
    if not allowed.any():
        return None
    old, energy = old[allowed], library.energies(start, end)[allowed]
    new = cell.elements[orders(cell.multiplicities)]
    cost = np.zeros((len(new), len(old)))
    for slot, atoms in enumerate(cell.multiplicities):
        cost += atoms / sum(cell.multiplicities) * distances[new[:, slot][:, None], old[:, slot][None]]
    best = cost.argmin(0)
    places = np.flatnonzero(allowed) + start
    return Nearest(at, size, places, old, new[best], cost[best, np.arange(len(old))], energy)


def parts(cell: Cell) -> Iterator[tuple[int, Cell]]:
    """The cell, and its whole parts, each with how many of it make the cell."""
    divisor = gcd(*cell.multiplicities)
    for size in (n for n in range(1, divisor + 1) if divisor % n == 0):
        yield size, Cell(cell.elements, tuple(m // size for m in cell.multiplicities))


@cache
def orders(multiplicities: tuple[int, ...]) -> np.ndarray:
    """(orders, e) all orders of the elements that leave the multiplicities as they are."""
    alike = [[i for i, m in enumerate(multiplicities) if m == n] for n in sorted(set(multiplicities))]
    every = product(*(permutations(each) for each in alike))
    return np.array([sum(order, ()) for order, _ in zip(every, range(MOST_ORDERS), strict=False)])


def with_elements(crystal: Crystal, exchange: dict[int, int]) -> Crystal:
    """The crystal with its elements exchanged."""
    become = np.zeros(LARGEST_ELEMENT + 1, int)
    become[list(exchange)] = list(exchange.values())
    return replace(crystal, numbers=become[crystal.numbers])


def rescaled(new: Crystal, old: Crystal, volumes: np.ndarray) -> Crystal:
    """A crystal made of an old one, in a cell as much larger as its elements are. volumes: (95,) Å³ an atom of each."""
    before = abs(np.linalg.det(old.lattice)) / volumes[old.numbers].sum()
    now = abs(np.linalg.det(new.lattice)) / volumes[new.numbers].sum()
    return replace(new, lattice=new.lattice * (before / now) ** (1 / 3))
