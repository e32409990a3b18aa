"""Padded batches of crystals: the one data structure that the whole model floor passes around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Crystal:
    """One crystal on the host.

    numbers: (n,) atomic numbers; frac: (n, 3) fractional coordinates; lattice: (3, 3), rows are lattice vectors in Å.
    """

    numbers: np.ndarray
    frac: np.ndarray
    lattice: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Crystals:
    """A batch of B crystals padded to N atoms; padding has atomic number 0.

    numbers: (B, N) int64; frac: (B, N, 3) in [0, 1); lattice: (B, 3, 3), rows are lattice vectors.
    """

    numbers: Tensor
    frac: Tensor
    lattice: Tensor

    @classmethod
    def collate(cls, crystals: Sequence[Crystal], dtype: torch.dtype = torch.float32) -> Crystals:
        """Pad host crystals to `padded_size`."""
        size = padded_size([len(c) for c in crystals])
        numbers = np.zeros((len(crystals), size), dtype=np.int64)
        frac = np.zeros((len(crystals), size, 3))
        for row, crystal in enumerate(crystals):
            numbers[row, : len(crystal)] = crystal.numbers
            frac[row, : len(crystal)] = crystal.frac
        lattice = np.stack([np.asarray(c.lattice, dtype=float) for c in crystals])
        return cls(torch.from_numpy(numbers), torch.from_numpy(frac).to(dtype), torch.from_numpy(lattice).to(dtype))

    @property
    def mask(self) -> Tensor:
        """(B, N) bool: True where there is an atom."""
        return self.numbers > 0

    @property
    def n_atoms(self) -> Tensor:
        """(B,) int64: atoms in each crystal."""
        return self.mask.sum(1)

    def __len__(self) -> int:
        return len(self.numbers)

    def with_geometry(self, frac: Tensor, lattice: Tensor) -> Crystals:
        """The same atoms at other coordinates, in another cell."""
        return replace(self, frac=frac, lattice=lattice)

    def to(self, device: torch.device | str) -> Crystals:
        """A copy on another device."""
        return Crystals(self.numbers.to(device), self.frac.to(device), self.lattice.to(device))

    def unpad(self) -> list[Crystal]:
        """Back to host crystals, without the padding."""
        numbers, frac, lattice = (a.detach().cpu().numpy() for a in (self.numbers, self.frac, self.lattice))
        sizes = self.n_atoms.tolist()
        return [Crystal(numbers[i, :n], frac[i, :n], lattice[i]) for i, n in enumerate(sizes)]


def padded_size(sizes: Sequence[int]) -> int:
    """The size that a batch is padded to: the largest, at least two.

    A lone atom would make vectors of matrices, whose products round by the batch they are in (`runtime.batching`).
    """
    return max(2, *sizes)
