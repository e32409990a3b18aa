"""Drawing crystals from DAO-G: candidates in batches of like size, each along the way of a sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise

import numpy as np
import torch

from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP
from dao_flows.model.runtime.batching import Batches, BatchLog

from .registry import build_sampler, default_config
from .requests import NormalStreams, Request
from .sampler import Guidance, Sampler, SamplerConfig, SamplingError, check_pair

__all__ = ["Guidance", "NormalStreams", "Request", "SamplerConfig", "SamplingError", "check_pair", "sample"]

BATCH_ATOMS = 2048  # at most in a batch, if one block has no more


@torch.no_grad()
def sample_batch(
    model: DaoG,
    sampler: Sampler,
    requests: Sequence[Request],
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> list[Crystal]:
    """One padded batch through the whole trajectory; `advance` is called once a step."""
    empty = model.collate([Crystal(r.numbers, np.zeros((len(r.numbers), 3)), np.eye(3)) for r in requests])
    noise = NormalStreams(requests, seed, empty.frac)
    crystals = empty.with_geometry(*sampler.start(noise))
    for t, s in pairwise(sampler.times()):
        crystals = sampler.step(crystals, t, s, noise)
        advance()
    return model.to_angstrom(crystals).unpad()


def sample(
    model: DaoG,
    requests: Sequence[Request],
    seed: int,
    config: SamplerConfig | None = None,
    *,
    predictor: DaoP | None = None,
    guidance: Guidance | None = None,
    max_batch_atoms: int = BATCH_ATOMS,
    progress: Callable[[int, int], None] | None = None,
    log: BatchLog | None = None,
) -> list[Crystal]:
    """Crystals (Å) in the order of the requests.

    A candidate depends on seed, its key and its atoms alone: on a CPU bit for bit in any batch, in bf16 and elsewhere
    bit for bit in the same batches, in others up to rounding, which the trajectory magnifies (SamplerConfig). Batches
    are split where memory runs out; log is told which ran. progress is told (steps done, steps in all). Raises
    SamplingError for models that do not fit, TooLargeError for memory that does not suffice for one crystal.
    """
    config = config or default_config(model.config.objective)
    if config.double:
        model, predictor = deepcopy(model).double(), deepcopy(predictor).double() if predictor is not None else None
    sampler = build_sampler(model, config, predictor, guidance)
    batches = _batches(requests, max_batch_atoms, log)
    steps = len(sampler.times()) - 1

    def compute(batch: list[int]) -> list[Crystal]:
        done, total = (batches.begun - 1) * steps, (batches.begun + batches.left) * steps

        def advance() -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, total)

        return sample_batch(model, sampler, [requests[i] for i in batch], seed, advance)

    return batches.run(compute)


def planned_batches(requests: Sequence[Request]) -> list[tuple[int, int]]:
    """The batches that `sample` draws where memory suffices: crystals (fillers included) and atoms of each."""
    log = BatchLog()
    _batches(requests, BATCH_ATOMS, log).run(lambda batch: batch)
    return log.batches


def _batches(requests: Sequence[Request], max_atoms: int, log: BatchLog | None) -> Batches:
    return Batches([len(r.numbers) for r in requests], [sum(r.key) for r in requests], max_atoms, log)
