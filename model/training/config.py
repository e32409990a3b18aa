"""How to train: the settings of a run, checked, and the rate at each step."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from dao_flows.model.errors import DaoError

OPTIMIZERS = ("adam", "muon")


class TrainingError(DaoError):
    """A setting is out of range, the run diverges, or what is in its folder does not belong to it."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Rates are Adam's; constant: share of the run at the peak rate before the cosine begins.

    optimizer: 'adam', or 'muon' for the matrices of the layers, at muon_rate times the rate (`model.optimizers`).
    batch_size: crystals of a step, over all processes together. gate_rate: rate of the residual gates relative to the
    others'. At the full rate they saturate within some thousand steps and shut whole layers off for good.
    coordinate_weight: of the coordinates' term in the loss that is descended (published: 1); terms are reported without
    it. Gradients are clipped by value, as published, then by norm. spike: a window of 100 steps diverges if its mean
    loss is beyond this multiple of the running level (`model.divergence`; 0: only a loss that is not finite counts).
    snapshot_every: steps between the states that a diverging run goes back to, at half the rate, max_rollbacks times at
    most.
    """

    steps: int
    optimizer: str = "adam"
    muon_rate: float = 2.0
    batch_size: int = 64
    rate: float = 1e-3
    final_rate: float = 1e-6
    warm_up: int = 500
    constant: float = 0.0
    weight_decay: float = 0.0
    gate_rate: float = 0.1
    coordinate_weight: float = 1.0
    clip_value: float = 0.5
    clip_norm: float = 1.0
    ema: float = 0.999
    bf16: bool = False
    seed: int = 0
    save_every_s: float = 120.0
    validate_every: int = 2000
    spike: float = 3.0
    snapshot_every: int = 1000
    max_rollbacks: int = 3

    def __post_init__(self) -> None:
        positive = (
            *("steps", "batch_size", "rate", "final_rate", "clip_value", "clip_norm", "validate_every"),
            *("snapshot_every", "coordinate_weight", "muon_rate"),
        )
        shares = ("constant", "gate_rate", "ema")
        at_least_zero = ("warm_up", "weight_decay", "seed", "save_every_s", "spike", "max_rollbacks")
        ranges = {
            "positive": (positive, math.nextafter(0, 1), sys.float_info.max),
            "between 0 and 1": (shares, 0, 1),
            "0 or more": (at_least_zero, 0, sys.float_info.max),
        }
        for what, (names, low, high) in ranges.items():
            for name in names:
                if not low <= (value := getattr(self, name)) <= high:
                    raise TrainingError(f"--{name.replace('_', '-')} must be {what}, not {value}")
        if self.optimizer not in OPTIMIZERS:
            raise TrainingError(f"--optimizer must be {' or '.join(OPTIMIZERS)}, not {self.optimizer}")
        if 0 < self.spike <= 1:
            raise TrainingError(f"--spike must be above 1, or 0 for none, not {self.spike}")

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then constant, then cosine down to final_rate."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        start = max(self.warm_up, self.constant * self.steps)
        progress = min(max(step - start, 0) / max(self.steps - start, 1), 1.0)
        return self.final_rate + (self.rate - self.final_rate) * (1 + math.cos(math.pi * progress)) / 2
