"""A crate brings a history into another store, the same to the last digit, or nothing at all."""

import hashlib
import importlib.util
import io
import json
import os
import platform
import random
import re
import secrets
import shutil
import subprocess
import warnings
import zipfile
from pathlib import Path

import pytest
from jobflow import JobStore
from maggma.stores import MongoStore
from pymatgen.core import Lattice, Structure

from dao_flows.audit.graph.from_store import build
from dao_flows.audit.integrity.verify import verify as audit
from dao_flows.audit.replay.materials import Materials
from dao_flows.crate import CrateError, Limits, importing
from dao_flows.crate.archive import MOMENT
from dao_flows.crate.contents import stored_form
from dao_flows.crate.documents import written
from dao_flows.crate.exporting import author, export_crate
from dao_flows.crate.importing import ORDER, import_crate
from dao_flows.crate.layout import MANIFEST, METADATA, Manifest, member
from dao_flows.crate.reader import open_crate
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.model.checkpoint import format as checkpoint
from dao_flows.model.checkpoint.format import part_name, read_card, save, verify, weight_files
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_p import DaoP
from dao_flows.model.data.shards import parts
from dao_flows.model.files.user_folders import CHECKPOINTS
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.settings import Settings
from dao_flows.store.collections import JOBS
from dao_flows.store.embedded import EmbeddedStore
from dao_flows.store.stores import collection

rocrate = pytest.importorskip("rocrate", reason="exporting needs the extra `crates`")
prov = pytest.importorskip("prov", reason="exporting needs the extra `crates`")
importlib.import_module("prov.model")
BOUNDS = Limits()
ROOT = Path(__file__).parents[2]
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def everything(store: JobStore) -> dict[str, dict[str, bytes]]:
    """All that a store holds, in canonical form."""
    held = {name: collection(store, name) for name in ORDER if name != "jobs"} | {"jobs": store.docs_store}
    return {
        name: {
            hashlib.sha256(stored_form(d)).hexdigest(): stored_form(d)
            for d in found.query({})
            if d.get("event") != "import"  # that is no part of the history
        }
        for name, found in held.items()
    }


def files_of(path: Path | bytes) -> dict[str, bytes]:
    """The members of a crate."""
    with zipfile.ZipFile(path if isinstance(path, Path) else io.BytesIO(path)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repacked(files: dict[str, bytes]) -> bytes:
    """The same members in an archive of their own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, MOMENT), content)
    return buffer.getvalue()


def forged(files: dict[str, bytes]) -> bytes:
    """An archive whose manifest was made to fit, as whoever tampers with a crate would do."""
    rest = {name: content for name, content in sorted(files.items()) if name != MANIFEST}
    old = json.loads(files[MANIFEST])
    members = {name: member(content) for name, content in rest.items()}
    about = {name: old[name] for name in ("dao_flows", "asked", "unsealed")}
    manifest = Manifest(**about, members=members)
    return repacked({**rest, MANIFEST: manifest.as_json()})


@pytest.fixture(scope="module")
def source(audited_home) -> JobStore:
    """The store of the user who ran the small flow; not to be changed."""
    store = JobStore(EmbeddedStore(JOBS, str(audited_home / "data" / "store")))
    store.connect()
    return store


@pytest.fixture(scope="module")
def whole(source, audited_home, tmp_path_factory) -> Path:
    """A crate of all that the flow ends in, with weights and rows; not to be changed."""
    path = tmp_path_factory.mktemp("crate") / "flow.zip"
    export(source, audited_home, path, weights=True, shards=True, licence="CC-BY-4.0")
    return path


def export(source: JobStore, home: Path, path: Path, **options):
    wanted = [d["candidate_id"] for d in collection(source, "candidates").query({})]
    wanted += [f"comparison:{d['comparison_id']}" for d in collection(source, "comparisons").query({})]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHECKPOINTS, str(home / "checkpoints"))
        return export_crate(source, sorted(wanted), path, **options)


@pytest.fixture
def config(tmp_path, monkeypatch) -> Settings:
    """Of a user who has nothing yet."""
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "checkpoints"))
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "data"))
    return Settings()


@pytest.fixture(params=["embedded", "mongodb"])
def empty(request, tmp_path) -> JobStore:
    """An empty store of both kinds."""
    if request.param == "embedded":
        store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    elif (uri := os.environ.get("DAO_FLOWS_TEST_MONGO_URI")) is None:
        pytest.skip("DAO_FLOWS_TEST_MONGO_URI names no server")
    else:
        store = JobStore(MongoStore.from_uri(uri, JOBS, database=f"dao_flows_test_crate_{secrets.token_hex(4)}"))
    store.connect()
    yield store
    if request.param == "mongodb":
        store.docs_store._coll.database.client.drop_database(store.docs_store.database)


def bring(source: Path | bytes, store: JobStore, config: Settings, dry_run: bool = False, bounds: Limits = BOUNDS):
    with open_crate(source, bounds) as crate:
        return import_crate(crate, store, dry_run, config)


def test_a_history_arrives_as_it_was(source, whole, empty, config, tmp_path, audited_home):
    done = bring(whole, empty, config)
    there, here = everything(source), everything(empty)
    for name in ("candidates", "verifications", "comparisons"):
        assert here[name] == there[name] and here[name]
    for name in ("jobs", "runs"):
        assert here[name].items() <= there[name].items()
        assert len(here[name]) >= 10
    assert done.added == {name: len(here[name]) for name in ORDER}
    assert done.unsealed == 0
    hashes = [d["output"]["provenance"] for d in empty.query({}) if "provenance" in (d["output"] or {})]
    assert len(hashes) >= 10
    outputs = [d["output"] for d in empty.query({}) if "provenance" in (d["output"] or {})]
    assert all(content_hash(output) == output["provenance"]["content_hash"] for output in outputs)
    assert {verify(folder).sha256 for folder in done.checkpoints.values()} == set(done.checkpoints)
    assert len(done.checkpoints) == 2
    assert {parts(folder)[1] for folder in done.datasets.values()} == set(done.datasets)
    assert len(done.datasets) == 2
    wanted = json.loads(files_of(whole)[MANIFEST])["asked"]
    graph, same = (build(store, wanted, "back") for store in (source, empty))
    assert (graph.nodes, graph.edges) == (same.nodes, same.edges)
    assert len(graph.nodes) > 15
    again = bring(whole, empty, config)
    assert not again.changes
    assert sum(again.present.values()) == sum(done.added.values())
    assert everything(empty) == here


def test_what_was_imported_is_verified_where_the_original_is_gone(whole, config, tmp_path, audited_home):
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    bring(whole, store, config)
    away = {audited_home / name: audited_home / f"{name}.away" for name in ("flow", "checkpoints", "data")}
    try:
        for place, aside in away.items():
            place.rename(aside)
        report = audit(store)
        materials = Materials(store)
        relaxed = store.query_one({"output.@class": "RelaxedDatasetDoc"})["output"]
        assert materials.dataset(relaxed["sha256"]) == str(tmp_path / "data" / "datasets" / relaxed["sha256"])
        shard = store.query_one({"output.@class": "RelaxationDoc"})["output"]
        assert list(shard["columns"])[:2] == ["material_id", "source"]  # an order that sorting would lose
        assert materials.file(shard["path"], shard["relaxed"]["sha256"]) is not None
    finally:
        for place, aside in away.items():
            aside.rename(place)
    assert [finding for finding in report.findings if finding.problem != "unverifiable"] == []
    assert report.checked["datasets"] == 3  # the library of known crystals, which is installed, too
    assert report.checked["checkpoints"] == 2
    assert report.checked["jobs"] >= 10
    figure = next(path for path in files_of(whole) if path.startswith("files/"))
    brought = tmp_path / "data" / figure
    brought.write_bytes(brought.read_bytes() + b"x")
    audited_flow = audited_home / "data"
    try:
        audited_flow.rename(away[audited_flow])
        assert [each.problem for each in audit(store).findings if each.problem == "altered"] == ["altered"]
    finally:
        away[audited_flow].rename(audited_flow)


def test_a_crate_of_what_was_imported_is_the_same_crate(whole, config, tmp_path):
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    bring(whole, store, config)
    wanted = json.loads(files_of(whole)[MANIFEST])["asked"]
    export_crate(store, wanted, tmp_path / "again.zip", weights=True, shards=True, licence="CC-BY-4.0")
    before, after = files_of(whole), files_of(tmp_path / "again.zip")
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


def test_the_same_export_gives_the_same_bytes(source, whole, audited_home, tmp_path):
    export(source, audited_home, tmp_path / "2.zip", weights=True, shards=True, licence="CC-BY-4.0")
    assert (tmp_path / "2.zip").read_bytes() == whole.read_bytes()


def test_a_file_is_replaced_only_if_that_was_asked_for(source, audited_home, tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"precious")
    with pytest.raises(CrateError, match="exists already"):
        export(source, audited_home, path)
    assert path.read_bytes() == b"precious"
    export(source, audited_home, path, force=True)
    assert MANIFEST in files_of(path)
    with pytest.raises(CrateError, match="no folder"):
        export(source, audited_home, tmp_path / "missing" / "x.zip")
    assert [file.name for file in tmp_path.iterdir()] == ["x.zip"]


def test_a_dry_run_writes_nothing(whole, config, tmp_path):
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    done = bring(whole, store, config, dry_run=True)
    assert done.changes and done.added["jobs"] >= 10
    assert not any(everything(store).values())
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "data" / "datasets").exists()


def test_every_byte_counts(whole, config, tmp_path):
    """One bit of each member in turn, the archive repacked around it."""
    files, generator = files_of(whole), random.Random(0)
    for name, content in files.items():
        at = generator.randrange(len(content))
        changed = content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :]
        with pytest.raises(CrateError, match=re.escape(name)), open_crate(repacked({**files, name: changed}), BOUNDS):
            pass


def test_a_forged_manifest_does_not_help(whole):
    """The documents' own hashes find a change of any of them, when all else was made to fit."""
    files = files_of(whole)
    changed = 0
    for name, content in files.items():
        if not name.startswith("documents/"):
            continue
        document = json.loads(content)
        held = document.get("output") if "/jobs/" in name else document
        if not isinstance(held, dict) or not ("provenance" in held or "content_hash" in held):
            continue
        held["schema_version"] = -1
        with (
            pytest.raises(CrateError, match=f"{re.escape(name)}.*content_hash"),
            open_crate(forged({**files, name: written(document)}), BOUNDS),
        ):
            pass
        changed += 1
    assert changed > 30


def test_a_document_may_not_lose_its_hash(whole):
    """Found by fuzzing: a hash that is taken away proves nothing, and so may only lack where it always did."""
    files = files_of(whole)
    for name in (name for name in files if name.startswith("documents/")):
        document = json.loads(files[name])
        held = document.get("output") if "/jobs/" in name else document
        if isinstance(held, dict) and (place := held.get("provenance", held)).pop("content_hash", None):
            changed = forged({**files, name: written(document)})
            with pytest.raises(CrateError, match="states no content_hash any more"), open_crate(changed, BOUNDS):
                pass
            place["content_hash"] = None
            changed = forged({**files, name: written(document)})
            with pytest.raises(CrateError, match="states no content_hash any more"), open_crate(changed, BOUNDS):
                pass


def test_documents_from_before_there_were_hashes_are_exported_and_named(tmp_path, a_candidate, put, tiny_library):
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "store")))
    store.connect()
    put(store, a_candidate("dao-0123456789ab", SALT), name="candidates")
    done = export_crate(store, ["dao-0123456789ab"], tmp_path / "x.zip")
    assert done.unsealed == 1
    with open_crate(tmp_path / "x.zip", BOUNDS) as crate:
        assert crate.manifest.unsealed == ["documents/candidates/dao-0123456789ab.json"]


def test_odd_values_in_a_manifest_or_a_record_are_refused_in_one_line(whole):
    """Found by fuzzing: a half surrogate pair in the manifest, and a record whose number of a job is none."""
    files = files_of(whole)
    manifest = {**json.loads(files[MANIFEST]), "asked": ["\ud800"]}
    with (
        pytest.raises(CrateError, match=r"manifest\.json"),
        open_crate(repacked({**files, MANIFEST: json.dumps(manifest).encode()}), BOUNDS),
    ):
        pass
    ends = [name for name in files if name.endswith("-2.json") and "/runs/" in name]
    for index in ("x", None, [], 1e300, "9" * 5000):
        document = {**json.loads(files[ends[0]]), "job_index": index}
        document["content_hash"] = content_hash(document)
        changed = forged({**files, ends[0]: written(document)})
        with pytest.raises(CrateError, match="job_index"), open_crate(changed, BOUNDS):
            pass


def test_what_stands_beside_an_output_is_held_to_the_record_of_the_attempt(whole):
    files = files_of(whole)
    jobs = [name for name in files if name.startswith("documents/jobs/")]
    for name in jobs:
        document = json.loads(files[name])
        for field, value in (("name", "other"), ("completed_at", "2020-01-01T00:00:00"), ("hosts", ["other"])):
            changed = forged({**files, name: written({**document, field: value})})
            with pytest.raises(CrateError, match="record of its job"), open_crate(changed, BOUNDS):
                pass
    name = next(name for name in jobs if json.loads(files[name])["output"] is None)
    changed = written({**json.loads(files[name]), "output": [1]})
    with (
        pytest.raises(CrateError, match="its output is not what the record"),
        open_crate(forged({**files, name: changed}), BOUNDS),
    ):
        pass


def test_missing_unknown_and_misplaced_members(whole):
    files = files_of(whole)
    candidate = next(name for name in files if name.startswith("documents/candidates/"))
    without = {name: content for name, content in files.items() if name != candidate}
    for crate, message in (
        (repacked(without), f"{candidate}' is missing"),
        (repacked({**files, "extra.json": b"{}"}), "'extra.json' is not in its manifest"),
        (forged({**files, "extra.json": b"{}"}), "'extra.json' is nothing that a crate holds"),
        (forged({**files, "documents/candidates/other.json": files[candidate]}), "does not lie there"),
        (forged({**without, candidate.replace("candidates", "verifications"): files[candidate]}), "no document of"),
        (repacked({name: content for name, content in files.items() if name != MANIFEST}), "no crate of dao_flows"),
        (forged({name: content for name, content in files.items() if name != METADATA}), METADATA),
    ):
        with pytest.raises(CrateError, match=re.escape(message)), open_crate(crate, BOUNDS):
            pass


def test_checkpoints_and_datasets_that_are_not_what_they_say(whole):
    files = files_of(whole)
    card = next(name for name in files if name.endswith("card.json"))
    weights = card.replace("card.json", "weights.safetensors")
    shard = next(name for name in files if name.endswith(".parquet"))
    manifest = f"{shard.rsplit('/', 1)[0]}/manifest.json"
    stated = json.loads(files[manifest])
    climbing = {**stated, "shards": [{**part, "file": f"../../{part['file']}"} for part in stated["shards"]]}

    def changed(path, **fields):
        return {path: json.dumps({**json.loads(files[path]), **fields}).encode()}

    for changes, message in (
        ({weights: files[weights] + b"x"}, "does not have the sha256 that its name says"),
        (changed(card, sha256="0" * 64), "not the card of the checkpoint"),
        (changed(card, name=7), "not the card of the checkpoint"),
        (changed(card, extra=7), "not the card of the checkpoint"),
        ({card: b"[]"}, "no card"),
        ({card: b"[" * 100_000}, "no card"),
        ({shard: files[shard] + b"x"}, "not what the dataset's manifest says"),
        (changed(manifest, columns=7), "no manifest of a dataset"),
        (changed(manifest, columns={"a": "string"}), "not the manifest of the dataset"),
        ({manifest: json.dumps(climbing).encode()}, "no manifest of a dataset"),
        ({manifest: b"{}"}, "no manifest of a dataset"),
    ):
        with pytest.raises(CrateError, match=re.escape(message)), open_crate(forged({**files, **changes}), BOUNDS):
            pass
    for gone, message in ((card, "has no card"), (manifest, "has no dataset"), (shard, "is missing")):
        rest = {name: content for name, content in files.items() if name != gone}
        with pytest.raises(CrateError, match=re.escape(message)), open_crate(forged(rest), BOUNDS):
            pass


@pytest.fixture
def in_parts(tmp_path, config, monkeypatch) -> tuple[Path, Path]:
    """A checkpoint whose weights lie in parts, and a crate of it alone."""
    network = CrysformerConfig(hidden=8, layers=1, heads=2, frequencies=2, time_width=8)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "PART", 1500)
        card = save(
            tmp_path / "checkpoints" / "many", DaoP(DaoConfig(network=network)), {"elements": [3], "max_atoms": 4}
        )
    assert len(weight_files(tmp_path / "checkpoints" / "many")) > 10  # parts 2 and 10, which sort otherwise as text
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "theirs")))
    store.connect()
    science = {"checkpoints": {"generator": card.sha256}}
    output = {"@class": "GenerationDoc", "provenance": {"science": science}}  # of a job that used it
    store.update({"uuid": "job-0", "index": 1, "completed_at": "2026-11-23T10:00:00", "output": output})
    export_crate(store, [f"checkpoint:{card.sha256}"], tmp_path / "parts.zip", weights=True)
    return tmp_path / "checkpoints" / "many", tmp_path / "parts.zip"


def test_weights_in_parts_arrive_whole(in_parts, config, tmp_path, monkeypatch):
    folder, path = in_parts
    sha256 = read_card(folder).sha256
    names = {file.name for file in (*weight_files(folder), folder / "card.json")}
    assert {name for name in files_of(path) if name.startswith("checkpoints/")} == {
        f"checkpoints/{sha256}/{name}" for name in names
    }
    described = {entity["@id"]: entity for entity in json.loads(files_of(path)[METADATA])["@graph"]}
    whole = described[f"#checkpoint-{sha256}"]["hasPart"]
    assert {part["@id"].rsplit("/", 1)[1] for part in whole} == names
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "mine"))
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    (brought,) = bring(path, store, config).checkpoints.values()
    assert verify(brought) == read_card(folder)
    assert {file.name for file in brought.iterdir()} == names
    for file in brought.iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes()


def test_parts_that_are_not_the_weights_are_refused(in_parts, config, tmp_path, monkeypatch):
    path = in_parts[1]
    files, count = files_of(path), len(weight_files(in_parts[0]))
    home = f"checkpoints/{read_card(in_parts[0]).sha256}"
    at = [f"{home}/{part_name(number, count)}" for number in range(1, count + 1)]
    rest = {name: content for name, content in files.items() if name not in at}
    whole = b"".join(files[name] for name in at)
    claimed = {f"{home}/weights-{n}-of-99999999.safetensors": files[name] for n, name in enumerate(at, 1)}
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "mine"))
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    for changed, message in (
        ({name: content for name, content in files.items() if name != at[0]}, f"lacks {part_name(1, count)}"),
        ({name: content for name, content in files.items() if name != at[-1]}, f"lacks {part_name(count, count)}"),
        ({**files, f"{home}/{part_name(count + 1, count)}": b"x"}, f"has {part_name(count + 1, count)} beside"),
        ({**files, f"{home}/weights-01-of-{count}.safetensors": files[at[0]]}, f"has weights-01-of-{count}"),
        ({**files, f"{home}/{part_name(1, count + 1)}": files[at[0]]}, f"has {part_name(1, count + 1)} beside"),
        ({**files, f"{home}/weights.safetensors": whole}, "has weights.safetensors beside"),
        ({**rest, f"{home}/weights-1-of-1.safetensors": whole}, "lacks weights.safetensors"),
        ({**rest, f"{home}/weights-0-of-0.safetensors": whole}, "lacks weights.safetensors"),
        ({**rest, **claimed}, f"lacks weights-{count + 1}-of-99999999.safetensors"),
        ({**rest, f"{home}/weights-1-of-{'9' * 80}.safetensors": whole}, "lacks weights-2-of-999"),
        ({**files, at[0]: files[at[1]], at[1]: files[at[0]]}, "does not have the sha256 that its name says"),
        ({**files, at[3]: files[at[3]][:-1] + b"x"}, "does not have the sha256 that its name says"),
        ({**files, at[3]: files[at[4]]}, "does not have the sha256 that its name says"),
        ({name: content for name, content in files.items() if not name.endswith("card.json")}, "has no card"),
        ({**files, f"{home}/weights-x-of-2.safetensors": b"x"}, "is nothing that a crate holds"),
        ({**files, at[0]: files[at[0]][:-8], at[1]: files[at[0]][-8:] + files[at[1]]}, "cannot be read"),
    ):
        with pytest.raises(CrateError, match=re.escape(message)) as error:
            bring(forged(changed), store, config)
        assert "\n" not in str(error.value)
    with (
        pytest.raises(CrateError, match=f"weights-4-of-{count}.* was changed"),
        open_crate(repacked({**files, at[3]: files[at[3]][:-1] + b"x"}), BOUNDS),
    ):
        pass
    assert [found for found in tmp_path.joinpath("mine").rglob("*") if found.is_file()] == []


def test_a_card_that_does_not_describe_its_weights_is_refused_before_anything_is_there(whole, config, tmp_path):
    files = files_of(whole)
    card = next(name for name in files if name.endswith("card.json"))
    fields = json.loads(files[card])
    other = "dao-p" if fields["kind"] == "dao-g" else "dao-g"
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    with pytest.raises(CrateError, match="does not describe its weights"):
        bring(forged({**files, card: json.dumps({**fields, "kind": other}).encode()}), store, config)
    assert not any(everything(store).values())
    assert [path for path in tmp_path.rglob("*") if path.name in ("card.json", "manifest.json")] == []


def test_other_content_under_the_same_id_is_refused_and_named(whole, empty, config):
    with open_crate(whole, BOUNDS) as crate:
        found = next(each for each in crate.documents if each.collection == "candidates")
        document = crate.document(found)
    collection(empty, "candidates").update([{**document, "rank": 99, "_id": found.key}], key="candidate_id")
    before = everything(empty)
    with pytest.raises(CrateError, match=f"id of candidate '{found.key}'"):
        bring(whole, empty, config)
    assert everything(empty) == before


def test_an_import_that_was_cut_short_is_completed_by_the_next(source, whole, config, tmp_path, monkeypatch):
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    writes, write = [], importing._write

    def cut(*arguments):
        writes.append(arguments[1])
        if len(writes) == stop:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(importing, "_write", cut)
    for stop in (1, 2, 3):  # noqa: B007 (cut reads it)
        writes.clear()
        with pytest.raises(KeyboardInterrupt):
            bring(whole, store, config)
    stop = None  # to the end
    bring(whole, store, config)
    assert everything(store)["candidates"] == everything(source)["candidates"]
    assert not bring(whole, store, config).changes


def test_a_name_that_is_taken_in_the_library_is_not_taken_again(whole, config, tmp_path, tiny_checkpoints):
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    shutil.copytree(tiny_checkpoints / "dao-g-tiny", tmp_path / "checkpoints" / "artist")
    before = (tmp_path / "checkpoints" / "artist" / "card.json").read_bytes()
    folders = {folder.name for folder in bring(whole, store, config).checkpoints.values()}
    assert any(re.fullmatch(r"artist-[0-9a-f]{12}", name) for name in folders)
    assert (tmp_path / "checkpoints" / "artist" / "card.json").read_bytes() == before


def test_without_weights_and_rows_the_crate_says_what_it_lacks(source, audited_home, config, tmp_path):
    export(source, audited_home, tmp_path / "x.zip")
    assert not [name for name in files_of(tmp_path / "x.zip") if name.endswith((".safetensors", ".parquet"))]
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    done = bring(tmp_path / "x.zip", store, config)
    assert len(done.left) == 4 and not done.checkpoints and not done.datasets


def test_credentials_reach_no_crate(source, audited_home, tmp_path, monkeypatch):
    planted = "p1anted-secret-value"
    monkeypatch.setenv("MY_SERVICE_TOKEN", planted)
    monkeypatch.setenv("SOME_DATABASE", f"postgresql://me:{planted}-2@host/db")
    export(source, audited_home, tmp_path / "x.zip", authors=["Ada Lovelace"])
    assert not [name for name, content in files_of(tmp_path / "x.zip").items() if planted.encode() in content]
    for name, value in (("name", planted), ("description", f"see mongodb://me:{planted}@host"), ("licence", planted)):
        with pytest.raises(CrateError, match="looks like a password") as error:
            export(source, audited_home, tmp_path / f"{name}.zip", **{name: value})
        assert planted not in str(error.value)
        assert not (tmp_path / f"{name}.zip").exists()


def test_a_word_that_is_somebodys_password_refuses_no_crate(source, audited_home, tmp_path, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "dao_flows")
    monkeypatch.setenv("CI_TOKEN", "GenerateMaker")
    monkeypatch.setenv("SECRETS_FOLDER", str(audited_home))
    export(source, audited_home, tmp_path / "x.zip")
    with pytest.raises(CrateError, match="looks like a password"):
        export(source, audited_home, tmp_path / "y.zip", description="the password=dao_flows opens it")


def test_a_document_with_credentials_is_not_exported(tmp_path, a_candidate, put, monkeypatch, tiny_library):
    planted = "p1anted-secret-value"
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "store")))
    store.connect()
    candidate = a_candidate("dao-0123456789ab", SALT)
    candidate.screening.science.parameters["note"] = f"https://me:{planted}@host/"
    put(store, candidate, name="candidates")
    with pytest.raises(CrateError, match=r"documents/candidates/dao-0123456789ab.json would hold") as error:
        export_crate(store, ["dao-0123456789ab"], tmp_path / "x.zip")
    assert planted not in str(error.value)


def test_the_metadata_names_no_place_of_this_machine(whole, audited_home):
    files = files_of(whole)
    told = b"".join(files[name] for name in (METADATA, "prov.json", "workflow.json", "README.md", MANIFEST))
    for place in (str(audited_home), str(Path.home()), os.sep + "tmp" + os.sep, f'"{platform.node()}"'):
        assert place.encode() not in told


def test_the_history_is_told_twice_and_the_same(whole):
    """In RO-Crate and in PROV: each job, what it used, what it made; the files are there."""
    files = files_of(whole)
    graph = {entity["@id"]: entity for entity in json.loads(files[METADATA])["@graph"]}
    history = prov.model.ProvDocument.deserialize(content=files["prov.json"].decode(), format="json")
    actions = {name: e for name, e in graph.items() if e["@type"] == "CreateAction" and name != "#run"}
    activities = {str(record.identifier.localpart) for record in history.get_records(prov.model.ProvActivity)}
    assert {name.removeprefix("#") for name in actions} == activities
    assert len(actions) == len([name for name in files if name.startswith("documents/jobs/")])
    for action in actions.values():
        for side in ("object", "result"):
            for entity in as_list(action.get(side)):
                assert entity["@id"] in graph
        assert graph[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    made = {entity["@id"] for action in actions.values() for entity in as_list(action["result"])}
    used = {entity["@id"] for action in actions.values() for entity in as_list(action.get("object"))}
    assert [
        name for name in files if name.startswith(("structures/", "documents/jobs/", "files/")) and name not in made
    ] == []
    assert {name for name in graph if name.startswith(("#checkpoint-", "#dataset-"))} <= used
    listed = {part["@id"] for part in as_list(graph["./"]["hasPart"])}
    assert listed == set(files) - {METADATA}
    generation = prov.model.ProvGeneration
    assert {str(record.args[0].localpart) for record in history.get_records(generation)} == {
        n.lstrip("#") for n in made
    }


def as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


VALIDATOR = os.environ.get("ROCRATE_VALIDATOR") or shutil.which("rocrate-validator")


@pytest.mark.skipif(VALIDATOR is None, reason="roc-validator is not installed (it needs an environment of its own)")
def test_the_public_validator_finds_nothing_to_complain_of(whole, tmp_path):
    command = [VALIDATOR, "-y", "--disable-color", "validate", "--no-paging", "-p", "provenance-run-crate", str(whole)]
    if cache := os.environ.get("ROCRATE_VALIDATOR_CACHE"):
        command += ["--offline", "--cache-path", cache]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    said = done.stdout + done.stderr
    if "Name or service not known" in said or "Temporary failure" in said or "Max retries" in said:
        pytest.skip("roc-validator needs the network, or ROCRATE_VALIDATOR_CACHE: a cache that it has warmed")
    assert "is a valid provenance-run-crate-0.5" in said, said
    assert done.returncode == 0


def test_fuzzing_finds_nothing(source, audited_home, tmp_path, monkeypatch):
    """A few hundred inputs of benchmarks/fuzz_crate.py, from a crate of a single screening."""
    spec = importlib.util.spec_from_file_location("fuzz_crate", ROOT / "benchmarks" / "fuzz_crate.py")
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    candidate = collection(source, "candidates").query_one({})["candidate_id"]
    export_crate(source, [candidate], tmp_path / "x.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fuzz.run((tmp_path / "x.zip").read_bytes(), 350, seed=3, tell=lambda text: None)
    assert found["findings"] == []
    assert all(counts.get("refused", 0) > 20 for counts in found["outcomes"].values())
    assert found["outcomes"]["forged"].get("read", 0) > 0  # whoever makes all hashes fit is believed: hence signatures


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Ada Lovelace", ("Ada Lovelace", None)),
        ("Ada Lovelace <0000-0002-1825-0097>", ("Ada Lovelace", "0000-0002-1825-0097")),
        ("A B <https://orcid.org/0000-0002-1694-233X>", ("A B", "0000-0002-1694-233X")),
    ],
)
def test_authors(text, wanted):
    assert author(text) == wanted


@pytest.mark.parametrize("text", ["", "<0000-0002-1825-0097>", "Ada <0000-0002-1825-0098>", "Ada <1>", "Ada <x"])
def test_what_is_no_author(text):
    with pytest.raises(CrateError):
        author(text)


def test_what_no_document_names_stays_packed(whole, config, tmp_path):
    stranger = b"a file of nobody"
    sha256 = hashlib.sha256(stranger).hexdigest()
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "data" / "store")))
    store.connect()
    done = bring(forged({**files_of(whole), f"files/{sha256}.txt": stranger}), store, config)
    assert not list(tmp_path.rglob(f"{sha256}*"))
    assert [line for line in done.left if sha256[:12] in line and "no document names" in line]
    assert done.files and all(path.is_file() for path in done.files.values())  # those that documents name


@pytest.mark.parametrize("around", ["paper/", "some/folder/"])
def test_a_crate_zipped_once_more_in_its_folder_is_told_what_to_do(whole, around):
    within = {f"{around}{name}": content for name, content in files_of(whole).items()}
    with pytest.raises(CrateError, match=rf"cd {around[:-1]} && zip -r"), open_crate(repacked(within), BOUNDS):
        pass
    with (
        pytest.raises(CrateError, match=r"it holds 'paper.zip': unpack it, and import that"),
        open_crate(repacked({"paper.zip": whole.read_bytes()}), BOUNDS),
    ):
        pass


def test_many_small_members_may_not_grow_either(whole):
    zeros = bytes(900_000)  # below the size from which a member alone counts
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"files/{number:064x}", zeros)
    with pytest.raises(CrateError, match="zip bomb"), open_crate(buffer.getvalue(), BOUNDS):
        pass


def test_an_id_of_a_store_comes_in_with_no_crate(whole):
    files = files_of(whole)
    for name in (
        next(n for n in files if n.startswith(f"documents/{kind}/")) for kind in ("jobs", "candidates", "runs")
    ):
        changed = written({**json.loads(files[name]), "_id": "somebody-elses"})
        with (
            pytest.raises(CrateError, match="a store alone gives"),
            open_crate(forged({**files, name: changed}), BOUNDS),
        ):
            pass
