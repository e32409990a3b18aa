"""Checkpoints: whole or refused, the old one until the new one is there, found by name, path and identity."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dao_flows.model import checkpoint
from dao_flows.model.checkpoint import CARD, WEIGHTS, CheckpointError, load, read_card, save, verify, write_card
from dao_flows.model.crysformer import CrysformerConfig
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.dataset import file_sha256
from dao_flows.model.library import available, card_of, find

NETWORK = CrysformerConfig(hidden=8, layers=1, heads=2, frequencies=2, time_width=8)
FIELDS = {"elements": [3, 8], "max_atoms": 4}
any_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def predictor(seed: int) -> DaoP:
    torch.manual_seed(seed)
    return DaoP(DaoConfig(network=NETWORK, volume_scaling=True, energy_mean=0.3, energy_std=0.2), ("tc",)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "p"
    save(path, predictor(0), FIELDS)
    return path


def refused(folder: Path, match: str = "") -> None:
    """Both ways to it are closed, with one line."""
    for way in (verify, load):
        with pytest.raises(CheckpointError, match=match) as caught:
            way(folder)
        assert "\n" not in str(caught.value)


def test_round_trip(folder):
    model, card = load(folder)
    crystals = [Crystal(np.array([3, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 3 * np.eye(3))]
    assert predict_energy(model, crystals) == predict_energy(predictor(0), crystals)
    assert predict_energy(model, crystals) != predict_energy(predictor(1), crystals)
    for name, tensor in predictor(0).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert model.config == predictor(0).config
    assert list(model.properties) == ["tc"]
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert (card.name, card.kind, card.elements, card.max_atoms) == ("p", "dao-p", [3, 8], 4)
    assert card.sha256 == file_sha256(folder / WEIGHTS)
    assert card == read_card(folder) == verify(folder)


def test_the_same_model_has_the_same_identity_anywhere(tmp_path, folder):
    for attempt in range(8):  # safetensors orders its metadata at random
        again = save(tmp_path / str(attempt), predictor(0), {**FIELDS, "training": {"seed": attempt}})
        assert again.sha256 == read_card(folder).sha256
    assert save(tmp_path / "third", predictor(1), FIELDS).sha256 != again.sha256
    torch.manual_seed(0)
    other_units = DaoP(replace(predictor(0).config, energy_std=0.1), ("tc",))
    assert save(tmp_path / "fourth", other_units, FIELDS).sha256 != again.sha256  # same weights, other function


def test_others_may_read_it(folder):
    assert (folder.stat().st_mode & 0o777, (folder / WEIGHTS).stat().st_mode & 0o777) == (0o755, 0o644)


@any_folder
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_changed_byte_is_refused(tmp_path_factory, folder, where, flip):
    changed = tmp_path_factory.mktemp("changed") / "p"
    shutil.copytree(folder, changed)
    data = bytearray((changed / WEIGHTS).read_bytes())
    data[int(where * len(data))] ^= flip
    (changed / WEIGHTS).write_bytes(data)
    refused(changed, "is damaged: .* restore the file")


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_torn_file_is_refused(tmp_path, folder, cut):
    shutil.copytree(folder, tmp_path / "p")
    (tmp_path / "p" / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:cut])
    refused(tmp_path / "p", "is damaged")


def test_missing_files_are_named(tmp_path, folder):
    refused(tmp_path / "nothing", "card.json is missing")
    shutil.copytree(folder, tmp_path / "p")
    (tmp_path / "p" / WEIGHTS).unlink()
    refused(tmp_path / "p", "cannot be read")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "dao-g"},
        {"architecture": {}},
        {"architecture": {"volume_scaling": False}},
        {"architecture": {"energy_std": 0.1}},
        {"architecture": {"properties": []}},
    ],
)
def test_a_card_that_contradicts_its_weights_is_refused(tmp_path, folder, change):
    shutil.copytree(folder, tmp_path / "p")
    card = read_card(folder)
    if change.get("architecture"):
        change = {"architecture": {**card.architecture, **change["architecture"]}}
    write_card(tmp_path / "p", replace(card, **change))
    refused(tmp_path / "p", "does not describe its weights")


@pytest.mark.parametrize("data", [b"", b"\0\0", (2**60).to_bytes(8, "little"), b"\x80\x04N."])
def test_a_card_that_vouches_for_rubbish_does_not_make_it_weights(tmp_path, folder, data):
    shutil.copytree(folder, tmp_path / "p")
    (tmp_path / "p" / WEIGHTS).write_bytes(data)
    write_card(tmp_path / "p", replace(read_card(folder), sha256=file_sha256(tmp_path / "p" / WEIGHTS)))
    refused(tmp_path / "p", "cannot be read")


@any_folder
@given(st.data())
def test_a_damaged_card_is_refused_or_says_the_same_of_the_weights(tmp_path_factory, folder, data):
    changed = tmp_path_factory.mktemp("changed") / "p"
    shutil.copytree(folder, changed)
    fields = json.loads((folder / CARD).read_text())
    rubbish = st.one_of(
        st.none(), st.integers(), st.text(), st.lists(st.integers()), st.dictionaries(st.text(), st.none())
    )
    name = data.draw(st.sampled_from([*fields, "unknown"]))
    fields[name] = data.draw(rubbish)
    (changed / CARD).write_text(json.dumps(fields))
    try:
        model, card = load(changed)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert (card.kind, card.architecture) == ("dao-p", read_card(folder).architecture)
        assert model.config == predictor(0).config


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"card"', "[" * 100_000, '{"format": 99}', "\ud800"])
def test_a_card_that_is_no_card_is_refused(tmp_path, folder, text):
    shutil.copytree(folder, tmp_path / "p")
    (tmp_path / "p" / CARD).write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(tmp_path / "p", "cannot be read")


def test_a_format_of_the_future_is_refused(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "p")
    write_card(tmp_path / "p", replace(read_card(folder), format=99))
    refused(tmp_path / "p", "needs a newer version")


@pytest.mark.parametrize("fails", ["_write_weights", "write_card", "_swap"])
def test_a_crash_while_saving_leaves_the_old_one(tmp_path, monkeypatch, fails):
    old = save(tmp_path / "p", predictor(0), FIELDS)

    def crash(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, fails, crash)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path / "p", predictor(1), FIELDS)
    assert verify(tmp_path / "p") == old
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    new = save(tmp_path / "p", predictor(1), FIELDS)
    assert verify(tmp_path / "p") == new != old
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_the_old_one_comes_back_when_its_place_cannot_be_taken(tmp_path, monkeypatch):
    old = save(tmp_path / "p", predictor(0), FIELDS)
    replace_path = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".p-") and not self.name.endswith("-old"):
            raise PermissionError(13, "Permission denied")
        return replace_path(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        save(tmp_path / "p", predictor(1), FIELDS)
    assert verify(tmp_path / "p") == old
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_architectures_this_version_does_not_know_are_refused(folder):
    known = read_card(folder).architecture
    for change in ({"network": {"width": 3}}, {"noise": {"kind": "flow"}}, {"flow": True}):
        with pytest.raises(CheckpointError, match="this version cannot build"):
            checkpoint.build("dao-p", {**known, **change})


def test_found_by_name_path_and_identity(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("DAO_FLOWS_CHECKPOINT_DIR", str(tmp_path))
    card = save(tmp_path / "mine", predictor(1), FIELDS)
    save(tmp_path / "other", DaoG(DaoConfig(network=NETWORK)), FIELDS)
    assert available().keys() >= {"mine", "other"}
    save(tmp_path / "zz-the-same", predictor(1), FIELDS)
    for reference in ("mine", str(tmp_path / "mine"), card.sha256, card.sha256[:8]):
        assert card_of(reference).sha256 == card.sha256
    assert find("mine") == find(str(tmp_path / "mine")) == tmp_path / "mine"
    for reference in ("nobody", card.sha256[:7], "f" * 64, str(tmp_path / "gone"), ""):
        with pytest.raises(CheckpointError, match=r"there are: .*mine, other, zz-the-same"):
            find(reference)


def test_ones_own_come_before_shipped_ones_and_a_broken_one_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("DAO_FLOWS_CHECKPOINT_DIR", str(tmp_path))
    mine = save(tmp_path / "dao-g-base", DaoG(DaoConfig(network=NETWORK)), FIELDS)
    good = save(tmp_path / "good", predictor(0), FIELDS)
    assert card_of("dao-g-base") == mine
    (tmp_path / "aaa").mkdir()
    (tmp_path / "aaa" / CARD).write_text("{")
    assert find(good.sha256[:10]) == tmp_path / "good"
