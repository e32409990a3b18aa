"""Samplers of a generator that learned the score and ε of a diffusion (arXiv 2503.10471, Methods)."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dao_flows.model.crystals import Crystals

from .requests import NormalStreams
from .sampler import Sampler, energy_gradient

CORRECTOR_STEP = 1e-5  # Langevin step at σ_1; grows with σ²
KARRAS = 7.0  # exponent of the schedule of arXiv 2206.00364, table 1


class _Diffusion(Sampler):
    def start(self, noise: NormalStreams) -> tuple[Tensor, Tensor]:
        """As Sampler.start."""
        return noise.coordinates(uniform=True), noise.lattice()

    def downhill(self, crystals: Crystals, t: int, s: int) -> tuple[Tensor | float, Tensor | float]:
        """Displacements of coordinates and lattice by guidance, in a step from t to s (Methods, energy guidance)."""
        if self.guide is None:
            return 0.0, 0.0
        predictor, guidance = self.guide
        slope_x, slope_l = energy_gradient(predictor, crystals, t, guidance.max_norm)
        std_x, std_l = self.schedule.coordinate_std(t, s), self.schedule.posterior_std(t, s)
        return -guidance.coordinates * std_x**2 * slope_x, -guidance.lattice * std_l**2 * slope_l


class Renoising(_Diffusion):
    """Each step takes the crystal that the network expects behind the noise, and gives it all of s's noise anew.

    That is the multistep sampling of consistency models (arXiv 2303.01469, algorithm 1) with the denoiser that a score
    is (Tweedie's formula): x_0 = x − σ²·s(x), L_0 = (L − √(1 − ᾱ)·ε) / √ᾱ. Nothing of a step's noise lasts, so neither
    do the errors that the network made on it. Guidance tilts the density that the score belongs to by exp(−λE): λ·∇E is
    added to the score (arXiv 2105.05233, section 4).
    """

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Sampler.step."""
        schedule, alpha_bar = self.schedule, self.schedule.alpha_bar
        output = self.output(crystals, t)
        variance_x, variance_l = float(schedule.sigma[t]) ** 2, float(1 - alpha_bar[t])
        ahead_x = variance_x * float(schedule.score_norm[t]) * output.score
        ahead_l = variance_l**0.5 * output.eps
        if self.guide is not None:
            predictor, guidance = self.guide
            slope_x, slope_l = energy_gradient(predictor, crystals, t, guidance.max_norm)
            ahead_x = ahead_x + variance_x * guidance.coordinates * slope_x
            ahead_l = ahead_l + variance_l * guidance.lattice * slope_l
        frac = crystals.frac - ahead_x
        lattice = (crystals.lattice - ahead_l) / float(np.sqrt(alpha_bar[t]))
        if s > 0:
            frac = frac + float(schedule.sigma[s]) * noise.coordinates()
            lattice = float(np.sqrt(alpha_bar[s])) * lattice + float(np.sqrt(1 - alpha_bar[s])) * noise.lattice()
        return crystals.with_geometry(frac % 1, lattice)


class Ancestral(_Diffusion):
    """Ancestral sampling over all times or a stride of them."""

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Sampler.step."""
        schedule = self.schedule
        sigma, norm = float(schedule.sigma[t]), float(schedule.score_norm[t])
        output = self.output(crystals, t)
        alpha, alpha_bar = schedule.alpha_bar[t] / schedule.alpha_bar[s], schedule.alpha_bar[t]
        down_x, down_l = self.downhill(crystals, t, s)
        frac = crystals.frac - (sigma**2 - float(schedule.sigma[s]) ** 2) * norm * output.score + down_x
        lattice = crystals.lattice - float((1 - alpha) / np.sqrt(1 - alpha_bar)) * output.eps
        lattice = lattice / float(np.sqrt(alpha)) + down_l
        if s > 0:
            frac = frac + schedule.coordinate_std(t, s) * noise.coordinates()
            lattice = lattice + schedule.posterior_std(t, s) * noise.lattice()
        return crystals.with_geometry(frac % 1, lattice)


class PredictorCorrector(Ancestral):
    """The published sampler: a Langevin step on the coordinates before each ancestral one."""

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Sampler.step."""
        sigma, norm = float(self.schedule.sigma[t]), float(self.schedule.score_norm[t])
        length = CORRECTOR_STEP * (sigma / self.schedule.config.sigma_min) ** 2
        score = self.output(crystals, t).score * norm
        kick = noise.coordinates() if s > 0 else torch.zeros_like(crystals.frac)
        frac = (crystals.frac - length * score + (2 * length) ** 0.5 * kick) % 1
        return super().step(crystals.with_geometry(frac, crystals.lattice), t, s, noise)


class Heun(_Diffusion):
    """The probability-flow equation by Heun's method, on times spaced by Karras' rule; churn gives noise back.

    dx/dσ = σ·s of the coordinates, and dL̃/dρ = ε of the lattice in units of its signal: L̃ = L / √ᾱ, ρ = √((1 − ᾱ) / ᾱ)
    (arXiv 2206.00364, algorithm 2).
    """

    @cached_property
    def first(self) -> int:
        """The first time, beyond which the signal is lost (SamplerConfig.times)."""
        return self.config.times(self.last)[0]

    def times(self) -> list[int]:
        """σ^(1/7) falls in equal steps (arXiv 2206.00364, eq. 5); each σ at the nearest of the schedule's times."""
        first, final = self.schedule.sigma[[self.first, 1]] ** (1 / KARRAS)
        wanted = np.linspace(first, final, self.config.steps) ** KARRAS
        nearest = np.abs(np.log(self.schedule.sigma[1:, None]) - np.log(wanted)).argmin(0) + 1
        return [*sorted({int(t) for t in nearest}, reverse=True), 0]

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Sampler.step."""
        crystals, t = self._noisier(crystals, t, s, noise)
        slope_x, eps = self._slope(crystals, t)
        ahead = self._euler(crystals, t, s, slope_x, eps)
        if s > 0:
            slope_ahead, eps_ahead = self._slope(ahead, s)
            ahead = self._euler(crystals, t, s, (slope_x + slope_ahead) / 2, (eps + eps_ahead) / 2)
        down_x, down_l = self.downhill(crystals, t, s)
        return ahead.with_geometry((ahead.frac + down_x) % 1, ahead.lattice + down_l)

    def _slope(self, crystals: Crystals, t: int) -> tuple[Tensor, Tensor]:
        output = self.output(crystals, t)
        return float(self.schedule.sigma[t] * self.schedule.score_norm[t]) * output.score, output.eps

    def _euler(self, crystals: Crystals, t: int, s: int, slope: Tensor, eps: Tensor) -> Crystals:
        sigma, alpha_bar = self.schedule.sigma, self.schedule.alpha_bar
        ratio = [float(np.sqrt((1 - alpha_bar[k]) / alpha_bar[k])) for k in (t, s)]
        signal = crystals.lattice / float(np.sqrt(alpha_bar[t])) + (ratio[1] - ratio[0]) * eps
        frac = crystals.frac + float(sigma[s] - sigma[t]) * slope
        return crystals.with_geometry(frac % 1, float(np.sqrt(alpha_bar[s])) * signal)

    def _noisier(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> tuple[Crystals, int]:
        """Back up by the share of the step that churn says, at most to the first time."""
        up = min(self.first, t + round(self.config.churn * (t - s))) if s > 0 else t
        if up == t:
            return crystals, t
        sigma, alpha = self.schedule.sigma, float(self.schedule.alpha_bar[up] / self.schedule.alpha_bar[t])
        frac = crystals.frac + float(np.sqrt(sigma[up] ** 2 - sigma[t] ** 2)) * noise.coordinates()
        lattice = alpha**0.5 * crystals.lattice + (1 - alpha) ** 0.5 * noise.lattice()
        return crystals.with_geometry(frac % 1, lattice), up
