"""Templates: known crystals of the multiplicities that are asked for, with their elements exchanged.

Of a composition with so many atoms of each element a cell, every crystal of the library with the same multiplicities
may be a template. Its elements are exchanged for those asked for in the way in which they are most alike; its cell is
scaled by volumes of elements. The nearer the elements and the lower the crystal's own energy above hull, the likelier a
template is the right one; templates that give the same structure are one, as likely as all of them together. Where no
crystal has the multiplicities, one sublattice of a crystal is shared by two elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from dao_flows.model.crystals import Crystal
from dao_flows.model.templates.index import LARGEST_ELEMENT

from .derivatives import compact_supercell, shared
from .fingerprints import exchanged, groups
from .library import Cell, Library
from .nearest import Nearest, nearest, parts, rescaled, with_elements
from .similarity import element_distances

SOFTNESS = 0.1  # of the distance: a template that much further is less likely by a factor e
LOOKED_AT = 100  # of the nearest crystals: those that are alike are one template
PARENTS = 4  # of ordered derivatives
LARGEST_SUPERCELL = 4  # of a crystal whose sublattice is shared
SHARED = 0  # stands for the element of the shared sublattice


@dataclass(frozen=True)
class Template:
    """A known crystal with its elements exchanged, in a cell scaled to what the new ones need.

    crystal: the result (Å). place, row: of the known crystal, in the index and in the dataset. exchange: its elements
    and those that took their place, two where they share its sites. distance: mean over atoms of how unlike they are.
    energy: of the known crystal, eV/atom above hull, NaN where unknown. weight: how likely it is the right one, of all
    that were looked at, as a share of 1. copies: templates that gave the same structure, this one included. cells: of
    the known crystal in this one. known: nothing was exchanged, the library has this very crystal.
    """

    crystal: Crystal
    place: int
    row: int
    exchange: dict[int, tuple[int, ...]]
    distance: float
    energy: float
    weight: float = 0.0
    copies: int = 1
    cells: int = 1
    known: bool = False


def find_templates(
    library: Library, cells: Sequence[np.ndarray], count: int, *, known: bool = True
) -> list[tuple[int, Template]]:
    """At most `count` templates for cells of one composition, best first, each with the number of its cell.

    cells: (n,) atomic numbers of each cell that may be asked for, as of 1, 2, … formula units. A crystal whose cell is
    a part of one that is asked for is a template in a supercell, if the part is not asked for itself, but comes late.
    known: crystals of this very composition are templates too, and come first. Nothing here is random.
    """
    asked = [Cell.of(np.asarray(numbers)) for numbers in cells]
    if count < 1 or any(int(cell.elements.max()) > LARGEST_ELEMENT for cell in asked):
        return []
    found = list(_fitting(library, asked, known))
    if not found:
        return _derived(library, asked, count)
    total = np.concatenate([each.total for each in found])
    owner = np.repeat(np.arange(len(found)), [len(each.places) for each in found])
    within = np.concatenate([np.arange(len(each.places)) for each in found])
    best = np.argsort(total, kind="stable")[:LOOKED_AT]
    same = groups(
        [
            exchanged(library.fingerprint(int(found[i].places[k])), found[i].new[k])
            for i, k in zip(owner[best], within[best], strict=True)
        ]
    )
    likely = _likelihoods(total[best])
    templates = []
    for k in np.unique(same):
        group, alike = found[owner[best[k]]], same == k
        template = _template(library, group, int(within[best[k]]))
        templates.append((group.at, replace(template, weight=float(likely[alike].sum()), copies=int(alike.sum()))))
    templates.sort(key=lambda each: (not each[1].known, -each[1].weight))
    return templates[:count]


def _likelihoods(totals: np.ndarray) -> np.ndarray:
    """(m,) shares of 1."""
    likely = np.exp(-(totals - totals.min()) / SOFTNESS)
    return np.asarray(likely / likely.sum())


def _fitting(library: Library, asked: Sequence[Cell], known: bool) -> Iterator[Nearest]:
    """Groups of the library that fit a cell, or a part of it that is not asked for itself."""
    themselves = {cell.multiplicities for cell in asked}
    for at, cell in enumerate(asked):
        for size, part in parts(cell):
            if size > 1 and part.multiplicities in themselves:
                continue
            if (found := nearest(library, part, element_distances(), at, size, known)) is not None:
                yield found


def _template(library: Library, group: Nearest, k: int) -> Template:
    place, exchange = int(group.places[k]), group.exchange(k)
    known = library.crystal(place)
    made = compact_supercell(with_elements(known, exchange), group.size)
    return Template(
        crystal=rescaled(made, known, library.volumes),
        place=place,
        row=library.row(place),
        exchange={old: (new,) for old, new in exchange.items()},
        distance=float(group.distance[k]),
        energy=float(group.energy[k]),
        cells=group.size,
        known=all(old == new for old, new in exchange.items()),
    )


def _derived(library: Library, asked: Sequence[Cell], count: int) -> list[tuple[int, Template]]:
    """Ordered derivatives of the nearest crystals with one element fewer, whose sublattice two of ours share."""
    parents = []
    for at, cell in enumerate(asked):
        for pair in combinations(range(len(cell.elements)), 2):
            for group in _sharing(library, at, cell, pair):
                few = np.argsort(group.total, kind="stable")[:PARENTS]
                parents += [(float(group.total[k]), group, int(k), pair) for k in few]
    parents.sort(key=lambda each: each[0])
    made = [
        (total, group.at, template)
        for total, group, k, pair in parents[:PARENTS]
        for template in _derivatives(library, group, k, asked[group.at], pair)
    ]
    if not made:
        return []
    likely = _likelihoods(np.array([total for total, *_ in made]))
    weighted = [
        (at, replace(template, weight=float(weight))) for (_, at, template), weight in zip(made, likely, strict=True)
    ]
    return weighted[:count]


def _sharing(library: Library, at: int, cell: Cell, pair: tuple[int, int]) -> Iterator[Nearest]:
    """Groups of crystals that lack one of two elements of a cell, whose place both would take."""
    atoms = np.array([cell.multiplicities[i] for i in pair])
    distances = element_distances().copy()
    distances[SHARED] = atoms @ distances[cell.elements[list(pair)]] / atoms.sum()
    others = [i for i in range(len(cell.elements)) if i not in pair]
    numbers = np.repeat([*cell.elements[others], SHARED], [*(cell.multiplicities[i] for i in others), int(atoms.sum())])
    for size, part in parts(Cell.of(numbers)):
        if size <= LARGEST_SUPERCELL and (found := nearest(library, part, distances, at, size)) is not None:
            yield found


def _derivatives(library: Library, group: Nearest, k: int, cell: Cell, pair: tuple[int, int]) -> Iterator[Template]:
    place, exchange = int(group.places[k]), group.exchange(k)
    known = library.crystal(place)
    elements = (int(cell.elements[pair[0]]), int(cell.elements[pair[1]]))
    for made in shared(with_elements(known, exchange), SHARED, elements, cell.multiplicities[pair[0]], group.size):
        yield Template(
            crystal=rescaled(made, known, library.volumes),
            place=place,
            row=library.row(place),
            exchange={old: elements if new == SHARED else (new,) for old, new in exchange.items()},
            distance=float(group.distance[k]),
            energy=float(group.energy[k]),
            cells=group.size,
        )
