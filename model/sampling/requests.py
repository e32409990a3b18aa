"""What is asked of a sampler, and the random numbers that each candidate gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dao_flows.model.crystals import padded_size


@dataclass(frozen=True)
class Request:
    """One candidate: (n,) atomic numbers, and the key that names its random stream."""

    numbers: np.ndarray
    key: tuple[int, ...]


class NormalStreams:
    """Standard normal draws for each candidate from its own stream, stacked into padded tensors.

    Philox streams are filled one number after another, so a candidate's draws depend on nothing but (seed, key) and
    its size.
    """

    def __init__(self, requests: Sequence[Request], seed: int, like: Tensor) -> None:
        keys = [np.random.SeedSequence([seed, *request.key]) for request in requests]
        self.streams = [np.random.Generator(np.random.Philox(key)) for key in keys]
        self.sizes = [len(request.numbers) for request in requests]
        self.like = like

    def coordinates(self, uniform: bool = False) -> Tensor:
        """(B, N, 3), zero on padding; uniform in [0, 1) instead of normal on request."""
        out = np.zeros((len(self.streams), padded_size(self.sizes), 3), dtype=np.float32)
        for row, (stream, n) in enumerate(zip(self.streams, self.sizes, strict=True)):
            draw = stream.random if uniform else stream.standard_normal
            out[row, :n] = draw((n, 3), dtype=np.float32)
        return torch.from_numpy(out).to(self.like)

    def lattice(self) -> Tensor:
        """(B, 3, 3)."""
        draws = [stream.standard_normal((3, 3), dtype=np.float32) for stream in self.streams]
        return torch.from_numpy(np.stack(draws)).to(self.like)
