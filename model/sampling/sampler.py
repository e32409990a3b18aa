"""What all samplers have in common: their settings, a step of the network, and the gradient of DAO-P's energy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dao_flows.model.crystals import Crystals
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP
from dao_flows.model.errors import DaoError
from dao_flows.model.network.crysformer import Crysformer, CrysformerOutput

from .names import SamplerName
from .requests import NormalStreams


class SamplingError(DaoError):
    """Generator and predictor do not fit together, or a setting is out of range."""


@dataclass(frozen=True)
class SamplerConfig:
    """How to get from noise to a crystal; `SamplerConfig(1000, "predictor-corrector")` is the published sampler.

    steps: times visited, at most the schedule's T. sampler: by name, see `registry`. churn: noise given back before
    each step but the last, as a share of the step's length (heun on a diffusion). double: compute in float64. A long
    trajectory magnifies rounding: over 1000 steps float32 loses a candidate that comes in another batch, float64 does
    not. bf16: the generator's matrix products in bfloat16, which some processors and all recent GPUs do faster; on
    processors with units for it a candidate may differ with its batch, for kernels are picked by shape.
    """

    steps: int
    sampler: SamplerName = "renoising"
    churn: float = 0.0
    double: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= 10:
            raise SamplingError(f"churn must lie between 0 and 10, not {self.churn}")
        if self.churn and self.sampler != "heun":
            raise SamplingError(f"churn must be 0 with the sampler '{self.sampler}': only 'heun' gives noise back")
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


class Sampler(ABC):
    """A sampler set up for a generator: takes a batch from time t to an earlier s. DAO-P's energy may guide it."""

    def __init__(
        self, model: DaoG, config: SamplerConfig, predictor: DaoP | None = None, guidance: Guidance | None = None
    ) -> None:
        self.model, self.config = model, config
        self.guide = (predictor, guidance) if predictor is not None and guidance is not None else None
        self.network = prepared_network(model, config.bf16)
        self.schedule, self.last = model.schedule, model.config.noise.steps

    @abstractmethod
    def start(self, noise: NormalStreams) -> tuple[Tensor, Tensor]:
        """Coordinates (B, N, 3) and lattice (B, 3, 3), in model units, at the first time."""

    @abstractmethod
    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """From time t to the earlier time s, 0 at last. crystals: in model units."""

    def times(self) -> list[int]:
        """Times that are visited, descending, then 0."""
        return self.config.times(self.last)

    def output(self, crystals: Crystals, t: int) -> CrysformerOutput:
        """Run the generator's network."""
        return call_network(self.network, crystals, t, self.config.bf16)


def check_pair(ours: DaoConfig, theirs: DaoConfig) -> None:
    """Raises SamplingError unless a generator and a predictor learned from the same noise: else E_t says nothing."""
    if ours.objective != theirs.objective:
        raise SamplingError(
            f"the generator learned by {ours.objective}, the predictor by {theirs.objective}: guide with a predictor "
            f"that learned by {ours.objective}, too, or not at all"
        )
    if (ours.noise, ours.volume_scaling) != (theirs.noise, theirs.volume_scaling):
        raise SamplingError(
            "generator and predictor were trained with different noise schedules: guide with another predictor"
        )


def energy_gradient(
    predictor: DaoP,
    crystals: Crystals,
    t: int,
    max_norm: float | None,
    cell: Tensor | None = None,
    lattice_of: Callable[[Tensor], Tensor] = lambda cell: cell,
) -> tuple[Tensor, Tensor]:
    """∂E_θ/∂x: (B, N, 3) and ∂E_θ/∂cell: (B, 3, 3) at noise level t. crystals: in model units.

    cell: what the process describes the lattice by, None: the lattice; lattice_of: the lattice of it.
    """
    with torch.enable_grad():
        frac = crystals.frac.detach().requires_grad_()
        cell = (crystals.lattice if cell is None else cell).detach().requires_grad_()
        energy = predictor.standardised_energy(crystals.with_geometry(frac, lattice_of(cell)), _at(t, crystals))
        gradients = torch.autograd.grad(energy.sum(), (frac, cell))
    if max_norm is not None:
        norms = [g.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None] for g in gradients]
        gradients = tuple(g * (max_norm / n).clamp(max=1.0) for g, n in zip(gradients, norms, strict=True))
    return gradients[0], gradients[1]


def _at(t: int, crystals: Crystals) -> Tensor:
    """(B,) the same time for all."""
    return torch.full((len(crystals),), float(t), device=crystals.frac.device)


def prepared_network(model: DaoG, bf16: bool) -> Crysformer:
    """The generator's network as `call_network` wants it."""
    return model.network.prepared(torch.bfloat16 if bf16 else next(model.parameters()).dtype)


def call_network(network: Crysformer, crystals: Crystals, t: int, bf16: bool) -> CrysformerOutput:
    """Run the generator's network, in the batch's precision."""
    if not bf16:
        output: CrysformerOutput = network(crystals, _at(t, crystals))
        return output
    with torch.autocast(crystals.frac.device.type, torch.bfloat16):
        output = network(crystals, _at(t, crystals))
    return replace(output, **{name: value.to(crystals.frac.dtype) for name, value in vars(output).items()})
