"""The embedded store against maggma's own MemoryStore, several processes at once, and the user's configuration."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from maggma.stores import MemoryStore, MontyStore

from dao_flows.errors import SettingsError, StoreError
from dao_flows.store import stores
from dao_flows.store.collections import DATABASE
from dao_flows.store.embedded import EmbeddedStore

MONGO_URI = os.environ.get("DAO_FLOWS_TEST_MONGO_URI")
TEXTS = st.sampled_from(["NaCl", "Cr3Os", "Na", "ClNa", "", "a.b"])
NUMBERS = st.integers(-3, 3)
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {"k": st.integers(0, 9).map(str), "f": TEXTS, "n": NUMBERS, "in": st.fixed_dictionaries({"f": TEXTS})}
    ),
    max_size=12,
)
CRITERIA = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"f": TEXTS}),
    st.fixed_dictionaries({"in.f": TEXTS, "n": NUMBERS}),
    st.fixed_dictionaries({"f": st.fixed_dictionaries({"$in": st.lists(TEXTS, max_size=3)})}),
    st.fixed_dictionaries({"f": st.fixed_dictionaries({"$ne": TEXTS})}),
    st.fixed_dictionaries({"n": st.fixed_dictionaries({"$gte": NUMBERS, "$lt": NUMBERS})}),
    st.fixed_dictionaries({"$or": st.just([{"f": "NaCl"}, {"n": 1}])}),
)
SORTS = st.sampled_from([{"k": 1}, {"k": -1}, {"n": 1, "k": 1}, {"in.f": -1, "n": -1, "k": 1}])
FIELDS = st.sampled_from([None, ["k"], ["k", "in.f"], {"n": 1, "k": 1}])


def without_id(documents):
    return [{key: value for key, value in doc.items() if key != "_id"} for doc in documents]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(DOCUMENTS, max_size=3),
    criteria=CRITERIA,
    sort=SORTS,
    fields=FIELDS,
    skip=st.integers(0, 3),
    limit=st.integers(0, 4),
)
def test_embedded_store_answers_as_maggmas_memory_store_does(tmp_path, batches, criteria, sort, fields, skip, limit):
    ours = EmbeddedStore("c", database_path=str(tmp_path), key="k")
    theirs = MemoryStore("c", key="k")
    for store in (ours, theirs):
        store.connect(force_reset=True)
        store.remove_docs({})
        for batch in batches:
            store.update(batch)
    query = {"criteria": criteria, "properties": fields, "sort": sort, "skip": skip, "limit": limit}
    answers = [without_id(store.query(**query)) for store in (ours, theirs)]
    assert answers[0] == answers[1]
    assert ours.count(criteria) == theirs.count(criteria)
    assert ours.count() == theirs.count()
    assert sorted(ours.distinct("in.f", criteria)) == sorted(theirs.distinct("in.f", criteria))


WRITER = """
import sys
from dao_flows.store.embedded import EmbeddedStore
folder, writer = sys.argv[1:]
store = EmbeddedStore("c", database_path=folder, key="k")
store.connect()
for number in range(50):
    store.update([{"k": f"{writer}-{number}", "by": writer}, {"k": f"shared-{number}", "by": writer}])
"""


def test_four_processes_lose_and_double_nothing_from_the_very_first_moment(tmp_path):
    folder = tmp_path / "not there yet"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(i)]) for i in range(4)]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    store = EmbeddedStore("c", database_path=str(folder), key="k")
    store.connect()
    keys = [document["k"] for document in store.query()]
    expected = {f"{w}-{n}" for w in range(4) for n in range(50)} | {f"shared-{n}" for n in range(50)}
    assert set(keys) == expected
    assert len(keys) == len(expected)


def test_an_update_is_all_or_nothing(tmp_path):
    store = EmbeddedStore("c", database_path=str(tmp_path), key="k")
    store.connect()
    with pytest.raises(KeyError):
        store.update([{"k": "1"}, {"no key": "2"}])
    assert store.count() == 0


def test_a_plain_monty_store_reads_and_writes_the_same_files(tmp_path):
    ours = EmbeddedStore("c", database_path=str(tmp_path), key="k")
    ours.connect()
    ours.update([{"k": "1", "x": 2.5}])
    plain = MontyStore("c", database_path=str(tmp_path), database_name=DATABASE, key="k")
    plain.connect()
    assert without_id(plain.query({"k": "1"})) == [{"k": "1", "x": 2.5}]
    plain.update([{"k": "1", "x": 3.5}, {"k": "2", "x": 0.5}])
    ours.update([{"k": "1", "x": 4.5}])
    assert without_id(ours.query(sort={"k": 1})) == [{"k": "1", "x": 4.5}, {"k": "2", "x": 0.5}]


def configure(workplace: Path, monkeypatch, text: str, name: str = "jobflow.yaml") -> Path:
    file = workplace / name
    file.write_text(text)
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(file))
    return file


def test_without_a_configuration_the_store_is_embedded_in_the_data_folder(workplace, tmp_path):
    store = stores.job_store()
    assert not stores.result_store(store).shared
    assert str(tmp_path / "data") in stores.describe(store)
    assert stores.collection(store, "runs").path.parent == store.docs_store.path.parent


def test_the_users_configuration_is_honoured_and_the_collections_stand_beside_its_jobs(
    workplace, tmp_path, monkeypatch
):
    place = tmp_path / "theirs"
    spec = f"{{type: MontyStore, collection_name: mine, database_path: {place}}}"
    configure(workplace, monkeypatch, f"JOB_STORE:\n  docs_store: {spec}\n")
    store = stores.job_store()
    stores.collection(store, "candidates").update([{"candidate_id": "dao-1"}])
    assert stores.result_store(store).shared
    assert {path.stem for path in (place / "db").glob("*.collection")} == {"candidates"}


def test_a_configuration_that_names_no_store_leaves_the_embedded_one(workplace, monkeypatch):
    configure(workplace, monkeypatch, "LOG_FORMAT: '%(message)s'\n")
    assert not stores.result_store(stores.job_store()).shared


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("JOB_STORE: [\n", SettingsError, "cannot be used"),
        ("JOB_STORE: {docs_store: {type: NoSuchStore}}\n", SettingsError, "NoSuchStore"),
        ("JOB_STORE: {docs_store: {type: JSONStore, paths: [x.json]}}\n", StoreError, "JSONStore"),
    ],
)
def test_a_bad_configuration_is_named(workplace, monkeypatch, text, error, words):
    file = configure(workplace, monkeypatch, text)
    with pytest.raises(error, match=words) as caught:
        stores.job_store()
    assert "\n" not in str(caught.value)
    assert error is StoreError or str(file) in str(caught.value)


def test_a_configuration_file_that_is_not_there_is_named(workplace, monkeypatch):
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", "/nowhere/jobflow.yaml")
    with pytest.raises(SettingsError, match=r"/nowhere/jobflow\.yaml"):
        stores.job_store()


def test_a_folder_that_cannot_be_made_is_named(workplace, monkeypatch):
    (workplace / "file").touch()
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(workplace / "file"))
    with pytest.raises(StoreError, match=str(workplace / "file")):
        stores.job_store()


@pytest.mark.skipif(MONGO_URI is None, reason="DAO_FLOWS_TEST_MONGO_URI names no server")
def test_the_same_prediction_and_queries_on_a_real_server(workplace, monkeypatch, call):
    database = f"dao_flows_test_{os.getpid()}"
    spec = f"{{type: MongoStore, uri: '{MONGO_URI}', database: {database}, collection_name: jobs}}"
    configure(workplace, monkeypatch, f"JOB_STORE:\n  docs_store: {spec}\n")
    try:
        command = ("predict", "NaCl", "-n", "4", "--z", "2", "--steps", "4", "--json")
        assert [call(*command)[0] for _ in range(2)] == [0, 0]
        candidates = stores.collection(stores.job_store(), "candidates")
        ids = candidates.distinct("candidate_id")
        assert candidates.count() == len(ids) > 0
        assert call("show", ids[0][:10])[0] == 0
        code, out, _ = call("list", "--formula", "NaCl", "--json")
        assert code == 0
        assert all(candidate_id in out for candidate_id in ids)
    finally:
        store = stores.job_store()
        store.docs_store._collection.database.client.drop_database(database)
