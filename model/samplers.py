"""Ways to walk from noise to a crystal, behind one interface: a `Walk` takes a batch from time t to an earlier s.

- `Ancestral`: the published sampler over all times or a stride of them: a Langevin corrector step on the coordinates,
  if wanted, then an ancestral step on coordinates and lattice (arXiv 2503.10471, Methods).
- `Heun`: second order, for few steps: the probability-flow equation of the same diffusion with the slope taken at both
  ends of a step, and noise given back before each step if wanted (churn; arXiv 2206.00364, algorithm 2).
- `FlowWalk`: along the velocity that flow matching learned, with the slope at the step's beginning, or at both ends.

DAO-P's energy may guide each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .crysformer import Crysformer, CrysformerOutput
from .crystals import Crystals
from .dao import Dao
from .dao_g import DaoG
from .dao_p import DaoP
from .draws import NormalStreams
from .flow import COORDINATE_UNIT, LATTICE_UNIT, base_lattice, log_stretch, stretch

CORRECTOR_STEP = 1e-5  # Langevin step at σ_1; grows with σ²
KARRAS = 7.0  # exponent of the schedule of arXiv 2206.00364, table 1


class SamplingError(ValueError):
    """Generator and predictor do not fit together, or a setting is out of range."""


@dataclass(frozen=True)
class SamplerConfig:
    """How to walk from noise to a crystal; `SamplerConfig(steps=1000)` is the published sampler.

    steps: times visited, at most the schedule's T. order: 1 or 2; of second order each step but the last calls the
    network twice. corrector: a second network call a step (diffusion, first order). churn: noise given back before each
    step but the last, as a share of the step's length (diffusion, second order). double: compute in float64. A long
    trajectory magnifies rounding: over 1000 steps float32 loses a candidate that comes in another batch, float64 does
    not. bf16: the generator's matrix products in bfloat16, which some processors and all recent GPUs do faster; on
    processors with units for it a candidate may differ with its batch, for kernels are picked by shape.
    """

    steps: int = 25
    corrector: bool = True
    double: bool = False
    order: int = 1
    churn: float = 0.0
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise SamplingError(f"order must be 1 or 2, not {self.order}")
        if not 0 <= self.churn <= 10:
            raise SamplingError(f"churn must lie between 0 and 10, not {self.churn}")
        if self.double and self.bf16:
            raise SamplingError("double and bf16 exclude each other")

    def times(self, last: int) -> list[int]:
        """Descending times, then 0.

        With fewer than T steps the first lies half a stride below T: at T itself the signal is so faint that one long
        step would magnify the network's error beyond repair.
        """
        if not 1 <= self.steps <= last:
            raise SamplingError(f"steps must lie between 1 and {last}, not {self.steps}")
        return [*(int(np.ceil(last * (self.steps - i - 0.5) / self.steps)) for i in range(self.steps)), 0]


@dataclass(frozen=True)
class Guidance:
    """Strengths λ of the energy gradient for coordinates and lattice (published: 20 for both).

    max_norm: bound on the gradient's Frobenius norm, one crystal and one variable at a time; None: no bound.
    """

    coordinates: float = 20.0
    lattice: float = 20.0
    max_norm: float | None = None


class Walk(Protocol):
    """A sampler set up for a generator."""

    def start(self, noise: NormalStreams) -> tuple[Tensor, Tensor]:
        """Coordinates (B, N, 3) and lattice (B, 3, 3), in model units, at the first time."""

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """From time t to the earlier time s, 0 at last. crystals: in model units."""

    def times(self) -> list[int]:
        """Times that are visited, descending, then 0."""


def check_pair(generator: Dao, predictor: Dao) -> None:
    """Raises SamplingError unless both saw the same noise in training; otherwise E_t means nothing at t > 0."""
    ours, theirs = (
        (model.config.noise, model.config.volume_scaling, model.config.objective) for model in (generator, predictor)
    )
    if ours != theirs:
        raise SamplingError(
            "generator and predictor were trained with different noise schedules: guide with another predictor"
        )


def energy_gradient(
    predictor: DaoP, crystals: Crystals, t: Tensor, max_norm: float | None, log: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """∂E_θ/∂x: (B, N, 3) and ∂E_θ/∂L: (B, 3, 3) at noise level t, or ∂E_θ/∂S at S = `log`. crystals: in model units."""
    with torch.enable_grad():
        frac = crystals.frac.detach().requires_grad_()
        cell = (crystals.lattice if log is None else log).detach().requires_grad_()
        lattice = cell if log is None else stretch(cell)
        energy = predictor.standardised_energy(crystals.with_geometry(frac, lattice), t)
        gradients = torch.autograd.grad(energy.sum(), (frac, cell))
    if max_norm is not None:
        norms = [g.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None] for g in gradients]
        gradients = tuple(g * (max_norm / n).clamp(max=1.0) for g, n in zip(gradients, norms, strict=True))
    return gradients[0], gradients[1]


class _Diffusion:
    """What both samplers of the diffusion share."""

    def __init__(
        self, model: DaoG, config: SamplerConfig, predictor: DaoP | None = None, guidance: Guidance | None = None
    ) -> None:
        self.model, self.config, self.predictor, self.guidance = model, config, predictor, guidance
        self.network = prepared_network(model, config.bf16)
        self.schedule = model.schedule

    def start(self, noise: NormalStreams) -> tuple[Tensor, Tensor]:
        """As Walk.start."""
        return noise.coordinates(uniform=True), noise.lattice()

    def times(self) -> list[int]:
        """As Walk.times."""
        return self.config.times(self.schedule.config.steps)

    def downhill(self, crystals: Crystals, t: int, s: int) -> tuple[Tensor | float, Tensor | float]:
        """Displacements of coordinates and lattice by guidance, in a step from t to s (Methods, energy guidance)."""
        if self.predictor is None or self.guidance is None:
            return 0.0, 0.0
        slope_x, slope_l = energy_gradient(self.predictor, crystals, _at(t, crystals), self.guidance.max_norm)
        std_x, std_l = self.schedule.coordinate_std(t, s), self.schedule.posterior_std(t, s)
        return -self.guidance.coordinates * std_x**2 * slope_x, -self.guidance.lattice * std_l**2 * slope_l


class Ancestral(_Diffusion):
    """The published predictor-corrector; without the corrector, ancestral sampling."""

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Walk.step."""
        schedule = self.schedule
        frac, lattice = crystals.frac, crystals.lattice
        sigma, norm = float(schedule.sigma[t]), float(schedule.score_norm[t])
        if self.config.corrector:
            length = CORRECTOR_STEP * (sigma / schedule.config.sigma_min) ** 2
            score = call_network(self.network, crystals, t, self.config.bf16).score * norm
            kick = noise.coordinates() if s > 0 else torch.zeros_like(frac)
            frac = (frac - length * score + (2 * length) ** 0.5 * kick) % 1
            crystals = crystals.with_geometry(frac, lattice)
        output = call_network(self.network, crystals, t, self.config.bf16)
        alpha, alpha_bar = schedule.alpha_bar[t] / schedule.alpha_bar[s], schedule.alpha_bar[t]
        down_x, down_l = self.downhill(crystals, t, s)
        frac = frac - (sigma**2 - float(schedule.sigma[s]) ** 2) * norm * output.score + down_x
        lattice = (lattice - float((1 - alpha) / np.sqrt(1 - alpha_bar)) * output.eps) / float(np.sqrt(alpha)) + down_l
        if s > 0:
            frac = frac + schedule.coordinate_std(t, s) * noise.coordinates()
            lattice = lattice + schedule.posterior_std(t, s) * noise.lattice()
        return crystals.with_geometry(frac % 1, lattice)


class Heun(_Diffusion):
    """The probability-flow equation by Heun's method, on times spaced by Karras' rule.

    dx/dσ = σ·s of the coordinates, and dL̃/dρ = ε of the lattice in units of its signal: L̃ = L / √ᾱ, ρ = √((1 − ᾱ) / ᾱ).
    """

    def times(self) -> list[int]:
        """σ^(1/7) falls in equal steps (arXiv 2206.00364, eq. 5); each σ at the nearest of the schedule's times."""
        last = self.config.times(self.schedule.config.steps)[0]
        first, final = self.schedule.sigma[[last, 1]] ** (1 / KARRAS)
        wanted = np.linspace(first, final, self.config.steps) ** KARRAS
        nearest = np.abs(np.log(self.schedule.sigma[1:, None]) - np.log(wanted)).argmin(0) + 1
        return [*sorted({int(t) for t in nearest}, reverse=True), 0]

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Walk.step."""
        crystals, t = self._noisier(crystals, t, s, noise)
        slope_x, eps = self._slope(crystals, t)
        ahead = self._euler(crystals, t, s, slope_x, eps)
        if s > 0:
            slope_ahead, eps_ahead = self._slope(ahead, s)
            ahead = self._euler(crystals, t, s, (slope_x + slope_ahead) / 2, (eps + eps_ahead) / 2)
        down_x, down_l = self.downhill(crystals, t, s)
        return ahead.with_geometry((ahead.frac + down_x) % 1, ahead.lattice + down_l)

    def _slope(self, crystals: Crystals, t: int) -> tuple[Tensor, Tensor]:
        output = call_network(self.network, crystals, t, self.config.bf16)
        return float(self.schedule.sigma[t] * self.schedule.score_norm[t]) * output.score, output.eps

    def _euler(self, crystals: Crystals, t: int, s: int, slope: Tensor, eps: Tensor) -> Crystals:
        sigma, alpha_bar = self.schedule.sigma, self.schedule.alpha_bar
        ratio = [float(np.sqrt((1 - alpha_bar[k]) / alpha_bar[k])) for k in (t, s)]
        signal = crystals.lattice / float(np.sqrt(alpha_bar[t])) + (ratio[1] - ratio[0]) * eps
        frac = crystals.frac + float(sigma[s] - sigma[t]) * slope
        return crystals.with_geometry(frac % 1, float(np.sqrt(alpha_bar[s])) * signal)

    def _noisier(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> tuple[Crystals, int]:
        """Back up by the share of the step that churn says."""
        up = min(self.schedule.config.steps, t + round(self.config.churn * (t - s))) if s > 0 else t
        if up == t:
            return crystals, t
        sigma, alpha = self.schedule.sigma, float(self.schedule.alpha_bar[up] / self.schedule.alpha_bar[t])
        frac = crystals.frac + float(np.sqrt(sigma[up] ** 2 - sigma[t] ** 2)) * noise.coordinates()
        lattice = alpha**0.5 * crystals.lattice + (1 - alpha) ** 0.5 * noise.lattice()
        return crystals.with_geometry(frac % 1, lattice), up


class FlowWalk:
    """Along the learned velocity, from the base at T to the crystal at 0, in equal steps.

    Guidance takes the velocity of a path whose ends are weighted by exp(−λE): −λ·(1 − s)/s·σ²·∇E is added to it, σ the
    spread of the base (the score of a Gaussian path in terms of its velocity; for the coordinates, an approximation).
    """

    EARLIEST = 0.1  # share of the path from which on guidance counts: before, its factor has no bound

    def __init__(
        self, model: DaoG, config: SamplerConfig, predictor: DaoP | None = None, guidance: Guidance | None = None
    ) -> None:
        self.model, self.config, self.predictor, self.guidance = model, config, predictor, guidance
        self.network = prepared_network(model, config.bf16)
        self.last = model.config.noise.steps

    def start(self, noise: NormalStreams) -> tuple[Tensor, Tensor]:
        """As Walk.start."""
        return noise.coordinates(uniform=True), stretch(base_lattice(noise.lattice()))

    def times(self) -> list[int]:
        """As Walk.times; the first is T, where the base is what the network was trained on."""
        self.config.times(self.last)  # a count that cannot be is refused
        return [round(self.last * (1 - i / self.config.steps)) for i in range(self.config.steps + 1)]

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Walk.step. noise: not used, the path is given by its beginning."""
        log = log_stretch(crystals.lattice)
        u, change = self._velocity(crystals, log, t)
        ahead = self._along(crystals, log, t, s, u, change)
        if self.config.order == 2 and s > 0:
            u_ahead, change_ahead = self._velocity(ahead, log_stretch(ahead.lattice), s)
            ahead = self._along(crystals, log, t, s, (u + u_ahead) / 2, (change + change_ahead) / 2)
        return ahead

    def _along(self, crystals: Crystals, log: Tensor, t: int, s: int, u: Tensor, change: Tensor) -> Crystals:
        share = (t - s) / self.last
        return crystals.with_geometry((crystals.frac + share * u) % 1, stretch(log + share * change))

    def _velocity(self, crystals: Crystals, log: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """u: (B, N, 3), fractional, and S_1 − S_0: (B, 3, 3)."""
        output = call_network(self.network, crystals, t, self.config.bf16)
        coordinates, lattice = self.model.objective.predicted(output, crystals)
        u, change = COORDINATE_UNIT * coordinates, LATTICE_UNIT * lattice
        behind = 1 - t / self.last
        if self.predictor is not None and self.guidance is not None and behind >= self.EARLIEST:
            slope_x, slope_s = energy_gradient(self.predictor, crystals, _at(t, crystals), self.guidance.max_norm, log)
            factor = (1 - behind) / behind
            u = u - self.guidance.coordinates * factor * COORDINATE_UNIT**2 * slope_x
            change = change - self.guidance.lattice * factor * LATTICE_UNIT**2 * (slope_s + slope_s.mT) / 2
        return u, change


def walk_for(
    model: DaoG, config: SamplerConfig, predictor: DaoP | None = None, guidance: Guidance | None = None
) -> Walk:
    """The sampler that a generator's objective and the settings ask for. Raises SamplingError for a wrong pair."""
    if predictor is not None and guidance is not None:
        check_pair(model, predictor)
    if model.config.objective == "flow":
        return FlowWalk(model, config, predictor, guidance)
    return (Heun if config.order == 2 else Ancestral)(model, config, predictor, guidance)


def _at(t: int, crystals: Crystals) -> Tensor:
    """(B,) the same time for all."""
    return torch.full((len(crystals),), float(t), device=crystals.frac.device)


def prepared_network(model: DaoG, bf16: bool) -> Crysformer:
    """The generator's network as `call_network` wants it."""
    return model.network.prepared(torch.bfloat16 if bf16 else next(model.parameters()).dtype)


def call_network(network: Crysformer, crystals: Crystals, t: int, bf16: bool) -> CrysformerOutput:
    """The generator's word on a batch, in the batch's precision."""
    if not bf16:
        output: CrysformerOutput = network(crystals, _at(t, crystals))
        return output
    with torch.autocast(crystals.frac.device.type, torch.bfloat16):
        output = network(crystals, _at(t, crystals))
    return replace(output, **{name: value.to(crystals.frac.dtype) for name, value in vars(output).items()})
