"""A name from data is the name of a file in the folder that was meant, on every system."""

import re
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dao_flows.model.files.file_names import file_name, is_file_name

HOSTILE = [
    *(
        "../../outside",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "C:\\x",
        "C:x",
        "a\0b",
        "a\nb",
        "~",
        "-rf",
        ".hidden",
    ),
    *("x" * 300, "é" * 150, "CON", "nul.cif", "Com1", "name.", "name ", " name", "a:b", "a*b", "\ud800", "a" * 101),
]


@given(st.text() | st.sampled_from(HOSTILE))
def test_the_file_lies_in_its_folder(text):
    name = file_name(text)
    assert is_file_name(name)
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind("folder") / name
        assert (path.parent, path.name) == (kind("folder"), name)
    assert len(name.encode()) <= 100
    assert re.fullmatch(r"[ -~]+", name)


@given(st.lists(st.text() | st.sampled_from(HOSTILE), unique=True, max_size=20))
def test_different_names_give_different_files(texts):
    texts += [file_name(text) for text in texts]  # an id may be chosen to meet the name of another
    assert len({file_name(text) for text in set(texts)}) == len(set(texts))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_replaced(text):
    assert not is_file_name(text)
    assert re.search(r"-[0-9a-f]{16}$", file_name(text))


@pytest.mark.parametrize("text", ["Cr3Os", "Mg(OH)2", "dao-0123456789ab", "Nd(GeAu)2", "shard-00000.parquet", "a b"])
def test_ordinary_names_stay(text):
    assert file_name(text) == text
