"""DAO-G as a generator: checkpoints, the sampler's settings, and guidance by DAO-P."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

from dao_flows.makers.jobs.provenance import digest
from dao_flows.makers.models.checkpoints import card, load_model

from .generator import Progress
from .sampler import (
    check_guidance,
    check_sampling,
    measured_precision,
    objective_of,
    sampler_config,
    sampler_parameters,
    settled,
)
from .settings import SamplerSettings

if TYPE_CHECKING:
    from dao_flows.makers.schemas.document import PrecisionChoice
    from dao_flows.makers.schemas.prediction import Origin
    from dao_flows.model.checkpoint.format import Card
    from dao_flows.model.crystals import Crystal
    from dao_flows.model.runtime.batching import BatchLog
    from dao_flows.model.sampling.requests import Request

    from .source import Source


@dataclass(frozen=True)
class Guide:
    """DAO-P by name, path or sha256, and how strongly its energy steers coordinates and lattice."""

    predictor: str
    coordinates: float
    lattice: float


@dataclass(frozen=True)
class DaoGenerator:
    """DAO-G with a sampler whose precision is settled.

    checkpoint: by name, path or sha256. cards: of the checkpoints that take part, by role: 'generator', and 'predictor'
    under guidance.
    """

    checkpoint: str
    cards: dict[str, Card]
    settings: SamplerSettings
    guide: Guide | None = None
    loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Of the checkpoint."""
        return self.cards["generator"].name

    @property
    def names(self) -> dict[str, str]:
        """Of the checkpoints, by role."""
        return {role: found.name for role, found in self.cards.items()}

    @property
    def sha256(self) -> str:
        """Over the weights and the sampler's settings."""
        return digest([self.checkpoints, self.parameters])

    @property
    def covers(self) -> list[Card]:
        """Each checkpoint that takes part."""
        return list(self.cards.values())

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that all of them have seen."""
        return reduce(frozenset.intersection, (frozenset(found.elements) for found in self.covers))

    @property
    def max_atoms(self) -> int:
        """Of the largest cell that all of them have seen."""
        return min(found.max_atoms for found in self.covers)

    @property
    def reproducible(self) -> bool:
        """On a CPU; in bf16 rounding depends on the batch (docs/sampling.md)."""
        return self.settings.bf16 is False

    @property
    def parameters(self) -> dict[str, Any]:
        """The sampler's settings, resolved, and the strengths of guidance."""
        found = sampler_parameters(self.settings, self._objective)
        if self.guide is not None:
            found["guidance_coordinates"] = float(self.guide.coordinates)
            found["guidance_lattice"] = float(self.guide.lattice)
        return found

    @property
    def checkpoints(self) -> dict[str, str]:
        """Role -> sha256 of the weights."""
        return {role: found.sha256 for role, found in self.cards.items()}

    @property
    def origin(self) -> Origin | None:
        """Not told."""
        return None

    def model(self, device: str) -> Any:
        """The network on a device, loaded once for all precisions."""
        return self._load(self.checkpoint, "dao-g", device)

    def sample(
        self, requests: Sequence[Request], seed: int, device: str, progress: Progress, log: BatchLog | None = None
    ) -> list[Crystal]:
        """As `dao_flows.model.sampling.sample.sample` draws them."""
        from dao_flows.model.sampling.sample import Guidance, sample

        guide = self.guide
        return sample(
            self.model(device),
            requests,
            seed,
            sampler_config(self.settings, self._objective),
            predictor=None if guide is None else self._load(guide.predictor, "dao-p", device),
            guidance=None if guide is None else Guidance(guide.coordinates, guide.lattice),
            progress=progress,
            log=log,
        )

    @property
    def _objective(self) -> str:
        return objective_of(self.cards["generator"].architecture)

    def _load(self, reference: str, kind: str, device: str) -> Any:
        key = f"{kind} {device}"
        if key not in self.loaded:
            self.loaded[key] = load_model(reference, kind, device)[0]
        return self.loaded[key]


def faster(sources: Sequence[Source], requests: Sequence[Request], device: str) -> PrecisionChoice:
    """Which of DAO-G's precisions draws these faster on this device, measured."""
    first = sources[0]
    assert isinstance(first, DaoGenerator)  # no other has a setting for it
    return measured_precision(first.model(device), [requests])


def dao_generators(checkpoint: str, settings: SamplerSettings, guide: Guide | None = None) -> list[DaoGenerator]:
    """DAO-G with these settings; where bf16 is 'auto', in fp32 and in bf16.

    Raises CheckpointError for a missing checkpoint, ParameterError for one of the wrong kind, two that do not fit, and
    settings that the checkpoint's sampler cannot have.
    """
    cards = {"generator": card(checkpoint, "dao-g")}
    if guide is not None:
        cards["predictor"] = card(guide.predictor, "dao-p")
        check_guidance(cards["generator"], cards["predictor"])
    check_sampling(settings, cards["generator"].architecture)
    loaded: dict[str, Any] = {}
    return [DaoGenerator(checkpoint, cards, each, guide, loaded) for each in settled(settings)]
