"""Sampling: streams, strides, bounded guidance."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.process.diffusion import NoiseConfig
from dao_flows.model.sampling.sample import Guidance, NormalStreams, Request, SamplerConfig, SamplingError, sample

NETWORK = CrysformerConfig(hidden=16, layers=2, heads=2, frequencies=3, time_width=8)


def build(cls, seed: int = 0, **config):
    torch.manual_seed(seed)
    return cls(DaoConfig(network=NETWORK, volume_scaling=True, **config)).eval().requires_grad_(False)


def requests(count: int = 6) -> list[Request]:
    rng = np.random.default_rng(0)
    return [Request(rng.integers(1, 84, rng.integers(1, 9)), (7, k)) for k in range(count)]


def distance(a, b) -> float:
    """Largest difference of two crystals: fractional coordinates around the circle, lattice relative."""
    frac = np.abs((a.frac - b.frac + 0.5) % 1 - 0.5).max()
    return max(frac, np.abs(a.lattice - b.lattice).max() / np.abs(b.lattice).max())


@pytest.mark.parametrize("steps", [1000, 100, 37, 7, 1])
def test_times_descend_to_zero_and_the_full_count_is_the_published_schedule(steps):
    times = SamplerConfig(steps).times(1000)
    assert len(times) == steps + 1
    assert times[-1] == 0
    assert all(t > s for t, s in pairwise(times))
    if steps == 1000:
        assert times == list(range(1000, -1, -1))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(SamplingError, match="steps must lie between 1 and 1000"):
        sample(build(DaoG), requests(1), 0, SamplerConfig(steps))


@pytest.mark.parametrize("guided", [False, True])
def test_the_same_batch_gives_the_same_crystals_bit_for_bit(guided):
    model = build(DaoG)
    extra = {"predictor": build(DaoP, 1), "guidance": Guidance(5.0, 5.0)} if guided else {}
    first, second = (sample(model, requests(), 3, SamplerConfig(20), **extra) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.frac, b.frac)
        assert np.array_equal(a.lattice, b.lattice)


def test_a_candidate_does_not_depend_on_its_batch_or_its_place():
    model, wanted = build(DaoG), requests()
    together = sample(model, wanted, 3, SamplerConfig(100))
    reversed_ = sample(model, wanted[::-1], 3, SamplerConfig(100), max_batch_atoms=10)[::-1]
    alone = [sample(model, [request], 3, SamplerConfig(100))[0] for request in wanted]
    for a, b, c in zip(together, reversed_, alone, strict=True):
        assert distance(a, b) < 1e-3
        assert distance(a, c) < 1e-3


def test_in_double_precision_the_published_sampler_does_not_depend_on_the_batch():
    model, wanted = build(DaoG), requests(2)
    config = SamplerConfig(1000, "ancestral", double=True)
    together = sample(model, wanted, 3, config)
    alone = [sample(model, [request], 3, config)[0] for request in wanted]
    assert max(distance(a, b) for a, b in zip(together, alone, strict=True)) < 1e-6


def test_seed_and_key_change_the_candidate():
    model, numbers = build(DaoG), np.array([3, 8])
    a, b = sample(model, [Request(numbers, (0,)), Request(numbers, (1,))], 0, SamplerConfig(5))
    c = sample(model, [Request(numbers, (0,))], 1, SamplerConfig(5))[0]
    assert distance(a, b) > 1e-2
    assert distance(a, c) > 1e-2


def test_streams_are_standard_normal_and_zero_on_padding():
    wanted = [Request(np.ones(3, dtype=int), (k,)) for k in range(2000)] + [Request(np.ones(1, dtype=int), (9, 9))]
    streams = NormalStreams(wanted, 0, torch.zeros(()))
    uniform, normal = streams.coordinates(uniform=True), streams.coordinates()
    assert torch.all(normal[-1, 1:] == 0)
    assert abs(float(normal[:-1].mean())) < 0.03
    assert abs(float(normal[:-1].std()) - 1) < 0.03
    assert 0 <= float(uniform.min()) <= float(uniform.max()) < 1
    assert abs(np.corrcoef(normal[:1000].ravel(), normal[1000:2000].ravel())[0, 1]) < 0.05


def test_clipped_guidance_is_bounded():
    model, predictor, wanted = build(DaoG), build(DaoP, 1), requests(8)
    config = SamplerConfig(30)
    free = sample(model, wanted, 0, config)
    tiny = sample(model, wanted, 0, config, predictor=predictor, guidance=Guidance(20.0, 20.0, max_norm=1e-9))
    assert max(distance(a, b) for a, b in zip(free, tiny, strict=True)) < 1e-3


def test_a_predictor_of_another_schedule_is_refused():
    other = build(DaoP, noise=NoiseConfig(sigma_max=0.3))
    with pytest.raises(SamplingError, match="different noise schedules"):
        sample(build(DaoG), requests(1), 0, SamplerConfig(5), predictor=other, guidance=Guidance())


def test_progress_counts_every_step_of_every_batch():
    seen: list[tuple[int, int]] = []
    sample(build(DaoG), requests(), 0, SamplerConfig(4), max_batch_atoms=8, progress=lambda d, n: seen.append((d, n)))
    total = seen[0][1]
    assert [d for d, _ in seen] == list(range(1, total + 1))
    assert total % 4 == 0
