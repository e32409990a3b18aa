"""ScreenMaker: who passes, in which order, and what it says of the others."""

import numpy as np
import pytest
from jobflow import run_locally
from monty.json import MontyDecoder, jsanitize
from pymatgen.core import Lattice, Structure

from dao_flows.makers.jobs.provenance import science_hash
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.prediction import FailedCandidate, ScreeningDoc
from dao_flows.makers.science.chemistry import CompositionError
from dao_flows.makers.science.structures import to_crystal
from dao_flows.makers.screen import ScreenMaker
from dao_flows.model.checkpoint.format import load, save
from dao_flows.model.dao_p import predict_energy

pytestmark = pytest.mark.usefixtures("tiny_library")


@pytest.fixture
def screen(job_store):
    def run(document, **settings) -> ScreeningDoc:
        job = ScreenMaker(**{"predictor": "dao-p-tiny", "prototypes": False, **settings}).make(document)
        return run_locally(job, store=job_store, ensure_success=True, log=False)[job.uuid][1].output

    return run


def test_candidates_are_ranked_by_predicted_energy_within_their_composition(screen, generation, crystals, tiny_library):
    document = screen(generation(list(crystals.values())))
    predictor, card = load(tiny_library / "dao-p-tiny")
    expected = predict_energy(predictor, [to_crystal(s) for s in crystals.values()])
    assert {c.candidate_id for c in document.accepted} == {f"dao-{i}" for i in range(len(crystals))}
    assert [c.formula for c in document.accepted] == ["NaCl"] * 3 + ["Cr3Os"] * 2 + ["SiO2"] * 2 + ["SrTiO3"]
    for c in document.accepted:
        assert c.energy.value == pytest.approx(expected[int(c.candidate_id[4:])], abs=1e-5)
        assert (c.energy.quantity, c.energy.unit) == ("energy_above_hull", "eV/atom")
        assert (c.energy.model, c.energy.model_sha256) == ("dao-p-tiny", card.sha256)
        assert c.validity.volume_per_atom == pytest.approx(c.structure.volume / len(c.structure))
        assert c.validity.charge_neutral is True
        assert c.generated_structure is None
    for formula in {c.formula for c in document.accepted}:
        members = [c for c in document.accepted if c.formula == formula]
        assert [c.rank for c in members] == list(range(1, len(members) + 1))
        assert [c.energy.value for c in members] == sorted(c.energy.value for c in members)


def test_symmetry_and_prototype_stand_beside_the_raw_structure(screen, generation, crystals):
    structure = crystals["A15"]
    structure.perturb(0.02)
    [found] = screen(generation([structure]), prototypes=True).accepted
    assert found.structure == structure
    assert found.symmetry_tight is not None
    assert found.symmetry_loose is not None
    assert found.symmetry_tight.number < found.symmetry_loose.number == 223
    assert found.symmetry_loose.symbol == "Pm-3n"
    assert found.refined_structure is not None
    assert found.refined_structure.get_space_group_info(0.001)[1] == 223
    assert found.prototype == "A15 (A3B_cP8_223_c_a)"


def test_every_candidate_is_accounted_for_and_every_rejected_one_says_why(screen, generation, crystals):
    salt = crystals["rock salt"]
    close = Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.1, 0, 0]])
    dilute = Structure(Lattice.cubic(20), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    structures = [salt, salt * (1, 1, 2), close, dilute, crystals["caesium chloride"], crystals["zinc blende"]]
    document = generation(structures)
    document.failed.append(
        FailedCandidate(candidate_id="dao-x", formula="NaCl", z=1, index=9, reason="the network's output is not finite")
    )
    result = screen(document, rank_by="energy", top_k=1)
    ids = [c.candidate_id for c in result.accepted] + [c.candidate_id for c in result.rejected]
    assert sorted(ids) == sorted([*(c.candidate_id for c in document.candidates), "dao-x"])
    rejected = {c.candidate_id: c for c in result.rejected}
    assert all(c.reason and "\n" not in c.reason for c in rejected.values())
    assert rejected["dao-x"].cause == "generation"
    assert rejected["dao-x"].reason == "the network's output is not finite"
    assert rejected["dao-2"].cause == "geometry"
    assert rejected["dao-2"].reason == "shortest distance Cl-Na 0.50 Å is below 0.6 × the sum of covalent radii"
    assert rejected["dao-3"].reason == "volume 4000.0 Å³ per atom is above 250 Å³"
    [duplicate] = [c for c in rejected.values() if c.cause == "duplicate"]
    kept = ({"dao-0", "dao-1"} - {duplicate.candidate_id}).pop()
    assert duplicate.duplicate_of == kept
    assert kept in duplicate.reason
    ranked = [c for c in rejected.values() if c.cause == "rank"]
    assert [c.reason for c in ranked] == [f"rank {rank} of 3 for NaCl; the best 1 are kept" for rank in (2, 3)]
    assert all(c.energy is not None and c.energy.value >= result.accepted[0].energy.value for c in ranked)


def test_of_duplicates_the_lowest_predicted_energy_is_kept(screen, generation, crystals, tiny_library):
    structures = [crystals["rock salt"].copy() for _ in range(5)]
    for k, structure in enumerate(structures):
        structure.scale_lattice(structure.volume * (1 + 0.02 * k))
    result = screen(generation(structures))
    energies = predict_energy(load(tiny_library / "dao-p-tiny")[0], [to_crystal(s) for s in structures])
    [kept] = result.accepted
    assert kept.candidate_id == f"dao-{energies.argmin()}"
    assert sorted([kept.candidate_id, *kept.duplicates]) == [f"dao-{k}" for k in range(5)]
    assert {c.duplicate_of for c in result.rejected} == {kept.candidate_id}


def test_by_agreement_what_was_drawn_most_often_comes_first_and_the_lower_energy_between_equals(
    screen, generation, crystals
):
    names = ["rock salt", "caesium chloride", "zinc blende"]
    by_energy = screen(generation([crystals[name] for name in names])).accepted
    order = [int(c.candidate_id[4:]) for c in by_energy]
    often = [crystals[names[order[2]]]] * 3  # the highest in energy, three times
    drawn = generation([*(crystals[names[k]] for k in order), *often[1:]])
    result = screen(drawn)
    assert [c.rank for c in result.accepted] == [1, 2, 3]
    assert [len(c.duplicates) for c in result.accepted] == [2, 0, 0]
    assert result.accepted[0].energy.value == max(c.energy.value for c in result.accepted)
    assert result.accepted[1].energy.value < result.accepted[2].energy.value
    [first] = screen(drawn, top_k=1).accepted
    assert first.candidate_id == result.accepted[0].candidate_id
    [lowest] = screen(drawn, rank_by="energy", top_k=1).accepted
    assert lowest.energy.value == result.accepted[1].energy.value


def test_verdicts_do_not_depend_on_how_crystals_are_written(screen, generation, crystals):
    rng = np.random.default_rng(0)
    close = Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.1, 0, 0]])
    names = ["rock salt", "zinc blende", "caesium chloride"]
    structures = [*(crystals[n].get_primitive_structure() for n in names), close, crystals["rock salt"]]
    variants = []
    for structure in structures:
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        moved = Structure(
            structure.lattice.matrix @ rotation, structure.species, structure.frac_coords + rng.random(3)
        ).make_supercell([2, 1, 1], in_place=False)
        variants.append(Structure.from_sites([moved[int(i)] for i in rng.permutation(len(moved))]))
    first, second = (
        screen(generation(members), top_k=None, max_volume_per_atom=1e3) for members in (structures, variants)
    )

    def groups(result: ScreeningDoc) -> set[frozenset[str]]:
        return {frozenset([c.candidate_id, *c.duplicates]) for c in result.accepted}

    assert (
        groups(first) == groups(second) == {frozenset({"dao-0", "dao-4"}), frozenset({"dao-1"}), frozenset({"dao-2"})}
    )
    for result in (first, second):
        assert [c.candidate_id for c in result.rejected if c.cause == "geometry"] == ["dao-3"]


def test_relaxation_lowers_the_energy_and_keeps_the_generated_structure(screen, generation, crystals):
    structures = [crystals[name] for name in ("rock salt", "zinc blende", "A15")]
    result = screen(generation(structures), relax=True, relax_iterations=5, min_distance_ratio=0.1)
    assert len(result.accepted) == 3
    for c in result.accepted:
        assert c.relaxation is not None
        assert c.energy.value <= c.relaxation.energy_before.value
        assert c.generated_structure == structures[int(c.candidate_id[4:])]
    assert any(c.structure != c.generated_structure for c in result.accepted)


def test_neutrality_is_a_flag_and_on_request_a_filter(screen, generation, crystals):
    odd = crystals["A15"].copy()
    odd.replace_species({"Cr": "Na", "Os": "Cl"})
    document = generation([odd, crystals["A15"], crystals["rock salt"]])
    flagged = {c.formula: c.validity.charge_neutral for c in screen(document).accepted}
    assert flagged["Na3Cl"] is False
    assert flagged["NaCl"] is True
    [refused] = [c for c in screen(document, require_neutral=True).rejected if c.cause == "charge"]
    assert refused.reason == "no combination of oxidation states makes Na3Cl neutral (SMACT)"


def test_energies_that_are_not_finite_are_never_ranked(
    screen, generation, crystals, tiny_library, tmp_path, monkeypatch
):
    model, card = load(tiny_library / "dao-p-tiny")
    for parameter in model.parameters():
        parameter.fill_(np.nan)
    save(tmp_path / "dao-p-broken", model, {"elements": card.elements, "max_atoms": card.max_atoms})
    for relax in (False, True):
        result = screen(generation([crystals["rock salt"]]), predictor=str(tmp_path / "dao-p-broken"), relax=relax)
        assert result.accepted == []
        assert [(c.cause, c.reason) for c in result.rejected] == [("energy", "the predicted energy is not finite")]


def test_a_batch_without_a_valid_candidate_is_a_result_too(screen, generation):
    dilute = Structure(Lattice.cubic(20), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for relax in (False, True):
        result = screen(generation([dilute]), relax=relax)
        assert result.accepted == []
        assert len(result.rejected) == 1


def test_provenance_is_known_before_the_run(screen, generation, crystals):
    document = generation([crystals["rock salt"]])
    maker = ScreenMaker(predictor="dao-p-tiny", prototypes=False)
    result = screen(document)
    assert result.provenance.science == maker.science(document.provenance.science_hash)
    assert result.provenance.science_hash == science_hash(result.provenance.science)
    assert result.generation == document.provenance
    base = science_hash(maker.science("a"))
    assert (
        science_hash(ScreenMaker(predictor="dao-p-tiny", prototypes=False, device="cpu", name="x").science("a")) == base
    )
    others = [{"relax": True}, {"require_neutral": True}, {"top_k": 3}, {"stol": 0.2}, {"symprec_loose": 0.2}]
    hashes = {
        science_hash(ScreenMaker(predictor="dao-p-tiny", prototypes=False, **other).science("a")) for other in others
    }
    assert len(hashes | {base, science_hash(maker.science("b"))}) == 7


def test_the_document_survives_a_store(screen, generation, crystals):
    result = screen(generation(list(crystals.values())), relax=True, top_k=1)
    again = MontyDecoder().process_decoded(jsanitize(result, strict=True))
    assert isinstance(again, ScreeningDoc)
    assert again.model_dump() == result.model_dump()
    assert science_hash(again.provenance.science) == result.provenance.science_hash
    assert ScreeningDoc.model_validate_json(result.model_dump_json()).rejected == result.rejected


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"rank_by": "beauty"}, "rank_by must be one of agreement, energy, judge, both, not 'beauty'"),
        ({"symprec_loose": 0}, "symprec_loose must be above 0"),
        ({"min_distance": -1}, "min_distance must not be negative"),
        ({"min_volume_per_atom": 300.0}, "max_volume_per_atom must be above"),
        ({"relax_iterations": 0}, "relax_iterations must be above 0"),
        ({"predictor": "dao-g-tiny"}, "'dao-g-tiny' is a DAO-G checkpoint"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(settings, wrong):
    with pytest.raises(ParameterError, match=wrong):
        ScreenMaker(**{"predictor": "dao-p-tiny", **settings}).check([])


def test_what_the_predictor_does_not_cover_is_named(generation):
    structures = [
        Structure(Lattice.cubic(5), ["U", "O"], [[0] * 3, [0.5] * 3]),
        Structure(Lattice.cubic(12), ["Si"] * 21, np.linspace(0, 0.95, 63).reshape(21, 3)),
        Structure(Lattice.cubic(5), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    ]
    with pytest.raises(CompositionError, match=r"2 of 3 .* has not seen U; .* need 21 atoms"):
        ScreenMaker(predictor="dao-p-tiny").check(generation(structures).compositions)
