"""DAO-P, the predictor: the same network and task, and an energy that is exact for guidance at every noise level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .crystals import Crystal, Crystals
from .dao import Dao, DaoConfig
from .errors import DaoError
from .network.crysformer import scalar_head
from .process.objective import ALL, Draw
from .runtime.batching import BatchLog, run_batches

CLEAN_FRACTION = 0.25  # share of training crystals shown without noise, where the energy is read out


class PropertyError(DaoError):
    """The model cannot predict what was asked of it."""


@dataclass(frozen=True)
class PropertyHead:
    """A scalar property read off the pooled features at t = 0, in the units of its training data.

    mean, std: of the training values, of their natural logarithms where log. tuned: the backbone was trained for this
    property too, so that the energy, which was learned before, no longer holds.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    log: bool = False
    tuned: bool = False

    def standardise(self, values: Tensor) -> Tensor:
        """Values in their units as the head is trained on them."""
        return ((values.log() if self.log else values) - self.mean) / self.std

    def in_units(self, standardised: Tensor) -> Tensor:
        """The head's output in the property's units."""
        values = standardised * self.std + self.mean
        return values.exp() if self.log else values


class DaoP(Dao):
    """Predicts energy above hull; carries further property heads on the same pooled features."""

    clean_fraction = CLEAN_FRACTION

    def __init__(self, config: DaoConfig | None = None, properties: Sequence[PropertyHead | str] = ()) -> None:
        super().__init__(config)
        heads = [PropertyHead(p) if isinstance(p, str) else p for p in properties]
        self.heads = {head.name: head for head in heads}
        try:
            self.properties = nn.ModuleDict({name: scalar_head(self.config.network.hidden) for name in self.heads})
        except KeyError as error:
            raise PropertyError(f"a property cannot have this name: {error}") from error

    def standardised_energy(self, crystals: Crystals, t: Tensor, smooth: bool = False) -> Tensor:
        """(B,) E_θ(M_t, t), dimensionless. crystals: in model units. Differentiable in coordinates and lattice.

        smooth: more than once. Raises PropertyError for a model that was tuned to another property.
        """
        if tuned := [head.name for head in self.heads.values() if head.tuned]:
            raise PropertyError(
                f"this checkpoint was trained to predict {', '.join(tuned)} and its energies no longer hold: "
                "use the one it was trained from"
            )
        return self.network.energy(self.network(crystals, t, smooth))

    def energy_above_hull(self, crystals: Crystals, smooth: bool = False) -> Tensor:
        """(B,) predicted energy above hull, eV/atom, of clean crystals in Å. Differentiable; smooth: more than once."""
        crystals = self.to_model_units(crystals)
        clean = torch.zeros(len(crystals), device=crystals.frac.device)
        standardised = self.standardised_energy(crystals, clean, smooth)
        return standardised * self.config.energy_std + self.config.energy_mean

    def property_value(self, name: str, crystals: Crystals) -> Tensor:
        """(B,) a property of clean crystals in Å, in its units. Differentiable.

        Raises PropertyError for a property that has no head.
        """
        return self._head(name).in_units(self._standardised_property(name, self.to_model_units(crystals)))

    def _head(self, name: str) -> PropertyHead:
        if name not in self.heads:
            known = ", ".join(self.heads) or "none"
            raise PropertyError(f"this checkpoint does not predict {name}; its properties: {known}")
        return self.heads[name]

    def _standardised_property(self, name: str, crystals: Crystals) -> Tensor:
        """(B,) the head's output for clean crystals in model units."""
        output = self.network(crystals, torch.zeros(len(crystals), device=crystals.frac.device))
        value: Tensor = self.properties[name](output.graph)
        return value[:, 0]

    def losses(
        self, crystals: Crystals, energy: Tensor | None, generator: torch.Generator, part: slice = ALL
    ) -> dict[str, Tensor]:
        """Loss terms of one batch (weights 1 : 1 : 1). crystals: Å; energy: (B,) E_hull in eV/atom, NaN where unknown.

        With noise the energy term is MSE(exp(−E_θ), exp(−E_0)), whose minimum exp(−E_t) = E[exp(−E_0) | M_t] is the
        exact guidance energy. A clean crystal has one energy, which the exponential would hardly resolve far above
        the hull: there the term is |E_θ − E_0|, with the same minimum. part: as for DaoG.losses.
        """
        return self.losses_at(crystals, energy, self.draw(crystals, generator), part=part)

    def losses_at(
        self, crystals: Crystals, energy: Tensor | None, draw: Draw, cell: Tensor | None = None, part: slice = ALL
    ) -> dict[str, Tensor]:
        """As `losses`, of what was drawn. cell: `Dao.cell` of the crystals, if it is known."""
        noised = self.objective.corrupt(self.to_model_units(crystals), draw, cell)
        own = noised.rows(part)
        output = self.network(own.crystals, own.t)
        losses = self.denoising_losses(noised, output, part)
        if energy is not None:
            target = (energy - self.config.energy_mean) / self.config.energy_std
            known = ~target.isnan()
            target = target.nan_to_num()[part]
            predicted = self.network.energy(output).float()
            noisy_term = (torch.exp(-predicted.clamp(min=-4)) - torch.exp(-target.clamp(min=-4))) ** 2
            clean_term = F.l1_loss(predicted, target, reduction="none")
            term = torch.where(own.t > 0, noisy_term, clean_term)
            losses["energy"] = (term * known[part]).sum() / known.sum().clamp(min=1)
        return losses

    def label_losses(
        self,
        crystals: Crystals,
        energy: Tensor,
        slopes: tuple[Tensor, Tensor] | None,
        part: slice = ALL,
    ) -> dict[str, Tensor]:
        """L1 of a teacher's figures for clean crystals (Å): energies, standardised; forces, eV/Å; stresses, eV/Å³.

        energy: (B,) eV/atom above hull. slopes: forces (B, N, 3) and stresses (B, 3, 3), which are those of the
        energy's gradient, NaN where they do not count; None: they are not learned, in a third of the time. part: as for
        DaoG.losses.
        """
        own = Crystals(crystals.numbers[part], crystals.frac[part], crystals.lattice[part])
        if slopes is None:
            predicted = self.energy_above_hull(own)
        else:
            frac, lattice = own.frac.detach().requires_grad_(), own.lattice.detach().requires_grad_()
            predicted = self.energy_above_hull(own.with_geometry(frac, lattice), smooth=True)
        wrong = (predicted.float() - energy[part]).abs().sum() / self.config.energy_std
        losses = {"label": wrong / len(crystals)}
        if slopes is not None:
            forces, stresses = self.slopes(own, predicted, frac, lattice)
            pulls, cells = (
                (found - due[part]).nan_to_num().abs().sum((1, 2))
                for found, due in zip((forces, stresses), slopes, strict=True)
            )
            losses["force"] = (pulls / (3 * own.n_atoms)).sum() / len(crystals)
            losses["stress"] = (cells / 9).sum() / len(crystals)
        return losses

    @staticmethod
    def slopes(crystals: Crystals, energy: Tensor, frac: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
        """Forces (B, N, 3), eV/Å, and stresses (B, 3, 3), eV/Å³, of energies (B,), eV/atom, at these coordinates.

        Of the whole cell, dE/dε over the volume; both can be differentiated again.
        """
        total = (energy * crystals.n_atoms).sum()
        by_frac, by_lattice = torch.autograd.grad(total, (frac, lattice), create_graph=True)
        forces = -by_frac @ torch.linalg.inv(lattice).mT
        strain = lattice.mT @ by_lattice
        volume = torch.linalg.det(lattice).abs()[:, None, None]
        return forces, (strain + strain.mT) / (2 * volume)

    def property_losses(self, name: str, crystals: Crystals, values: Tensor, part: slice = ALL) -> dict[str, Tensor]:
        """L1 between a head and its standardised property at t = 0. crystals: Å; values: (B,) in the property's units.

        part: as for DaoG.losses.
        """
        units = self.to_model_units(crystals)
        own = Crystals(units.numbers[part], units.frac[part], units.lattice[part])
        target = self._head(name).standardise(values[part])
        difference = self._standardised_property(name, own).float() - target
        return {name: difference.abs().sum() / len(crystals)}


@torch.no_grad()
def _predict(
    predictor: DaoP,
    crystals: Sequence[Crystal],
    read: Callable[[Crystals], Tensor],
    max_batch_atoms: int,
    slots: Sequence[int] | None = None,
    log: BatchLog | None = None,
) -> np.ndarray:
    """(len(crystals),) what `read` says of each, in the order given."""

    def compute(batch: list[int]) -> list[float]:
        values: list[float] = read(predictor.collate([crystals[i] for i in batch])).double().tolist()
        return values

    return np.array(run_batches(crystals, compute, max_batch_atoms, slots, log), dtype=float)


def predict_energy(
    predictor: DaoP,
    crystals: Sequence[Crystal],
    max_batch_atoms: int = 2048,
    *,
    slots: Sequence[int] | None = None,
    log: BatchLog | None = None,
) -> np.ndarray:
    """(len(crystals),) predicted energies above hull, eV/atom, in the order given.

    Batches are split where memory runs out; log is told which ran. slots: a number for each (`runtime.batching`).
    Raises TooLargeError.
    """
    return _predict(predictor, crystals, predictor.energy_above_hull, max_batch_atoms, slots, log)


def predict_property(
    predictor: DaoP, name: str, crystals: Sequence[Crystal], max_batch_atoms: int = 2048
) -> np.ndarray:
    """(len(crystals),) a property that the model has a head for, in its units, in the order given.

    Raises PropertyError for one that it has none for.
    """
    return _predict(predictor, crystals, lambda batch: predictor.property_value(name, batch), max_batch_atoms)
