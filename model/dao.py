"""What DAO-G and DAO-P share: one Crysformer that learns to undo both noise processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .crysformer import Crysformer, CrysformerConfig, CrysformerOutput
from .crystals import Crystal, Crystals
from .noise import NoiseConfig, NoiseSchedule, wrapped_score

ALL = slice(None)


@dataclass(frozen=True)
class DaoConfig:
    """Everything that decides what a checkpoint computes, apart from its weights.

    volume_scaling: the lattice is diffused in units of n_atoms^(1/3) Å, so that its entries are of one size for small
    and large cells. The published model diffuses it in Å (False). energy_mean, energy_std: E_hull in eV/atom is
    standardised by them (DAO-P).
    """

    network: CrysformerConfig = field(default_factory=CrysformerConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    volume_scaling: bool = False
    energy_mean: float = 0.0
    energy_std: float = 1.0


@dataclass(frozen=True)
class Noised:
    """Crystals in model units at time t, and the normalised targets. eps: (B, 3, 3); score: (B, N, 3)."""

    crystals: Crystals
    t: Tensor
    eps: Tensor
    score: Tensor

    def rows(self, part: slice) -> Noised:
        """Some of the crystals, with their noise."""
        c = self.crystals
        crystals = Crystals(c.numbers[part], c.frac[part], c.lattice[part])
        return Noised(crystals, self.t[part], self.eps[part], self.score[part])


class Dao(nn.Module):
    """A Crysformer with its noise schedule and units."""

    def __init__(self, config: DaoConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DaoConfig()
        self.network = Crysformer(config.network)
        self.schedule = NoiseSchedule(config.noise)

    def collate(self, crystals: Sequence[Crystal]) -> Crystals:
        """Host crystals as one batch of the model's precision, on its device."""
        parameter = next(self.parameters())
        return Crystals.collate(crystals, parameter.dtype).to(parameter.device)

    def length_unit(self, crystals: Crystals) -> Tensor:
        """(B, 1, 1) Å per model unit of length."""
        n = crystals.n_atoms.to(crystals.lattice.dtype)[:, None, None]
        return n ** (1 / 3) if self.config.volume_scaling else torch.ones_like(n)

    def to_model_units(self, crystals: Crystals) -> Crystals:
        """Lattice from Å to model units."""
        return crystals.with_geometry(crystals.frac, crystals.lattice / self.length_unit(crystals))

    def to_angstrom(self, crystals: Crystals) -> Crystals:
        """Lattice from model units to Å."""
        return crystals.with_geometry(crystals.frac, crystals.lattice * self.length_unit(crystals))

    def add_noise(self, crystals: Crystals, t: Tensor, generator: torch.Generator) -> Noised:
        """Both forward processes at t: (B,), 1..T, or 0 for crystals to leave clean. crystals: in model units."""
        eps, z = (
            torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
            for like in (crystals.lattice, crystals.frac)
        )
        alpha_bar = self.schedule.at(self.schedule.alpha_bar, t, eps)
        sigma = self.schedule.at(self.schedule.sigma, t, z)
        norm = self.schedule.at(self.schedule.score_norm, t, z)
        clean = t[:, None, None] == 0
        score = wrapped_score(sigma * z, sigma.masked_fill(clean, 1.0)) / norm.masked_fill(clean, 1.0)
        lattice = alpha_bar.sqrt() * crystals.lattice + (1 - alpha_bar).sqrt() * eps
        return Noised(crystals.with_geometry((crystals.frac + sigma * z) % 1, lattice), t, eps, score)

    def diffusion_losses(self, noised: Noised, output: CrysformerOutput, part: slice = ALL) -> dict[str, Tensor]:
        """Mean squared errors of lattice noise and coordinate score; clean crystals (t = 0) do not count.

        output: of the rows `part`, whose share of the batch's mean this is: the shares of all parts add up to it.
        """
        noisy = noised.t > 0
        atoms = (noised.crystals.mask & noisy[:, None])[..., None].to(noised.score.dtype)
        cells = noisy[:, None, None].to(noised.eps.dtype)
        lattice = (cells[part] * (output.eps.float() - noised.eps[part]) ** 2).sum() / (9 * cells.sum().clamp(min=1))
        score = (atoms[part] * (output.score.float() - noised.score[part]) ** 2).sum()
        return {"lattice": lattice, "coordinate": score / (3 * atoms.sum().clamp(min=1))}

    def random_times(self, batch: int, generator: torch.Generator, clean_fraction: float = 0.0) -> Tensor:
        """(B,) t uniform in 1..T; a share of the batch, drawn at random, gets t = 0."""
        device = generator.device
        t = torch.randint(1, self.schedule.config.steps + 1, (batch,), generator=generator, device=device)
        return t.masked_fill(torch.rand(batch, generator=generator, device=device) < clean_fraction, 0)
