"""DAO-P, the predictor: the same network and task, and an energy that is exact for guidance at every noise level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .crysformer import scalar_head
from .crystals import Crystal, Crystals, buckets
from .dao import Dao, DaoConfig

CLEAN_FRACTION = 0.25  # share of training crystals shown without noise, where the energy is read out


class DaoP(Dao):
    """Predicts energy above hull; carries further property heads on the same pooled features."""

    def __init__(self, config: DaoConfig | None = None, properties: tuple[str, ...] = ()) -> None:
        super().__init__(config)
        self.properties = nn.ModuleDict({name: scalar_head(self.config.network.hidden) for name in properties})

    def standardised_energy(self, crystals: Crystals, t: Tensor) -> Tensor:
        """(B,) E_θ(M_t, t), dimensionless. crystals: in model units. Differentiable in coordinates and lattice."""
        return self.network.energy(self.network(crystals, t))

    def energy_above_hull(self, crystals: Crystals) -> Tensor:
        """(B,) predicted energy above hull, eV/atom, of clean crystals in Å. Differentiable."""
        crystals = self.to_model_units(crystals)
        standardised = self.standardised_energy(crystals, torch.zeros(len(crystals), device=crystals.frac.device))
        return standardised * self.config.energy_std + self.config.energy_mean

    def predict_property(self, name: str, crystals: Crystals) -> Tensor:
        """(B,) a property head's value, standardised as in training. Raises KeyError for a head that is not there."""
        crystals = self.to_model_units(crystals)
        output = self.network(crystals, torch.zeros(len(crystals), device=crystals.frac.device))
        value: Tensor = self.properties[name](output.graph)
        return value[:, 0]

    def losses(self, crystals: Crystals, energy: Tensor | None, generator: torch.Generator) -> dict[str, Tensor]:
        """Loss terms of one batch (weights 1 : 1 : 1). crystals: Å; energy: (B,) E_hull in eV/atom, NaN where unknown.

        With noise the energy term is MSE(exp(−E_θ), exp(−E_0)), whose minimum exp(−E_t) = E[exp(−E_0) | M_t] is the
        exact guidance energy. A clean crystal has one energy, which the exponential would hardly resolve far above
        the hull: there the term is |E_θ − E_0|, with the same minimum.
        """
        t = self.random_times(len(crystals), generator, CLEAN_FRACTION)
        noised = self.add_noise(self.to_model_units(crystals), t, generator)
        output = self.network(noised.crystals, t)
        losses = self.diffusion_losses(noised, output)
        if energy is not None:
            target = (energy - self.config.energy_mean) / self.config.energy_std
            known = ~target.isnan()
            target = target.nan_to_num()
            predicted = self.network.energy(output).float()
            noisy_term = (torch.exp(-predicted.clamp(min=-4)) - torch.exp(-target.clamp(min=-4))) ** 2
            clean_term = F.l1_loss(predicted, target, reduction="none")
            term = torch.where(t > 0, noisy_term, clean_term)
            losses["energy"] = (term * known).sum() / known.sum().clamp(min=1)
        return losses


@torch.no_grad()
def predict_energy(predictor: DaoP, crystals: Sequence[Crystal], max_batch_atoms: int = 2048) -> np.ndarray:
    """(len(crystals),) predicted energies above hull, eV/atom, in the order given."""
    energies = np.empty(len(crystals))
    for batch in buckets([len(c) for c in crystals], max_batch_atoms, max_batch_atoms):
        padded = predictor.collate([crystals[i] for i in batch])
        energies[batch] = predictor.energy_above_hull(padded).double().cpu().numpy()
    return energies
