"""Damage to the embedded store: a document that cannot be read is named and set aside, and the rest works."""

import random
import sqlite3
from contextlib import closing

import bson
import pytest
from montydb.types import bson as montydb_bson

from dao_flows.api import doctor
from dao_flows.errors import StoreError
from dao_flows.settings import settings
from dao_flows.store.embedded import EmbeddedStore
from dao_flows.store.interface import Damaged


def opened(folder, name="jobs", key="uuid"):
    store = EmbeddedStore(name, database_path=str(folder), key=key)
    store.connect()
    return store


def document(number):
    return {
        "_id": f"j{number}",
        "uuid": f"u{number}",
        "index": 1,
        "output": {"text": "café", "list": [1.5, {"x": None}]},
    }


@pytest.fixture
def store(tmp_path):
    held = opened(tmp_path)
    held.update([document(number) for number in range(45)])  # more than a page
    return held


def rewrite(store, key, value):
    """Put other bytes into the row of a document."""
    with closing(sqlite3.connect(store.path)) as connection, connection:
        table = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        connection.execute(f"UPDATE [{table}] SET v = ? WHERE k = ?", (value, montydb_bson.id_encode(key)))
        assert connection.execute("SELECT changes()").fetchone() == (1,)
    return key


def test_each_bit_of_a_document(store):
    """Whatever bit is flipped: the others are read, and this one is read as a document or named."""
    content = bson.encode(document(20))
    bits = range(len(content) * 8)
    named = 0
    whole = [document(number) for number in range(45) if number != 20]
    for bit in random.Random(3).sample(bits, 80):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        key = rewrite(store, "j20", bytes(flipped))
        rows = list(store.documents())
        assert len(rows) == 45
        damaged = [row.key for row in rows if isinstance(row, Damaged)]
        assert damaged in ([], [key])
        named += len(damaged)
        others = list(store.query())
        assert sum(d in others for d in whole) == 44
        assert store.query_one({"uuid": "u7"}) == document(7)
    assert 0 < named < 80


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"", "no BSON"),
        (bson.encode(document(3))[:-9], "no BSON"),
        (bson.encode({"_id": "j3", "index": 1}), "its uuid is not there"),
        (bson.encode({"_id": "j3", "uuid": 7, "index": 1}), "its uuid is int, not str"),
        (bson.encode({"_id": "j3", "uuid": "u3", "index": "1"}), "its index is str, not int"),
        ("text", "in place of BSON"),
        (None, "in place of BSON"),
    ],
)
def test_it_is_named_and_set_aside(store, tmp_path, value, told, caplog):
    try:
        key = rewrite(store, "j3", value)
    except sqlite3.IntegrityError:
        pytest.skip("sqlite itself forbids it")
    assert len(list(store.query())) == 44
    assert key in caplog.text
    assert told in caplog.text
    (damaged,) = store.damage()
    assert damaged.key == key
    assert told in damaged.reason
    (path,) = store.set_aside(tmp_path / "aside")
    held = value if isinstance(value, bytes) else str(value).encode()
    assert path.read_bytes() == held
    assert path.with_suffix(".key").read_text() == key
    assert list(store.damage()) == []
    assert store.count() == 44
    assert store.set_aside(tmp_path / "aside") == []


def test_a_file_that_is_no_database(tmp_path):
    store = opened(tmp_path)
    store.path.write_bytes(b"no database, but long enough to be looked at" * 40)
    with pytest.raises(StoreError, match="is damaged"):
        list(store.query())


def test_an_empty_file_is_not_taken_for_a_new_store(tmp_path):
    store = opened(tmp_path)
    store.path.write_bytes(b"")
    with pytest.raises(StoreError, match="is an empty file"):
        opened(tmp_path)


def test_a_damaged_page_is_told_by_name(store):
    content = bytearray(store.path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    store.path.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=r"is damaged .*recover"):
        list(store.query())


def test_commands_name_it_and_work(audited, call, tmp_path):
    """A candidate with a flipped bit: the others are listed and shown, verify counts it, doctor gets it out."""
    from dao_flows.store.stores import collection, job_store

    candidates = collection(job_store(), "candidates")
    ids = [each["candidate_id"] for each in candidates.query(properties=["candidate_id"])]
    content = bytearray(bson.encode(candidates.query_one({"candidate_id": ids[0]})))
    content[0] ^= 1
    key = rewrite(candidates, ids[0], bytes(content))
    code, out, err = call("list")
    assert code == 0, err
    for each in ids[1:2]:
        assert call("show", each)[0] == 0
    code, out, err = call("audit", "verify", "--all")
    assert code == 1, err
    assert f"altered: candidates {key}" in out
    assert call("compare")[0] in (0, 2)
    code, out, err = call("doctor")
    assert f"candidates {key}" in out
    assert "--set-aside" in out
    code, out, err = call("doctor", "--set-aside", str(tmp_path / "aside"))
    assert "set aside: " in err
    assert not [check for check in doctor.check_store(settings()) if check.status == "broken"]
    assert len(list((tmp_path / "aside").glob("candidates-*.bson"))) == 1


@pytest.mark.parametrize("old", [b"symbol\0", b"rank\0", b"value\0"])
def test_a_lost_key_does_not_break_the_list(audited, call, old):
    from dao_flows.store.stores import collection, job_store

    candidates = collection(job_store(), "candidates")
    found = candidates.query_one({})
    content = bson.encode(found)
    assert old in content
    rewrite(candidates, found["_id"], content.replace(old, b"X" + old[1:]))
    code, _, err = call("list")
    assert code == 0, err
