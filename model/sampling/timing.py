"""Seconds of one call of a generator's network, in fp32 and in bf16: which is faster depends on device and batch."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_g import DaoG
from dao_flows.model.runtime.batching import ROWS, Batches

from .sampler import call_network, prepared_network

VOLUME = 20.0  # Å³ an atom, of the crystals that are timed
ELEMENTS = 94
CALLS, ENOUGH_S = 5, 0.3  # timed in each precision, fewer where they take longer
ENOUGH_ATOMS = 512  # on a CPU: in larger batches the ratio is the same (2.1 with 640 and 2,000), the wait longer


class CallSeconds(NamedTuple):
    """Seconds of a network call in either precision. crystals: in the batch that was timed."""

    fp32: float
    bf16: float
    crystals: int


@torch.no_grad()
def call_seconds(model: DaoG, crystals: int, atoms: int) -> CallSeconds:
    """Median seconds of a network call on a batch of `crystals` of `atoms` each, or on a part of it that tells as much.

    The calls take turns, after one of each that is not timed. A batch for which memory does not suffice is timed in
    its parts. Raises TooLargeError for memory that does not suffice for one crystal.
    """
    rng, device = np.random.default_rng(0), next(model.parameters()).device
    if device.type == "cpu":
        crystals = min(crystals, max(1, ENOUGH_ATOMS // (atoms * ROWS)) * ROWS)
    drawn = [random_crystal(atoms, rng) for _ in range(crystals)]
    networks = [prepared_network(model, bf16) for bf16 in (False, True)]
    parts: list[list[float]] = []

    def compute(batch: list[int]) -> list[int]:
        collated = model.collate([drawn[i] for i in batch])
        times: tuple[list[float], list[float]] = ([], [])
        for call in range(CALLS + 1):
            for bf16, spent in enumerate(times):
                began = now(device)
                call_network(networks[bf16], collated, model.config.noise.steps // 2, bool(bf16))
                if call:
                    spent.append(now(device) - began)
            if sum(map(sum, times)) > ENOUGH_S:
                break
        parts.append([median(spent) for spent in times])
        return batch

    Batches([atoms] * crystals, list(range(crystals)), crystals * atoms).run(compute)
    fp32, bf16 = (sum(part[k] for part in parts) for k in range(2))
    return CallSeconds(fp32, bf16, crystals)


def random_crystal(atoms: int, rng: np.random.Generator) -> Crystal:
    """Random atoms in a cube: the time of a step depends on their number alone."""
    edge = (VOLUME * atoms) ** (1 / 3)
    return Crystal(rng.integers(1, ELEMENTS + 1, atoms), rng.random((atoms, 3)), edge * np.eye(3))


def now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
