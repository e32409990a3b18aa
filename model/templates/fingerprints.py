"""Fingerprints that tell whether two crystals of one composition are the same structure, whatever their cells.

For each pair of elements, the mean over the atoms of the first of the distances to their nearest neighbours of the
second, in units of the cube root of the volume per atom; the cell is meant to be a reduced one. Of 3,889 pairs of
templates of one composition, those closer than `SAME` are the same to pymatgen's StructureMatcher (ltol 0.2, stol 0.3,
angle_tol 5) in 93 of 100 cases, and 86 of 100 that are the same to it are that close.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from dao_flows.model.crystals import Crystal

NEIGHBOURS = 6  # of each element
SAME = 0.045  # mean difference
FAR = 9.0  # further than any of the nearest neighbours
IMAGES = np.array(list(product((-1, 0, 1), repeat=3)), dtype=float)
HOME = 13  # the image that is the cell itself


def fingerprint(crystal: Crystal, elements: np.ndarray) -> np.ndarray:
    """(e, e, 6) float32: of these elements, (e,) atomic numbers, in their order."""
    n = len(crystal)
    lattice = crystal.lattice / (abs(np.linalg.det(crystal.lattice)) / n) ** (1 / 3)
    between = crystal.frac[None] - crystal.frac[:, None]
    between -= np.round(between)
    distances = np.sqrt((((between[:, :, None] + IMAGES) @ lattice) ** 2).sum(-1))  # (n, n, 27)
    distances[np.arange(n), np.arange(n), HOME] = FAR
    found = np.empty((len(elements), len(elements), NEIGHBOURS), np.float32)
    for second, other in enumerate(elements):
        near = distances[:, crystal.numbers == other].reshape(n, -1)
        near = np.sort(np.partition(near, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS], axis=1)
        for first, one in enumerate(elements):
            found[first, second] = near[crystal.numbers == one].mean(0)
    return found


def exchanged(fingerprints: np.ndarray, new: np.ndarray) -> np.ndarray:
    """(e·e·6,) the fingerprint of a crystal with its elements exchanged, by atomic number ascending.

    fingerprints: (e, e, 6), in the order of the old elements; new: (e,), those that took their place.
    """
    order = np.argsort(new)
    return fingerprints[order][:, order].ravel()


def groups(fingerprints: Sequence[np.ndarray]) -> np.ndarray:
    """(m,) for each of m fingerprints, (f,), best first, the number of the first that is the same structure."""
    first, all_prints = np.arange(len(fingerprints)), np.stack(fingerprints)
    kept: list[int] = []
    for at, each in enumerate(all_prints):
        if kept:
            differences = np.abs(all_prints[kept] - each).mean(1)
            nearest = int(differences.argmin())
            if differences[nearest] < SAME:
                first[at] = kept[nearest]
                continue
        kept.append(at)
    return first
