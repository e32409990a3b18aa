"""Which candidates are the same structure: pymatgen's StructureMatcher, blocked so that many candidates finish.

Structures of one formula are compared as primitive Niggli cells, so that a supercell is a duplicate of its cell, at any
volume (the matcher rescales). Only cells of as many atoms can match; of those, pairs whose fingerprints differ by more
than a match can make them differ are not tried.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dao_flows.makers.machine.parallel import parallel_map

from .structures import primitive_niggli

NEIGHBOURS, REACH = 16, 2.5  # of each kind, within REACH mean atomic spacings
LARGE, ROUND, CHUNK = 300, 32, 25  # candidates in a block worth sharing out; kept at a time; of the rest in one piece

Place = TypeVar("Place")


@dataclass(frozen=True)
class Tolerance:
    """StructureMatcher's: relative lengths, site distance over mean atomic spacing, angles in degrees."""

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0


@dataclass(frozen=True)
class Reduced:
    """A primitive Niggli cell and its fingerprint."""

    structure: Structure
    fingerprint: np.ndarray


def find_duplicates(structures: Sequence[Structure], formulas: Sequence[str], tolerance: Tolerance) -> list[int | None]:
    """For each structure the index of the one it duplicates, or None if it is kept. The best come first in order.

    Every structure is compared with those kept before it, and belongs to the first that matches.
    """
    reduced = parallel_map(reduced_cell, structures)
    blocks: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, (formula, cell) in enumerate(zip(formulas, reduced, strict=True)):
        blocks[formula, len(cell.structure)].append(index)
    same: list[int | None] = [None] * len(structures)
    small = [block for block in blocks.values() if len(block) <= LARGE]
    found = parallel_map(partial(_settle, tolerance=tolerance), [[reduced[i] for i in block] for block in small])
    large = [block for block in blocks.values() if len(block) > LARGE]
    found += [_settle_large([reduced[i] for i in block], tolerance) for block in large]
    for block, places in zip(small + large, found, strict=True):
        for index, place in zip(block, places, strict=True):
            same[index] = None if place is None else block[place]
    return same


def reduced_cell(structure: Structure) -> Reduced:
    """The primitive Niggli cell, and what of it a match can change only a little."""
    cell = primitive_niggli(structure)
    return Reduced(cell, fingerprint(cell))


def fingerprint(structure: Structure) -> np.ndarray:
    """Mean distance from each element to its k-th neighbour of each element, in mean atomic spacings.

    (pairs of elements × NEIGHBOURS,): the same for any cell, order, orientation and scale of one crystal.
    """
    numbers = np.array(structure.atomic_numbers)
    elements = np.unique(numbers)
    spacing = (structure.volume / len(structure)) ** (1 / 3)
    centres, partners, _, distances = structure.get_neighbor_list(REACH * spacing)
    rows = np.full((len(elements), len(elements), NEIGHBOURS), REACH)
    for a, element in enumerate(elements):
        sites = np.flatnonzero(numbers == element)
        for b, other in enumerate(elements):
            kind = (numbers[centres] == element) & (numbers[partners] == other)
            shells = np.full((len(sites), NEIGHBOURS), REACH)
            for row, site in enumerate(sites):
                near = np.sort(distances[kind & (centres == site)])[:NEIGHBOURS] / spacing
                shells[row, : len(near)] = near
            rows[a, b] = shells.mean(axis=0)
    return rows.ravel()


def reach_of_match(n_atoms: int) -> float:
    """The largest mean difference of fingerprints at which a match is still tried.

    Atoms of matched cells differ by up to stol; averaged over n atoms that shrinks as 1/√n. The factor is above the
    largest difference seen in 700 matches of randomly distorted crystals (0.145, 0.121, 0.093, 0.069 and 0.050 for up
    to 2, 4, 8, 12 and 20 atoms), and rules out about half of the pairs that do not match.
    """
    return min(0.2, 0.36 / math.sqrt(n_atoms))


def first_match(
    kept: Sequence[tuple[Place, Reduced]], candidate: Reduced, tolerance: Tolerance, screened: bool = True
) -> Place | None:
    """Place of the first kept structure that the candidate matches. All cells have as many atoms.

    screened: pairs whose fingerprints differ by more than reach_of_match are not tried.
    """
    if not kept:
        return None
    matcher = StructureMatcher(ltol=tolerance.ltol, stol=tolerance.stol, angle_tol=tolerance.angle_tol)
    known = np.stack([cell.fingerprint for _, cell in kept])
    limit = match_limit(len(candidate.structure), tolerance) if screened else np.inf
    near = np.abs(known - candidate.fingerprint).mean(axis=1) <= limit
    for place, cell in (entry for entry, tried in zip(kept, near, strict=True) if tried):
        if not lattices_fit(cell.structure.lattice, candidate.structure.lattice, tolerance):
            continue
        if matcher.fit(cell.structure, candidate.structure, skip_structure_reduction=True):
            return place
    return None


def lattices_fit(first: Lattice, second: Lattice, tolerance: Tolerance) -> bool:
    """Whether StructureMatcher would find a setting of the first lattice that is close to the second one.

    Its own first step, at the same volumes, spared the copies of both structures that it makes before: where there is
    no such setting, cells of as many atoms do not match.
    """
    ratio = (second.volume / first.volume) ** (1 / 6)
    scaled, target = Lattice(first.matrix * ratio), Lattice(second.matrix / ratio)
    mappings = scaled.find_all_mappings(target, tolerance.ltol, tolerance.angle_tol, skip_rotation_matrix=True)
    return any(math.isclose(abs(np.linalg.det(setting)), 1, abs_tol=0.5, rel_tol=0) for _, _, setting in mappings)


def match_limit(n_atoms: int, tolerance: Tolerance) -> float:
    """As reach_of_match, for another tolerance of sites."""
    return reach_of_match(n_atoms) * tolerance.stol / Tolerance.stol


def _settle(cells: Sequence[Reduced], tolerance: Tolerance) -> list[int | None]:
    """For each cell the place of the one it duplicates, in order, in this process."""
    same: list[int | None] = []
    kept: list[tuple[int, Reduced]] = []
    for place, cell in enumerate(cells):
        same.append(first_match(kept, cell, tolerance))
        if same[-1] is None:
            kept.append((place, cell))
    return same


def _match_chunk(
    chunk: Sequence[Reduced], kept: Sequence[tuple[int, Reduced]], tolerance: Tolerance
) -> list[int | None]:
    return [first_match(kept, cell, tolerance) for cell in chunk]


def _settle_large(cells: Sequence[Reduced], tolerance: Tolerance) -> list[int | None]:
    """As _settle, with the same result: the first open cells are settled here, the rest meets them on all cores."""
    same: list[int | None] = [None] * len(cells)
    open_ = list(range(len(cells)))
    while open_:
        head, tail = open_[:ROUND], open_[ROUND:]
        for index, place in zip(head, _settle([cells[i] for i in head], tolerance), strict=True):
            same[index] = None if place is None else head[place]
        kept = [(i, cells[i]) for i in head if same[i] is None]
        chunks = [tail[i : i + CHUNK] for i in range(0, len(tail), CHUNK)]
        match = partial(_match_chunk, kept=kept, tolerance=tolerance)
        found = parallel_map(match, [[cells[i] for i in chunk] for chunk in chunks], small=2)
        for index, place in zip(tail, (place for places in found for place in places), strict=True):
            same[index] = place
        open_ = [i for i in tail if same[i] is None]
    return same
