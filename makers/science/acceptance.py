"""Whether a relaxed crystal may take its original's place in a dataset, and in which cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
import spglib
from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
from pymatgen.core.periodic_table import Element

from dao_flows.model.crystals import Crystal
from dao_flows.model.relax import Relaxed

from .validity import LARGEST_RADIUS

NIGGLI_TOLERANCE = 0.01  # of V^(2/3): 90.3° is still a right angle, else every relaxation would turn every cubic cell
IMAGES = np.array(list(product((-1, 0, 1), repeat=3)))


@dataclass(frozen=True)
class Bounds:
    """What a relaxation may do. Volumes as ratios of after to before; distance_ratio: of the sum of covalent radii."""

    min_volume_ratio: float
    max_volume_ratio: float
    distance_ratio: float


@dataclass(frozen=True)
class Judged:
    """A relaxation that was judged. fault: why the original stays, 'volume: …' or 'distance: …'; None: accepted.

    relaxed: as it will be stored, its cell Niggli-reduced again where the relaxation broke that, in single precision;
    another_cell: whether it was. displacement: Å.
    """

    relaxed: Relaxed
    volume_ratio: float
    displacement: float
    another_cell: bool
    fault: str | None


@cache
def radius(number: int) -> float:
    """Covalent radius of an element, Å."""
    return float(CovalentRadius.radius.get(Element.from_Z(number).symbol, LARGEST_RADIUS))


def reduction(lattice: np.ndarray) -> np.ndarray | None:
    """(3, 3) integers P, whose P·L is the Niggli cell of L (rows are vectors); None if spglib finds none."""
    scaled = lattice / abs(np.linalg.det(lattice)) ** (1 / 3)
    reduced = spglib.niggli_reduce(scaled, eps=NIGGLI_TOLERANCE)
    return None if reduced is None else np.rint(reduced @ np.linalg.inv(scaled))


def in_other_cell(crystal: Crystal, steps: np.ndarray) -> Crystal:
    """The same crystal on the lattice vectors steps·L."""
    return replace(crystal, lattice=steps @ crystal.lattice, frac=crystal.frac @ np.linalg.inv(steps))


def in_niggli_cell(crystal: Crystal, original: Crystal) -> tuple[Crystal, bool]:
    """The crystal in its Niggli cell if its relaxation broke the cell, and whether it did.

    It did where the reduction asks for other steps than it asks of the original: conventions differ between libraries
    in the choice among equals, and a cell that was good for the dataset stays.
    """
    steps = reduction(crystal.lattice)
    before = reduction(original.lattice)
    if steps is None or (before is not None and np.array_equal(steps, before)):
        return crystal, False
    return in_other_cell(crystal, steps), True


def single_precision(crystal: Crystal) -> Crystal:
    """As the dataset stores it: float32, coordinates in [0, 1)."""
    frac = (crystal.frac % 1).astype(np.float32)
    return Crystal(crystal.numbers, np.where(frac >= 1, np.float32(0), frac), crystal.lattice.astype(np.float32))


def displacement(before: Crystal, after: Crystal) -> float:
    """Root mean square over the atoms of how far they went, Å, in the original's cell.

    Without the mean translation, which changes no crystal; each atom to its nearest image.
    """
    moved = after.frac.astype(float) - before.frac
    moved -= np.angle(np.exp(2j * np.pi * moved).mean(0)) / (2 * np.pi)  # a mean on the circle: 0.5 is −0.5
    moved -= np.rint(moved)
    moved -= moved.mean(0)
    images = ((moved - np.rint(moved))[:, None] + IMAGES) @ before.lattice.astype(float)  # (n, 27, 3)
    return float(np.sqrt((images**2).sum(-1).min(1).mean()))


def closest_contact(crystal: Crystal) -> tuple[float, float, tuple[int, int]]:
    """The smallest distance by its sum of covalent radii: the ratio, the distance (Å) and the two atomic numbers.

    Looked for in the reduced cell, where no nearest image is further than one cell away.
    """
    steps = reduction(crystal.lattice)
    if steps is not None:
        crystal = in_other_cell(crystal, steps)
    difference = crystal.frac[None] - crystal.frac[:, None].astype(float)
    vectors = ((difference - np.rint(difference))[:, :, None] + IMAGES) @ crystal.lattice.astype(float)
    distance = np.sqrt((vectors**2).sum(-1))  # (n, n, 27)
    atoms = np.arange(len(crystal))
    distance[atoms, atoms, len(IMAGES) // 2] = np.inf  # an atom and itself
    radii = np.array([radius(int(z)) for z in crystal.numbers])
    nearest = distance.min(-1)
    ratio = nearest / (radii[:, None] + radii)
    i, j = np.unravel_index(int(ratio.argmin()), ratio.shape)
    return float(ratio[i, j]), float(nearest[i, j]), (int(crystal.numbers[i]), int(crystal.numbers[j]))


def judge(original: Crystal, result: Relaxed, bounds: Bounds) -> Judged:
    """Judge the geometry of a relaxation whose energies are finite."""
    volumes = [abs(float(np.linalg.det(c.lattice.astype(float)))) for c in (original, result.crystal)]
    ratio = volumes[1] / volumes[0]
    moved = displacement(original, result.crystal)
    if not bounds.min_volume_ratio <= ratio <= bounds.max_volume_ratio:
        wanted = f"{bounds.min_volume_ratio:g} to {bounds.max_volume_ratio:g}"
        return Judged(result, ratio, moved, False, f"volume: {ratio:.3f} of before is not within {wanted}")
    crystal = Crystal(result.crystal.numbers, result.crystal.frac.astype(float), result.crystal.lattice.astype(float))
    crystal, another_cell = in_niggli_cell(crystal, original)
    found, distance, pair = closest_contact(crystal)
    fault = None
    if found < bounds.distance_ratio and found < closest_contact(original)[0]:
        names = "-".join(sorted(Element.from_Z(z).symbol for z in pair))
        fault = f"distance: {names} {distance:.2f} Å is {found:.2f} of the covalent radii"
    return Judged(replace(result, crystal=single_precision(crystal)), ratio, moved, another_cell, fault)
