"""Canonical JSON, the science hash and the content hash: specified, stable over every way that a document travels."""

import copy
import json
import math
import os
import random
import re
import struct
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from pathlib import Path

import bson
import pytest
from bson import json_util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monty.json import jsanitize

from dao_flows.makers.jobs.provenance import canonical, canonical_json, content_hash, digest, science_hash
from dao_flows.makers.schemas.document import Science

DOCS = Path(__file__).parent.parent.parent / "docs" / "provenance.md"
MANY = settings(max_examples=200, deadline=None)
FUZZ = int(os.environ.get("DAO_FLOWS_TEST_FUZZ", "10000"))  # inputs; set to more for a campaign

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [-0.0, 5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, 1e16, 1e15, 1e-4, 1e-5, 0.1 + 0.2]
)
leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | floats | texts


def nested(inside, keys=words):
    return st.recursive(inside, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


values = nested(leaves)
dates = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)) | st.datetimes(
    datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-7)))
)
keys = words.filter(lambda key: key != "_id" and not key.startswith("$"))
documents = st.dictionaries(keys, nested(leaves | st.floats() | dates | st.binary(max_size=8), keys), max_size=5)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs", "Cc", "Zl", "Zp"]))
    | st.binary()
    | st.datetimes()
    | st.dates()
    | st.decimals()
    | st.fractions()
    | st.frozensets(st.integers()),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.none() | st.floats(), inner)
    ),
    max_leaves=12,
)


@MANY
@given(values)
def test_no_round_trip_changes_the_hash(value):
    assert digest(json.loads(json.dumps(value))) == digest(value)
    assert digest(bson.decode(bson.encode({"value": value}))["value"]) == digest(value)
    assert digest(json.loads(canonical_json(value))) == digest(value)
    assert digest(jsanitize(value, strict=True, enum_values=True, allow_bson=True)) == digest(value)


@MANY
@given(documents)
def test_no_round_trip_changes_the_hash_of_a_document(document):
    expected = content_hash(document)
    assert content_hash(bson.decode(bson.encode(document))) == expected
    assert content_hash(jsanitize(document, strict=True, enum_values=True, allow_bson=True)) == expected
    text = canonical_json(document, extended=True)
    assert content_hash(json_util.loads(text, json_options=json_util.CANONICAL_JSON_OPTIONS)) == expected


@MANY
@given(anything, st.booleans())
def test_whatever_comes_is_hashed_or_refused_and_what_is_hashed_reads_back(value, extended):
    try:
        text = canonical_json(value, extended)
    except (TypeError, ValueError):
        return
    read = json.loads(text)
    assert canonical_json(read) == text
    assert text == json.dumps(read, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def spots(value, path=()):
    """The paths of all leaves."""
    if isinstance(value, dict) and value:
        for key in value:
            yield from spots(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from spots(item, (*path, number))
    else:
        yield path


def other(value, rng):
    """A value that differs from this one as little as it may."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1 if value > 0 else value + 1
    if isinstance(value, float):
        bits = struct.unpack(">Q", struct.pack(">d", value + 0.0))[0] ^ 1 << rng.randrange(52)
        return struct.unpack(">d", struct.pack(">Q", bits))[0]
    if isinstance(value, str):
        place = rng.randrange(len(value) + 1)
        return value[:place] + rng.choice("aÅ\u0301 ") + value[place:]
    return {None: False, "[]": {}, "{}": []}[value if value is None else str(value)]


@MANY
@given(values, st.randoms(use_true_random=False))
def test_another_value_anywhere_is_another_hash(value, rng):
    holder = [value]
    path = rng.choice(list(spots(holder)))
    changed = copy.deepcopy(holder)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = other(inner[path[-1]], rng)
    assert digest(changed) != digest(holder)


ODD = [
    "\ud800",
    "\udfff",
    "\0",
    "\x1f",
    "\x7f",
    "\u2028",
    "é",
    "e\u0301",
    "💎",
    "\uffff",
    '"',
    "\\",
    "$date",
    "@class",
    "_id",
]


def odd_value(rng, depth=0):
    """Something that a document might hold, or that nobody should put into one."""
    kind = rng.randrange(16 if depth < 6 else 12)
    if kind < 2:
        return struct.unpack("<d", rng.randbytes(8))[0]  # any bits: NaNs, subnormals and all
    if kind == 2:
        return rng.choice([0.0, -0.0, 1.0, 1e22, 1e21, 1e16, 9007199254740993.0, 2.0**63, 5e-324, -math.inf])
    if kind < 5:
        return rng.getrandbits(rng.choice([1, 8, 31, 53, 63, 64, 65, 200])) * rng.choice([1, -1])
    if kind < 8:
        return "".join(rng.choice([*ODD, chr(rng.randrange(0x110000)), "a", "b"]) for _ in range(rng.randrange(6)))
    if kind == 8:
        return rng.choice([None, True, False])
    if kind == 9:
        return rng.randbytes(rng.randrange(5))
    if kind == 10:
        return datetime(1970, 1, 1, tzinfo=rng.choice([None, UTC])) + timedelta(
            microseconds=rng.randrange(-(2**55), 2**55)
        )
    if kind == 11:
        return rng.choice([object(), {1}, 1j, (1, 2.0), range(2), math, Decimal("1.0"), bson.Int64(2**62), [], {}])
    items = [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind < 14:
        return items
    keys = [rng.choice(["a", "b", "é", "", 1, None, odd_value(rng, 9)]) for _ in items]
    return {key if key.__hash__ else "k": item for key, item in zip(keys, items, strict=True)}


def test_nothing_slips_through_among_many_odd_inputs():
    """Every input is refused or hashed; what is hashed survives BSON and JSON, and has another hash once changed."""
    rng, hashed = random.Random(FUZZ), 0
    for _ in range(FUZZ):
        value = odd_value(rng)
        try:
            text = canonical_json(value, extended=True)
        except (TypeError, ValueError):
            continue
        hashed += 1
        assert json.loads(text) is not None or text == b"null"
        assert canonical_json(bson.decode(bson.encode({"v": value}))["v"], extended=True) == text
        read = json_util.loads(text, json_options=json_util.CANONICAL_JSON_OPTIONS)
        assert canonical_json(read, extended=True) == text
        try:
            plain = canonical_json(value)
        except (TypeError, ValueError):
            continue
        assert plain == text
        holder = [json.loads(plain)]
        changed = copy.deepcopy(holder)
        path = rng.choice(list(spots(holder)))
        inner = changed
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = other(inner[path[-1]], rng)
        assert canonical_json(changed) != canonical_json(holder)
    assert hashed > FUZZ / 3


@given(st.dictionaries(words, leaves, max_size=6))
def test_the_order_of_keys_does_not_count(value):
    assert digest(dict(reversed(value.items()))) == digest(value)


@given(st.integers(-(2**53), 2**53))
def test_an_integer_is_no_float(number):
    assert digest(number) != digest(float(number))
    assert digest(0.0) == digest(-0.0)


def vectors():
    block = re.search(r"### Test vectors.*?```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(block[1])


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["canonical"][:30])
def test_the_vectors_of_the_specification(vector):
    extended = vector.get("extended", False)
    value = json_util.loads(json.dumps(vector["value"])) if extended else vector["value"]
    text = canonical_json(value, extended)
    assert text.decode() == vector["canonical"]
    assert digest(value, extended) == vector["sha256"]


def by_the_specification(value):
    """Canonical JSON written from docs/provenance.md alone."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: [ord(c) for c in key])
        return "{" + ",".join(f"{by_the_specification(key)}:{by_the_specification(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(by_the_specification, value)) + "]"
    if isinstance(value, str):
        short = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
        escaped = (short.get(c) or (f"\\u{ord(c):04x}" if ord(c) < 0x20 else c) for c in value)
        return '"' + "".join(escaped) + '"'
    if isinstance(value, float):
        return float_by_the_specification(value)
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def float_by_the_specification(value):
    """The fewest digits that read back the same, of several such the closest, found by trying."""
    if value == 0:
        return "0.0"
    exact = Decimal(abs(value))
    for places in range(17):
        unit = Decimal((0, (1,), exact.adjusted() - places))
        near = [int(exact / unit) + step for step in (0, 1)]
        fitting = [n for n in near if float(n * unit) == abs(value)]
        if fitting:
            break
    chosen = min(fitting, key=lambda n: abs(n * unit - exact)) * unit
    power = chosen.adjusted()
    digits = "".join(map(str, chosen.as_tuple().digits)).rstrip("0")
    if not -4 <= power <= 15:
        written = digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + f"e{power:+03d}"
    elif power < 0:
        written = "0." + "0" * (-power - 1) + digits
    else:
        digits = digits.ljust(power + 2, "0")
        written = f"{digits[: power + 1]}.{digits[power + 1 :]}"
    return ("-" if value < 0 else "") + written


@MANY
@given(values)
def test_an_implementation_from_the_specification_agrees(value):
    with localcontext(prec=1100):  # every float in full
        assert canonical_json(value).decode() == by_the_specification(value)


def test_the_form_is_as_documented():
    value = {"b": [-0.0, 1, 1.0, 1e-7, True, None], "a": ("é\n", 2**62)}
    assert canonical_json(value).decode() == '{"a":["é\\n",4611686018427387904],"b":[0.0,1,1.0,1e-07,true,null]}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**63, -(2**63) - 1])
def test_numbers_that_no_store_keeps_are_refused(value):
    with pytest.raises(ValueError, match=r"cannot stand|64 bits"):
        digest({"x": [value]})


@pytest.mark.parametrize("value", [{1: 2}, {"x": object()}, {"x": {1, 2}}, {"x": b"1"}, datetime(2026, 1, 1)])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(TypeError, match="provenance"):
        digest(value)


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, {"a\0b": 1}])
def test_text_that_no_store_keeps_is_refused(value):
    with pytest.raises(ValueError, match="cannot stand in provenance"):
        digest(value)


def test_what_is_nested_too_deeply_is_refused():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="200 levels"):
        canonical(value)


@pytest.mark.parametrize("key", ["$date", "$numberDouble", "$binary", "$oid"])
def test_a_document_cannot_pass_off_an_object_as_a_date_or_a_number(key):
    with pytest.raises(ValueError, match="marks a type"):
        content_hash({"x": {key: "1"}})


def test_the_content_hash_leaves_out_itself_and_the_stores_own_id():
    document = {"a": 1, "provenance": {"science_hash": "x"}}
    expected = content_hash(document)
    sealed = {"_id": "1", "a": 1, "provenance": {"science_hash": "x", "content_hash": expected}}
    assert content_hash(sealed) == expected
    assert content_hash({**document, "content_hash": "1"}) != expected  # only where there is no provenance
    assert content_hash({"a": 1, "content_hash": "1"}) == content_hash({"a": 1})
    assert content_hash({"a": 1, "generation": {"content_hash": "1"}}) != content_hash({"a": 1, "generation": {}})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents)
def test_the_embedded_store_changes_no_hash(tmp_path, document):
    from dao_flows.store.embedded import EmbeddedStore

    store = EmbeddedStore("hashes", str(tmp_path), key="name")
    store.connect()
    held = {"name": "one", "document": document}
    store.update(copy.deepcopy(held), key="name")
    assert content_hash(store.query_one({"name": "one"})) == content_hash(held)


@pytest.mark.skipif(not os.environ.get("DAO_FLOWS_TEST_MONGO_URI"), reason="DAO_FLOWS_TEST_MONGO_URI names no server")
def test_a_mongodb_changes_no_hash():
    from maggma.stores import MongoStore

    name = f"dao_flows_hashes_{random.randrange(10**9)}"
    store = MongoStore(name, "hashes", uri=os.environ["DAO_FLOWS_TEST_MONGO_URI"], key="name")
    store.connect()

    @settings(max_examples=60, deadline=None)
    @given(documents)
    def check(document):
        held = {"name": "one", "document": document}
        store.update(copy.deepcopy(held), key="name")
        assert content_hash(store.query_one({"name": "one"})) == content_hash(held)

    try:
        check()
    finally:
        store._coll.database.client.drop_database(name)
        store.close()


def test_every_part_of_the_science_counts():
    base = {
        "maker": "M",
        "parameters": {"steps": 10},
        "inputs": {"x": 1},
        "checkpoints": {"generator": "a"},
        "seed": 0,
        "code_version": "1",
    }
    others = {
        "maker": "N",
        "parameters": {"steps": 11},
        "inputs": {"x": 2},
        "checkpoints": {"generator": "b"},
        "seed": None,
        "code_version": "2",
    }
    hashes = {science_hash(Science(**{**base, key: value})) for key, value in others.items()}
    assert len(hashes | {science_hash(Science(**base))}) == 7
