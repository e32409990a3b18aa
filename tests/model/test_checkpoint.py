"""Checkpoints: whole or refused, the old one until the new one is there, found by name, path and identity."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from dao_flows.model.checkpoint import format as checkpoint
from dao_flows.model.checkpoint.format import (
    PART,
    WEIGHTS,
    CheckpointError,
    load,
    part_name,
    read_card,
    save,
    verify,
    weight_files,
    weight_names,
    write_card,
)
from dao_flows.model.checkpoint.library import available, card_of, find
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.data.shards import file_sha256
from dao_flows.model.files.places import CARD
from dao_flows.model.network.crysformer import CrysformerConfig

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
    refused(tmp_path / "p", "lacks weights.safetensors")


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


# weights in several files


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("parts") / "p"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "PART", 8000)
        save(path, predictor(0), FIELDS)
    assert len(weight_files(path)) > 2
    return path


def bytes_of(files: list[Path]) -> bytes:
    return b"".join(file.read_bytes() for file in files)


@any_folder
@given(limit=st.integers(1, 60_000))
def test_any_limit_gives_the_same_model_in_files_within_it(tmp_path_factory, folder, limit):
    path = tmp_path_factory.mktemp("limit") / "p"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "PART", limit)
        card = save(path, predictor(0), FIELDS)
        assert save(path.with_name("again"), predictor(0), FIELDS).sha256 == card.sha256
    model, again = load(path)
    assert again == card == verify(path)
    for name, tensor in predictor(0).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    files = weight_files(path)
    assert {file.name for file in files} | {CARD} == {file.name for file in path.iterdir()}
    assert [file.name for file in files] == [part_name(n, len(files)) for n in range(1, len(files) + 1)]
    assert card.sha256 == hashlib.sha256(bytes_of(files)).hexdigest()
    names = []
    for file in files:
        with safe_open(file, framework="pt") as part:
            names += part.keys()
            assert file.stat().st_size <= limit or len(part.keys()) == 1
            assert part.metadata().keys() == {"kind", "architecture", "format"}
            assert json.loads(part.metadata()["architecture"]) == card.architecture
    assert sorted(names) == sorted(predictor(0).state_dict())
    alone = (folder / WEIGHTS).stat().st_size
    assert (len(files) == 1) == (limit >= alone)
    assert (card.sha256 == read_card(folder).sha256) == (limit >= alone)


def test_the_published_size_lies_in_files_of_at_most_16_mib(tmp_path):
    torch.manual_seed(0)
    model = DaoG(DaoConfig(network=CrysformerConfig()))
    save(tmp_path / "g", model, FIELDS)
    sizes = [file.stat().st_size for file in (tmp_path / "g").iterdir()]
    assert PART == 16 << 20 >= max(sizes)
    assert sum(sizes) > 90 << 20 and len(weight_files(tmp_path / "g")) <= 9
    loaded = load(tmp_path / "g")[0].state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_half_precision_halves_the_size_and_is_loaded_as_ever(tmp_path, folder):
    model = predictor(0)
    card = save(tmp_path / "half", model, FIELDS, torch.float16)
    whole, half = (sum(f.stat().st_size for f in weight_files(path)) for path in (folder, tmp_path / "half"))
    assert half < whole
    assert card.sha256 != read_card(folder).sha256
    loaded, found = load(tmp_path / "half")
    assert found == card
    for (name, p), q in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert q.dtype == torch.float32
        assert torch.equal(q, p.half().float()), name
    assert torch.equal(loaded.network.element_properties, model.network.element_properties)  # as exact as ever


@any_folder
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), data=st.data())
def test_one_changed_byte_of_any_part_is_refused(tmp_path_factory, in_parts, where, flip, data):
    changed = tmp_path_factory.mktemp("changed") / "p"
    shutil.copytree(in_parts, changed)
    part = data.draw(st.sampled_from(weight_files(changed)))
    content = bytearray(part.read_bytes())
    content[int(where * len(content))] ^= flip
    part.write_bytes(content)
    refused(changed, "is damaged: .* restore the file")


@any_folder
@given(order=st.permutations(range(3)))
def test_parts_in_another_order_are_refused(tmp_path_factory, in_parts, order):
    swapped = tmp_path_factory.mktemp("swapped") / "p"
    shutil.copytree(in_parts, swapped)
    files = weight_files(in_parts)
    for place, source in enumerate(order):
        shutil.copyfile(files[source], weight_files(swapped)[place])
    if order == [0, 1, 2]:
        assert verify(swapped) == read_card(in_parts)
    else:
        refused(swapped, "is damaged")


def test_a_part_of_another_checkpoint_is_refused(tmp_path, monkeypatch, in_parts):
    monkeypatch.setattr(checkpoint, "PART", 8000)
    save(tmp_path / "other", predictor(1), FIELDS)
    save(tmp_path / "g", DaoG(DaoConfig(network=NETWORK)), FIELDS)
    others = [
        part for part in weight_files(tmp_path / "other") if part.read_bytes() != (in_parts / part.name).read_bytes()
    ]
    assert len(others) > 1  # what is not trained is the same in both
    for number, part in enumerate(others):
        mixed = tmp_path / str(number)
        shutil.copytree(in_parts, mixed)
        shutil.copyfile(part, mixed / part.name)
        refused(mixed, "is damaged")
        shutil.copyfile(weight_files(tmp_path / "g")[0], mixed / part.name)
        write_card(mixed, replace(read_card(mixed), sha256=hashlib.sha256(bytes_of(weight_files(mixed))).hexdigest()))
        refused(mixed, "does not describe its weights")  # each part says what it belongs to


def test_bytes_that_moved_from_part_to_part_are_refused_though_the_sha256_is_the_same(tmp_path, in_parts):
    shutil.copytree(in_parts, tmp_path / "p")
    first, second = weight_files(tmp_path / "p")[:2]
    both = bytes_of([first, second])
    first.write_bytes(both[: first.stat().st_size - 8])
    second.write_bytes(both[first.stat().st_size :])
    assert bytes_of(weight_files(tmp_path / "p")) == bytes_of(weight_files(in_parts))
    refused(tmp_path / "p", "cannot be read")


@pytest.mark.parametrize("gone", ["first", "second", "last"])
def test_a_missing_part_is_named(tmp_path, in_parts, gone):
    shutil.copytree(in_parts, tmp_path / "p")
    part = weight_files(tmp_path / "p")[{"first": 0, "second": 1, "last": -1}[gone]]
    part.unlink()
    refused(tmp_path / "p", f"lacks {part.name}")


def test_a_part_too_many_is_named(tmp_path, folder, in_parts):
    count = len(weight_files(in_parts))
    for number, name in enumerate(
        (WEIGHTS, part_name(count + 1, count), part_name(count, count + 1), f"weights-01-of-{count}.safetensors")
    ):
        shutil.copytree(in_parts, tmp_path / str(number))
        shutil.copyfile(folder / WEIGHTS, tmp_path / str(number) / name)
        refused(tmp_path / str(number), f"has {name} beside weights-1-of-{count}|lacks weights-")
    shutil.copytree(folder, tmp_path / "p")
    shutil.copyfile(folder / WEIGHTS, tmp_path / "p" / part_name(1, 2))
    refused(tmp_path / "p", "lacks weights-2-of-2")
    shutil.copyfile(folder / WEIGHTS, tmp_path / "p" / part_name(2, 2))
    refused(tmp_path / "p", f"has {WEIGHTS} beside weights-1-of-2")


numbers = st.one_of(st.integers(0, 4), st.integers(0, 10**60)).map(str) | st.sampled_from(["01", "", "x", "٣", "-1"])
some_names = st.sampled_from([WEIGHTS, CARD]) | st.builds("weights-{}-of-{}.safetensors".format, numbers, numbers)


@settings(deadline=None, max_examples=500)
@given(st.sets(some_names, max_size=6) | st.integers(1, 12).map(lambda n: {part_name(i + 1, n) for i in range(n)}))
def test_names_make_weights_if_they_are_one_file_or_all_its_parts(names):
    parts = [name for name in names if re.fullmatch(r"weights(-[0-9]+-of-[0-9]+)?\.safetensors", name)]
    whole = [part_name(number, len(parts)) for number in range(1, len(parts) + 1)]
    if parts and set(parts) == set(whole):
        assert weight_names(names, "it") == whole
    else:
        with pytest.raises(CheckpointError, match=r"^it (lacks|has) [^\n]*$"):
            weight_names(names, "it")


def test_saving_anew_leaves_no_part_of_before(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "PART", 8000)
        save(tmp_path / "p", predictor(0), FIELDS)
    save(tmp_path / "p", predictor(0), FIELDS)
    assert {path.name for path in (tmp_path / "p").iterdir()} == {WEIGHTS, CARD}
