"""The library that ships: whole, small, licensed, and without what results are measured on."""

import re
from pathlib import Path

import numpy as np
import pytest

from dao_flows.model.data.shards import DataError
from dao_flows.model.elements import symbols
from dao_flows.model.files.user_folders import LIBRARIES
from dao_flows.model.templates.library import Cell, Library, refuse_held_out, verify_index
from dao_flows.model.templates.places import SHIPPED, find

FOLDER = SHIPPED / "known"
LISTED = Path(__file__).parent / "data" / "held_out_formulas.txt"
NUMBERS = {symbol: number for number, symbol in enumerate(symbols())}
ALLOWED = {
    "Materials Project": "CC-BY-4.0",
    "WBM": "CC-BY-4.0",
    "OQMD": "CC-BY-4.0",
    "Alexandria": "CC-BY-4.0",
    "JARVIS-DFT": "public domain",
}


@pytest.fixture(scope="module")
def library() -> Library:
    return verify_index(FOLDER)


@pytest.fixture(scope="module")
def held_out() -> list[np.ndarray]:
    """Atomic numbers of each formula of the test files, from the list that benchmarks/shipped_library.py writes."""
    return [numbers_of(line) for line in LISTED.read_text().splitlines() if not line.startswith("#")]


def numbers_of(formula: str) -> np.ndarray:
    """Atomic numbers of a formula without brackets."""
    pairs = re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    return np.repeat([NUMBERS[element] for element, _ in pairs], [int(count or 1) for _, count in pairs])


def test_it_is_found_small_and_whole(library, tmp_path, monkeypatch):
    monkeypatch.setenv(LIBRARIES, str(tmp_path))
    assert find("known") == FOLDER
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 16 * 2**20
    assert len(library) == library.manifest.rows > 20_000


def test_nothing_of_a_test_file_is_in_it(library, held_out):
    """By formula, and so by structure: crystals that match are of one composition."""
    refuse_held_out(library, held_out)


def test_the_check_can_fail(library, held_out):
    for place in (0, len(library) // 2, len(library) - 1):
        with pytest.raises(DataError, match="holds 1 of the formulas that are measured on"):
            refuse_held_out(library, [*held_out, np.tile(library.crystal(place).numbers, 3)])


@pytest.mark.parametrize("formula", ["Cr3Os", "CsV3Sb5", "Zr4Rh2O", "Zr4Pd2O", "C", "DyCu"])
def test_the_list_has_what_results_name(held_out, formula):
    assert Cell.of(numbers_of(formula)).formula in {Cell.of(each).formula for each in held_out}


def test_each_crystal_says_where_it_is_from_and_under_which_licence(library):
    assert {each["name"]: each["licence"] for each in library.manifest.sources} == ALLOWED
    assert set(library.sources) == set(ALLOWED)
    places = [int(np.flatnonzero(library.columns["source"] == n)[0]) for n in range(len(ALLOWED))]
    assert {library.source(place): library.licence(place) for place in places} == ALLOWED
    page = (FOLDER / "LICENCES.md").read_text()
    counts = np.bincount(library.columns["source"])
    for name, count in zip(library.sources, counts, strict=True):
        assert re.search(rf"\| {name} \| {count} \| .+ \| .*https://doi\.org/", page)


def test_its_energies_are_near_the_hull_or_unknown(library):
    energies = library.columns["energy"]
    assert np.nanmax(energies) <= np.float32(0.08)
    assert 0 < np.isnan(energies).sum() < len(library) / 2
