"""The samplers' names, where whoever only reads or offers them need not load torch; what they are: `samplers`."""

from typing import Literal

Sampler = Literal["renoising", "predictor-corrector", "ancestral", "heun", "euler"]
