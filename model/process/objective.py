"""What a Dao learns from: crystals on their way to noise, and where to go from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dao_flows.model.crystals import Crystals

ALL = slice(None)


class Output(Protocol):
    """What a process reads of a pass through the network: eps = matrix·L, both (B, 3, 3); score: (B, N, 3)."""

    @property
    def matrix(self) -> Tensor:
        """(B, 3, 3)."""

    @property
    def eps(self) -> Tensor:
        """(B, 3, 3)."""

    @property
    def score(self) -> Tensor:
        """(B, N, 3)."""


@dataclass(frozen=True)
class Noised:
    """Crystals in model units at time t: (B,), and the targets. coordinates: (B, N, 3); lattice: (B, 3, 3)."""

    crystals: Crystals
    t: Tensor
    coordinates: Tensor
    lattice: Tensor

    def rows(self, part: slice) -> Noised:
        """Some of the crystals, with their noise."""
        c = self.crystals
        crystals = Crystals(c.numbers[part], c.frac[part], c.lattice[part])
        return Noised(crystals, self.t[part], self.coordinates[part], self.lattice[part])


@dataclass(frozen=True)
class Draw:
    """What chance decides for a batch. t: (B,), 1..T, or 0; lattice: (B, 3, 3) and coordinates: (B, N, 3), noise."""

    t: Tensor
    lattice: Tensor
    coordinates: Tensor


@dataclass(frozen=True)
class Start:
    """Where paths begin, if not at the base: templates, atom beside atom.

    known: (B,) bool, whether there is one; frac: (B, N, 3); cell: (B, 3, 3), `Objective.cell` of its lattice.
    """

    known: Tensor
    frac: Tensor
    cell: Tensor

    def __getitem__(self, rows: Tensor) -> Start:
        """Those of some of the crystals."""
        return Start(self.known[rows], self.frac[rows], self.cell[rows])


class Objective(Protocol):
    """A way from crystals (t = 0) to noise (t = T), and what the network learns to predict along it."""

    def noise(self, crystals: Crystals, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noise of the lattice, then of the coordinates, as `corrupt` takes it."""

    def cell(self, lattice: Tensor) -> Tensor:
        """(B, 3, 3), the clean lattice as `corrupt` needs it, which may be made once for all steps."""

    def corrupt(self, crystals: Crystals, draw: Draw, cell: Tensor | None = None, start: Start | None = None) -> Noised:
        """Crystals in model units at draw.t; those at 0 stay clean. cell: of their lattices; start: their templates."""

    def penalty(self, mean_square: Tensor, t: Tensor) -> Tensor:
        """(B,), what the mean square of a crystal's error at t counts in the loss."""

    def predicted(self, output: Output, crystals: Crystals) -> tuple[Tensor, Tensor]:
        """Predictions of the targets for the crystals that the network was given: (B, N, 3) and (B, 3, 3)."""
