"""Supercells of known crystals, and ordered derivatives: one sublattice shared by two elements.

Of an ordered derivative only a few are made, in the smallest cell: of all ways to deal a sublattice's sites to the two
elements, those in which the sites of the rarer one are furthest apart.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, islice, product
from math import prod

import numpy as np

from dao_flows.model.crystals import Crystal

from .fingerprints import IMAGES, fingerprint, groups

MOST_WAYS = 200  # to deal the sites of one sublattice: of more, the first are looked at
MOST_DERIVATIVES = 4  # of one crystal
ALL_SUPERLATTICES = 8  # of more cells there are hundreds: those along the cell's own vectors are looked at
NEIGHBOURING = np.array(list(product((-1, 0, 1), repeat=2)), dtype=float)


@cache
def superlattices(size: int) -> np.ndarray:
    """(m, 3, 3) integer matrices M of this determinant, one for each superlattice M·L: Hermite normal forms."""
    found = []
    for a, b, c in product(range(1, size + 1), repeat=3):
        if a * b * c == size:
            found += [[[a, 0, 0], [x, b, 0], [y, z, c]] for x, y, z in product(range(a), range(a), range(b))]
    return np.array(found, dtype=float)


def supercell(crystal: Crystal, matrix: np.ndarray) -> Crystal:
    """The crystal in the cell M·L of a Hermite normal form M, its vectors reduced."""
    corners = np.array(list(product(*(range(int(n)) for n in np.diag(matrix)))), dtype=float)
    lattice = matrix @ crystal.lattice
    frac = ((crystal.frac[:, None] + corners[None]) @ np.linalg.inv(matrix)).reshape(-1, 3)
    change = reduction(lattice)
    return Crystal(np.repeat(crystal.numbers, len(corners)), frac @ np.linalg.inv(change) % 1, change @ lattice)


def compact_supercell(crystal: Crystal, size: int) -> Crystal:
    """The crystal in a supercell of this size whose vectors are short."""
    if size == 1:
        return crystal
    matrices = superlattices(size) if size <= ALL_SUPERLATTICES else _diagonal(size)
    lattices = [matrix @ crystal.lattice for matrix in matrices]
    lengths = [((reduction(lattice) @ lattice) ** 2).sum() for lattice in lattices]
    return supercell(crystal, matrices[int(np.argmin(np.round(lengths, 6)))])


def _diagonal(size: int) -> np.ndarray:
    """(m, 3, 3) the superlattices that repeat a cell along its own vectors."""
    sizes = range(1, size + 1)
    return np.array([np.diag(abc) for abc in product(sizes, repeat=3) if prod(abc) == size], dtype=float)


def reduction(lattice: np.ndarray) -> np.ndarray:
    """(3, 3) unimodular U for which the vectors of U·L are the shortest (Minkowski; Semaev, CaLC 2001)."""
    change = np.eye(3)
    for _ in range(100):
        order = np.argsort(np.linalg.norm(change @ lattice, axis=1), kind="stable")
        change = change[order]
        first, second, third = change @ lattice
        # second minus a multiple of first, then third minus the closest combination of both
        step = np.round(second @ first / (first @ first))
        if step:
            change[1] -= step * change[0]
            continue
        plane = np.stack([first, second])
        near = np.round(np.linalg.solve(plane @ plane.T, plane @ third)) + NEIGHBOURING
        best = near[int((np.linalg.norm(third - near @ plane, axis=1)).argmin())]
        if np.linalg.norm(third - best @ plane) > np.linalg.norm(third) * (1 - 1e-9):
            break
        change[2] -= best @ change[:2]
    return change if np.linalg.det(change) > 0 else -change


def shared(crystal: Crystal, element: int, pair: tuple[int, int], atoms: int, size: int) -> list[Crystal]:
    """The crystal in supercells, an element's sites dealt to a pair: so many atoms of the first, the rest the second.

    At most four, no two alike, in the order of how far apart the rarer atoms are.
    """
    scored: list[tuple[float, Crystal]] = []
    for matrix in superlattices(size):
        whole = supercell(crystal, matrix)
        sites = np.flatnonzero(whole.numbers == element)
        rarer = min(atoms, len(sites) - atoms)
        apart = _distances(whole, sites)
        for chosen in islice(combinations(range(len(sites)), rarer), MOST_WAYS // len(superlattices(size)) + 1):
            numbers = whole.numbers.copy()
            first = np.zeros(len(sites), bool)
            first[list(chosen)] = True
            if rarer != atoms:
                first = ~first
            numbers[sites] = np.where(first, *pair)
            between = apart[np.ix_(list(chosen), list(chosen))]
            scored.append((float(between.min()), Crystal(numbers, whole.frac, whole.lattice)))
    if not scored:
        return []
    scored.sort(key=lambda each: -round(each[0], 3))
    elements = np.unique(scored[0][1].numbers)
    alike = groups([fingerprint(made, elements).ravel() for _, made in scored])
    distinct = [made for at, (_, made) in enumerate(scored) if alike[at] == at]
    return distinct[:MOST_DERIVATIVES]


def _distances(crystal: Crystal, sites: np.ndarray) -> np.ndarray:
    """(m, m) Å, the shortest distance of each two of these sites; of a site to itself that to its next image."""
    positions = crystal.frac[sites] @ crystal.lattice
    between = positions[None, :, None] + (IMAGES @ crystal.lattice)[None, None] - positions[:, None, None]
    distances = np.linalg.norm(between, axis=-1)
    distances[distances < 1e-6] = np.inf
    return np.asarray(distances.min(-1))
