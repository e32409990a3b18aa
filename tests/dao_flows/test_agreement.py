"""When two documents agree: every difference is found and named, and measured in its own unit."""

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from dao_flows.makers.stages.agreement import Terms, Tolerance, agree

leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1e3, 1e3) | st.text("abc", max_size=3)
documents = st.dictionaries(
    st.text("abcd", min_size=1, max_size=3),
    st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz"), inner, max_size=3)
    ),
    max_size=4,
)
ROCK_SALT = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def places(value, path=()):
    """Paths to all leaves."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))
    elif path:
        yield path


@given(documents)
def test_a_document_is_identical_to_itself(document):
    assert agree(document, copy.deepcopy(document)).outcome == "identical"


@given(documents, st.data())
def test_any_change_is_found_where_it_is(document, data):
    paths = list(places(document))
    if not paths:
        return
    path = data.draw(st.sampled_from(paths))
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "another thing"
    found = agree(document, changed)
    assert (found.outcome, found.differences) == ("different", 1)
    assert found.beyond.path == ".".join(map(str, path))
    assert found.beyond.replayed == "another thing"


@given(st.floats(1e-8, 10))
def test_a_distance_is_told_in_ångström(shift):
    moved = ROCK_SALT.copy()
    moved.translate_sites([1], [0, 0, shift], frac_coords=False)
    found = agree({"s": ROCK_SALT.as_dict()}, {"s": moved.as_dict()})
    wrapped = abs(shift - 5.6 * round(shift / 5.6))
    assert found.largest["position"] == pytest.approx(wrapped, abs=1e-9)
    assert found.outcome == ("equal" if found.largest["position"] <= 1e-3 else "different")


def test_another_image_of_an_atom_is_the_same_place():
    there = ROCK_SALT.as_dict()
    there["sites"][1]["abc"] = [1.5, 0.5, -0.5]
    assert agree({"s": ROCK_SALT.as_dict()}, {"s": there}).largest == {"position": 0.0}


def test_a_lattice_by_its_vectors_and_atoms_by_name():
    larger = Structure(Lattice.cubic(5.602), ["Na", "Cl"], ROCK_SALT.frac_coords)
    found = agree({"s": ROCK_SALT.as_dict()}, {"s": larger.as_dict()})
    assert (found.outcome, found.beyond.path) == ("different", "s.lattice.matrix.0.0")
    assert found.largest == {"lattice": pytest.approx(0.002)}
    other = Structure(ROCK_SALT.lattice, ["Na", "Br"], ROCK_SALT.frac_coords)
    assert agree({"s": ROCK_SALT.as_dict()}, {"s": other.as_dict()}).beyond.path == "s.sites"


def test_figures_that_follow_from_others_count_too():
    for change in (lambda d: d["lattice"].__setitem__("volume", 1.0), lambda d: d["sites"][0].__setitem__("xyz", [1])):
        altered = ROCK_SALT.as_dict()
        change(altered)
        assert agree({"s": ROCK_SALT.as_dict()}, {"s": altered}).outcome == "different"


@pytest.mark.parametrize(
    ("path", "difference", "quantity", "equal"),
    [
        ("energy_per_atom", 5e-5, "energy", True),
        ("energy_per_atom", 5e-4, "energy", False),
        ("max_force", 5e-4, "force", True),
        ("max_force", 5e-3, "force", False),
        ("volume", 5e-5, "relative", True),
        ("volume", 5e-3, "relative", False),
    ],
)
def test_each_quantity_has_its_tolerance(path, difference, quantity, equal):
    found = agree({path: 1.0}, {path: 1.0 + difference})
    assert found.outcome == ("equal" if equal else "different")
    assert found.largest[quantity] == pytest.approx(difference, rel=0.01)


def test_counts_have_none_and_a_figure_that_is_no_number_differs():
    assert agree({"n": 1_000_000}, {"n": 1_000_001}).outcome == "different"
    assert agree({"x": 1.0}, {"x": math.nan}).outcome == "different"
    assert agree({"x": math.nan}, {"x": math.nan}).outcome == "identical"
    assert agree({"x": 1.0}, {"x": math.inf}).outcome == "different"
    assert agree({"x": True}, {"x": 1}).outcome == "different"


def test_reasons_quote_figures():
    assert agree({"r": "0.123400 Å is short"}, {"r": "0.123401 Å is short"}).outcome == "equal"
    assert agree({"r": "0.1234 Å is short"}, {"r": "0.2234 Å is short"}).outcome == "different"
    assert agree({"r": "rank 1 of 2"}, {"r": "rank 2 of 2"}).outcome == "different"


def test_terms():
    terms = Terms(ignored=("path",), soft=("weights",), renamed={"b": "a"}, tolerance=Tolerance(relative=1e-2))
    recorded = {"path": "/1", "weights": "aa", "id": "a", "loss": 1.0}
    found = agree(recorded, {"path": "/2", "weights": "bb", "id": "b", "loss": 1.001}, terms)
    assert (found.outcome, found.first.path, found.differences) == ("equal", "weights", 2)
    assert agree(recorded, recorded | {"weights": "bb", "loss": 1.1}, terms).beyond.path == "loss"
    execution = {"provenance": {"execution": {"host": "a"}, "content_hash": "1", "files": {"plot": "x"}, "science": {}}}
    other = {"provenance": {"execution": {"host": "b"}, "content_hash": "2", "files": {"plot": "y"}, "science": {}}}
    assert agree(execution, other).outcome == "identical"
    assert agree(execution, other, Terms(files=True)).beyond.path == "provenance.files.plot"
