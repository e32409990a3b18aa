"""Files hold the structure that was ranked, whole or not at all."""

import errno
import json
import os
import re

import numpy as np
import pytest
from monty.json import MontyDecoder
from pymatgen.core import Structure

from dao_flows.api.export import FORMATS, file_name, free_folder, render, write_files
from dao_flows.errors import InputError
from dao_flows.makers.schemas.prediction import CandidateDoc
from dao_flows.store import stores
from dao_flows.store.candidates import find


@pytest.fixture
def candidate(stored) -> CandidateDoc:
    candidates = stores.collection(stores.job_store(), "candidates")
    return find(candidates, candidates.query_one({"formula": "Cr3Os", "rank": 1})["candidate_id"])


def same(a: Structure, b: Structure, tolerance: float) -> bool:
    """The same sites in the same cell; POSCAR sorts sites by element."""
    a, b = a.get_sorted_structure(), b.get_sorted_structure()
    frac = (a.frac_coords - b.frac_coords + 0.5) % 1 - 0.5
    return a.species == b.species and np.abs(frac).max() < tolerance and np.allclose(a.lattice.abc, b.lattice.abc)


@pytest.mark.parametrize("file_format", ["cif", "poscar"])
def test_a_file_holds_the_ranked_structure_and_names_its_candidate(candidate, file_format):
    text = render(candidate, file_format)
    assert same(Structure.from_str(text, fmt=file_format), candidate.structure, 1e-6)
    assert candidate.candidate_id in text.splitlines()[0]
    assert candidate.energy.model_sha256[:12] in text.splitlines()[0]


@pytest.mark.parametrize("file_format", ["cif", "poscar"])
def test_what_a_document_says_of_its_sites_is_not_taken_for_the_formats_own(candidate, file_format):
    wanted = render(candidate, file_format)
    for site in candidate.structure:
        site.properties |= {"selective_dynamics": "all", "velocities": {"a": 1}, "magmom": 1.0, "charge": [{}]}
    assert render(candidate, file_format) == wanted
    assert candidate.structure[0].properties["magmom"] == 1.0


def test_json_is_the_whole_document(candidate):
    again = CandidateDoc.model_validate(MontyDecoder().process_decoded(json.loads(render(candidate, "json"))))
    assert again.candidate_id == candidate.candidate_id
    assert again.generation == candidate.generation
    assert again.screening == candidate.screening
    assert same(again.structure, candidate.structure, 1e-15)


def test_the_refined_structure_comes_with_its_symmetry(candidate):
    text = render(candidate, "cif", refined=True)
    number = int(re.search(r"_symmetry_Int_Tables_number\s+(\d+)", text).group(1))
    assert number == candidate.symmetry_loose.number
    with pytest.raises(InputError, match="without --refined"):
        render(candidate.model_copy(update={"refined_structure": None}), "cif", refined=True)


def test_file_names_differ_by_format_and_sort_by_rank(candidate):
    assert len({file_name(candidate, file_format) for file_format in FORMATS}) == len(FORMATS)
    names = [file_name(candidate.model_copy(update={"rank": rank}), "cif", ranked=True) for rank in (2, 10, 1)]
    assert sorted(names) == [names[2], names[0], names[1]]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    real, written = os.fsync, []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="free some space"):
        write_files(tmp_path / "new", {"a.cif": "a", "b.cif": "b"})
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_already_survive_a_full_disk(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.cif": "old"})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(InputError):
        write_files(tmp_path, {"a.cif": "new"})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.cif", "old")]


def test_the_same_results_take_the_same_folder_and_others_a_new_one(tmp_path):
    first, second = {"a.cif": "1"}, {"a.cif": "2"}
    folder = tmp_path / "dao-NaCl"
    for texts, expected in ((first, "dao-NaCl"), (first, "dao-NaCl"), (second, "dao-NaCl-2"), (first, "dao-NaCl")):
        chosen = free_folder(folder, texts)
        assert chosen.name == expected
        write_files(chosen, texts)
