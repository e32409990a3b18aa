"""Canonical JSON and the science hash."""

import json
import math

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dao_flows.makers.provenance import canonical_json, digest, science_hash
from dao_flows.makers.schemas import Science

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4))


@given(values)
def test_no_round_trip_changes_the_hash(value):
    assert digest(json.loads(json.dumps(value))) == digest(value)
    assert digest(bson.decode(bson.encode({"value": value}))["value"]) == digest(value)
    assert digest(json.loads(canonical_json(value))) == digest(value)


@given(st.dictionaries(words, leaves, max_size=6))
def test_the_order_of_keys_does_not_count(value):
    assert digest(dict(reversed(value.items()))) == digest(value)


def test_the_form_is_as_documented():
    value = {"b": [-0.0, 1, 1.0, 1e-7, True, None], "a": ("é\n", 2**62)}
    assert canonical_json(value).decode() == '{"a":["é\\n",4611686018427387904],"b":[0.0,1,1.0,1e-07,true,null]}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**63, -(2**63) - 1])
def test_numbers_that_no_store_keeps_are_refused(value):
    with pytest.raises(ValueError, match=r"cannot stand|64 bits"):
        digest({"x": [value]})


@pytest.mark.parametrize("value", [{1: 2}, {"x": object()}, {"x": {1, 2}}, {"x": b"1"}])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(TypeError, match="provenance"):
        digest(value)


def test_every_part_of_the_science_counts():
    base = {
        "maker": "M",
        "parameters": {"steps": 10},
        "inputs": {"x": 1},
        "checkpoints": {"generator": "a"},
        "seed": 0,
        "code_version": "1",
    }
    other = {
        "maker": "N",
        "parameters": {"steps": 11},
        "inputs": {"x": 2},
        "checkpoints": {"generator": "b"},
        "seed": None,
        "code_version": "2",
    }
    hashes = {science_hash(Science(**{**base, key: value})) for key, value in other.items()}
    assert len(hashes | {science_hash(Science(**base))}) == 7
