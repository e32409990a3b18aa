"""The measured throughput depends on what a step costs, and impossible sizes get one line."""

import time
from dataclasses import asdict

import pytest
import torch

from dao_flows.model.checkpoint.format import KINDS, architecture_of
from dao_flows.model.dao import DaoConfig
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.sampling.sample import SamplerConfig
from dao_flows.model.throughput import relaxation_throughput, sampling_throughput, throughput
from dao_flows.model.training.config import TrainingError

NETWORK = CrysformerConfig(hidden=16, layers=1, heads=2, frequencies=16, time_width=8)


@pytest.fixture(autouse=True)
def processor_time(monkeypatch):
    """Other work on the machine counts for nothing, and no thread waits busily for another."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def architecture(kind):
    return architecture_of(KINDS[kind](DaoConfig(NETWORK)))


def test_larger_cells_take_longer_and_a_mixture_lies_between():
    small, mixed, large = (
        throughput("dao-p", asdict(DaoConfig(NETWORK)), sizes, batch_size=32, seconds=0.1)
        for sizes in ([2], [2] * 5 + [64] * 5, [64])
    )
    assert small.crystals_per_s > 2 * large.crystals_per_s
    assert small.crystals_per_s > 1.2 * mixed.crystals_per_s
    assert mixed.steps >= 6
    assert large.crystals_per_s == pytest.approx(32 * large.steps / large.seconds)


def test_relaxing_and_drawing_slow_down_with_the_work():
    few, many = (relaxation_throughput(architecture("dao-p"), [8], iterations=n, seconds=0.01) for n in (1, 12))
    assert few > 2 * many > 0
    short, long = (
        sampling_throughput(architecture("dao-g"), [8], config=SamplerConfig(n), seconds=0.01) for n in (10, 100)
    )
    assert short > 3 * long > 0


@pytest.mark.parametrize("sizes", [[], [0], [65]])
def test_sizes_that_cannot_be_get_one_line(sizes):
    with pytest.raises(TrainingError, match="sizes must be of 1 to 64 atoms"):
        throughput("dao-g", asdict(DaoConfig(NETWORK)), sizes)
