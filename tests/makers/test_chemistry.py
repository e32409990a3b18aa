"""Formulas, formula units, coverage."""

import re
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Element

from dao_flows.makers.science.chemistry import (
    CompositionError,
    atomic_numbers,
    check_coverage,
    deal,
    describe_elements,
    formula_of,
    formula_units,
    parse_batch,
    parse_composition,
)
from dao_flows.model.checkpoint.format import Card

elements = st.sampled_from([Element.from_Z(z).symbol for z in range(1, 104)])
amounts = st.dictionaries(elements, st.integers(1, 12), min_size=1, max_size=5)
CARD = Card("small", "dao-g", "0" * 64, [1, 3, 4, 5, 8, 14], 12, "0", {})


def written(counts: dict[str, int]) -> str:
    return "".join(f"{symbol}{count}" for symbol, count in counts.items())


@given(amounts)
def test_a_formula_means_its_amounts_in_any_order(counts):
    composition = parse_composition(written(counts))
    assert composition.get_el_amt_dict() == counts
    names = {
        formula_of(parse_composition(written(dict(order)))).name for order in list(permutations(counts.items()))[:24]
    }
    assert len(names) == 1


@given(amounts, st.integers(1, 5))
def test_the_reduced_formula_is_the_same_for_any_number_of_units(counts, factor):
    one = formula_of(Composition(counts))
    many = formula_of(Composition({symbol: count * factor for symbol, count in counts.items()}))
    assert (many.name, many.units, many.atoms) == (one.name, one.units * factor, one.atoms)
    assert formula_of(parse_composition(one.name)) == formula_of(Composition(one.name))
    assert formula_of(parse_composition(one.name)).units == 1


@given(amounts, st.integers(1, 4))
def test_sites_of_a_cell_are_those_of_the_formula(counts, z):
    formula = formula_of(Composition(counts))
    numbers = atomic_numbers(formula.name, z)
    assert numbers == sorted(numbers)
    assert len(numbers) == formula.atoms * z
    assert (
        Composition.from_dict({Element.from_Z(n).symbol: numbers.count(n) for n in numbers})
        == Composition(formula.name) * z
    )


@pytest.mark.parametrize(
    ("text", "same"),
    [
        *(("Ca(OH)2", "CaO2H2"), ("Cr₃Os", "Cr3Os"), (" Cr3 Os\n", "OsCr3"), ("[SiO2]2", "Si2O4"), ("Si2.0", "Si2")),
        *(("D2O", "H2O"), ("HDO", "H2O"), ("LiT", "LiH"), ("(ND4)2SO4", "(NH4)2SO4")),  # isotopes
        *(("Na\u00a0Cl", "NaCl"), ("ＮａＣｌ", "NaCl"), ("\ufeffNa\u200bCl", "NaCl"), ("Na\u2060Cl\u00ad", "NaCl")),
    ],
)
def test_ways_to_write_a_formula(text, same):
    assert parse_composition(text) == parse_composition(same)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("Xx2O", "unknown element Xx"),
        ("Vac", "unknown element Vac"),
        ("Zzz", "unknown element Zzz"),
        ("SiO0", "zero"),
        ("Si0O0", "zero"),
        ("(NaCl)0", "zero"),
        ("Si0.0", "zero"),
        ("Si-1", "positive"),
        ("Fe-2O3", "positive"),
        ("Fe0.5Co0.5", "fractional amount of Fe"),
        ("SiO1.5", "fractional amount of O"),
        ("3Si", "not a chemical formula"),
        ("Si(", "not a chemical formula"),
        ("()", "not a chemical formula"),
        ("42", "not a chemical formula"),
        ("Si" + "9" * 400, "not a chemical formula"),
        ("quartz", "not a chemical formula"),
        ("../etc/passwd", "not a chemical formula"),
    ],
)
def test_what_is_no_formula_gets_one_clear_line(text, wrong):
    with pytest.raises(CompositionError, match=wrong) as caught:
        parse_composition(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("CuSO4.5H2O", "write CuSO4(H2O)5:"),
        ("CuSO4·5H2O", "write CuSO4(H2O)5:"),
        ("CuSO4 • 5 H₂O", "write CuSO4(H2O)5:"),
        ("CuSO4*5H2O", "write CuSO4(H2O)5:"),
        ("CaSO4.2H2O", "write CaSO4(H2O)2:"),
        ("CaSO4·½H2O", "write (CaSO4)2(H2O):"),
        ("CaSO4.0.5H2O", "write (CaSO4)2(H2O):"),
        ("CaSO4·1.5H2O", "write (CaSO4)2(H2O)3:"),
        ("K2SO4·Al2(SO4)3·24H2O", "write K2SO4(Al2(SO4)3)(H2O)24:"),
        ("CuSO4·5D2O", "write CuSO4(H2O)5:"),
        ("NaCl (Fm-3m)", "write the formula alone, NaCl:"),
        ("ZnS(P6_3/mmc)", "write the formula alone, ZnS:"),
        ("MgO(s)", "write the formula alone, MgO,"),
        ("nacl", "as in NaCl"),
        ("cr3os", "as in Cr3Os"),
        ("(nh4)2so4", r"as in (NH4)2SO4"),
        ("Fe3+", "without a charge"),
        ("Fe³⁺", "without a charge"),
        ("Cl-", "without a charge"),
    ],
)
def test_what_chemists_write_is_told_how_to_be_written(text, written):
    with pytest.raises(CompositionError) as caught:
        parse_composition(text)
    said = str(caught.value)
    assert written in said and "\n" not in said
    if (found := re.search(r"(?:write|alone,|as in) (\S*[A-Z]\S*?)[:,]?(?: |$)", said)) is not None:
        parse_composition(found.group(1))  # what is told can be used


@given(st.text(st.sampled_from("NaClHODT123.·/() -+^⁄½³_smgaq"), max_size=14))
def test_any_formula_of_a_chemist_is_one_or_told(text):
    try:
        parse_composition(text)
    except CompositionError as error:
        assert "\n" not in str(error)


@given(st.text(max_size=12))
def test_any_text_is_a_composition_or_a_composition_error(text):
    try:
        composition = parse_composition(text)
    except CompositionError:
        return
    assert all(isinstance(e, Element) and n >= 1 and n == int(n) for e, n in composition.items())


def test_a_batch_names_all_bad_ones_at_once():
    good = [f"Li{i}O" for i in range(1, 998)]
    with pytest.raises(CompositionError) as caught:
        parse_batch([*good, "Xx", "SiO0", "Fe0.5"])
    assert set(caught.value.problems) == {"Xx", "SiO0", "Fe0.5"}
    assert str(caught.value).startswith("3 of 1000 compositions cannot be used: ")
    assert all(text in str(caught.value) for text in ("Xx", "SiO0", "Fe0.5"))
    with pytest.raises(CompositionError, match=r"100 of 100 .* and 80 more"):
        parse_batch([f"Xx{i}" for i in range(1, 101)])
    with pytest.raises(CompositionError, match="no composition given"):
        parse_batch([])


@given(st.integers(1, 30), st.integers(1, 60))
def test_auto_means_every_z_that_fits(atoms, max_atoms):
    composition = Composition({"Li": 1, "O": atoms - 1}) if atoms > 1 else Composition("Li")
    if atoms > max_atoms:
        with pytest.raises(CompositionError, match=f"need {atoms} atoms; at most {max_atoms}"):
            formula_units(composition, max_atoms)
        return
    found = formula_units(composition, max_atoms)
    assert found == [z for z in range(1, 61) if z * atoms <= max_atoms]


def test_a_formula_that_is_not_reduced_means_its_own_cell():
    assert formula_units(parse_composition("Cr6Os2"), 20) == [2]
    assert formula_units(parse_composition("Cr6Os2"), 20, z=4) == [4]
    assert formula_units(parse_composition("Cr3Os"), 20) == [1, 2, 3, 4, 5]
    with pytest.raises(CompositionError, match="2 formula units per cell need 8 atoms"):
        formula_units(parse_composition("Cr6Os2"), 7)
    with pytest.raises(CompositionError, match="at least 1"):
        formula_units(parse_composition("Cr3Os"), 20, z=0)


@given(st.integers(1, 100), st.lists(st.integers(1, 50), min_size=1, max_size=20, unique=True).map(sorted))
def test_candidates_are_dealt_evenly_smallest_first(candidates, units):
    dealt = deal(candidates, units)
    assert list(dealt) == units
    assert sum(dealt.values()) == candidates
    assert list(dealt.values()) == sorted(dealt.values(), reverse=True)
    assert max(dealt.values()) - min(dealt.values()) <= 1


def test_coverage_says_what_the_checkpoint_covers():
    check_coverage(parse_composition("SiO2"), CARD)
    with pytest.raises(CompositionError, match=r"CrOs3?: small has not seen Cr, Os; it covers H, Li-B, O, Si"):
        check_coverage(parse_composition("CrOs"), CARD)
    with pytest.raises(
        CompositionError, match=r"5 formula units per cell need 15 atoms.*small covers cells of at most 12"
    ):
        check_coverage(parse_composition("SiO2"), CARD, z=5)
    with pytest.raises(CompositionError, match="1 formula unit per cell need"):
        check_coverage(parse_composition("Si9O8"), CARD)


def test_elements_are_described_in_ranges():
    assert describe_elements([1, 3, 4, 5, 8]) == "H, Li-B, O"
    assert describe_elements(range(1, 84)) == "H-Bi"
