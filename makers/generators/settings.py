"""What every maker that draws crystals is told of the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dao_flows.model.sampling.names import SamplerName

Bf16 = bool | Literal["auto"]


@dataclass(kw_only=True)
class SamplerSettings:
    """Fields that such makers share.

    sampler: by name, see docs/sampling.md. steps: times visited (None: the sampler's default). churn: noise that 'heun'
    gives back. double: in float64, slower. bf16: matrix products in bfloat16, with 'auto' if the job measures that to
    be faster.
    """

    steps: int | None = None
    sampler: SamplerName = "renoising"
    churn: float = 0.0
    double: bool = False
    bf16: Bf16 = False
