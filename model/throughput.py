"""How many crystals per second a device trains on, relaxes or draws, measured: what estimates of GPU hours build on."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .checkpoint.format import build
from .crystals import Crystal
from .dao import Dao
from .dao_g import DaoG
from .dao_p import DaoP
from .data.table import BUCKET_SIZES, CrystalTable
from .relax import RelaxConfig, relax
from .sampling.registry import default_config
from .sampling.sample import Request, SamplerConfig, sample
from .sampling.timing import now, random_crystal
from .training.config import TrainConfig, TrainingError
from .training.trainer import Trainer

TIMED_STEPS = 4  # of a sampler's
FIRST_PIECE, LAST_PIECE = 64, 16_384  # crystals


@dataclass(frozen=True)
class Throughput:
    """crystals_per_s: of one process; steps: optimiser steps that were timed, in so many seconds."""

    crystals_per_s: float
    steps: int
    seconds: float


def throughput(
    kind: str,
    architecture: dict[str, object],
    sizes: Sequence[int],
    device: torch.device | str = "cpu",
    *,
    batch_size: int = 64,
    bf16: bool = False,
    seconds: float = 10.0,
    prepare: Callable[[Dao], Dao] = lambda model: model,
) -> Throughput:
    """Measure training steps of a network on crystals of these sizes.

    kind, architecture: as in a checkpoint's card; prepare: what is done to the model that is built from them; sizes:
    atoms per cell of each crystal of a dataset, or of a sample of it. Full batches of each size class are timed, for
    about `seconds` in all and three steps at least, and weighted as the sizes are; saving, validating and what is left
    over at the end of a class are not in it. Raises TrainingError for no sizes or a cell that is larger than any class.
    """
    if not len(sizes) or not 1 <= min(sizes) <= max(sizes) <= BUCKET_SIZES[-1]:
        raise TrainingError(f"sizes must be of 1 to {BUCKET_SIZES[-1]} atoms, at least one")
    largest: dict[int, int] = {}
    for size in sizes:  # batches are padded to the largest cell of their class
        index = int(np.searchsorted(BUCKET_SIZES, size))
        largest[index] = max(size, largest.get(index, 0))
    counts = Counter(int(np.searchsorted(BUCKET_SIZES, size)) for size in sizes)
    rng = np.random.default_rng(0)
    crystals = [random_crystal(largest[index], rng) for index in sorted(largest) for _ in range(batch_size)]
    table = CrystalTable(crystals, rng.random(len(crystals)).astype(np.float32), "")
    device = torch.device(device)
    model = prepare(build(kind, architecture)).to(device)
    rows, took, steps = torch.arange(batch_size), 0.0, 0
    per_crystal: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, TrainConfig(steps=1, batch_size=batch_size, bf16=bf16), table, None, Path(folder))
        for bucket, index in enumerate(sorted(largest)):
            for _ in range(1 if trainer.replayed is None else 2):
                trainer.take_step(bucket, rows)  # the first one is slower, and so is the one that is captured
            done, began = 0, now(device)
            while done < 3 or now(device) - began < seconds / len(largest):
                trainer.take_step(bucket, rows)
                done += 1
            spent = now(device) - began
            per_crystal[index] = spent / (done * batch_size)
            took, steps = took + spent, steps + done
    mean = sum(counts[index] * per_crystal[index] for index in counts) / len(sizes)
    return Throughput(1 / mean, steps, took)


def relaxation_throughput(
    architecture: dict[str, object],
    sizes: Sequence[int],
    device: torch.device | str = "cpu",
    iterations: int = 5,
    seconds: float = 10.0,
) -> float:
    """Crystals of these sizes that an untrained DAO-P of this architecture relaxes per second."""
    predictor = build("dao-p", architecture).to(device).eval()
    assert isinstance(predictor, DaoP)
    config = RelaxConfig(iterations, tolerance=-1.0)
    return _rate(sizes, device, seconds, lambda crystals: relax(predictor, crystals, config))


def sampling_throughput(
    architecture: dict[str, object],
    sizes: Sequence[int],
    device: torch.device | str = "cpu",
    config: SamplerConfig | None = None,
    seconds: float = 10.0,
) -> float:
    """Crystals of these sizes that a DAO-G of this architecture draws per second; a few steps are timed."""
    model = build("dao-g", architecture).to(device).eval()
    assert isinstance(model, DaoG)
    config = config or default_config(model.config.objective)
    few = min(config.steps, TIMED_STEPS)

    def draw(crystals: Sequence[Crystal]) -> None:
        requests = [Request(crystal.numbers, (k,)) for k, crystal in enumerate(crystals)]
        sample(model, requests, 0, replace(config, steps=few))

    return _rate(sizes, device, seconds, draw) * few / config.steps


def _rate(
    sizes: Sequence[int], device: torch.device | str, seconds: float, work: Callable[[Sequence[Crystal]], object]
) -> float:
    """Crystals per second of work on crystals of these sizes, in pieces that grow until one takes a fair while."""
    rng = np.random.default_rng(0)
    work([random_crystal(int(min(sizes)), rng)])  # the first one is slower
    number = FIRST_PIECE
    while True:
        crystals = [random_crystal(int(size), rng) for size in rng.choice(sizes, number)]
        began = now(torch.device(device))
        work(crystals)
        spent = now(torch.device(device)) - began
        if spent > seconds / 4 or number >= LAST_PIECE:
            return number / spent
        number *= 4
