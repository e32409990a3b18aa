"""Libraries of known crystals: their index, where they are found, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dao_flows.model.data.shards import (
    COLUMNS,
    DataError,
    Manifest,
    dataset_rows,
    file_sha256,
    write_manifest,
    write_shards,
)
from dao_flows.model.files.user_folders import LIBRARIES
from dao_flows.model.templates.library import INDEX, Cell, Library, build_index, refuse_held_out, verify_index
from dao_flows.model.templates.places import available, find, open_library
from dao_flows.model.templates.search import find_templates

CARD = "index.json"


def a_row(rng: np.random.Generator, number: int, elements: int = 83, atoms: int = 7) -> dict:
    """A random crystal; every fourth is of unknown energy."""
    kinds = rng.choice(np.arange(1, elements + 1), rng.integers(1, 5), replace=False)
    numbers = rng.choice(kinds, rng.integers(1, atoms))
    return {
        "material_id": f"é-{number}" if number % 5 else None,
        "source": ("first", "second", None)[number % 3],
        "numbers": numbers.tolist(),
        "lattice": (3 * np.eye(3) + rng.normal(0, 0.1, (3, 3))).ravel().tolist(),
        "frac": rng.random(3 * len(numbers)).tolist(),
        "e_above_hull": None if number % 4 == 0 else float(rng.normal(0.05, 0.05)),
        "split": "train",
    }


def write_dataset(folder: Path, rows: list[dict], **fields) -> Path:
    shards, counts = write_shards(folder, rows, COLUMNS, 40)
    write_manifest(folder, Manifest(folder.name, dict(COLUMNS), shards, dict(counts), "0", **fields))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A library of 100 random crystals in three shards; not to be changed."""
    rng = np.random.default_rng(1)
    licences = [{"name": "first", "licence": "CC-BY-4.0"}, {"name": "second", "licence": None}]
    folder = write_dataset(
        tmp_path_factory.mktemp("whole") / "mine", [a_row(rng, n) for n in range(100)], sources=licences
    )
    assert build_index(folder) == 100
    return folder


@pytest.fixture
def folder(whole, tmp_path, monkeypatch) -> Path:
    """A copy of it among the user's own."""
    monkeypatch.setenv(LIBRARIES, str(tmp_path / "own"))
    return Path(shutil.copytree(whole, tmp_path / "own" / "mine"))


def test_every_crystal_is_in_its_group_as_the_dataset_has_it(whole):
    library, rows = Library(whole), list(dataset_rows(whole))
    assert sorted(library.row(place) for place in range(100)) == list(range(100)) and len(library) == 100
    assert [start for start, _ in library.groups.values()] == [0, *(end for _, end in library.groups.values())][:-1]
    for multiplicities, (start, end) in library.groups.items():
        assert [library.row(place) for place in range(start, end)] == sorted(map(library.row, range(start, end)))
        elements = library.elements(start, end, len(multiplicities))
        for place, found, energy in zip(range(start, end), elements, library.energies(start, end), strict=True):
            row, cell = rows[library.row(place)], Cell.of(library.crystal(place).numbers)
            assert cell.multiplicities == multiplicities and cell.elements.tolist() == found.tolist()
            crystal = library.crystal(place)
            assert crystal.numbers.tolist() == row["numbers"]
            assert np.array_equal(crystal.frac.ravel(), np.float32(row["frac"]))
            assert np.array_equal(crystal.lattice.ravel(), np.float32(row["lattice"]))
            assert library.material_id(place) == (row["material_id"] or "")
            assert library.source(place) == (row["source"] or "")
            assert library.licence(place) == {"first": "CC-BY-4.0"}.get(row["source"])
            known = row["e_above_hull"]
            assert np.isnan(energy) if known is None else energy == np.float32(max(known, 0))
            assert cell.formula in library.formulas
    assert len(library.formulas) == len({Cell.of(np.array(row["numbers"])).formula for row in rows})
    assert verify_index(whole).sha256 == library.sha256


def test_volumes_of_elements_are_those_that_the_crystals_were_made_of(tmp_path):
    rng, true = np.random.default_rng(0), {3: 14.0, 8: 11.0, 26: 12.0}
    rows = []
    for number in range(60):
        numbers = rng.choice(list(true), 6)
        side = sum(true[n] for n in numbers.tolist()) ** (1 / 3)
        rows.append(
            a_row(rng, number) | {"numbers": numbers, "frac": rng.random(18), "lattice": (side * np.eye(3)).ravel()}
        )
    build_index(write_dataset(tmp_path / "x", rows))
    volumes = Library(tmp_path / "x").volumes
    assert {number: round(float(volumes[number]), 2) for number in true} == true
    assert volumes[11] == 12.0  # not there: the usual one


def test_what_can_be_no_template_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    many = list(range(1, 10))
    rows = [a_row(rng, 0), a_row(rng, 1) | {"numbers": many, "frac": [0.1] * 27}, a_row(rng, 2)]
    rows[2]["numbers"][0] = 95
    folder = write_dataset(tmp_path / "x", rows)
    assert build_index(folder) == 1
    assert [Library(folder).row(0)] == [0]
    with pytest.raises(DataError, match="holds no crystal that can be a template"):
        build_index(write_dataset(tmp_path / "empty", rows[1:]))
    assert not (tmp_path / "empty" / CARD).exists()
    for change in ({"frac": [0.1]}, {"lattice": [1.0]}, {"numbers": []}, {"lattice": [float("nan")] * 9}):
        broken = write_dataset(tmp_path / "broken", [rows[0] | change])
        with pytest.raises(DataError, match="holds a row that is no crystal"):
            build_index(broken)


def test_the_same_dataset_gives_the_same_bytes(folder):
    before = {name: (folder / name).read_bytes() for name in (INDEX, CARD)}
    build_index(folder)
    assert before == {name: (folder / name).read_bytes() for name in (INDEX, CARD)}
    assert (folder / INDEX).stat().st_mode & 0o444 == 0o444


# places


def test_found_by_name_path_and_identity(folder, tmp_path, monkeypatch):
    sha256 = Library(folder).sha256
    shutil.copytree(folder, tmp_path / "own" / "the-same")
    shutil.copytree(folder, tmp_path / "own" / ".half.building")
    assert {"mine", "the-same"} <= available().keys() and ".half.building" not in available()
    monkeypatch.chdir(tmp_path)
    for reference in ("mine", str(folder), folder, "own/mine", sha256, sha256[:8]):
        assert open_library(reference).sha256 == sha256
    for reference in ("nothing", sha256[:7], "f" * 64, "own", ""):
        with pytest.raises(DataError, match=r"there are: .*mine, the-same \(`dao-flows library list`\)$"):
            find(reference)


def test_a_broken_one_hides_no_other(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "own" / "aaa")
    (Path(broken) / CARD).write_text("{")
    assert find(Library(folder).sha256[:10]) == folder


def test_opened_once_until_it_changes(folder):
    first = open_library("mine")
    assert open_library(folder) is first
    os.utime(folder / INDEX, ns=(1, 1))
    assert open_library("mine") is not first


# what is refused


def rewrite(folder: Path, change) -> None:
    """Changes the index, and states its new sha256 beside it: only its content is wrong."""
    change(folder)
    edit(folder / CARD, sha256=file_sha256(folder / INDEX))


def with_columns(**changes):
    def change(folder: Path) -> None:
        columns = {name: column.copy() for name, column in load_file(folder / INDEX).items()}
        for name, function in changes.items():
            found = function(columns.pop(name))
            if found is not None:
                columns[name] = np.ascontiguousarray(found)
        save_file(columns, folder / INDEX)

    return change


def put(place, value):
    def function(column):
        column[place] = value
        return column

    return function


def with_header(function):
    def change(folder: Path) -> None:
        data = (folder / INDEX).read_bytes()
        size = int.from_bytes(data[:8], "little")
        text = json.dumps(function(json.loads(data[8 : 8 + size]))).encode()
        (folder / INDEX).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])

    return change


def moved(name, key, value):
    return with_header(lambda header: header | {name: header[name] | {key: value}})


MALFORMED = {
    "beyond the file": moved("frac", "data_offsets", [0, 10**12]),
    "backwards": moved("frac", "data_offsets", [100, 0]),
    "before the file": moved("frac", "data_offsets", [-24, 0]),
    "no offsets": moved("ids", "data_offsets", None),
    "elsewhere": with_header(
        lambda h: h | {"atom_ends": h["atom_ends"] | {"data_offsets": [o + 8 for o in h["atom_ends"]["data_offsets"]]}}
    ),
    "another shape": moved("frac", "shape", [-1]),
    "another type": moved("numbers", "dtype", "F16"),
    "a type that is none": moved("numbers", "dtype", []),
    "a list": with_header(lambda header: [header]),
    "no header": lambda folder: (folder / INDEX).write_bytes(b"\xff" * 64),
    "nothing": lambda folder: (folder / INDEX).write_bytes(b""),
    "nested": lambda folder: (folder / INDEX).write_bytes((10**5).to_bytes(8, "little") + b"[" * 10**5 + b"0"),
    "a column lost": with_columns(volumes=lambda column: None),
    "ends beyond": with_columns(atom_ends=put(-1, 10**9)),
    "ends back": with_columns(id_ends=put(3, -5)),
    "groups beyond": with_columns(group_ends=put(1, 10**6)),
    "groups of nothing": with_columns(group_multiplicities=put(0, 0)),
    "groups below": with_columns(group_multiplicities=put((0, 1), -1)),
    "an element that is none": with_columns(elements=put((0, 0), 200)),
    "an atom that is none": with_columns(numbers=put(0, 255)),
    "a source that is none": with_columns(source=put(0, 99)),
    "a row that is none": with_columns(row=put(0, 100)),
    "no volume": with_columns(volumes=put(8, np.nan)),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_an_index_that_hashes_right_and_is_wrong_is_refused(folder, how):
    rewrite(folder, MALFORMED[how])
    with pytest.raises(DataError, match="build it again") as caught:
        Library(folder)
    assert "\n" not in str(caught.value)


def flip(name):
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return change


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


DAMAGED = {
    "index byte": (flip(INDEX), "was changed"),
    "truncated index": (lambda f: os.truncate(f / INDEX, 500), "was changed"),
    "no index": (lambda f: (f / INDEX).unlink(), "is missing"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is no dataset"),
    "manifest nested": (lambda f: (f / "manifest.json").write_text("[" * 10**5), "cannot be read"),
    "sources a text": (lambda f: edit(f / "manifest.json", sources=["x"]), "cannot be read"),
    "columns a list": (lambda f: edit(f / "manifest.json", columns=[]), "cannot be read"),
    "newer dataset": (lambda f: edit(f / "manifest.json", format=2), "newer"),
    "card not JSON": (lambda f: (f / CARD).write_text("{"), "cannot be read"),
    "card a list": (lambda f: (f / CARD).write_text("[]"), "cannot be read"),
    "card nested": (lambda f: (f / CARD).write_text("[" * 10**5), "cannot be read"),
    "newer": (lambda f: edit(f / CARD, format=2), "newer"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_what_is_damaged_is_refused_in_a_line(folder, how):
    change, says = DAMAGED[how]
    change(folder)
    with pytest.raises(DataError, match=says) as caught:
        open_library(folder)
    assert "\n" not in str(caught.value)


def test_an_index_of_another_dataset_is_refused(folder, tmp_path):
    rng = np.random.default_rng(5)
    other = write_dataset(tmp_path / "other", [a_row(rng, n) for n in range(5)])
    build_index(other)
    for name in (INDEX, CARD):
        shutil.copy(other / name, folder / name)
    with pytest.raises(DataError, match="is not that of its crystals"):
        Library(folder)


def test_an_index_that_does_not_follow_from_its_crystals_opens_and_is_found(folder):
    rewrite(folder, with_columns(energy=put(3, 0.5)))
    Library(folder)
    with pytest.raises(DataError, match="does not follow from its crystals"):
        verify_index(folder)
    build_index(folder)
    flip("shard-00001.parquet")(folder)
    Library(folder)  # its crystals are in the index: the shards are not looked at
    with pytest.raises(DataError, match=r"shard-00001\.parquet was changed"):
        verify_index(folder)


def test_held_out_formulas_are_refused(whole):
    library = Library(whole)
    cells = [library.crystal(place).numbers for place in range(3)]
    refuse_held_out(library, [np.array([92, 92, 2]), np.array([1] * 40)])
    with pytest.raises(DataError, match=r"holds 3 of the formulas .*--held-out-formulas") as caught:
        refuse_held_out(library, [np.tile(cell, 2) for cell in cells])  # of any number of formula units
    assert "\n" not in str(caught.value)


def test_a_library_gives_templates(whole):
    library = Library(whole)
    numbers = library.crystal(50).numbers
    ((cell, best), *_) = find_templates(library, [numbers], 1)
    assert cell == 0 and best.known and sorted(best.crystal.numbers) == sorted(numbers)
