"""The order of distinct structures: pure, so that all of it can be put to the test."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dao_flows.makers.screening.ranking import OF_A_JUDGE, RANKINGS, Distinct, Made, agreement, order

energies = st.floats(-5, 5).map(lambda value: round(value, 2))  # so that some are equal
weights = st.lists(st.floats(0, 0.3), max_size=3).map(tuple)
structures = st.builds(
    Distinct,
    candidate_id=st.text("abcdef", min_size=8, max_size=8),
    drawn=st.integers(0, 4),
    templates=weights,
    known=st.booleans(),
    energy=energies,
    judged=st.none() | energies,
)
many = st.lists(structures, max_size=8, unique_by=lambda each: each.candidate_id)
rankings = st.sampled_from(RANKINGS)


def made_of(found: list[Distinct]) -> Made:
    return Made(sum(each.drawn for each in found), any(each.templates for each in found))


def ids(found: list[Distinct], rank_by: str, **settings) -> list[str]:
    return [found[place].candidate_id for place in order(found, made_of(found), rank_by, **settings)]


@given(many, rankings, st.randoms(use_true_random=False))
def test_all_are_ranked_whatever_the_order_they_come_in(found, rank_by, random):
    shuffled = found.copy()
    random.shuffle(shuffled)
    assert ids(shuffled, rank_by) == ids(found, rank_by)
    assert sorted(ids(found, rank_by)) == sorted(each.candidate_id for each in found)


@given(many, st.sampled_from(["agreement", "energy"]))
def test_of_drawings_alone_counts_decide_and_the_lower_energy_between_equals(found, rank_by):
    drawn = [replace(each, templates=(), known=False, drawn=each.drawn + 1) for each in found]
    ascending = sorted(drawn, key=lambda each: (each.energy, each.candidate_id))
    if rank_by == "agreement":
        ascending.sort(key=lambda each: -each.drawn)  # stable
    assert ids(drawn, rank_by) == [each.candidate_id for each in ascending]


@given(many, rankings)
def test_known_crystals_come_first_unless_energies_alone_decide(found, rank_by):
    known = {each.candidate_id for each in found if each.known}
    ranked = ids(found, rank_by)
    if rank_by in ("agreement", "both"):
        assert set(ranked[: len(known)]) == known
    else:
        assert ranked == ids([replace(each, known=False) for each in found], rank_by)


@given(many, st.sampled_from(OF_A_JUDGE))
def test_what_has_no_judgement_comes_after_what_has_one(found, rank_by):
    unknown = [replace(each, known=False) for each in found]
    judged = {each.candidate_id for each in found if each.judged is not None}
    ranked = ids(unknown, rank_by)
    assert set(ranked[: len(judged)]) == judged
    none = [replace(each, judged=None) for each in found]
    assert ids(none, rank_by) == ids(none, "agreement" if rank_by == "both" else rank_by)


@given(many, st.integers(-3, 3))
def test_the_zero_of_the_judges_energy_does_not_matter(found, shift):
    moved = [replace(each, judged=None if each.judged is None else each.judged + shift) for each in found]
    assert ids(moved, "judge") == ids(found, "judge")


@given(many, energies)
def test_both_is_the_judges_order_where_all_came_as_often_and_agreement_where_it_sees_no_difference(found, energy):
    drawn = [replace(each, templates=(), known=False, drawn=each.drawn + 1) for each in found]
    judged = [replace(each, judged=each.judged or 0.0, drawn=1) for each in drawn]
    assert ids(judged, "both") == ids(judged, "judge")
    alike = [replace(each, judged=energy) for each in drawn]
    assert ids(alike, "both") == ids(alike, "agreement")


def test_softness_is_how_much_energy_outweighs_how_much_agreement():
    often = Distinct("a", 6, (), False, 0.0, 0.0)
    low = Distinct("b", 1, (), False, 0.0, -0.05)  # six times as often is worth log(6) × 0.03 = 0.054 eV/atom
    assert ids([often, low], "both", softness=0.03) == ["a", "b"]
    assert ids([often, replace(low, judged=-0.06)], "both", softness=0.03) == ["b", "a"]
    assert ids([often, low], "both", softness=0.02) == ["b", "a"]


@given(many)
def test_agreement_is_a_share(found):
    made = made_of(found)
    total = sum(sum(each.templates) for each in found) or 1.0
    shares = [replace(each, templates=tuple(weight / total for weight in each.templates)) for each in found]
    whole = made.share_of_templates * any(sum(each.templates) for each in found)
    whole += (1 - made.share_of_templates) * bool(made.drawings)
    assert sum(agreement(each, made) for each in shares) == pytest.approx(whole)


def test_templates_count_whole_where_nothing_was_drawn_and_in_part_where_drawings_agree():
    template = Distinct("a", 0, (0.5, 0.25), False, 0.0)
    assert agreement(template, Made(0, True)) == 0.75
    both = replace(template, drawn=3)
    assert agreement(template, Made(10, True)) < agreement(both, Made(10, True)) < agreement(both, Made(4, True)) < 1
    assert agreement(replace(template, templates=(), drawn=3), Made(10, False)) == 0.3
