"""Datasets on disk: what was written is read, the same rows give the same bytes, and a changed byte is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_flows.model.data.shards import (
    MANIFEST,
    DataError,
    Manifest,
    columns,
    dataset_rows,
    read_manifest,
    write_manifest,
    write_shards,
)
from dao_flows.model.data.table import read_crystals


def row(i: int) -> dict[str, object]:
    rng = np.random.default_rng(i)
    n = 1 + i % 4
    frac = rng.random(3 * n, dtype=np.float32).tolist()
    lattice = (3 * np.eye(3) + rng.random((3, 3))).astype(np.float32).ravel().tolist()
    known = {"e_above_hull": 0.01 * i} if i % 3 else {}
    split = "val" if i % 5 == 0 else "train"
    return {
        "material_id": f"x-{i}",
        "numbers": [1 + i % 80] * n,
        "frac": frac,
        "lattice": lattice,
        "split": split,
    } | known


def build(folder, count=25, per_shard=10, properties=("tc",)):
    names = columns(properties)
    shards, counts = write_shards(folder, (row(i) for i in range(count)), names, per_shard)
    manifest = Manifest("test", names, shards, dict(counts), "0")
    write_manifest(folder, manifest)
    return manifest


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 15))
def test_what_was_written_is_read(tmp_path_factory, count, per_shard):
    folder = tmp_path_factory.mktemp("dataset")
    manifest = build(folder, count, per_shard)
    assert read_manifest(folder) == manifest
    assert manifest.rows == count == sum(manifest.counts.values())
    assert len(manifest.shards) == -(-count // per_shard)
    read = list(dataset_rows(folder))
    assert list(read[0]) == list(manifest.columns)
    for i, found in enumerate(read):
        assert {key: value for key, value in found.items() if value is not None} == row(i)
    table = read_crystals(folder)
    assert (len(table), table.sha256) == (count, manifest.sha256)


def test_the_same_rows_are_the_same_dataset(tmp_path):
    first, again, other, cut = (
        build(tmp_path / name, count, per_shard)
        for name, count, per_shard in (("a", 25, 10), ("b", 25, 10), ("c", 26, 10), ("d", 25, 9))
    )
    assert first.sha256 == again.sha256
    assert len({first.sha256, other.sha256, cut.sha256}) == 3
    assert build(tmp_path / "e", properties=()).sha256 != first.sha256


def test_a_changed_byte_is_refused(tmp_path):
    folder = tmp_path / "set"
    build(folder)
    shard, manifest = folder / "shard-00001.parquet", folder / MANIFEST
    good, text = shard.read_bytes(), manifest.read_text()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DataError, match=r"shard-00001\.parquet was changed.*build the dataset again"):
        list(dataset_rows(folder))
    shard.unlink()
    with pytest.raises(DataError, match=r"has lost shard-00001\.parquet"):
        read_crystals(folder)
    shard.write_bytes(good)
    read_crystals(folder)
    for changed, says in (
        (text.replace('"int32"', '"int64"'), "was changed"),
        (text[:-30], "cannot be read"),
        ("[]", "cannot be read"),
        (text.replace('"format": 1', '"format": 99'), "newer version"),
    ):
        manifest.write_text(changed)
        with pytest.raises(DataError, match=says):
            read_crystals(folder)
    manifest.unlink()
    with pytest.raises(DataError, match="is no dataset"):
        read_crystals(folder)


def test_a_type_that_datasets_do_not_have_is_refused(tmp_path):
    with pytest.raises(DataError, match="complex"):
        write_shards(tmp_path, [row(0)], {"numbers": "complex"})
