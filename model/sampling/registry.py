"""The samplers by objective and name, behind one interface (`sampler.Sampler`).

- `renoising`: to the crystal that the network expects, and back to the next time with new noise; one call a step.
- `predictor-corrector`: as published, over all times or a stride of them; two calls a step.
- `ancestral`: the same without its corrector; one call a step.
- `heun`: the deterministic way by a method of second order; two calls a step but the last.
- `euler`: the velocity of flow matching, by a method of first order; one call a step.

DAO-P's energy may guide each of them.
"""

from __future__ import annotations

from typing import get_args

from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP

from .diffusion import Ancestral, Heun, PredictorCorrector, Renoising
from .flow_matching import FlowEuler, FlowHeun, FlowRenoising
from .names import SamplerName
from .sampler import Guidance, Sampler, SamplerConfig, SamplingError, check_pair

SAMPLERS: dict[str, dict[str, type[Sampler]]] = {
    "diffusion": {
        "renoising": Renoising,
        "predictor-corrector": PredictorCorrector,
        "ancestral": Ancestral,
        "heun": Heun,
    },
    "flow": {"renoising": FlowRenoising, "euler": FlowEuler, "heun": FlowHeun},
}
SAMPLERS["bridge"] = SAMPLERS["flow"]  # drawn freely


STEPS = {"diffusion": 100, "flow": 50, "bridge": 50}  # of renoising: docs/sampling.md, "Which one"


def default_config(objective: str) -> SamplerConfig:
    """The sampler of a generator that learned by this objective, unless one asks for another."""
    return SamplerConfig(STEPS[objective])


def check_sampler(config: SamplerConfig, objective: str) -> None:
    """Raises SamplingError for a sampler that there is not for a generator of this objective."""
    if config.sampler not in get_args(SamplerName):
        raise SamplingError(f"sampler must be one of {', '.join(get_args(SamplerName))}, not {config.sampler!r}")
    if config.sampler not in SAMPLERS[objective]:
        raise SamplingError(
            f"a checkpoint that learned by {objective} is not sampled by {config.sampler!r}: "
            f"sampler must be one of {', '.join(SAMPLERS[objective])}"
        )
    if config.churn and objective != "diffusion":
        raise SamplingError("churn must be 0 for a checkpoint that learned by flow: its path has no noise to give back")


def build_sampler(
    model: DaoG, config: SamplerConfig, predictor: DaoP | None = None, guidance: Guidance | None = None
) -> Sampler:
    """The sampler that a generator's objective and the settings ask for. Raises SamplingError for a wrong pair."""
    check_sampler(config, model.config.objective)
    if predictor is not None and guidance is not None:
        check_pair(model.config, predictor.config)
    return SAMPLERS[model.config.objective][config.sampler](model, config, predictor, guidance)
