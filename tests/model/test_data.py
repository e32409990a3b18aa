"""Training data: every crystal once an epoch, and files that hold none are refused with the row that is wrong."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_flows.model.crystals import Crystal, Crystals
from dao_flows.model.data.shards import DataError
from dao_flows.model.data.table import BucketedBatches, CrystalTable, NothingSelectedError, read_crystals


def table(sizes: list[int]) -> CrystalTable:
    """Crystal i has energy i, and lattice and coordinates that are its own too."""
    crystals = [
        Crystal(np.full(n, 1 + i % 90), np.full((n, 3), i / 1000), (i + 1) * np.eye(3)) for i, n in enumerate(sizes)
    ]
    return CrystalTable(crystals, np.arange(len(sizes), dtype=np.float32), "0" * 64)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 100), st.integers(0, 9))
def test_an_epoch_holds_every_crystal_once(sizes, batch_size, seed, epoch):
    data = BucketedBatches(table(sizes), batch_size, seed)
    batches = data.epoch(epoch)
    assert len(batches) == data.steps_per_epoch
    seen = []
    for bucket, rows in batches:
        crystals, energy = data.take(bucket, rows)
        assert 1 <= len(crystals) <= batch_size
        for crystal, number in zip(crystals.unpad(), energy.int().tolist(), strict=True):
            assert len(crystal) == sizes[number]
            assert np.all(crystal.numbers == 1 + number % 90)
            assert np.allclose(crystal.lattice, (number + 1) * np.eye(3))
            assert np.allclose(crystal.frac, number / 1000)
            seen.append(number)
    assert Counter(seen) == Counter(range(len(sizes)))


def test_epochs_differ_and_depend_on_seed_and_epoch_alone():
    data = table([1 + i % 5 for i in range(40)])

    def order(seed: int, epoch: int) -> list[int]:
        batches = BucketedBatches(data, 4, seed)
        return [int(e) for bucket, rows in batches.epoch(epoch) for e in batches.take(bucket, rows)[1]]

    later = BucketedBatches(data, 4, 0)
    for epoch in (0, 1):
        later.epoch(epoch)
    assert order(0, 3) == [int(e) for bucket, rows in later.epoch(3) for e in later.take(bucket, rows)[1]]
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_padding_comes_off_again(sizes, seed):
    rng = np.random.default_rng(seed)
    crystals = [Crystal(rng.integers(1, 101, n), rng.random((n, 3)), rng.normal(size=(3, 3))) for n in sizes]
    batch = Crystals.collate(crystals, torch.float64)
    assert batch.n_atoms.tolist() == sizes
    for before, after in zip(crystals, batch.unpad(), strict=True):
        assert all(
            np.array_equal(getattr(before, name), getattr(after, name)) for name in ("numbers", "frac", "lattice")
        )


def test_reads_what_was_written(parquet):
    path = parquet()
    everything, train, val = (read_crystals(path, split) for split in (None, "train", "val"))
    assert (len(everything), len(train), len(val)) == (60, 48, 12)
    assert everything.sha256 == train.sha256
    assert np.isnan(everything.energy).sum() == 8
    assert len(everything.labelled()) == 52
    assert not np.isnan(everything.labelled().energy).any()
    small = read_crystals(path, max_atoms=2)
    assert 0 < len(small) < 60
    assert max(len(c) for c in small.crystals) == 2
    assert set(everything.elements()) <= set(range(1, 84))
    low = read_crystals(path, max_energy=0.5)
    assert len(low) == sum(e <= 0.5 for e in everything.energy)  # and none without an energy
    assert 0 < len(low) < 52
    import pyarrow.parquet as pq

    row = pq.read_table(path).to_pylist()[7]
    assert everything.crystals[7].numbers.tolist() == row["numbers"]
    assert everything.crystals[7].frac.ravel().tolist() == row["frac"]
    assert everything.crystals[7].lattice.ravel().tolist() == row["lattice"]


def test_crystals_without_an_energy_are_within_the_bound_if_the_judge_says_so(parquet):
    path = parquet()
    everything, known = read_crystals(path), read_crystals(path, max_energy=0.5)
    asked: list[int] = []

    def judge(crystals):
        asked.extend(len(crystal) for crystal in crystals)
        return np.where([len(crystal) > 2 for crystal in crystals], 0.5, 0.6)

    judged = read_crystals(path, max_energy=0.5, judge=judge)
    unknown = [c for c, energy in zip(everything.crystals, everything.energy, strict=True) if np.isnan(energy)]
    assert asked == [len(crystal) for crystal in unknown]
    added = sum(n > 2 for n in asked)
    assert 0 < added < len(asked)
    assert len(judged) == len(known) + added
    assert np.isnan(judged.energy).sum() == added  # the judge's word is no energy to learn
    kept = [c.frac.tobytes() for c in judged.crystals]
    order = [c.frac.tobytes() for c in everything.crystals if c.frac.tobytes() in set(kept)]
    assert kept == order
    nobody = read_crystals(path, max_energy=0.5, judge=lambda crystals: np.full(len(crystals), np.nan))
    assert len(nobody) == len(known)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("numbers", [], "atomic numbers from 1 to 100"),
        ("numbers", [0], "atomic numbers from 1 to 100"),
        ("numbers", [101], "atomic numbers from 1 to 100"),
        ("numbers", None, "atomic numbers from 1 to 100"),
        ("frac", [0.5] * 5, "three for each atom"),
        ("frac", [], "three for each atom"),
        ("frac", None, "three for each atom"),
        ("frac", [float("nan")] * 3, "three for each atom"),
        ("lattice", [1.0] * 8, "nine finite numbers"),
        ("lattice", [0.0] * 9, "a cell with a volume"),
        ("lattice", [float("inf")] * 9, "nine finite numbers"),
        ("lattice", None, "nine finite numbers"),
    ],
)
def test_a_row_that_is_no_crystal_is_named(parquet, column, value, says):
    rows = {"numbers": [[1]] * 9, "frac": [[0.5] * 3] * 9, "lattice": [[3.0, 0, 0, 0, 3, 0, 0, 0, 3]] * 9}
    rows[column] = [*rows[column][:6], value, *rows[column][7:]]
    path = parquet(**rows, e_above_hull=None, split=None)
    with pytest.raises(DataError, match=rf"row 6 .*{says}") as caught:
        read_crystals(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_used_are_refused_with_the_reason(parquet, tmp_path):
    (tmp_path / "text").write_text("hello")
    for path, says in (
        (tmp_path / "absent", "there is no file"),
        (tmp_path, "is no dataset: it has no manifest.json"),
        (tmp_path / "text", "cannot read"),
        (parquet("a", frac=None, lattice=None), "has no column frac, lattice"),
        (parquet("b", e_above_hull=["low"] * 60), "e_above_hull does not hold numbers"),
        (parquet("c", numbers=["NaCl"] * 60), "row 0 .*atomic numbers"),
    ):
        with pytest.raises(DataError, match=says):
            read_crystals(path)
    with pytest.raises(DataError, match="no column split"):
        read_crystals(parquet("d", split=None), "train")
    for limits, says in (
        (("test",), "split == 'test'"),
        ((None, 0), "at most 0 atoms"),
        (("val", 0), "val' and at"),
        ((None, None, -1.0), "at most -1.0 eV/atom above hull"),
    ):
        with pytest.raises(NothingSelectedError, match=says):
            read_crystals(parquet("e"), *limits)
    with pytest.raises(DataError, match="holds none"):
        read_crystals(parquet("f", e_above_hull=None)).labelled()
