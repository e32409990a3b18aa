"""Relaxed shards become a dataset that names its parent."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dao_flows.makers.merge import MEANING, MergeShardsMaker
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.relax_dataset import COLUMNS, RelaxDatasetMaker
from dao_flows.makers.schemas.relaxation import RelaxationDoc, RelaxedDatasetDoc
from dao_flows.model.data.shards import DataError, Manifest, columns, dataset_rows, read_manifest, write_manifest

MAKER = RelaxDatasetMaker(predictor="dao-p-tiny", iterations=1, chunk_rows=50, device="cpu")

pytestmark = pytest.mark.usefixtures("tiny_library")


def relax(dataset: Path, out: Path, maker: RelaxDatasetMaker = MAKER) -> list[RelaxationDoc]:
    count = len(read_manifest(dataset).shards)
    return [RelaxDatasetMaker.make.original(maker, str(dataset), number, str(out)) for number in range(count)]


def merge(dataset: Path, shards: list, out: Path, **settings) -> RelaxedDatasetDoc:
    return MergeShardsMaker.make.original(MergeShardsMaker(**settings), str(dataset), shards, str(out))


def test_the_merged_dataset_has_the_rows_in_order_and_names_its_parent(random_dataset, tmp_path):
    dataset, out = random_dataset(50, rows_per_shard=20), tmp_path / "out"
    shards = relax(dataset, out)
    document = merge(dataset, shards[::-1], out)
    manifest, parent = read_manifest(out), read_manifest(dataset)
    assert [row["material_id"] for row in dataset_rows(out)] == [row["material_id"] for row in dataset_rows(dataset)]
    assert manifest.parent == parent.sha256
    assert manifest.sha256 == document.sha256 != parent.sha256
    assert (manifest.name, manifest.rows, manifest.counts) == ("random-relaxed", 50, parent.counts)
    assert (manifest.sources, manifest.filters) == (parent.sources, parent.filters)
    assert manifest.made_by["checkpoints"] == shards[0].provenance.science.checkpoints
    assert manifest.made_by["parameters"]["iterations"] == 1
    assert sum(manifest.made_by["outcomes"].values()) == 50
    assert set(COLUMNS) <= set(MEANING)
    assert not list(out.glob(".*.partial"))


def test_the_same_inputs_give_the_same_dataset_wherever_the_shards_lie(random_dataset, tmp_path):
    dataset = random_dataset(50, rows_per_shard=20)
    here = merge(dataset, relax(dataset, tmp_path / "here"), tmp_path / "here")
    apart = [
        RelaxDatasetMaker.make.original(MAKER, str(dataset), number, str(tmp_path / f"worker-{number}"))
        for number in range(3)
    ]
    elsewhere = merge(dataset, [shard.model_dump() for shard in apart], tmp_path / "elsewhere")
    assert elsewhere.sha256 == here.sha256
    assert (tmp_path / "here/manifest.json").read_bytes() == (tmp_path / "elsewhere/manifest.json").read_bytes()
    assert list(dataset_rows(tmp_path / "elsewhere")) == list(dataset_rows(tmp_path / "here"))
    assert merge(dataset, apart, tmp_path / "elsewhere").sha256 == here.sha256  # again


def test_what_does_not_belong_together_is_refused_in_one_line(random_dataset, tmp_path):
    dataset, out = random_dataset(50, rows_per_shard=20), tmp_path / "out"
    shards = relax(dataset, out)
    other = random_dataset(45, rows_per_shard=15, name="other")
    otherwise = relax(dataset, tmp_path / "otherwise", replace(MAKER, iterations=2))
    for says, attempt in [
        ("1 of 3 shards are missing, number 1 first", lambda: merge(dataset, [shards[0], shards[2]], out)),
        ("too many", lambda: merge(dataset, [*shards, shards[0]], out)),
        ("shard 0 was made of another dataset", lambda: merge(other, shards, out)),
        ("shards 0 and 2 were made with different", lambda: merge(dataset, [*shards[:2], otherwise[2]], out)),
        ("the original dataset", lambda: merge(dataset, shards, dataset)),
        ("another dataset", lambda: merge(dataset, shards, other)),
        ("in full", lambda: merge(dataset, shards, Path("out"))),
    ]:
        with pytest.raises(ParameterError, match=says) as raised:
            attempt()
        assert "\n" not in str(raised.value)
    assert not (out / "manifest.json").exists()


def test_an_empty_dataset_is_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    write_manifest(empty, Manifest("empty", columns(), (), {}, "0"))
    with pytest.raises(ParameterError, match="holds no crystals"):
        merge(empty, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_shard_is_refused(random_dataset, tmp_path):
    dataset, out = random_dataset(50, rows_per_shard=20), tmp_path / "out"
    shards = relax(dataset, out)
    shutil.copy(out / "shard-00000.parquet", out / "shard-00001.parquet")
    with pytest.raises(DataError, match="was changed"):
        merge(dataset, shards, out)
    (out / "shard-00001.parquet").unlink()
    with pytest.raises(DataError, match="has lost shard-00001"):
        merge(dataset, shards, out)
    assert not (out / "manifest.json").exists()
