"""Flow matching on the Crysformer: straight paths from a simple base to crystals, and the velocity along them.

Riemannian flow matching (arXiv 2302.03660) as FlowMM applies it to crystals (arXiv 2406.04713), with a base for the
lattice that knows no orientation. Time is counted as in the diffusion, t = T for the base and t = 0 for the crystal, so
that the same network, batches and checkpoints serve both; s = 1 − t / T is the share of the path that lies behind.

- Coordinates: x_s = x_0 + s·u with u = wrap(x_1 − x_0), the shortest way on the torus, x_0 uniform. A common shift of
  all atoms is the same crystal, so u counts without its mean over the atoms.
- Lattice: L = exp(S)·Q with S symmetric and Q a rotation or reflection; the crystal does not depend on Q, and the path
  is straight in S (log-Euclidean, 6 numbers). S_0 is normal, around a cube of a common volume per atom.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dao_flows.model.crystals import Crystals

from .diffusion import NoiseSchedule
from .objective import Draw, Noised, Output, Start

COORDINATE_UNIT = 0.2887  # standard deviation of a difference that is uniform on the circle, 1/√12
LATTICE_UNIT = 0.35  # that of an entry of S_1 − S_0, about
BASE_SIZE = 0.98  # mean of tr S / 3 of inorganic crystals in Å per atom^(1/3): a cube of 19 Å³ an atom
SQUARINGS, TERMS = 4, 8  # of an exponential
BASE_DIAGONAL, BASE_OFF_DIAGONAL = 0.25, 0.2  # standard deviations of S_0


def log_stretch(lattice: Tensor) -> Tensor:
    """S of L = exp(S)·Q, half the matrix logarithm of L Lᵀ: (B, 3, 3) to (B, 3, 3), symmetric."""
    values, vectors = torch.linalg.eigh(lattice @ lattice.mT)
    log: Tensor = (vectors * (values.clamp(min=1e-12).log() / 2)[:, None]) @ vectors.mT
    return log


def stretch(log: Tensor) -> Tensor:
    """exp(S): the lattice of that shape whose orientation is given by no rotation: (B, 3, 3)."""
    if log.is_cuda:  # matrix_exp looks at the norms from the host, which takes long and cannot be captured
        return squared_series(log)
    exponential: Tensor = torch.linalg.matrix_exp(log)
    return exponential


def squared_series(log: Tensor) -> Tensor:
    """exp(S) to rounding where S is a multiple of 1 and a rest of norm 3 at most, by the same products for all S."""
    eye = torch.eye(3, dtype=log.dtype, device=log.device)
    size = log.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    rest = (log - size * eye) / 2**SQUARINGS
    series = eye + rest / TERMS
    for k in range(TERMS - 1, 0, -1):  # Horner
        series = torch.baddbmm(eye, rest, series, alpha=1 / k)
    for _ in range(SQUARINGS):
        series = torch.bmm(series, series)
    exponential: Tensor = size.exp() * series
    return exponential


def base_lattice(normal: Tensor) -> Tensor:
    """S_0 from (B, 3, 3) standard normal numbers."""
    symmetric = (normal + normal.mT) / 2**0.5  # entries off the diagonal are standard normal
    eye = torch.eye(3, dtype=normal.dtype, device=normal.device)
    spread = BASE_OFF_DIAGONAL * (1 - eye) + BASE_DIAGONAL / 2**0.5 * eye
    return BASE_SIZE * eye + spread * symmetric


def centred(vectors: Tensor, mask: Tensor) -> Tensor:
    """(B, N, 3) vectors less their mean over the atoms; zero on padding. mask: (B, N)."""
    here = mask[..., None].to(vectors.dtype)
    mean = (vectors * here).sum(1, keepdim=True) / here.sum(1, keepdim=True)
    return (vectors - mean) * here


def wrap(difference: Tensor) -> Tensor:
    """The shortest of the periodic images, in [−1/2, 1/2]."""
    return difference - difference.round()


class FlowMatching:
    """The objective: u of the coordinates and S_1 − S_0 of the lattice, in their units."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.last = schedule.config.steps

    def noise(self, crystals: Crystals, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Normal for the lattice, uniform for the coordinates."""
        frac, lattice = crystals.frac, crystals.lattice
        normal = torch.randn(lattice.shape, generator=generator, dtype=lattice.dtype, device=lattice.device)
        return normal, torch.rand(frac.shape, generator=generator, dtype=frac.dtype, device=frac.device)

    def cell(self, lattice: Tensor) -> Tensor:
        """The end of the lattice's path."""
        with torch.autocast(lattice.device.type, enabled=False):  # there are no eigenvalues in half precision
            return log_stretch(lattice)

    def corrupt(self, crystals: Crystals, draw: Draw, cell: Tensor | None = None, start: Start | None = None) -> Noised:
        """As Objective.corrupt; every lattice comes back in the orientation exp(S). start: not used."""
        with torch.autocast(draw.lattice.device.type, enabled=False):
            begin = base_lattice(draw.lattice)
        return self.along(crystals, draw.t, draw.coordinates, begin, cell)

    def along(self, crystals: Crystals, t: Tensor, start: Tensor, begin: Tensor, cell: Tensor | None) -> Noised:
        """Crystals at t of the straight path from x_0 = start and S_0 = begin. cell: S_1, if it is known."""
        frac = crystals.frac
        to_go = (t.to(frac.dtype) / self.last)[:, None, None]  # 1 − s
        way = wrap(frac - start)
        end = self.cell(crystals.lattice) if cell is None else cell
        with torch.autocast(frac.device.type, enabled=False):
            change = end - begin
            there = crystals.with_geometry((frac - to_go * way) % 1, stretch(end - to_go * change))
        return Noised(there, t, centred(way, crystals.mask) / COORDINATE_UNIT, change / LATTICE_UNIT)

    def penalty(self, mean_square: Tensor, t: Tensor) -> Tensor:
        """As Objective.penalty."""
        return mean_square

    def predicted(self, output: Output, crystals: Crystals) -> tuple[Tensor, Tensor]:
        """As Objective.predicted."""
        return centred(output.score, crystals.mask), (output.matrix + output.matrix.mT) / 2
