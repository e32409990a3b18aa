"""Known crystals in predictions: in tables, documents and files, in the audit, in replays and crates."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from jobflow import JobStore

from dao_flows.api.predict import predict
from dao_flows.api.prediction.inputs import Entry
from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.audit.graph.from_store import build
from dao_flows.audit.integrity.verify import verify
from dao_flows.audit.replay.replay import Options, replay
from dao_flows.crate.archive import limits
from dao_flows.crate.exporting import export_crate
from dao_flows.crate.importing import import_crate
from dao_flows.crate.reader import open_crate
from dao_flows.launch.flows import predict_flows
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.makers.schemas.prediction import CandidateDoc
from dao_flows.model.data.shards import read_manifest
from dao_flows.model.files.user_folders import LIBRARIES
from dao_flows.model.templates import places
from dao_flows.settings import Settings, settings
from dao_flows.store.collections import JOBS
from dao_flows.store.embedded import EmbeddedStore
from dao_flows.store.stores import collection, job_store

PREDICT = ("predict", "NaCl", "Cr3Os", "-n", "6", "--steps", "4")


@pytest.fixture(scope="module")
def predicted_home(tmp_path_factory, tiny_checkpoints) -> Path:
    """The home of a user who has predicted from templates and drawings, Na2ClBr from crystals of two elements."""
    from .conftest import enter

    home = tmp_path_factory.mktemp("predicted")
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, home, tiny_checkpoints)
        predict(["NaCl", "Cr3Os", "Na2ClBr"], n=6, steps=4, out="cif")
    return home


@pytest.fixture
def predicted(predicted_home, tiny_checkpoints, tmp_path, monkeypatch) -> JobStore:
    """That user's store, copied: it may be changed."""
    from .conftest import enter

    enter(monkeypatch, tmp_path, tiny_checkpoints)
    shutil.copytree(predicted_home / "data", tmp_path / "data")
    return job_store()


def grave(store: JobStore) -> list[tuple[str, str, str | None]]:
    """What a verification finds: problem, id and field; without what it cannot tell of shipped checkpoints."""
    return [(f.problem, f.id, f.field) for f in verify(store).findings if f.problem != "unverifiable"]


def candidates(store: JobStore, kind: str) -> list[CandidateDoc]:
    found = [CandidateDoc.model_validate(d) for d in collection(store, "candidates").query({"origin.kind": kind})]
    assert found
    return found


def test_the_table_says_where_candidates_come_from(workplace, call):
    code, out, _ = call(*PREDICT, "Mg2Cl3", "--out", "cif")
    assert code == 0
    assert "Cr3Si mp-0" in out and "known mp-" in out
    assert "Cr3Os: 6 candidates (2 from known crystals, 4 drawn)" in out
    assert "no known crystal can be a template for Mg2Cl3: all candidates are drawn" in out
    code, out, _ = call(*PREDICT, "--templates", "0", "--out", "drawn")
    assert code == 0 and "mp-" not in out and "known crystal" not in out
    code, out, _ = call(*PREDICT, "--no-known", "--templates", "6", "--out", "unknown")
    assert code == 0 and "known mp-" not in out and "CsCl mp-3" in out


def test_json_has_the_origin_of_each(workplace, call):
    code, out, _ = call(*PREDICT, "--json", "--out", "cif")
    assert code == 0
    found = json.loads(out)
    rows = {row["candidate_id"]: row for c in found["compositions"] for row in c["ranked"]}
    assert {row["origin"]["kind"] for row in rows.values()} <= {"drawn", "template", "known"}
    cells = [cells for c in found["compositions"] for cells in c["cells"]]
    assert sum(each.get("templates", 0) + each["candidates"] for each in cells) == 12
    (run,) = json.loads(call("list", "--runs", "--json")[1])
    assert {name: run["request"][name] for name in ("library", "templates", "known")} == {
        "library": "known",
        "templates": None,
        "known": True,
    }


def test_a_template_is_told_wherever_a_candidate_is_shown(predicted, predicted_home, call):
    wanted = next(c for c in candidates(predicted, "template") if c.formula == "Cr3Os")
    origin = wanted.origin
    code, out, _ = call("show", wanted.candidate_id)
    assert code == 0
    out = " ".join(out.split())  # long lines are folded
    assert f"{origin.formula} {origin.material_id} (Materials Project)" in out
    assert f"row {origin.row} of library known {origin.library[:16]}" in out
    assert origin.told() in call("list", "--limit", "0")[1]
    cif = call("export", wanted.candidate_id, "--out", "-")[1]
    assert cif.startswith(f"# {wanted.candidate_id}")
    assert f"from {origin.formula} {origin.material_id} of Materials Project" in cif.splitlines()[0]
    shown = json.loads(call("show", wanted.candidate_id, "--json")[1])
    assert shown["origin"] == origin.model_dump()


def test_the_graph_leads_from_the_library_to_the_candidate(predicted, known_crystals, call):
    wanted = candidates(predicted, "template")[0]
    graph = build(predicted, wanted.candidate_id, "back")
    library = ("dataset", read_manifest(known_crystals).sha256)
    assert graph.nodes[library].state == "stored" and graph.nodes[library].label.startswith("known ")
    (generation,) = [node for node in graph.nodes if node[0] == "generation"]
    assert graph.edges[library, generation] == "known crystals"
    assert graph.edges[library, ("candidate", wanted.candidate_id)] == "template"
    drawn = build(predicted, candidates(predicted, "drawn")[0].candidate_id)
    assert (library, ("candidate", drawn.asked[0][1])) not in drawn.edges
    forward = build(predicted, "known", "forward")  # by the library's name
    assert forward.asked == (library,)
    assert ("candidate", wanted.candidate_id) in forward.nodes


def test_verify_finds_everything_whole_and_the_library_damaged_or_gone(
    predicted, known_crystals, tmp_path, monkeypatch
):
    sha256 = read_manifest(known_crystals).sha256
    assert grave(predicted) == []
    shutil.copytree(known_crystals, tmp_path / "libraries" / "known")
    monkeypatch.setenv(LIBRARIES, str(tmp_path / "libraries"))
    index = tmp_path / "libraries" / "known" / "index.safetensors"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    assert grave(predicted) == [("altered", sha256, "index.safetensors")]
    monkeypatch.setenv(LIBRARIES, str(tmp_path / "none"))
    assert grave(predicted) == [("missing", sha256, None)]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "known"}, "kind"),
        ({"kind": "drawn"}, "kind"),
        ({"library": "0" * 64}, "library"),
        ({"formula": "Cu2Au"}, "exchange"),
        ({"exchange": {"Si": ["Os"], "Cr": ["Fe"]}}, "exchange"),
        ({"exchange": "all"}, ""),
    ],
)
def test_an_origin_that_contradicts_its_candidate_is_found(predicted, change, field):
    """Altered by one who knows how documents are hashed."""
    wanted = next(c.candidate_id for c in candidates(predicted, "template") if c.origin.formula == "Cr3Si")
    store = collection(predicted, "candidates")
    document = store.query_one({"candidate_id": wanted})
    document["origin"] |= change
    document["content_hash"] = content_hash(document)
    store.update([document], key="_id")
    assert ("altered", wanted) in [found[:2] for found in grave(predicted)]
    generation = next(iter(predicted.docs_store.query({"output.@class": "GenerationDoc"})))
    number, origin = next(
        (n, c["origin"])
        for n, c in enumerate(generation["output"]["candidates"])
        if c["origin"]["kind"] == "template" and c["candidate_id"] == wanted
    )
    origin |= change
    generation["output"]["provenance"]["content_hash"] = content_hash(generation["output"])
    predicted.docs_store.update([generation], key=["uuid", "index"])
    collection(predicted, "runs").remove_docs({"job_uuid": generation["uuid"]})
    assert f"output.candidates.{number}.origin{field and '.'}{field}" in [found[2] for found in grave(predicted)]


def test_a_replay_is_identical_and_says_which_library_is_missing(predicted, known_crystals, tmp_path, monkeypatch):
    wanted = candidates(predicted, "template")[0].candidate_id
    found = replay(predicted, wanted)
    assert [(step.maker, step.outcome) for step in found.steps] == [
        ("GenerateMaker", "identical"),
        ("ScreenMaker", "identical"),
    ]
    assert [(step.id, step.outcome) for step in found.documents] == [(wanted, "identical")]
    monkeypatch.setenv(LIBRARIES, str(tmp_path / "none"))
    sha256 = read_manifest(known_crystals).sha256
    step = replay(predicted, wanted).steps[0]
    assert step.outcome == "not replayed"
    assert f"the library of known crystals with sha256 {sha256[:12]}… is not here" in step.reason
    assert replay(predicted, wanted, Options(places=[known_crystals])).outcome == "identical"
    bare = tmp_path / "bare"  # as a dataset, without an index
    shutil.copytree(known_crystals, bare, ignore=shutil.ignore_patterns("index.*"))
    assert replay(predicted, wanted, Options(places=[bare])).outcome == "identical"
    assert not list(bare.glob("index.*"))


def test_a_crate_brings_the_library_and_is_replayed_from_it(predicted, known_crystals, tmp_path, monkeypatch, call):
    wanted = candidates(predicted, "template")[0].candidate_id
    sha256 = read_manifest(known_crystals).sha256
    told = export_crate(predicted, [wanted], tmp_path / "told.zip")
    assert not told.left
    export_crate(predicted, [wanted], tmp_path / "whole.zip", shards=True)
    monkeypatch.setenv(LIBRARIES, str(tmp_path / "none"))
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "elsewhere"))
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "elsewhere" / "store")))
    store.connect()
    with open_crate(tmp_path / "told.zip", limits()) as crate:
        done = import_crate(crate, store, dry_run=True, config=Settings())
    assert done.left == [f"the rows of the dataset 'known' ({sha256[:12]})"]
    with open_crate(tmp_path / "whole.zip", limits()) as crate:
        assert crate.datasets[sha256].sources[0]["licence"] == "CC-BY-4.0"
        done = import_crate(crate, store, config=Settings())
    assert list(done.datasets) == [sha256]
    assert replay(store, wanted).outcome == "identical"
    assert grave(store) == []
    monkeypatch.setenv(LIBRARIES, str(known_crystals.parent))
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "third"))
    other = JobStore(EmbeddedStore(JOBS, str(tmp_path / "third" / "store")))
    other.connect()
    with open_crate(tmp_path / "whole.zip", limits()) as crate:
        assert import_crate(crate, other, config=Settings()).datasets == {}  # it is installed


def test_results_from_templates_are_taken_for_reuse(predicted):
    formulas = ["NaCl", "Cr3Os", "Na2ClBr"]
    assert predict(formulas, n=6, steps=4, reuse=True).reused_batches == 1
    assert predict(formulas, n=6, steps=4, templates=1, reuse=True).reused_batches == 0


def test_a_missing_or_damaged_library_is_one_line(workplace, known_crystals, tmp_path, monkeypatch, call):
    monkeypatch.setattr(places, "_LIBRARIES", replace(places._LIBRARIES, shipped=tmp_path / "none"))
    for folder, words in ((tmp_path / "none", "no library called 'known'"), (tmp_path / "libraries", "was changed")):
        if folder.name == "libraries":
            shutil.copytree(known_crystals, folder / "known")
            index = folder / "known" / "index.safetensors"
            index.write_bytes(index.read_bytes()[:-1] + b"x")
        monkeypatch.setenv(LIBRARIES, str(folder))
        code, out, err = call("predict", "NaCl", "-n", "2")
        assert (code, out) == (2, "")
        assert words in err and len(err.strip().splitlines()) == 1
    assert job_store().count() == 0
    code, _, _ = call("predict", "NaCl", "-n", "2", "--steps", "4", "--templates", "0", "--out", "cif")
    assert code == 0


def test_a_library_is_set_by_name_or_path(workplace, known_crystals, monkeypatch, call):
    shutil.copytree(known_crystals, "mine")
    monkeypatch.setenv("DAO_FLOWS_LIBRARY", "mine")
    assert settings().library == str(Path("mine").absolute())
    options = ("predict", "NaCl", "-n", "2", "--steps", "4", "--json")
    assert call(*options, "--out", "a")[0] == 0
    assert call(*options, "--library", "elsewhere", "--out", "b")[0] == 2
    run = json.loads(call("list", "--runs", "--json")[1])[0]
    assert run["request"]["library"] == str(Path("mine").absolute())


def test_a_submitted_flow_names_the_library_by_its_sha256(workplace, known_crystals):
    sha256 = read_manifest(known_crystals).sha256
    flows = predict_flows([Entry("NaCl")], settings(), PredictionRequest(n=4, templates=1))
    maker = flows[0].flow.jobs[0].function.__self__
    assert (maker.library, maker.templates, maker.known) == (sha256, 1, True)
    outside = shutil.copytree(known_crystals, "outside")
    flows = predict_flows([Entry("NaCl")], settings(), PredictionRequest(n=4, library=outside))
    assert flows[0].flow.jobs[0].function.__self__.library == str(Path(outside).absolute())
