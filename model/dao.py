"""What DAO-G and DAO-P share: one Crysformer that learns the way from noise to crystals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .crystals import Crystal, Crystals
from .network.crysformer import Crysformer, CrysformerConfig
from .process.bridge import Bridge
from .process.diffusion import Diffusion, NoiseConfig, NoiseSchedule
from .process.flow_matching import FlowMatching
from .process.objective import ALL, Draw, Noised, Objective, Output, Start

OBJECTIVES: dict[str, Callable[[NoiseSchedule], Objective]] = {
    "diffusion": Diffusion,
    "flow": FlowMatching,
    "bridge": Bridge,
}


@dataclass(frozen=True)
class DaoConfig:
    """Everything that decides what a checkpoint computes, apart from its weights.

    volume_scaling: the lattice is diffused in units of n_atoms^(1/3) Å, so that its entries are of one size for small
    and large cells. The published model diffuses it in Å (False). energy_mean, energy_std: E_hull in eV/atom is
    standardised by them (DAO-P). objective: 'diffusion' as published, 'flow' (`process.flow_matching`) or
    'bridge', flow that may begin from templates (`process.bridge`).
    """

    network: CrysformerConfig = field(default_factory=CrysformerConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    volume_scaling: bool = False
    energy_mean: float = 0.0
    energy_std: float = 1.0
    objective: str = "diffusion"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, not {self.objective!r}")
        if self.objective != "diffusion" and not self.volume_scaling:
            raise ValueError("flow matching needs volume_scaling: its base is a cell of a common volume per atom")


class Dao(nn.Module):
    """A Crysformer with its noise schedule and units. clean_fraction: of training crystals, shown without noise."""

    clean_fraction = 0.0

    def __init__(self, config: DaoConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DaoConfig()
        self.network = Crysformer(config.network)
        self.schedule = NoiseSchedule(config.noise)
        self.objective = OBJECTIVES[config.objective](self.schedule)

    def collate(self, crystals: Sequence[Crystal]) -> Crystals:
        """Host crystals as one batch of the model's precision, on its device."""
        parameter = next(self.parameters())
        return Crystals.collate(crystals, parameter.dtype).to(parameter.device)

    def length_unit(self, crystals: Crystals) -> Tensor:
        """(B, 1, 1) Å per model unit of length."""
        if not self.config.volume_scaling:
            return torch.ones_like(crystals.lattice[:, :1, :1])
        like, largest = crystals.lattice, crystals.numbers.shape[1]
        sizes = torch.arange(largest + 1, device=like.device, dtype=like.dtype)
        root = sizes ** (1 / 3)  # of all sizes at once: a power rounds by its place in the array
        return root[crystals.n_atoms][:, None, None]

    def to_model_units(self, crystals: Crystals) -> Crystals:
        """Lattice from Å to model units."""
        return crystals.with_geometry(crystals.frac, crystals.lattice / self.length_unit(crystals))

    def to_angstrom(self, crystals: Crystals) -> Crystals:
        """Lattice from model units to Å."""
        return crystals.with_geometry(crystals.frac, crystals.lattice * self.length_unit(crystals))

    def add_noise(self, crystals: Crystals, t: Tensor, generator: torch.Generator) -> Noised:
        """Crystals at t: (B,), 1..T, or 0 for crystals to leave clean. crystals: in model units."""
        return self.objective.corrupt(crystals, Draw(t, *self.objective.noise(crystals, generator)))

    def draw(self, crystals: Crystals, generator: torch.Generator) -> Draw:
        """What chance decides for a training batch of this shape."""
        t = self.random_times(len(crystals), generator, self.clean_fraction)
        return Draw(t, *self.objective.noise(crystals, generator))

    def cell(self, crystals: Crystals) -> Tensor:
        """(B, 3, 3), what noise is added to of lattices in Å; the same at every step."""
        return self.objective.cell(self.to_model_units(crystals).lattice)

    def start(self, templates: Crystals, known: Tensor) -> Start:
        """Templates in Å as paths begin from them; the same at every step. known: (B,), where there is one."""
        return Start(known, templates.frac, self.cell(templates))

    def denoising_losses(self, noised: Noised, output: Output, part: slice = ALL) -> dict[str, Tensor]:
        """Mean squared errors for lattice and coordinates; clean crystals (t = 0) do not count.

        `Objective.penalty` weighs each crystal's mean square.
        output: of the rows `part`, whose share of the batch's mean this is: the shares of all parts add up to it.
        """
        noisy = (noised.t > 0).to(noised.lattice.dtype)
        sizes = noisy * noised.crystals.n_atoms
        own = noised.rows(part)
        found, matrix = self.objective.predicted(output, own.crystals)
        here = own.crystals.mask[..., None].to(found.dtype)
        atoms = (here * (found.float() - own.coordinates) ** 2).sum((1, 2)) / (3 * own.crystals.n_atoms)
        cells = (matrix.float() - own.lattice).square().mean((1, 2))
        coordinate = (sizes[part] * self.objective.penalty(atoms, own.t)).sum() / sizes.sum().clamp(min=1)
        lattice = (noisy[part] * self.objective.penalty(cells, own.t)).sum() / noisy.sum().clamp(min=1)
        return {"lattice": lattice, "coordinate": coordinate}

    def random_times(self, batch: int, generator: torch.Generator, clean_fraction: float = 0.0) -> Tensor:
        """(B,) t uniform in 1..T; a share of the batch, drawn at random, gets t = 0."""
        device = generator.device
        t = torch.randint(1, self.schedule.config.steps + 1, (batch,), generator=generator, device=device)
        return t.masked_fill(torch.rand(batch, generator=generator, device=device) < clean_fraction, 0)
