"""Comparisons: what the builder pairs, what a relaxation changed, and figures that mean what they say."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monty.json import jsanitize
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.core.operations import SymmOp

from dao_flows.comparison.builder import ComparisonBuilder, against, cell_change, comparison_doc
from dao_flows.comparison.estimates import FEWEST_RESAMPLED
from dao_flows.comparison.figures import ComparisonFigures, comparison_figures
from dao_flows.comparison.schemas import ComparisonDoc
from dao_flows.errors import InputError
from dao_flows.makers.reference import entry_of, reference_set
from dao_flows.makers.schemas.prediction import Origin, ScreeningDoc
from dao_flows.makers.schemas.verification import HullEnergy, Level
from dao_flows.store.stores import collection
from dao_flows.store.verifications import VerificationBuilder

ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
CRYSTALS = {
    "rock salt": ROCK_SALT.get_primitive_structure(),
    "caesium chloride": Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.4), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    "rutile": Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.18, 2.67), ["Si", "O"], [[0] * 3, [0.306, 0.306, 0]]
    ),
    "quartz": Structure.from_spacegroup(
        "P3_121", Lattice.hexagonal(4.916, 5.405), ["Si", "O"], [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.4524]]
    ),
}
SHEARS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(-1, 1)), max_size=4)


def build(jobs) -> list[ComparisonDoc]:
    names = ("verifications", "candidates", "comparisons")
    stores = {name: collection(jobs, name) for name in names}
    VerificationBuilder(jobs, stores["verifications"]).build()
    ComparisonBuilder(jobs, *stores.values()).build()
    return [ComparisonDoc.model_validate(d) for d in stores["comparisons"].query(sort={"comparison_id": 1})]


def test_every_successful_verification_is_compared_once(jobs, put, a_candidate, a_verification):
    candidates = [a_candidate(f"dao-{i}", CRYSTALS["rock salt"], 0.01 * i, rank=i + 1) for i in range(3)]
    put(jobs, *candidates, name="candidates")
    put(jobs, a_verification(candidates[0]), a_verification(candidates[1], state="failed", error="no"))
    (first,) = build(jobs)
    assert (first.comparison_id, first.candidate_id, first.rank) == ("ver-0", "dao-0", 1)
    assert build(jobs) == [first]
    put(jobs, a_verification(candidates[2]), a_verification(a_candidate("dao-lost", CRYSTALS["rutile"])))
    assert [doc.comparison_id for doc in build(jobs)] == ["ver-0", "ver-2"]
    builder = ComparisonBuilder(jobs, *(collection(jobs, n) for n in ("verifications", "candidates", "comparisons")))
    assert not list(builder.get_items())
    stored = collection(jobs, "comparisons").query_one({"comparison_id": "ver-2"})
    collection(jobs, "comparisons").update({**stored, "schema_version": 0, "rank": 99}, key="comparison_id")
    put(jobs, a_verification(candidates[0], -3.5, ended_at="2030-01-01"))
    assert [(doc.energy_per_atom, doc.rank) for doc in build(jobs)] == [(-3.5, 1), (-3.0, 3)]


def test_a_prediction_that_a_later_screening_displaced_is_still_the_one_compared(
    jobs, put, a_candidate, a_verification
):
    verified = a_candidate("dao-0", CRYSTALS["rock salt"], 0.2, rank=2)
    later = a_candidate("dao-0", CRYSTALS["caesium chloride"], 0.1, predictor="q" * 64)
    put(jobs, later, name="candidates")
    put(jobs, a_verification(verified))
    assert build(jobs) == []
    screening = ScreeningDoc(
        accepted=[verified.model_dump()], rejected=[], generation=verified.generation, provenance=verified.screening
    )
    put(jobs, screening)
    (found,) = build(jobs)
    assert (found.predicted_energy_above_hull, found.rank, found.predictor) == (0.2, 2, "p" * 64)
    assert found.structure_change.matches


def test_costs_are_shares_of_the_batch_and_of_the_steps(a_candidate, a_verification):
    candidate = a_candidate("dao-0", CRYSTALS["rock salt"])
    cost = comparison_doc(a_verification(candidate), candidate).cost
    assert cost.prediction_seconds == pytest.approx((20 + 4) / 4)
    assert cost.sampling_step_seconds == pytest.approx(20 / 4 / 50)
    assert cost.verification_core_seconds == 40
    assert cost.dft_iteration_core_seconds == pytest.approx(18 * 2 / 9)  # the static step counts no iterations
    candidate.generation.science.inputs = {}
    unknown = comparison_doc(a_verification(candidate), candidate).cost
    assert (unknown.prediction_seconds, unknown.sampling_step_seconds) == (None, None)


def in_another_cell(structure: Structure, shears: list[tuple[int, int, int]], turn: float) -> Structure:
    """The same crystal on other lattice vectors, turned in space."""
    steps = np.eye(3, dtype=int)
    for row, other, times in shears:
        if row != other:
            steps[row] += times * steps[other]
    moved = structure.copy()
    moved.make_supercell(steps, to_unit_cell=True)
    moved.apply_operation(SymmOp.from_axis_angle_and_translation([1, 2, 3], turn))
    return moved


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(CRYSTALS)), shears=SHEARS, turn=st.floats(0, 180), strain=st.floats(-0.06, 0.06))
def test_a_crystal_told_in_another_cell_has_not_changed_and_one_strained_has_by_as_much(
    a_candidate, a_verification, name, shears, turn, strain
):
    candidate = a_candidate("dao-0", CRYSTALS[name])
    same = in_another_cell(CRYSTALS[name], shears, turn)
    moved = same.copy().scale_lattice(same.volume * (1 + strain) ** 3)
    change = comparison_doc(a_verification(candidate, structure=moved), candidate).structure_change
    assert change.matches and change.rmse == pytest.approx(0, abs=1e-4)
    assert change.volume_ratio == pytest.approx((1 + strain) ** 3)
    assert change.lengths_change == pytest.approx([strain] * 3, abs=1e-6)
    assert change.angles_change == pytest.approx([0] * 3, abs=1e-4)
    assert change.space_group_kept and change.space_group_before == change.space_group_after


LATTICES = {
    "face-centred": Lattice([[0, 2, 2], [2, 0, 2], [2, 2, 0]]),
    "hexagonal": Lattice.hexagonal(3, 5),
    "monoclinic": Lattice.monoclinic(4, 5, 6, 95),
}


@pytest.mark.parametrize("name", LATTICES)
def test_small_distortions_are_small_changes_though_niggli_cells_jump(name):
    rng, jumps = np.random.default_rng(0), []
    for strains in rng.normal(0, 0.004, (40, 2, 3, 3)):
        before, after = (Lattice(LATTICES[name].matrix @ (np.eye(3) + strain)) for strain in strains)
        cells = [lattice.get_niggli_reduced_lattice() for lattice in (before, after)]
        jumps.append(np.abs(np.subtract(cells[1].angles, cells[0].angles)).max())
        lengths, angles = cell_change(before, after)
        assert np.abs(lengths).max() < 0.03 and np.abs(angles).max() < 3
        volume = np.prod(1 + np.array(lengths)) * _sines(cells[0].angles, angles)
        assert volume == pytest.approx(after.volume / before.volume)  # they are changes of one cell into another
    assert max(jumps) > 10


def _sines(angles: tuple[float, float, float], changes: list[float]) -> float:
    """By how much a cell's volume changes with its angles alone."""
    after = np.add(angles, changes)
    return Lattice.from_parameters(1, 1, 1, *after).volume / Lattice.from_parameters(1, 1, 1, *angles).volume


def test_a_relaxation_into_another_crystal_is_no_match(a_candidate, a_verification):
    candidate = a_candidate("dao-0", CRYSTALS["caesium chloride"])
    change = comparison_doc(a_verification(candidate, structure=CRYSTALS["rock salt"]), candidate).structure_change
    assert (change.matches, change.rmse, change.space_group_kept) == (False, None, False)
    assert (change.space_group_before, change.space_group_after) == (221, 225)


def hull(energy: float | None, **values: object) -> HullEnergy:
    fields = {
        "reference": "set.json",
        "reference_sha256": "r" * 64,
        "scheme": "none",
        "scheme_version": "",
        "correction_per_atom": 0,
        "corrected_energy_per_atom": -3,
        "formation_energy_per_atom": energy,
        "energy_above_hull": energy,
        "raw_energy_above_hull": energy,
    }
    return HullEnergy(**{**fields, **values})


@pytest.fixture(scope="session")
def compared(a_candidate, a_verification):
    """Makes a comparison of a prediction with a verified energy, both above hull; the crystal does not matter."""
    template = comparison_doc(
        a_verification(candidate := a_candidate("dao-0", CRYSTALS["rock salt"]), hull=hull(0.0)), candidate
    )

    def make(number: int, formula: str, predicted: float, verified: float | None, **values: object) -> ComparisonDoc:
        raw = values.pop("raw", verified)
        fields = {
            "comparison_id": f"ver-{number:03d}",
            "verification_id": f"ver-{number:03d}",
            "candidate_id": f"dao-{number:03d}",
            "formula": formula,
            "chemsys": Composition(formula).chemical_system,
            "predicted_energy_above_hull": predicted,
            "energy_above_hull": verified,
            "raw_energy_above_hull": raw,
            "energy_error": None if verified is None else predicted - verified,
            "energy_per_atom": -5 + (verified or 0.0),
        }
        if verified is None:
            fields |= {"reference": None, "reference_sha256": None, "scheme": None, "scheme_version": None}
        return template.model_copy(update={**fields, **values})

    return make


FORMULAS = ["NaCl", "Na2O", "Cl2O", "NaClO3", "NaClO4"]
ENERGY = st.integers(0, 250).map(lambda value: value / 500)  # further apart than what counts as equal
ENERGIES = st.lists(
    st.tuples(st.sampled_from(FORMULAS), ENERGY, ENERGY), min_size=1, max_size=14, unique_by=lambda each: each[1]
)
ALL = [(formula, 0.1 * i + 0.01, 0.05 * i) for i, formula in enumerate(FORMULAS)]


@settings(max_examples=30, deadline=None)
@given(energies=ENERGIES, order=st.randoms())
def test_figures_do_not_depend_on_the_order_of_documents(compared, energies, order):
    docs = [compared(i, *each) for i, each in enumerate(energies)]
    first = comparison_figures(docs)
    order.shuffle(docs)
    assert comparison_figures(docs) == first
    assert ComparisonFigures.model_validate(jsanitize(first, strict=True)) == first


@settings(max_examples=30, deadline=None)
@given(energies=ENERGIES)
def test_errors_are_those_of_plain_arithmetic(compared, energies):
    figures = comparison_figures([compared(i, *each) for i, each in enumerate(energies)])
    errors = np.array([predicted - verified for _, predicted, verified in energies])
    raw = figures.energy.raw
    assert (raw.bias.value, raw.mae.value) == pytest.approx((errors.mean(), np.abs(errors).mean()))
    assert raw.rmse.value == pytest.approx(np.sqrt((errors**2).mean()))
    for estimate in (raw.bias, raw.mae, raw.rmse):
        if len({formula for formula, *_ in energies}) < FEWEST_RESAMPLED:
            assert estimate.low is None and estimate.high is None
        else:
            assert estimate.low <= estimate.high
    for element in figures.by_element:
        own = [e for (formula, *_), e in zip(energies, errors, strict=True) if element.element in Composition(formula)]
        assert (element.n, element.bias, element.mae) == pytest.approx((len(own), np.mean(own), np.mean(np.abs(own))))


@settings(max_examples=30, deadline=None)
@given(energies=ENERGIES, offsets=st.tuples(*[st.floats(-3, 3)] * 3))
def test_an_offset_of_each_element_is_found_and_taken_off(compared, energies, offsets):
    named = dict(zip(("Na", "Cl", "O"), offsets, strict=True))
    energies = [*ALL, *energies]

    def shifted(formula: str, verified: float) -> float:
        return verified - sum(Composition(formula).get_atomic_fraction(e) * offset for e, offset in named.items())

    before = comparison_figures([compared(i, *each) for i, each in enumerate(energies)]).energy
    after = comparison_figures(
        [compared(i, formula, predicted, shifted(formula, v)) for i, (formula, predicted, v) in enumerate(energies)]
    ).energy
    assert after.after_offset.mae.value == pytest.approx(before.after_offset.mae.value, abs=1e-9)
    assert after.after_offset.rmse.value <= after.raw.rmse.value + 1e-12
    for element, offset in named.items():
        assert after.offsets[element] - before.offsets[element] == pytest.approx(offset, abs=1e-8)


def test_offsets_that_cannot_be_told_are_not_told(compared):
    few = comparison_figures([compared(i, *each) for i, each in enumerate(ALL[:3])]).energy
    assert few.after_offset is None and not few.offsets
    assert few.unavailable["after_offset"] == "offsets of elements (3) need more compositions than that (3 here)"
    alike = [compared(0, "NaCl", 0.1, 0.0), compared(1, "Na2Cl2", 0.2, 0.0), compared(2, "Na3Cl3", 0.2, 0.0)]
    assert "apart" in comparison_figures(alike).energy.unavailable["after_offset"]


@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(ENERGY, ENERGY), min_size=2, max_size=7), scale=st.floats(0.1, 10))
def test_ranking_is_by_pairs_and_unmoved_by_what_keeps_the_order(compared, pairs, scale):
    predicted, verified = zip(*pairs, strict=True)
    docs = [compared(i, "NaCl", p, v) for i, (p, v) in enumerate(pairs)]
    (ranking,) = comparison_figures(docs).ranking.compositions
    signs = np.array(
        [[np.sign(x[i] - x[j]) for i, j in combinations(range(len(pairs)), 2)] for x in (predicted, verified)]
    )
    strengths = (signs**2).sum(1)
    expected = (signs[0] * signs[1]).sum() / np.sqrt(strengths.prod()) if strengths.all() else None
    assert ranking.kendall == (None if expected is None else pytest.approx(expected))
    assert (ranking.spearman is None) == (expected is None)
    bent = [
        doc.model_copy(update={"predicted_energy_above_hull": scale * doc.predicted_energy_above_hull**3 - 1})
        for doc in docs
    ]
    assume(len({doc.predicted_energy_above_hull for doc in bent}) == len(set(predicted)))  # floats that fall together
    (again,) = comparison_figures(bent).ranking.compositions
    assert again.kendall == (None if expected is None else pytest.approx(ranking.kendall))
    assert (again.candidates, again.first_choice_excess) == (ranking.candidates, ranking.first_choice_excess)
    bare = [doc.model_copy(update={"energy_above_hull": None, "energy_error": None}) for doc in docs]
    (without,) = comparison_figures(bare).ranking.compositions  # a hull is a constant within a composition
    assert (without.quantity, ranking.quantity) == ("energy_per_atom", "energy_above_hull")
    assert without.first_choice_agrees == ranking.first_choice_agrees
    assert without.kendall == (None if expected is None else pytest.approx(expected))


def test_candidates_that_relax_into_one_crystal_are_not_ranked_by_noise(compared):
    docs = [compared(i, "MgO", 0.1 * i, energy) for i, energy in enumerate([0.0003, 0.0005, 0.0])]
    (ranking,) = comparison_figures(docs).ranking.compositions
    assert (ranking.spearman, ranking.kendall, ranking.first_choice_agrees) == (None, None, True)
    (ranking,) = comparison_figures([*docs, compared(3, "MgO", 0.4, 0.2)]).ranking.compositions
    assert ranking.kendall == pytest.approx(3 / np.sqrt(6 * 3))  # of six pairs three are tied in one order


def test_first_choices_are_counted_over_compositions(compared):
    docs = [compared(0, "NaCl", 0.0, 0.02), compared(1, "NaCl", 0.1, 0.0)]
    docs += [compared(2, "Na2O", 0.0, 0.0005), compared(3, "Na2O", 0.1, 0.0)]  # less than DFT tells apart
    docs += [compared(4, "Cl2O", 0.0, 0.0)]  # alone: nothing to choose from
    ranking = comparison_figures(docs).ranking
    assert {c.formula: c.first_choice_agrees for c in ranking.compositions} == {"NaCl": False, "Na2O": True}
    assert max(c.first_choice_excess for c in ranking.compositions) == pytest.approx(0.02)
    assert (ranking.first_choice_agrees.value, ranking.first_choice_agrees.n) == (0.5, 2)
    assert ranking.spearman.value == pytest.approx(-1)
    assert comparison_figures(docs[4:]).ranking.first_choice_agrees is None


def test_without_a_hull_errors_are_told_within_compositions_only(compared):
    docs = [compared(i, "NaCl", p, None, energy_per_atom=e) for i, (p, e) in enumerate([(0.0, -3.0), (0.1, -2.8)])]
    energy = comparison_figures(docs).energy
    assert (energy.raw, energy.corrected, energy.after_offset) == (None, None, None)
    assert set(energy.unavailable) == {"raw", "corrected", "after_offset"}
    assert energy.relative.mae.value == pytest.approx(0.05)
    shifted = [doc.model_copy(update={"energy_per_atom": doc.energy_per_atom - 700}) for doc in docs]
    assert comparison_figures(shifted).energy.relative.mae.value == pytest.approx(0.05)


def test_errors_before_and_after_the_corrections_are_told_apart(compared):
    scheme = {"scheme": "MaterialsProject2020Compatibility", "scheme_version": "1"}
    docs = [compared(i, *each, raw=each[2] + 0.1, **scheme) for i, each in enumerate(ALL)]
    figures = comparison_figures(docs)
    assert figures.energy.corrected.bias.value - figures.energy.raw.bias.value == pytest.approx(0.1)
    assert figures.scheme == "MaterialsProject2020Compatibility"
    plain = comparison_figures([compared(i, *each) for i, each in enumerate(ALL)]).energy
    assert plain.corrected is None and "no correction scheme applies" in plain.unavailable["corrected"]


def test_structures_and_costs_are_counted(compared):
    docs = [compared(i, formula, p, v) for i, (formula, p, v) in enumerate(ALL)]
    docs[0].structure_change = docs[0].structure_change.model_copy(
        update={"matches": False, "rmse": None, "space_group_kept": False, "volume_ratio": 0.9}
    )
    figures = comparison_figures(docs)
    structure, cost = figures.structure, figures.cost
    assert (structure.matches.value, structure.space_groups_kept.value, structure.rmse.n) == (0.8, 0.8, 4)
    assert structure.matches.low < 0.8 < structure.matches.high < 1
    assert structure.volume_change.value == pytest.approx(0.02)
    assert cost.per_candidate_ratio.median == pytest.approx(40 / 6)
    assert cost.per_step_ratio.median == pytest.approx(4 / 0.1)
    assert comparison_figures(docs[:1]).structure.rmse is None


ABINIT = Level(code="abinit", functional="PBE", pseudopotentials={"Na": "a.psp8", "Cl": "b.psp8"}, cutoff=500.0)


@pytest.mark.parametrize(
    ("formula", "level", "values", "what"),
    [
        ("Na2O", ABINIT.model_copy(update={"code": "cp2k"}), {}, "code"),
        ("Na2O", ABINIT.model_copy(update={"functional": "r2SCAN"}), {}, "functional"),
        ("Na2O", ABINIT, {"predictor": "q" * 64}, "DAO-P"),
        ("Na2O", ABINIT, {"reference_sha256": "s" * 64}, "reference set"),
        ("Na2O", ABINIT, {"reference": "other.json"}, "reference set"),
        ("Na2O", ABINIT, {"scheme": "MaterialsProject2020Compatibility"}, "correction scheme"),
        ("Na2O", ABINIT, {"scheme_version": "2"}, "correction scheme"),
        ("Na2O", ABINIT.model_copy(update={"pseudopotentials": {"Na": "c.psp8"}}), {}, "pseudopotential of Na"),
        ("NaCl", ABINIT.model_copy(update={"hubbard_u": {"Na": 1.0}}), {}, r"Hubbard U \(NaCl\)"),
        ("NaCl", ABINIT.model_copy(update={"cutoff": 600.0}), {}, r"cut-off \(NaCl\)"),
    ],
)
def test_what_has_another_zero_is_refused_and_the_documents_are_named(compared, formula, level, values, what):
    docs = [compared(i, "NaCl", 0.1 * i, 0.1, level=ABINIT) for i in range(5)]
    other = compared(7, formula, 0.1, 0.1, level=level, **values)
    comparison_figures(docs)
    comparison_figures([other])
    with pytest.raises(InputError, match=f"differ in {what}") as caught:
        comparison_figures([*docs, other])
    assert "ver-007" in str(caught.value) and "ver-000, ver-001, ver-002 and 2 more" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_may_differ_between_compositions_is_not_refused(compared):
    docs = [compared(0, "NaCl", 0.1, 0.1, level=ABINIT)]
    other = Level(code="abinit", functional="PBE", pseudopotentials={"Na": "a.psp8", "O": "o.psp8"}, cutoff=900.0)
    docs.append(compared(1, "Na2O", 0.1, 0.1, level=other, kpoints=[1, 1, 1]))
    docs.append(compared(2, "Cl2O", 0.1, None, level=other.model_copy(update={"hubbard_u": {"O": 1.0}})))
    figures = comparison_figures(docs)
    assert (figures.comparisons, figures.energy.raw.mae.n, figures.reference) == (3, 2, "set.json")
    plus_u = ABINIT.model_copy(update={"functional": "PBE+U"})
    comparison_figures([compared(0, "NaCl", 0.1, 0.1, level=ABINIT), compared(1, "Na2O", 0.1, 0.1, level=plus_u)])


def test_each_chemical_system_may_have_its_own_part_of_the_materials_project(compared):
    parts = [{"reference": "mp:2026.1/GGA_GGA+U", "reference_sha256": letter * 64} for letter in "abc"]
    docs = [compared(0, "NaCl", 0.1, 0.1, **parts[0]), compared(1, "Na2O", 0.1, 0.1, **parts[1])]
    assert comparison_figures(docs).reference_sha256 is None
    with pytest.raises(InputError, match="reference set"):
        comparison_figures([*docs, compared(2, "NaCl", 0.1, 0.1, **parts[2])])
    with pytest.raises(InputError, match="reference set"):
        newer = {**parts[2], "reference": "mp:2026.2/GGA_GGA+U"}
        comparison_figures([*docs, compared(2, "Cl2O", 0.1, 0.1, **newer)])


def test_nothing_has_no_figures():
    with pytest.raises(InputError, match="nothing to compare"):
        comparison_figures([])


def test_a_comparison_is_put_on_another_reference_set(compared, tmp_path):
    level = Level(code="CHGNet", code_version="0.4.2", functional="CHGNet")
    sodium, chlorine = (Structure(Lattice.cubic(3), [element], [[0] * 3]) for element in ("Na", "Cl"))
    entries = [entry_of(sodium, -1.3, level), entry_of(chlorine, -1.8, level), entry_of(ROCK_SALT, -27.2, level)]
    (tmp_path / "set.json").write_text(json.dumps([entry.as_dict() for entry in entries]))
    found = reference_set(str(tmp_path / "set.json"))
    doc = against(compared(0, "NaCl", 0.1, None, energy_per_atom=-3.35), found)
    assert doc.energy_above_hull == pytest.approx(0.05) and doc.energy_error == pytest.approx(0.05)
    assert (doc.reference, doc.reference_sha256, doc.scheme) == ("set.json", found.sha256, "none")


def test_generators_stand_beside_each_other(a_candidate, a_verification):
    known, theirs = Origin(kind="known", library="f" * 64), Origin(kind="drawn", generator="cubes")
    energies = {"dao-0": (None, -3.3), "dao-1": (known, -3.5), "dao-2": (theirs, -3.4999), "dao-3": (theirs, -3.1)}
    docs = []
    for name, (origin, energy) in energies.items():
        candidate = a_candidate(name, CRYSTALS["rock salt"]).model_copy(update={"origin": origin})
        docs.append(comparison_doc(a_verification(candidate, energy), candidate))
    lone = a_candidate("dao-4", CRYSTALS["quartz"]).model_copy(update={"origin": theirs})
    docs.append(comparison_doc(a_verification(lone, -5.0), lone))
    found = {each.generator: each for each in comparison_figures(docs).by_generator}
    assert list(found) == ["DAO-G", "cubes", "known crystals"]
    assert [(each.comparisons, each.compositions) for each in found.values()] == [(1, 1), (3, 2), (1, 1)]
    # of NaCl alone, where they meet; a tenth of a meV/atom counts as the same structure
    assert [(each.lowest.value, each.lowest.n) for each in found.values()] == [(0.0, 1), (1.0, 1), (1.0, 1)]
