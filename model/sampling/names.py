"""The samplers' names, for whoever only reads or offers them and need not load torch; what they are: `registry`."""

from typing import Literal

SamplerName = Literal["renoising", "predictor-corrector", "ancestral", "heun", "euler"]
