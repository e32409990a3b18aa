"""The sampler that a maker's settings ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.document import PrecisionChoice

from .settings import SamplerSettings

if TYPE_CHECKING:
    from dao_flows.model.checkpoint.format import Card
    from dao_flows.model.dao_g import DaoG
    from dao_flows.model.sampling.sample import Request
    from dao_flows.model.sampling.sampler import SamplerConfig

WORTH_IT = 1.1  # times as fast, at least, for bf16 to be taken: less is within what a measurement scatters by

Drawing = TypeVar("Drawing", bound=SamplerSettings)


def sampler_config(maker: SamplerSettings, objective: str) -> SamplerConfig:
    """The sampler's configuration. Raises ParameterError for settings that exclude each other or are out of range.

    So does bf16='auto', which `settled` takes apart and the job settles. objective: the generator's.
    """
    from dao_flows.model.sampling.registry import STEPS
    from dao_flows.model.sampling.sampler import SamplerConfig, SamplingError

    if not isinstance(maker.bf16, bool):
        raise ParameterError(f"bf16 must be settled as true or false by now, not {maker.bf16!r}")
    try:
        return SamplerConfig(
            steps=STEPS[objective] if maker.steps is None else maker.steps,
            sampler=maker.sampler,
            churn=float(maker.churn),
            double=maker.double,
            bf16=maker.bf16,
        )
    except SamplingError as error:
        raise ParameterError(str(error)) from None


def sampler_parameters(maker: SamplerSettings, objective: str) -> dict[str, Any]:
    """The same as part of a document's science. Raises as sampler_config does."""
    return asdict(sampler_config(maker, objective))


def objective_of(architecture: Mapping[str, Any]) -> str:
    """What a generator learned by; older cards do not say."""
    return str(architecture.get("objective", "diffusion"))


def settled(maker: Drawing) -> list[Drawing]:
    """The maker, or for bf16='auto' both that may come of it, in fp32 and in bf16. Raises ParameterError."""
    if isinstance(maker.bf16, bool):
        return [maker]
    if maker.bf16 != "auto":
        raise ParameterError(f"bf16 must be true, false or 'auto', not {maker.bf16!r}")
    return [replace(maker, bf16=bf16) for bf16 in (False, True)]


def check_sampling(maker: SamplerSettings, architecture: Mapping[str, Any]) -> None:
    """Raises ParameterError as sampler_config does, for either precision, and for a sampler that the generator has not.

    architecture: as on the generator's card, or what is known of it.
    """
    from dao_flows.model.process.diffusion import NoiseConfig
    from dao_flows.model.sampling.registry import check_sampler
    from dao_flows.model.sampling.sampler import SamplingError

    objective = objective_of(architecture)
    for config in (sampler_config(each, objective) for each in settled(maker)):
        try:
            check_sampler(config, objective)
            config.times(architecture.get("noise", {}).get("steps", NoiseConfig().steps))
        except SamplingError as error:
            raise ParameterError(str(error)) from None


def check_guidance(generator: Card, predictor: Card) -> None:
    """Raises ParameterError for two that did not learn from the same noise."""
    from dao_flows.model.checkpoint.format import config_of
    from dao_flows.model.sampling.sampler import SamplingError, check_pair

    try:
        check_pair(config_of(generator.architecture), config_of(predictor.architecture))
    except SamplingError as error:
        raise ParameterError(f"{predictor.name} cannot guide {generator.name}: {error}") from None


def measured_precision(model: DaoG, draws: Iterable[Sequence[Request]]) -> PrecisionChoice:
    """bf16 if that is WORTH_IT on the model's device, measured on the batch in which most atoms are drawn.

    draws: what is drawn together, a part at a time.
    """
    from dao_flows.model.sampling import timing
    from dao_flows.model.sampling.sample import planned_batches

    counts = Counter(batch for part in draws for batch in planned_batches(part))
    crystals, atoms = max(counts, key=lambda each: counts[each] * each[0] * each[1])
    fp32, bf16, timed = timing.call_seconds(model, crystals, atoms)
    return PrecisionChoice(bf16=fp32 >= WORTH_IT * bf16, fp32_seconds=fp32, bf16_seconds=bf16, batch=(timed, atoms))
