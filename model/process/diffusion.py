"""The two noise processes: a DDPM on the lattice matrix, a wrapped normal on fractional coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dao_flows.model.crystals import Crystals

from .objective import Draw, Noised, Output, Start

IMAGES = 10  # periodic images on each side: 21 in all are exact to float64 for σ ≤ 0.5


@dataclass(frozen=True)
class NoiseConfig:
    """Schedules of both processes; the defaults are the published ones."""

    steps: int = 1000
    cosine_offset: float = 0.008
    beta_min: float = 1e-4
    beta_max: float = 0.9999
    sigma_min: float = 0.005
    sigma_max: float = 0.5


def wrapped_score(x: Tensor, sigma: Tensor) -> Tensor:
    """−∂/∂x log Σ_k exp(−(x + k)² / 2σ²), the negative score of a normal wrapped on the unit circle.

    x and sigma broadcast; any real x is accepted.
    """
    x = x - x.round()
    images = torch.arange(-IMAGES, IMAGES + 1, device=x.device, dtype=x.dtype)
    shifted = x[..., None] + images
    weight = torch.softmax(-(shifted**2) / (2 * sigma[..., None] ** 2), dim=-1)
    return (weight * shifted).sum(-1) / sigma**2


def expected_squared_score(sigma: np.ndarray, points: int = 256) -> np.ndarray:
    """E[score²] under the wrapped normal itself, by the midpoint rule on the circle.

    The integrand is smooth and periodic, so the rule converges geometrically: 256 points reach float64. The grid spans
    ±12 σ where that is less than the circle.
    """
    width = np.minimum(0.5, 12 * sigma)[:, None]
    x = (np.arange(points) + 0.5) / points * 2 - 1  # midpoints in (-1, 1)
    x = x[None, :] * width
    shifted = x[..., None] + np.arange(-IMAGES, IMAGES + 1)
    log_weight = -(shifted**2) / (2 * sigma[:, None, None] ** 2)
    weight = np.exp(log_weight - log_weight.max(-1, keepdims=True))
    score = (weight * shifted).sum(-1) / weight.sum(-1) / sigma[:, None] ** 2
    density = np.exp(log_weight).sum(-1)
    return np.asarray((density * score**2).sum(-1) / density.sum(-1))


class NoiseSchedule:
    """Tables over t = 0..T in float64. Index 0 is the clean crystal: ᾱ = 1, σ = 0."""

    def __init__(self, config: NoiseConfig | None = None) -> None:
        self.config = config = config or NoiseConfig()
        s, steps = config.cosine_offset, config.steps
        f = np.cos((np.arange(steps + 1) / steps + s) / (1 + s) * np.pi / 2) ** 2
        beta = np.clip(1 - f[1:] / f[:-1], config.beta_min, config.beta_max)
        self.beta = np.concatenate([[0.0], beta])
        self.alpha_bar = np.cumprod(1 - self.beta)
        growth = np.linspace(np.log(config.sigma_min), np.log(config.sigma_max), steps)
        self.sigma = np.concatenate([[0.0], np.exp(growth)])
        self._on_device: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    @cached_property
    def score_norm(self) -> np.ndarray:
        """√E[score²] at each t; index 0, where the density is a point, is 0."""
        return np.concatenate([[0.0], np.sqrt(expected_squared_score(self.sigma[1:]))])

    def posterior_std(self, t: int, s: int) -> float:
        """Standard deviation of q(L_s | L_t, L_0) for s < t (DDPM eq. 7, over any stride)."""
        beta = 1 - self.alpha_bar[t] / self.alpha_bar[s]
        return float(np.sqrt(beta * (1 - self.alpha_bar[s]) / (1 - self.alpha_bar[t])))

    def coordinate_std(self, t: int, s: int) -> float:
        """Standard deviation of the ancestral step from σ_t to σ_s on the coordinates."""
        return float(np.sqrt(self.sigma[s] ** 2 * (self.sigma[t] ** 2 - self.sigma[s] ** 2)) / self.sigma[t])

    def at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """The table of this name at t, cast to like's dtype and shaped to broadcast over its trailing axes."""
        key = name, like.dtype, like.device
        if key not in self._on_device:
            self._on_device[key] = torch.as_tensor(getattr(self, name), dtype=like.dtype, device=like.device)
        return self._on_device[key][t].view(-1, *([1] * (like.dim() - 1)))


class Diffusion:
    """The published objective: the noise of the lattice, and the normalised score of the coordinates."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def noise(self, crystals: Crystals, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Normal for both."""
        eps, z = (
            torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
            for like in (crystals.lattice, crystals.frac)
        )
        return eps, z

    def cell(self, lattice: Tensor) -> Tensor:
        """The lattice itself."""
        return lattice

    def corrupt(self, crystals: Crystals, draw: Draw, cell: Tensor | None = None, start: Start | None = None) -> Noised:
        """As Objective.corrupt. start: not used."""
        t, eps, z = draw.t, draw.lattice, draw.coordinates
        alpha_bar = self.schedule.at("alpha_bar", t, eps)
        sigma = self.schedule.at("sigma", t, z)
        norm = self.schedule.at("score_norm", t, z)
        clean = t[:, None, None] == 0
        score = wrapped_score(sigma * z, sigma.masked_fill(clean, 1.0)) / norm.masked_fill(clean, 1.0)
        lattice = alpha_bar.sqrt() * crystals.lattice + (1 - alpha_bar).sqrt() * eps
        return Noised(crystals.with_geometry((crystals.frac + sigma * z) % 1, lattice), t, score, eps)

    def penalty(self, mean_square: Tensor, t: Tensor) -> Tensor:
        """As Objective.penalty."""
        return mean_square

    def predicted(self, output: Output, crystals: Crystals) -> tuple[Tensor, Tensor]:
        """As Objective.predicted."""
        return output.score, output.eps
