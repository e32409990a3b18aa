"""Candidates from known crystals: which there are, what is told of them, and that drawing is what it was."""

import shutil

import numpy as np
import pytest
from jobflow import run_locally
from monty.json import MontyDecoder, jsanitize

from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.generators import dao_g as module
from dao_flows.makers.generators.templates import candidate_id, template_id
from dao_flows.makers.jobs.provenance import science_hash
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.predict import PredictFlowMaker
from dao_flows.makers.schemas.prediction import GenerationDoc, Origin
from dao_flows.makers.science.chemistry import CompositionError
from dao_flows.makers.screen import ScreenMaker
from dao_flows.model.checkpoint.format import load, save
from dao_flows.model.checkpoint.library import find
from dao_flows.model.data.shards import DataError, read_manifest

pytestmark = pytest.mark.usefixtures("tiny_library")


def maker(**settings) -> GenerateMaker:
    tiny = {"checkpoint": "dao-g-tiny", "predictor": "dao-p-tiny", "steps": 4, "candidates": 6}
    return GenerateMaker(**tiny | settings)


def generate(job_store, compositions, **settings) -> GenerationDoc:
    job = maker(**settings).make(compositions)
    return run_locally(job, store=job_store, ensure_success=True, log=False)[job.uuid][1].output


def templates(document: GenerationDoc):
    return [c for c in document.candidates if c.origin is not None and c.origin.kind != "drawn"]


def drawn(document: GenerationDoc):
    return [c for c in document.candidates if c.origin is None or c.origin.kind == "drawn"]


def test_half_of_the_candidates_are_templates_where_the_library_has_them(job_store, known_crystals):
    document = generate(job_store, ["Cr3Os", "Mg2Cl3"], candidates=5)
    plan = {entry.formula: entry for entry in document.compositions}
    found = {f: (sum(c.templates for c in e.cells), sum(c.candidates for c in e.cells)) for f, e in plan.items()}
    assert found == {"Cr3Os": (2, 3), "Mg2Cl3": (0, 5)}  # two crystals have these multiplicities, none has 2 and 3
    assert len(document.candidates) == 10
    assert [(c.formula, c.z, c.origin.told()) for c in templates(document)] == [
        ("Cr3Os", 2, "Cr3Si mp-0"),
        ("Cr3Os", 1, "Cu3Au mp-8"),
    ]
    best = templates(document)[0]
    assert best.structure.get_space_group_info()[1] == 223  # A15
    sha256 = read_manifest(known_crystals).sha256
    assert best.origin.model_dump(exclude={"weight", "distance"}) == {
        "kind": "template",
        "library": sha256,
        "library_name": "known",
        "row": 0,
        "material_id": "mp-0",
        "source": "Materials Project",
        "formula": "Cr3Si",
        "exchange": {"Si": ["Os"], "Cr": ["Cr"]},
        "variant": 0,
        "energy_above_hull": 0.0,
        "copies": 1,
        "cells": 1,
    }
    assert 0 < best.origin.weight <= 1 and best.origin.distance > 0
    assert document.provenance.science.inputs["library"] == sha256
    assert document.provenance.science.parameters["templates"] == 3


def test_a_drawing_is_what_it_is_without_templates(job_store):
    alone = {c.candidate_id: c for c in generate(job_store, ["NaCl", "Cr3Os"], templates=0).candidates}
    beside = drawn(generate(job_store, ["NaCl", "Cr3Os"], templates=2))
    assert len(beside) == 8
    for c in beside:
        assert c.structure == alone[c.candidate_id].structure
        assert (c.z, c.index) == (alone[c.candidate_id].z, alone[c.candidate_id].index)


def test_a_template_does_not_depend_on_the_batch_or_on_how_many_were_asked_for(job_store):
    alone = {c.candidate_id: (c.structure, c.index) for c in templates(generate(job_store, "NaCl", templates=2))}
    batch = {
        c.candidate_id: (c.structure, c.index)
        for c in templates(generate(job_store, ["Cr3Os", "ClNa", "TiO2"], candidates=9))
    }
    assert len(alone) == 2
    assert alone.items() <= batch.items()
    assert len(batch) == len({*batch})


def test_the_same_settings_give_the_same_candidates(job_store):
    first, second = (generate(job_store, ["Cr3Os", "NaCl"]) for _ in range(2))
    assert first.candidates == second.candidates
    assert first.provenance.science_hash == second.provenance.science_hash


def test_crystals_of_the_very_composition_are_offered_marked_and_left_out_on_request(job_store):
    kinds = [c.origin.told() for c in templates(generate(job_store, "NaCl", templates=5))]
    assert kinds[0] == "known mp-1"
    assert "known mp-2" in kinds
    without = templates(generate(job_store, "NaCl", templates=5, known=False))
    assert {c.origin.kind for c in without} == {"template"}
    assert not {"mp-1", "mp-2"} & {c.origin.material_id for c in without}


def test_what_the_library_lacks_is_drawn_and_nothing_else(job_store):
    document = generate(job_store, "SrTiO3", candidates=3, templates=3)
    assert [c.origin.kind for c in document.candidates] == ["known", "drawn", "drawn"]
    (entry,) = document.compositions
    assert sum(cells.total for cells in entry.cells) == 3


def test_dao_g_is_not_loaded_where_nothing_is_drawn(job_store, monkeypatch):
    def load_model(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(module, "load_model", load_model)
    for bf16 in (False, "auto"):
        document = generate(job_store, ["NaCl", "Si"], candidates=1, templates=4, bf16=bf16)
        assert [c.origin.told() for c in document.candidates] == ["known mp-1", "known mp-6"]
        assert document.provenance.execution.checkpoints == {"generator": "dao-g-tiny", "predictor": "dao-p-tiny"}
    with pytest.raises(AssertionError, match="loaded"):
        maker(candidates=2, templates=1).make.original(maker(candidates=2, templates=1), "NaCl")


def test_science_ids_and_documents_without_templates_are_those_of_before(job_store):
    """The values were computed by the version before there were templates."""
    for settings in ({"templates": 0}, {"library": None}, {"templates": 0, "library": "nowhere", "known": False}):
        each = maker(steps=10, candidates=4, **settings)
        science = each.science(["Cr3Os", "Si", "Si2"])
        checkpoints = {"generator": "g" * 64, "predictor": "p" * 64}
        told = science.model_copy(update={"checkpoints": checkpoints, "code_version": "0"})
        assert science_hash(told) == "1966d24dec3a11b0ac79a34fe4865821b4d57d68d3ffebbb830fffa02a0307a8"
        assert candidate_id(told, "Cr3Os", 2, 0) == "dao-16f6c1d2e9d9"
    stored = jsanitize(generate(job_store, "Cr3Os", templates=0), strict=True)
    assert set(stored["candidates"][0]) == {"candidate_id", "formula", "z", "index", "structure"}
    assert set(stored["compositions"][0]) == {"formula", "asked", "cells"}
    assert set(stored["compositions"][0]["cells"][0]) == {"z", "n_atoms", "candidates"}


def test_what_decides_the_templates_decides_the_hash(known_crystals, tmp_path):
    base = maker().science("NaCl")
    copy = shutil.copytree(known_crystals, tmp_path / "copy")
    same = [maker(library=str(copy)), maker(library=base.inputs["library"]), maker(templates=3)]
    assert {science_hash(each.science("NaCl")) for each in same} == {science_hash(base)}
    different = [maker(templates=2), maker(templates=0), maker(known=False), maker(candidates=8)]
    assert len({science_hash(each.science("NaCl")) for each in different} | {science_hash(base)}) == 5


def test_templates_may_have_larger_cells_than_drawings(tmp_path):
    model, card = load(find("dao-g-tiny"))
    save(tmp_path / "large", model, {"elements": card.elements, "max_atoms": 52})
    settings = {"checkpoint": str(tmp_path / "large"), "predictor": None}

    def looked_up(formula, **more):
        (entry,) = maker(**settings, **more).check(formula)
        return entry.looked_up

    assert looked_up("NaCl") == list(range(1, 27))
    assert looked_up("NaCl", max_atoms=10) == [1, 2, 3, 4, 5]
    assert looked_up("NaCl", z=3) == [3]
    assert looked_up("Al11O11") == [11]
    (entry,) = maker(**settings).check("NaCl")
    assert [cells.z for cells in entry.cells] == list(range(1, 11))  # no larger one has a template


def test_texts_of_one_formula_share_its_templates(job_store):
    (entry,) = maker(candidates=4, templates=2).check(["Si", "Si2"])
    assert entry.looked_up == list(range(1, 21))
    cells = {c.z: (c.candidates, c.templates) for c in entry.cells if c.total}
    assert cells == {1: (1, 1), 2: (3, 1)}  # Si draws two in cells of 1 and 2 atoms, Si2 three in those of 2
    document = generate(job_store, ["Si", "Si2"], candidates=4, templates=2)
    assert [c.origin.material_id for c in templates(document)] == ["mp-6", "mp-7"]


def test_the_plan_of_a_document_gives_the_document_again(job_store):
    document = generate(job_store, ["Cr3Os", "NaCl"])
    again = generate(job_store, document.compositions, candidates=20, templates=3)
    assert again.candidates == document.candidates
    assert again.provenance.science == document.provenance.science


def test_the_document_survives_a_store(job_store):
    document = generate(job_store, "Cr3Os")
    again = MontyDecoder().process_decoded(jsanitize(document, strict=True))
    assert again.model_dump() == document.model_dump()
    assert again.candidates == document.candidates
    as_text = GenerationDoc.model_validate_json(document.model_dump_json())
    assert [c.origin for c in as_text.candidates] == [c.origin for c in document.candidates]


def test_an_id_follows_from_the_document(job_store):
    document = generate(job_store, "NaCl")
    science = document.provenance.science
    for c in templates(document):
        assert c.candidate_id == template_id(science, c.formula, c.z, c.origin)
    for c in drawn(document):
        assert c.candidate_id == candidate_id(science, c.formula, c.z, c.index)
    assert len({c.candidate_id for c in document.candidates}) == len(document.candidates)


def test_the_screening_must_cover_the_cells_of_templates(tmp_path):
    model, card = load(find("dao-p-tiny"))
    save(tmp_path / "small", model, {"elements": card.elements, "max_atoms": 4})
    screen = ScreenMaker(predictor=str(tmp_path / "small"))
    PredictFlowMaker(generate=maker(candidates=1, templates=1), screen=screen).check("NaCl")
    with pytest.raises(
        CompositionError,
        match=r"small covers cells of at most 4 atoms; max_atoms .* 4 asks for none larger",
    ):
        PredictFlowMaker(generate=maker(candidates=1, templates=1), screen=screen).check("Cr3Os")


def test_screening_keeps_the_origin(job_store):
    screen = ScreenMaker(predictor="dao-p-tiny", prototypes=False)
    flow = PredictFlowMaker(generate=maker(candidates=8), screen=screen).make("NaCl")
    found = run_locally(flow, store=job_store, ensure_success=True, log=False)
    generated, screened = (found[job.uuid][1].output for job in flow.jobs)
    origins = {c.candidate_id: c.origin for c in generated.candidates}
    assert screened.accepted
    assert all(c.origin == origins[c.candidate_id] for c in screened.accepted)
    assert isinstance(screened.accepted[0].origin, Origin)


def test_what_is_wrong_is_one_line(known_crystals, tmp_path):
    with pytest.raises(DataError, match=r"no library called 'nowhere'; there are: known"):
        maker(library="nowhere").check("NaCl")
    with pytest.raises(ParameterError, match="templates must not be negative, but -1"):
        maker(templates=-1).check("NaCl")
    damaged = shutil.copytree(known_crystals, tmp_path / "damaged")
    index = bytearray((damaged / "index.safetensors").read_bytes())
    index[-1] ^= 1
    (damaged / "index.safetensors").write_bytes(index)
    with pytest.raises(DataError, match="was changed"):
        maker(library=str(damaged)).check("NaCl")
    with pytest.raises(ParameterError, match="too many for one job"):
        maker(candidates=2001, templates=2001).check("NaCl")


def test_cells_are_scaled_and_right_handed(job_store):
    for c in templates(generate(job_store, ["Cr3Os", "NaCl", "TiO2"])):
        assert np.linalg.det(c.structure.lattice.matrix) > 0
        assert c.structure.composition.get_reduced_formula_and_factor() == (c.formula, c.z)


def test_two_elements_may_share_a_sublattice_of_a_template(job_store):
    document = generate(job_store, "Na2ClBr", templates=6)
    found = templates(document)
    assert len(found) > 1
    assert len({c.candidate_id for c in document.candidates}) == len(document.candidates)
    for c in found:
        assert sorted(new for taken in c.origin.exchange.values() for new in taken) == ["Br", "Cl", "Na"]
        assert len(c.origin.exchange) == 2  # of a crystal of two elements
    again = templates(generate(job_store, "Na2ClBr", templates=6, seed=1))
    assert [c.structure for c in again] == [c.structure for c in found]
