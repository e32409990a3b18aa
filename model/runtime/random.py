"""Independent random streams: every consumer draws from its own, named by a seed and a key, whatever the order."""

from __future__ import annotations

import numpy as np
import torch


def stream(seed: int, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator named (seed, *key), statistically independent of all others (numpy.random.SeedSequence)."""
    state = np.random.SeedSequence([seed, *key]).generate_state(2, np.uint32)
    generator = torch.Generator(device=device)
    generator.manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
    return generator
