"""What a user names means the same place wherever it is read."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dao_flows.model.checkpoint.library import find
from dao_flows.model.files.places import PlaceError, absolute, at_home, checkpoint_in_full, is_there
from dao_flows.model.files.user_folders import folder_of

NAMES = st.lists(st.sampled_from(["a", "b c", "..", ".", "é", "x?y"]), min_size=1, max_size=4).map("/".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAMES)
def test_a_path_in_full_names_the_same_place_from_everywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    full = absolute(name)
    assert Path(full).is_absolute() and absolute(full) == full
    assert os.path.normpath(full) == os.path.normpath(tmp_path / name)
    monkeypatch.chdir("/")
    assert absolute(full) == full
    assert absolute(name, tmp_path) == full


def test_home_and_variables_are_put_in_full(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert absolute("~/x") == str(tmp_path / "x")
    assert at_home("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    for value, expected in (("runs", tmp_path / "runs"), ("~/runs", tmp_path / "runs"), ("", None)):
        monkeypatch.setenv("SOME_FOLDER", value)
        assert folder_of("SOME_FOLDER") == expected


def test_a_name_that_no_store_can_keep_is_told():
    with pytest.raises(PlaceError, match=r"the name of .*\\xff.json is not UTF-8") as caught:
        absolute(os.fsdecode(b"\xff.json"))
    assert "\n" not in str(caught.value)


def test_checkpoints_that_are_paths_are_told_from_names(tiny_checkpoints, monkeypatch):
    folder = str(tiny_checkpoints / "dao-g-tiny")
    monkeypatch.chdir(tiny_checkpoints.parent)
    relative = f"{tiny_checkpoints.name}/dao-g-tiny"
    for reference in (relative, f"./{relative}", Path(relative), folder):
        assert checkpoint_in_full(reference) == folder
        assert str(find(reference)) == folder
    for name in ("dao-g-flow", "0123456789abcdef"):
        assert checkpoint_in_full(name) == name
    monkeypatch.chdir(tiny_checkpoints)  # where a folder has the name, it is meant, and stays so
    assert checkpoint_in_full("dao-g-tiny") == folder
    assert checkpoint_in_full("./not-there-yet") == str(tiny_checkpoints / "not-there-yet")


def test_an_address_is_no_path():
    for address in ("https://ada:secret@host/x", "mongodb+srv://host/db"):
        assert absolute(address) == checkpoint_in_full(address) == address


@pytest.mark.parametrize("name", ["x" * 3000, "a\0b", "optimade:x?filter=" + "y" * 500])
def test_what_can_be_no_file_is_none(name):
    assert not is_there(name)
