"""A crystal in the setting of a template: the lattice that is closest to the template's, and atom beside atom.

A path from a template to a crystal is short only if both are described alike. Of the crystal's cells, those whose
vectors are sums of its own with factors −1, 0 or 1 are compared with the template's (both reduced); of the common
shifts, those that put an atom of the rarest element on another; atoms of an element are then assigned at the least
sum of squared distances. The crystal moves into the template's setting, not the other way round: whoever draws knows
the template alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from dao_flows.model.crystals import Crystal

SETTINGS = 48  # cells that are looked at, closest first: a lattice's symmetry makes up to 48 alike
STRAIN_TOLERANCE = 0.1  # of the metric, beyond that of the closest cell
ASSIGNED = 4  # pairs of setting and shift whose atoms are assigned in full
UPPER = np.triu_indices(3)


@dataclass(frozen=True)
class Pair:
    """How a crystal becomes like its template.

    setting: (3, 3), unimodular: M·L is the crystal's lattice in the template's setting. order: (n,), the crystal's atom
    beside each of the template's. shift: (3,), added to fractional coordinates. rms: distance of the atoms that is
    left, in units of the cube root of the volume per atom. strain: relative difference of the metrics, at equal volume.
    """

    setting: np.ndarray
    order: np.ndarray
    shift: np.ndarray
    rms: float = 0.0
    strain: float = 0.0

    def move(self, crystal: Crystal) -> Crystal:
        """The crystal in the template's setting, its atoms in the template's order."""
        frac = crystal.frac[self.order] @ np.linalg.inv(self.setting) + self.shift
        return Crystal(crystal.numbers[self.order], frac % 1, self.setting @ crystal.lattice)


@cache
def _settings() -> tuple[np.ndarray, np.ndarray]:
    """All unimodular matrices with entries −1, 0 and 1, and what they make of a metric's six numbers."""
    matrices = np.array(list(product((-1, 0, 1), repeat=9)), dtype=float).reshape(-1, 3, 3)
    matrices = matrices[np.abs(np.abs(np.linalg.det(matrices)) - 1) < 0.1]
    action = np.einsum("mia,mjb->mijab", matrices, matrices)[:, UPPER[0], UPPER[1]]
    symmetric = np.stack(
        [action[..., a, b] + (action[..., b, a] if a != b else 0) for a, b in zip(*UPPER, strict=True)], -1
    )
    return matrices, symmetric


def closest_settings(template: np.ndarray, lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Settings of a lattice in which it is closest to a template's, and their strains, closest first."""
    matrices, action = _settings()
    unit = template / abs(np.linalg.det(template)) ** (1 / 3)
    own = lattice / abs(np.linalg.det(lattice)) ** (1 / 3)
    metrics = action @ (own @ own.T)[UPPER]
    # L_t⁻¹ G L_t⁻ᵀ is 1 where the metrics agree, whatever the orientation
    inverse = np.linalg.inv(unit)
    full = np.empty((3, 3, len(metrics)))
    for k, (a, b) in enumerate(zip(*UPPER, strict=True)):
        full[a, b] = full[b, a] = metrics[:, k]
    relative = np.einsum("ia,abm,jb->mij", inverse, full, inverse, optimize=True)
    strains = np.sqrt(((relative - np.eye(3)) ** 2).sum((1, 2)))
    near = np.argpartition(strains, SETTINGS)[:SETTINGS]
    near = near[np.argsort(strains[near], kind="stable")]
    near = near[strains[near] <= strains[near[0]] + STRAIN_TOLERANCE]
    return matrices[near], strains[near]


def pair(template: Crystal, crystal: Crystal) -> Pair:
    """The pairing with the least distance of atoms among the closest settings and the shifts that were tried."""
    settings, strains = closest_settings(template.lattice, crystal.lattice)
    volume = abs(np.linalg.det(template.lattice))
    unit = (volume / len(template)) ** (1 / 3)
    metric = template.lattice / unit
    at = np.argsort(template.numbers, kind="stable")
    theirs = np.argsort(crystal.numbers, kind="stable")
    _, counts = np.unique(template.numbers, return_counts=True)
    ends = np.cumsum(counts)
    blocks = [slice(end - n, end) for end, n in zip(ends, counts, strict=True)]
    rarest = blocks[int(counts.argmin())]
    own = template.frac[at]
    moved = crystal.frac[theirs] @ np.linalg.inv(settings)  # (settings, n, 3)
    shifts = own[rarest][None] - moved[:, rarest.start][:, None]  # (settings, shifts, 3)
    placed = moved[:, None] + shifts[:, :, None]  # (settings, shifts, n, 3)
    bound = np.zeros(placed.shape[:2])
    for block in blocks:
        way = placed[:, :, None, block] - own[block][:, None]
        way -= np.round(way)
        squared = ((way @ metric) ** 2).sum(-1)
        bound += squared.min(-1).sum(-1) + squared.min(-2).sum(-1)
    bound += 0.1 * len(own) * strains[:, None] ** 2
    best: Pair | None = None
    for flat in np.argsort(bound, axis=None, kind="stable")[:ASSIGNED]:
        setting, shift = np.unravel_index(flat, bound.shape)
        order, extra, squared_mean = _assigned(own, placed[setting, shift], metric, blocks)
        rms = float(np.sqrt(squared_mean))
        if best is None or rms < best.rms:
            full = np.empty(len(at), int)
            full[at] = theirs[order]
            total = shifts[setting, shift] + extra
            best = Pair(settings[setting], full, total, rms, float(strains[setting]))
    assert best is not None
    return best


def _assigned(
    own: np.ndarray, placed: np.ndarray, metric: np.ndarray, blocks: list[slice]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Atoms beside atoms; the shift that takes away their mean displacement; the mean square that is left.

    Assigned twice: the first assignment tells a better shift.
    """
    # here, for pairs are read where there is no scipy
    from scipy.optimize import linear_sum_assignment  # type: ignore[attr-defined]

    extra = np.zeros(3)
    for _ in range(2):
        order = np.empty(len(own), int)
        for block in blocks:
            way = placed[None, block] + extra - own[block][:, None]
            way -= np.round(way)
            order[block] = block.start + linear_sum_assignment(((way @ metric) ** 2).sum(-1))[1]
        way = placed[order] + extra - own
        way -= np.round(way)
        extra = extra - way.mean(0)
    way = way - way.mean(0)
    return order, extra, float(((way @ metric) ** 2).sum(-1).mean())
