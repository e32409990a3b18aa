"""The sampler that a maker's settings ask for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from .checkpoints import SettingError

if TYPE_CHECKING:
    from dao_flows.model.samplers import SamplerConfig


class SamplerSettings(Protocol):
    """What makers that draw crystals have in common; steps None: the sampler's default."""

    steps: int | None
    corrector: bool
    order: int
    churn: float
    double: bool
    bf16: bool


def sampler_config(maker: SamplerSettings) -> SamplerConfig:
    """The sampler's configuration. Raises SettingError for settings that exclude each other or are out of range."""
    from dao_flows.model.samplers import SamplerConfig, SamplingError

    try:
        return SamplerConfig(
            steps=SamplerConfig().steps if maker.steps is None else maker.steps,
            corrector=maker.corrector,
            double=maker.double,
            order=maker.order,
            churn=float(maker.churn),
            bf16=maker.bf16,
        )
    except SamplingError as error:
        raise SettingError(str(error)) from None


def sampler_parameters(maker: SamplerSettings) -> dict[str, Any]:
    """The same as part of a document's science. Raises as sampler_config does."""
    return asdict(sampler_config(maker))
