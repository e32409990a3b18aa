"""DAO-G, the generator: a joint diffusion of lattice and fractional coordinates for a given composition."""

from __future__ import annotations

import torch
from torch import Tensor

from .crystals import Crystals
from .dao import Dao
from .process.objective import ALL, Draw, Start


class DaoG(Dao):
    """Trained by denoising alone; `sampling.sample` draws crystals from it."""

    def losses(
        self, crystals: Crystals, energy: Tensor | None, generator: torch.Generator, part: slice = ALL
    ) -> dict[str, Tensor]:
        """Loss terms of one training batch (weights 1 : 1). crystals: Å; energy is not used.

        part: rows to compute; their noise is what they have in the whole batch, and the terms are their share of its.
        """
        return self.losses_at(crystals, energy, self.draw(crystals, generator), part=part)

    def losses_at(
        self,
        crystals: Crystals,
        energy: Tensor | None,
        draw: Draw,
        cell: Tensor | None = None,
        part: slice = ALL,
        start: Start | None = None,
    ) -> dict[str, Tensor]:
        """As `losses`, of what was drawn. cell: `Dao.cell` of the crystals, if it is known. start: their templates."""
        noised = self.objective.corrupt(self.to_model_units(crystals), draw, cell, start)
        own = noised.rows(part)
        return self.denoising_losses(noised, self.network(own.crystals, own.t), part)
