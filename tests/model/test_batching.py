"""Batches that split where memory runs out, and results that do not depend on them."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_flows.model.crystals import Crystal
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.relax import RelaxConfig, relax
from dao_flows.model.runtime.batching import ROWS, Batches, BatchLog, TooLargeError, in_blocks, is_out_of_memory
from dao_flows.model.sampling.sample import Guidance, Request, SamplerConfig, sample

NETWORK = CrysformerConfig(hidden=48, layers=2, heads=4, frequencies=5, time_width=16)
SIZES = [1, 2, 3, 5, 8, 11, 14, 20, 23]


def build(cls, seed: int = 0):
    torch.manual_seed(seed)
    model = cls(DaoConfig(network=NETWORK, volume_scaling=True))
    for parameter in model.parameters():  # no branch of a young network is switched off
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def requests(each: int = 3) -> list[Request]:
    rng = np.random.default_rng(0)
    return [Request(rng.integers(1, 84, n), (n, k)) for n in SIZES for k in range(each)]


def crystals(each: int = 3) -> list[Crystal]:
    rng = np.random.default_rng(1)
    return [
        Crystal(rng.integers(1, 84, n), rng.random((n, 3)), n ** (1 / 3) * (2 * np.eye(3) + rng.normal(0, 0.2, (3, 3))))
        for n in SIZES
        for _ in range(each)
    ]


def assert_same(ones: list[Crystal], others: list[Crystal]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert np.array_equal(one.frac, other.frac), len(one)
        assert np.array_equal(one.lattice, other.lattice), len(one)


class Small(torch.nn.Module):
    """A network on a device that has room for so many atoms at once."""

    def __init__(self, network: torch.nn.Module, atoms: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.network, self.atoms, self.error, self.refused = network, atoms, error, 0

    def forward(self, batch, t, smooth=False):
        if batch.numbers.numel() > self.atoms:
            self.refused += 1
            raise self.error("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.network(batch, t, smooth)

    def prepared(self, dtype):
        return self

    def energy(self, output):
        return self.network.energy(output)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)), max_size=40),
    st.integers(1, 200),
    st.integers(20, 200),
)
def test_every_crystal_is_computed_once_within_the_bounds_whatever_memory_there_is(pairs, max_atoms, room):
    sizes, slots = [n for n, _ in pairs], [s for _, s in pairs]
    log, ran = BatchLog(), []

    def compute(batch):
        assert len({sizes[i] for i in batch}) == 1
        if len(batch) * sizes[batch[0]] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        ran.append(batch)
        return [("result", i) for i in batch]

    batches = Batches(sizes, slots, max_atoms, log)
    planned = batches.left
    assert batches.run(compute) == [("result", i) for i in range(len(sizes))]
    assert log.batches == [(len(batch), sizes[batch[0]]) for batch in ran]
    assert len(ran) + log.splits == batches.begun
    assert (planned == len(ran)) or log.splits
    for batch in ran:
        if len(batch) % ROWS == 0:
            assert len(batch) * sizes[batch[0]] <= max(max_atoms, ROWS * sizes[batch[0]])
            assert all(
                i not in batch or slots[i] % ROWS in {p % ROWS for p, j in enumerate(batch) if j == i} for i in batch
            )
        else:
            assert ROWS * sizes[batch[0]] > room


def test_what_is_not_about_memory_is_raised_as_it_is():
    def compute(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Batches([3], [0], 100).run(compute)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("guided", [False, True])
def test_a_candidate_is_the_same_bit_for_bit_in_any_batch(guided, double):
    model, wanted, config = build(DaoG), requests(), SamplerConfig(8, double=double)
    extra = {"predictor": build(DaoP, 1), "guidance": Guidance(5.0, 5.0)} if guided else {}
    together = sample(model, wanted, 3, config, **extra)
    assert_same(together, sample(model, wanted, 3, config, max_batch_atoms=50, **extra))
    order = np.random.default_rng(2).permutation(len(wanted))
    shuffled = sample(model, [wanted[i] for i in order], 3, config, max_batch_atoms=150, **extra)
    assert_same([together[i] for i in order], shuffled)
    assert_same(together[::4], [sample(model, [request], 3, config, **extra)[0] for request in wanted[::4]])


def test_energies_and_relaxations_are_the_same_bit_for_bit_in_any_batch():
    predictor, given_ = build(DaoP), crystals()
    order = np.random.default_rng(3).permutation(len(given_))
    shuffled = [given_[i] for i in order]
    energies = predict_energy(predictor, given_)
    assert np.array_equal(energies[order], predict_energy(predictor, shuffled, 60))
    assert np.array_equal(energies[::4], [predict_energy(predictor, [crystal])[0] for crystal in given_[::4]])
    config = RelaxConfig(iterations=6)
    relaxed, again = relax(predictor, given_, config), relax(predictor, shuffled, config, max_batch_atoms=60)
    assert_same([relaxed[i].crystal for i in order], [one.crystal for one in again])
    assert [relaxed[i].energy_after for i in order] == [one.energy_after for one in again]
    assert sum(one.iterations for one in again) > len(again)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_where_memory_runs_out_the_batch_is_split_and_the_result_is_the_same(error):
    model, predictor, wanted = build(DaoG), build(DaoP, 1), requests(9)
    extra = {"predictor": predictor, "guidance": Guidance(5.0, 5.0)}
    seen: list[tuple[int, int]] = []
    whole, log, split_log = sample(model, wanted, 3, SamplerConfig(4), **extra), BatchLog(), BatchLog()
    sample(model, wanted, 3, SamplerConfig(4), log=log, **extra)
    predictor.network = Small(predictor.network, 96, error)
    split = sample(
        model, wanted, 3, SamplerConfig(4), log=split_log, progress=lambda d, n: seen.append((d, n)), **extra
    )
    assert_same(whole, split)
    assert (log.splits, split_log.splits) == (0, predictor.network.refused)
    assert 1 <= split_log.splits <= 2  # the size that ran is remembered
    assert max(rows * atoms for rows, atoms in split_log.batches) <= 96
    assert len(split_log.batches) > len(log.batches)
    assert all(rows % ROWS == 0 for rows, _ in split_log.batches)
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1]


def test_relaxation_and_energies_split_too():
    predictor, given_, config = build(DaoP), crystals(9), RelaxConfig(iterations=3)
    energies, relaxed = predict_energy(predictor, given_), relax(predictor, given_, config)
    predictor.network = Small(predictor.network, 96)
    logs = BatchLog(), BatchLog()
    assert np.array_equal(energies, predict_energy(predictor, given_, log=logs[0]))
    assert_same(
        [one.crystal for one in relaxed], [one.crystal for one in relax(predictor, given_, config, log=logs[1])]
    )
    assert all(log.splits for log in logs)


def test_below_a_block_results_are_equal_but_for_rounding_and_below_a_crystal_one_line_says_so():
    model, wanted, log = build(DaoG), requests(), BatchLog()
    whole = sample(model, wanted, 3, SamplerConfig(4))
    network, model.network = model.network, Small(model.network, 40)
    split = sample(model, wanted, 3, SamplerConfig(4), log=log)
    assert {rows for rows, atoms in log.batches if atoms == 20} <= {1, 2}
    for one, other in zip(whole, split, strict=True):
        assert np.abs((one.frac - other.frac + 0.5) % 1 - 0.5).max() < 1e-3
        assert np.allclose(one.lattice, other.lattice, rtol=1e-3, atol=1e-3 * np.abs(one.lattice).max())
    model.network = Small(network, 19)
    with pytest.raises(TooLargeError, match="one crystal of 20 atoms alone does not fit into the memory") as caught:
        sample(model, wanted, 3, SamplerConfig(4))
    assert "\n" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.data())
def test_blocks_hold_the_rows_that_were_asked_for_in_their_slots(total, data):
    rows = torch.tensor(sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1))))
    whole, mine = in_blocks(rows, total)
    assert torch.equal(whole[mine], rows)
    assert torch.equal(whole % ROWS, torch.arange(len(whole)) % ROWS)
    assert int(whole.max()) < total


LIMITED = """
import resource, sys
import numpy as np, torch
from dao_flows.model.runtime.batching import BatchLog
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.crystals import Crystal

torch.set_num_threads(1)
torch.manual_seed(0)
predictor = DaoP(DaoConfig(network=CrysformerConfig(hidden=64, layers=1, heads=4, frequencies=32, time_width=16)))
predictor.eval().requires_grad_(False)
rng = np.random.default_rng(0)
crystals = [Crystal(rng.integers(1, 84, 20), rng.random((20, 3)), 5 * np.eye(3)) for _ in range(600)]
expected = predict_energy(predictor, crystals, 400)  # threads and libraries are up
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 110_000_000,) * 2)
log = BatchLog()
found = predict_energy(predictor, crystals, 12_000, log=log)
print(log.splits, max(rows for rows, _ in log.batches), bool(np.array_equal(found, expected)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds the memory of a process on Linux")
def test_when_the_allocator_really_fails_the_batch_is_split_and_the_result_is_the_same():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    splits, rows, same = done.stdout.split()
    assert int(splits) >= 1
    assert 4 <= int(rows) < 600
    assert same == "True"
