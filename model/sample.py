"""Drawing crystals from DAO-G: the published predictor-corrector sampler, over all time steps or a stride of them.

A step from t to s < t (s = t − 1 as published) is one Langevin corrector step on the coordinates and one ancestral step
on coordinates and lattice; DAO-P's energy may guide the latter (arXiv 2503.10471, Methods).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .crystals import Crystal, Crystals, buckets
from .dao import Dao
from .dao_g import DaoG
from .dao_p import DaoP

CORRECTOR_STEP = 1e-5  # Langevin step at σ_1; grows with σ²


class SamplingError(ValueError):
    """Generator and predictor do not fit together, or a setting is out of range."""


@dataclass(frozen=True)
class SamplerConfig:
    """How to walk from noise to a crystal; `SamplerConfig(steps=1000)` is the published sampler.

    steps: times visited, at most the schedule's T; corrector: a second network call a step. double: compute in float64.
    A long trajectory magnifies rounding: over 1000 steps float32 loses a candidate that comes in another batch, float64
    does not.
    """

    steps: int = 100
    corrector: bool = True
    double: bool = False

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


@dataclass(frozen=True)
class Request:
    """One candidate: (n,) atomic numbers, and the key that names its random stream."""

    numbers: np.ndarray
    key: tuple[int, ...]


class NormalStreams:
    """Standard normal draws for each candidate from its own stream, stacked into padded tensors.

    Philox streams are filled one number after another, so a candidate's draws depend on nothing but (seed, key) and
    its size.
    """

    def __init__(self, requests: Sequence[Request], seed: int, like: Tensor) -> None:
        keys = [np.random.SeedSequence([seed, *request.key]) for request in requests]
        self.streams = [np.random.Generator(np.random.Philox(key)) for key in keys]
        self.sizes = [len(request.numbers) for request in requests]
        self.like = like

    def coordinates(self, uniform: bool = False) -> Tensor:
        """(B, N, 3), zero on padding; uniform in [0, 1) instead of normal on request."""
        out = np.zeros((len(self.streams), max(self.sizes), 3), dtype=np.float32)
        for row, (stream, n) in enumerate(zip(self.streams, self.sizes, strict=True)):
            draw = stream.random if uniform else stream.standard_normal
            out[row, :n] = draw((n, 3), dtype=np.float32)
        return torch.from_numpy(out).to(self.like)

    def lattice(self) -> Tensor:
        """(B, 3, 3)."""
        draws = [stream.standard_normal((3, 3), dtype=np.float32) for stream in self.streams]
        return torch.from_numpy(np.stack(draws)).to(self.like)


def check_pair(generator: Dao, predictor: Dao) -> None:
    """Raises SamplingError unless both saw the same noise in training; otherwise E_t means nothing at t > 0."""
    if (generator.config.noise, generator.config.volume_scaling) != (
        predictor.config.noise,
        predictor.config.volume_scaling,
    ):
        raise SamplingError(
            "generator and predictor were trained with different noise schedules: guide with another predictor"
        )


def energy_gradient(predictor: DaoP, crystals: Crystals, t: Tensor, max_norm: float | None) -> tuple[Tensor, Tensor]:
    """∂E_θ/∂x: (B, N, 3) and ∂E_θ/∂L: (B, 3, 3) at noise level t. crystals: in model units."""
    with torch.enable_grad():
        frac, lattice = crystals.frac.detach().requires_grad_(), crystals.lattice.detach().requires_grad_()
        energy = predictor.standardised_energy(crystals.with_geometry(frac, lattice), t)
        gradients = torch.autograd.grad(energy.sum(), (frac, lattice))
    if max_norm is not None:
        norms = [g.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None] for g in gradients]
        gradients = tuple(g * (max_norm / n).clamp(max=1.0) for g, n in zip(gradients, norms, strict=True))
    return gradients[0], gradients[1]


@torch.no_grad()
def sample_batch(
    model: DaoG,
    requests: Sequence[Request],
    seed: int,
    config: SamplerConfig,
    predictor: DaoP | None = None,
    guidance: Guidance | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Crystal]:
    """One padded batch through the whole trajectory; `advance` is called once a step."""
    schedule = model.schedule
    start = model.collate([Crystal(r.numbers, np.zeros((len(r.numbers), 3)), np.eye(3)) for r in requests])
    noise = NormalStreams(requests, seed, start.frac)
    crystals = start.with_geometry(noise.coordinates(uniform=True), noise.lattice())
    times = config.times(schedule.config.steps)
    for t, s in pairwise(times):
        time = torch.full((len(requests),), float(t), device=start.frac.device)
        frac, lattice = crystals.frac, crystals.lattice
        sigma, norm = float(schedule.sigma[t]), float(schedule.score_norm[t])
        if config.corrector:
            step = CORRECTOR_STEP * (sigma / schedule.config.sigma_min) ** 2
            score = model.network(crystals, time).score * norm
            kick = noise.coordinates() if s > 0 else torch.zeros_like(frac)
            frac = (frac - step * score + (2 * step) ** 0.5 * kick) % 1
            crystals = crystals.with_geometry(frac, lattice)
        output = model.network(crystals, time)
        alpha, alpha_bar = schedule.alpha_bar[t] / schedule.alpha_bar[s], schedule.alpha_bar[t]
        std_x, std_l = schedule.coordinate_std(t, s), schedule.posterior_std(t, s)
        frac = frac - (sigma**2 - float(schedule.sigma[s]) ** 2) * norm * output.score
        lattice = (lattice - float((1 - alpha) / np.sqrt(1 - alpha_bar)) * output.eps) / float(np.sqrt(alpha))
        if predictor is not None and guidance is not None:
            slope_x, slope_l = energy_gradient(predictor, crystals, time, guidance.max_norm)
            frac = frac - guidance.coordinates * std_x**2 * slope_x
            lattice = lattice - guidance.lattice * std_l**2 * slope_l
        if s > 0:
            frac, lattice = frac + std_x * noise.coordinates(), lattice + std_l * noise.lattice()
        crystals = crystals.with_geometry(frac % 1, lattice)
        advance()
    return model.to_angstrom(crystals).unpad()


def sample(
    model: DaoG,
    requests: Sequence[Request],
    seed: int,
    config: SamplerConfig | None = None,
    *,
    predictor: DaoP | None = None,
    guidance: Guidance | None = None,
    max_batch_atoms: int = 2048,
    progress: Callable[[int, int], None] | None = None,
) -> list[Crystal]:
    """Crystals (Å) in the order of the requests.

    A candidate depends on seed, its key and its atoms alone: in the same batch bit for bit, in another batch up to
    rounding, which the trajectory magnifies (SamplerConfig.double). progress is told (steps done, steps in all). Raises
    SamplingError for models that do not fit.
    """
    config = config or SamplerConfig()
    if predictor is not None and guidance is not None:
        check_pair(model, predictor)
    if config.double:
        model, predictor = deepcopy(model).double(), deepcopy(predictor).double() if predictor is not None else None
    batches = list(buckets([len(r.numbers) for r in requests], max_batch_atoms, max_batch_atoms))
    total, done = len(batches) * config.steps, 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    crystals: dict[int, Crystal] = {}
    for batch in batches:
        members = [requests[i] for i in batch]
        crystals.update(
            zip(batch, sample_batch(model, members, seed, config, predictor, guidance, advance), strict=True)
        )
    return [crystals[i] for i in range(len(requests))]
