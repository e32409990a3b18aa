"""GenerateMaker: what it draws, what it says of it, what it refuses. Templates: see test_from_templates.py."""

import shutil

import numpy as np
import pytest
from jobflow import run_locally
from monty.json import MontyDecoder, jsanitize

from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.jobs.progress import reporter
from dao_flows.makers.jobs.provenance import science_hash
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.prediction import GenerationDoc
from dao_flows.makers.science.chemistry import CompositionError
from dao_flows.makers.science.structures import to_crystal, to_structure
from dao_flows.model.checkpoint.format import CheckpointError, load, save
from dao_flows.model.checkpoint.library import find
from dao_flows.model.crystals import Crystal
from dao_flows.model.sampling.registry import STEPS

pytestmark = pytest.mark.usefixtures("tiny_library")


def maker(**settings) -> GenerateMaker:
    tiny = {"checkpoint": "dao-g-tiny", "predictor": "dao-p-tiny", "steps": 10, "candidates": 4}
    return GenerateMaker(**tiny | {"templates": 0} | settings)


def generate(job_store, compositions, **settings) -> GenerationDoc:
    job = maker(**settings).make(compositions)
    return run_locally(job, store=job_store, ensure_success=True, log=False)[job.uuid][1].output


def assert_alike(a, b):
    """Equal but for float32 rounding in batches of other sizes."""
    assert a.species == b.species
    apart = (a.frac_coords - b.frac_coords + 0.5) % 1 - 0.5
    assert np.abs(apart).max() < 1e-3
    assert np.allclose(a.lattice.matrix, b.lattice.matrix, rtol=1e-3, atol=1e-3 * max(a.lattice.abc))


def test_a_batch_is_one_job_and_the_document_says_which_z(job_store):
    document = generate(job_store, ["Cr3Os", "NaCl"], candidates=7)
    assert isinstance(document, GenerationDoc)
    plan = {entry.formula: {c.z: (c.n_atoms, c.candidates) for c in entry.cells} for entry in document.compositions}
    assert plan["Cr3Os"] == {1: (4, 2), 2: (8, 2), 3: (12, 1), 4: (16, 1), 5: (20, 1)}
    assert plan["NaCl"] == {z: (2 * z, int(z <= 7)) for z in range(1, 11)}
    assert len(document.candidates) == 14
    for c in document.candidates:
        assert c.structure.composition.reduced_formula == c.formula
        assert len(c.structure) == plan[c.formula][c.z][0]
        assert c.structure.lattice.matrix[0] @ np.cross(*c.structure.lattice.matrix[1:]) > 0
    assert len({c.candidate_id for c in document.candidates}) == 14


def test_a_checkpoint_of_large_cells_gets_them_when_asked_and_no_others(tmp_path):
    model, card = load(find("dao-g-tiny"))
    save(tmp_path / "large", model, {"elements": card.elements, "max_atoms": 52})

    def units(formula, **settings):
        (entry,) = maker(checkpoint=str(tmp_path / "large"), predictor=None, candidates=60, **settings).check(formula)
        return [c.z for c in entry.cells]

    assert units("NaCl") == list(range(1, 11))
    assert units("NaCl", max_atoms=40) == list(range(1, 21))
    assert units("NaCl", z=26) == [26]
    assert units("Al11O11") == [11]  # as written
    assert units("Mg3Al2Si3O13") == [1]  # of 21 atoms
    with pytest.raises(CompositionError, match="need 54 atoms"):
        units("NaCl", z=27)


def test_the_same_seed_gives_the_same_structures(job_store):
    first, second = (generate(job_store, "Cr3Os") for _ in range(2))
    other = generate(job_store, "Cr3Os", seed=1)
    assert [c.structure for c in first.candidates] == [c.structure for c in second.candidates]
    assert [c.candidate_id for c in first.candidates] == [c.candidate_id for c in second.candidates]
    assert first.provenance.science_hash == second.provenance.science_hash
    assert not {c.candidate_id for c in first.candidates} & {c.candidate_id for c in other.candidates}
    assert all(a.structure != b.structure for a, b in zip(first.candidates, other.candidates, strict=True))


def test_candidates_do_not_depend_on_the_batch_or_on_how_many_were_asked_for(job_store):
    alone = {c.candidate_id: c.structure for c in generate(job_store, "Cr3Os").candidates}
    batch = {c.candidate_id: c.structure for c in generate(job_store, ["NaCl", "OsCr3"], candidates=9).candidates}
    assert set(alone) < set(batch)
    for candidate_id, structure in alone.items():
        assert_alike(structure, batch[candidate_id])


def test_in_float64_a_batch_changes_a_candidate_by_nothing_that_counts(job_store):
    alone = {c.candidate_id: c.structure for c in generate(job_store, "NaCl", double=True).candidates}
    batch = {c.candidate_id: c.structure for c in generate(job_store, ["Si", "NaCl"], double=True).candidates}
    for candidate_id, structure in alone.items():
        assert np.allclose(structure.lattice.matrix, batch[candidate_id].lattice.matrix, rtol=1e-9)


def test_what_does_not_decide_the_result_does_not_change_its_hash_or_ids():
    base = maker().science(["Cr3Os", "NaCl"])
    same = [
        maker(name="other", device="cpu").science(["Cr3Os", "NaCl"]),
        maker().science(["NaCl", "OsCr3", "Cr3Os"]),
        maker(guidance_coordinates=20).science(["Cr3Os", "NaCl"]),
        maker(max_atoms=20).science(["Cr3Os", "NaCl"]),
    ]
    assert {science_hash(s) for s in same} == {science_hash(base)}
    different = [
        maker(seed=1),
        maker(steps=11),
        maker(sampler="ancestral"),
        maker(sampler="predictor-corrector"),
        maker(double=True),
        maker(sampler="heun"),
        maker(sampler="heun", churn=0.5),
        maker(bf16=True),
        maker(candidates=5),
        maker(z=2),
        maker(guidance_lattice=1),
        maker(predictor=None),
    ]
    hashes = {science_hash(m.science(["Cr3Os", "NaCl"])) for m in different}
    assert len(hashes | {science_hash(base)}) == 13


def test_samplers_that_exclude_each_other_are_said_before_anything_runs():
    for settings, words in (
        ({"sampler": "ddim"}, "sampler must be one of renoising, .*not 'ddim'"),
        ({"sampler": "euler"}, "learned by diffusion is not sampled by 'euler'"),
        ({"churn": 1}, "churn must be 0"),
        ({"churn": -1}, "churn"),
        ({"double": True, "bf16": True}, "double"),
        ({"double": True, "bf16": "auto"}, "double"),
        ({"bf16": "yes"}, "bf16 must be true, false or 'auto', not 'yes'"),
    ):
        with pytest.raises(ParameterError, match=words):
            maker(**settings).check("NaCl")


@pytest.mark.parametrize("settings", [{"sampler": "heun", "churn": 0.5}, {"sampler": "ancestral"}])
def test_every_sampler_gives_a_candidate_that_is_the_same_in_any_batch(settings, job_store):
    alone = {c.candidate_id: c.structure for c in generate(job_store, "NaCl", **settings).candidates}
    batch = {c.candidate_id: c.structure for c in generate(job_store, ["Si", "NaCl"], **settings).candidates}
    assert alone and all(batch[candidate_id] == structure for candidate_id, structure in alone.items())


@pytest.mark.parametrize(("bf16_seconds", "chosen"), [(1.0, False), (0.95, False), (0.9, True)])
def test_auto_takes_bf16_where_it_is_worth_it_and_the_document_says_so(job_store, call_takes, bf16_seconds, chosen):
    timed = call_takes(1.0, bf16_seconds)
    document = generate(job_store, ["NaCl", "Cr3Os"], bf16="auto")
    assert timed == [(4, 16)]  # a block: one crystal, and three to fill it up
    assert document.provenance.science == maker(bf16=chosen).science(["NaCl", "Cr3Os"])
    assert document.provenance.science_hash == science_hash(document.provenance.science)
    choice = document.provenance.execution.precision
    assert choice.model_dump() == {"bf16": chosen, "fp32_seconds": 1.0, "bf16_seconds": bf16_seconds, "batch": (4, 16)}
    explicit = generate(job_store, ["NaCl", "Cr3Os"], bf16=chosen)
    assert timed == [(4, 16)]  # nothing is measured where the answer is given
    assert explicit.provenance.execution.precision is None
    assert explicit.candidates == document.candidates
    other = generate(job_store, ["NaCl", "Cr3Os"], bf16=not chosen)
    assert other.provenance.science_hash != document.provenance.science_hash
    assert [c.structure for c in other.candidates] != [c.structure for c in document.candidates]


def test_what_auto_measures(job_store):
    choice = generate(job_store, "NaCl", bf16="auto").provenance.execution.precision
    assert choice.fp32_seconds > 0
    assert choice.bf16 == (choice.fp32_seconds >= 1.1 * choice.bf16_seconds > 0)
    with pytest.raises(ParameterError, match="settled"):
        maker(bf16="auto").science("NaCl")  # not known before the run


def test_no_guidance_is_the_same_however_it_is_said(job_store):
    without = generate(job_store, "NaCl", predictor=None)
    zero = generate(job_store, "NaCl", guidance_coordinates=0, guidance_lattice=0)
    guided = generate(job_store, "NaCl", guidance_coordinates=500.0)
    assert without.provenance.science == zero.provenance.science
    assert list(without.provenance.science.checkpoints) == ["generator"]
    assert [c.structure for c in without.candidates] == [c.structure for c in zero.candidates]
    assert any(a.structure != b.structure for a, b in zip(without.candidates, guided.candidates, strict=True))


def test_provenance_is_known_before_the_run_and_complete_after(job_store, monkeypatch):
    monkeypatch.setenv("DAO_FLOWS_SECRET", "mongodb://user:hunter2@host")
    science = maker().science("Cr3Os")
    document = generate(job_store, "Cr3Os")
    assert document.provenance.science == science
    assert document.provenance.science_hash == science_hash(science)
    execution = document.provenance.execution
    assert execution.checkpoints == {"generator": "dao-g-tiny", "predictor": "dao-p-tiny"}
    assert execution.job_uuid is not None
    assert {"python", "torch", "pymatgen", "spglib", "jobflow"} <= set(execution.libraries)
    assert execution.wall_seconds > 0
    assert execution.started_at < execution.ended_at
    assert "hunter2" not in document.model_dump_json()


def test_the_document_survives_a_store(job_store):
    document = generate(job_store, "Cr3Os")
    again = MontyDecoder().process_decoded(jsanitize(document, strict=True))
    assert isinstance(again, GenerationDoc)
    assert again.model_dump() == document.model_dump()
    assert science_hash(again.provenance.science) == document.provenance.science_hash
    assert [c.structure for c in again.candidates] == [c.structure for c in document.candidates]
    as_text = GenerationDoc.model_validate_json(document.model_dump_json())
    assert as_text.provenance == document.provenance
    assert [c.structure for c in as_text.candidates] == [c.structure for c in document.candidates]


def test_formulas_of_the_same_composition_are_merged():
    plan = maker(candidates=3).check(["Si", "Si2", "Si", "H2O", "OH2"])
    assert [(entry.formula, entry.asked) for entry in plan] == [("Si", ["Si", "Si2"]), ("H2O", ["H2O", "OH2"])]
    assert {c.z: c.candidates for c in plan[0].cells if c.candidates} == {1: 1, 2: 3, 3: 1}


def test_progress_is_reported_to_who_listens(job_store):
    seen = []
    token = reporter.set(lambda *report: seen.append(report))
    try:
        generate(job_store, "NaCl", z=1)
    finally:
        reporter.reset(token)
    assert seen == [(step, 10, "generate") for step in range(1, 11)]


def test_bad_compositions_are_all_named_up_front():
    with pytest.raises(CompositionError) as caught:
        maker().check(["NaCl", "Xx2", "SiO0", "Fr2O", "Si21", "Fe0.5Co0.5"])
    assert set(caught.value.problems) == {"Xx2", "SiO0", "Fr2O", "Si21", "Fe0.5Co0.5"}
    assert "has not seen Fr; it covers H-Bi" in str(caught.value)
    assert "covers cells of at most 20 atoms" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"candidates": 0}, "candidates must be at least 1, not 0"),
        ({"candidates": -3}, "candidates must be at least 1, not -3"),
        ({"seed": -1}, "seed must lie"),
        ({"z": 0}, "z must be 'auto' or at least 1"),
        ({"steps": 0}, "steps must lie between 1 and 1000"),
        ({"steps": 1001}, "steps must lie between 1 and 1000"),
        ({"max_atoms": 21}, "max_atoms must lie between 1 and 20"),
        ({"guidance_lattice": -1.0}, "must not be negative"),
        ({"candidates": 2001}, "too many for one job"),
        ({"candidates": 1300, "z": 10}, "26000 atoms in all are too many for one job"),
        ({"checkpoint": "dao-p-tiny"}, "'dao-p-tiny' is a DAO-P checkpoint; a DAO-G checkpoint is needed"),
        ({"predictor": "dao-g-tiny"}, "'dao-g-tiny' is a DAO-G checkpoint; a DAO-P checkpoint is needed"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(settings, wrong):
    with pytest.raises(ParameterError, match=wrong):
        maker(**settings).check("NaCl")


def test_a_missing_checkpoint_or_device_is_named():
    with pytest.raises(CheckpointError, match=r"no checkpoint called 'dao-g-nowhere'; there are: .*dao-g-tiny"):
        maker(checkpoint="dao-g-nowhere").check("NaCl")
    with pytest.raises(ParameterError, match="device 'gpu' cannot be used here"):
        maker(device="gpu").make.original(maker(device="gpu"), "NaCl")


def test_a_draw_that_is_not_finite_is_told_and_spoils_no_job(job_store, tiny_library, tmp_path):
    model, card = load(tiny_library / "dao-g-tiny")
    for parameter in model.parameters():
        parameter.fill_(np.nan)
    save(tmp_path / "dao-g-broken", model, {"elements": card.elements, "max_atoms": card.max_atoms})
    document = generate(job_store, "NaCl", checkpoint=str(tmp_path / "dao-g-broken"), predictor=None)
    assert document.candidates == []
    assert [c.reason for c in document.failed] == ["the network's output is not finite"] * 4
    assert {(c.z, c.index) for c in document.failed} == {(1, 0), (2, 0), (3, 0), (4, 0)}


def test_a_damaged_checkpoint_is_refused(tiny_library, tmp_path):
    folder = shutil.copytree(tiny_library / "dao-g-tiny", tmp_path / "dao-g-damaged")
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="damaged"):
        maker(checkpoint=str(folder)).make.original(maker(checkpoint=str(folder)), "NaCl")


def test_structures_are_right_handed_and_finite():
    left = Crystal(np.array([11, 17]), np.array([[0.0, 0, 0], [1.2, -0.3, 0.5]]), np.diag([3.0, 4.0, -5.0]))
    structure = to_structure(left)
    assert np.linalg.det(structure.lattice.matrix) == pytest.approx(60)
    assert structure.frac_coords.min() >= 0
    assert structure.frac_coords.max() < 1
    raw = left.frac @ left.lattice
    assert structure.get_distance(0, 1) <= np.linalg.norm(raw[1] - raw[0]) + 1e-9
    assert np.allclose(to_crystal(structure).frac, left.frac % 1)
    with pytest.raises(FloatingPointError):
        to_structure(Crystal(left.numbers, left.frac, left.lattice * np.nan))


def test_the_default_number_of_steps_is_that_of_the_objective(by_flow):
    drawn = {name: maker(checkpoint=name, predictor=None, steps=None) for name in ("dao-g-tiny", by_flow)}
    steps = {name: each.science("NaCl").parameters["steps"] for name, each in drawn.items()}
    assert steps == {"dao-g-tiny": STEPS["diffusion"], by_flow: STEPS["flow"]}


def test_a_predictor_of_another_objective_guides_nothing(by_flow):
    words = "dao-p-tiny cannot guide dao-g-flowing: the generator learned by flow, the predictor by diffusion"
    with pytest.raises(ParameterError, match=words):
        maker(checkpoint=by_flow).check("NaCl")
    maker(checkpoint=by_flow, predictor=None).check("NaCl")
