"""Ancestry: every checkpoint before one is named, those that are not here too."""

import shutil
from dataclasses import replace

import pytest
import torch

from dao_flows.model.checkpoint.format import CheckpointError, build, save, write_card
from dao_flows.model.checkpoint.lineage import checkpoint_lineage, remembered
from dao_flows.model.data.shards import Manifest, columns, lineage, read_manifest, write_manifest, write_shards
from dao_flows.model.files.user_folders import CHECKPOINTS

ARCHITECTURE = {"network": {"hidden": 8, "layers": 1, "heads": 2, "frequencies": 2, "time_width": 4}, "noise": {}}


@pytest.fixture
def register(tmp_path, monkeypatch):
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path))
    made = []

    def register(name, kind="dao-g", parent=None, data=None):
        made.append(name)
        torch.manual_seed(len(made))
        fields = {"elements": [1], "max_atoms": 2, "parent": parent, "training": {"data": data or {}}}
        return save(tmp_path / name, build(kind, ARCHITECTURE), fields)

    return register


def test_the_whole_ancestry_is_named(register):
    judge = register("judge", "dao-p", data={"sha256": "d0"})
    one = register("one", data={"sha256": "d0"})
    relaxed = {"sha256": "d1", "parent": "d0", "made_by": {"checkpoints": {"predictor": judge.sha256}}}
    two = register("two", parent=one.sha256, data=relaxed)
    tuned = register("tuned", parent=two.sha256)
    found = checkpoint_lineage("tuned")
    assert [(a.role, a.sha256) for a in found.ancestors()] == [
        ("checkpoint", tuned.sha256),
        ("trained on from", two.sha256),
        ("trained on from", one.sha256),
        ("predictor of its data", judge.sha256),
    ]
    assert [a.data.get("sha256") for a in found.ancestors()] == [None, "d1", "d0", "d0"]


def test_what_is_not_here_is_named_all_the_same_and_circles_end(register, tmp_path):
    orphan = register("orphan", parent="f" * 64)
    [gone] = checkpoint_lineage("orphan").parents
    assert (gone.sha256, gone.name, gone.data, gone.here) == ("f" * 64, None, {}, False)
    write_card(tmp_path / "orphan", replace(orphan, parent=orphan.sha256))
    assert len(list(checkpoint_lineage("orphan").ancestors())) == 1
    with pytest.raises(CheckpointError):
        checkpoint_lineage("nobody")


def test_a_card_remembers_parents_that_are_gone(register, tmp_path):
    judge = register("judge", "dao-p", data={"sha256": "d0"})
    one = register(
        "one", parent="f" * 64, data={"sha256": "d0", "made_by": {"checkpoints": {"predictor": judge.sha256}}}
    )
    two = register("two", parent=one.sha256)
    two = replace(two, training=two.training | {"parents": remembered(one)})
    three = register("three", parent=two.sha256)
    write_card(tmp_path / "three", replace(three, training=three.training | {"parents": remembered(two)}))
    whole = [(a.role, a.sha256, a.name, a.data) for a in checkpoint_lineage("three").ancestors()]
    for name in ("one", "two"):
        shutil.rmtree(tmp_path / name)
    found = checkpoint_lineage("three")
    assert [(a.role, a.sha256, a.name, a.data) for a in found.ancestors()] == whole
    assert [a.here for a in found.ancestors()] == [True, False, False, False, True]


def test_a_datasets_lineage_is_its_manifests(tmp_path, parquet):
    assert lineage(parquet()) == {}
    folder = tmp_path / "set"
    row = {"material_id": "a", "numbers": [1], "frac": [0.0] * 3, "lattice": [1.0] * 9, "split": "train"}
    shards, counts = write_shards(folder, [row], columns())
    manifest = Manifest("set", columns(), shards, dict(counts), "0", sources=[{"name": "here"}], parent="p")
    write_manifest(folder, replace(manifest, made_by={"checkpoints": {"predictor": "q"}}))
    assert read_manifest(folder).sha256 == manifest.sha256
    assert lineage(folder)["made_by"] == {"checkpoints": {"predictor": "q"}}
    assert lineage(folder)["sources"] == [{"name": "here"}]
