"""Documents of a shared store and files of reference entries may name code: no command imports or calls it."""

import importlib.util
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from monty.json import MontyEncoder
from pymatgen.entries.computed_entries import ComputedEntry

from dao_flows.store.stores import collection, job_store

pytestmark = pytest.mark.skipif(find_spec("chgnet") is None, reason="the audited flow verifies with CHGNet")
ROOT = Path(__file__).parents[2]
MODULE = "hostile_module"
OBJECTS = {
    "class": {"@module": MODULE, "@class": "Thing"},
    "callable": {"@module": MODULE, "@callable": "call"},
    "bound": {
        "@module": MODULE,
        "@callable": "Thing.as_dict",
        "@bound": {"@module": MODULE, "@class": "Thing"},
    },
    "reference": {
        "@module": "jobflow.core.reference",
        "@class": "OutputReference",
        "uuid": {"@module": MODULE, "@class": "Thing"},
    },
    "calculator": {
        "@module": "atomate2.forcefields.jobs",
        "@class": "ForceFieldStaticMaker",
        "force_field_name": f"{MODULE}.call",
        "calculator_kwargs": {},
    },
}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Whether the module that hostile documents name was imported."""
    mark = tmp_path / "ran"
    (tmp_path / f"{MODULE}.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nclass Thing:\n    pass\ndef call(**keywords):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield mark.exists
    sys.modules.pop(MODULE, None)


def plant(document, planted, where):
    """Put an object into a document; where: as the whole structure, in a site, or in the parameters of its science."""
    structures = [document[name] for name in ("structure", "sent", "predicted_structure") if document.get(name)]
    structures += [each["structure"] for name in ("candidates", "accepted") for each in document.get(name, [])]
    for structure in structures:
        if where == "site":
            structure["sites"][0]["properties"] = {"magmom": planted}
        elif where == "structure":
            structure["lattice"] = structure["properties"] = planted
    provenance = document.get("provenance")
    if where == "science" and provenance:
        provenance["science"]["parameters"]["planted"] = planted
        provenance["science"]["parameters"]["settings"] = planted
    if where == "science" and isinstance(document.get("task"), dict):
        document["task"]["planted"] = [planted]


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        *(("site", "class"), ("site", "bound"), ("site", "reference")),
        *(("structure", "callable"), ("science", "reference"), ("science", "calculator")),
    ],
)
def test_documents_run_nothing(audited, call, ran, where, kind, tmp_path):
    jobs = job_store()
    candidate = next(iter(collection(jobs, "candidates").query()))["candidate_id"]
    verification = next(iter(collection(jobs, "verifications").query()))["verification_id"]
    for name in ("candidates", "verifications", "comparisons"):
        stored = collection(jobs, name)
        documents = list(stored.query())
        for document in documents:
            plant(document, OBJECTS[kind], where)
        stored.update(documents)
    finished = [job for job in jobs.docs_store.query() if isinstance(job["output"], dict)]
    for job in finished:
        plant(job["output"], OBJECTS[kind], where)
    jobs.docs_store.update(finished, key=["uuid", "index"])
    for command in (
        ("list",),
        ("show", candidate),
        ("export", candidate, "--out", str(tmp_path / "out")),
        ("compare", "--json"),
        ("audit", "graph"),
        ("audit", "replay", candidate),
        ("audit", "replay", verification),
        ("audit", "replay", verification, "--dft"),
        ("verify", candidate, "--backend", "forcefield", "--reference", "store:"),
        ("export-crate", verification, str(tmp_path / "crate.zip")),
        ("dataset", "build", str(tmp_path / "set"), "store:"),
        ("audit", "verify", "--all"),
    ):
        code, _, error = call(*command)
        assert not ran(), f"{' '.join(command)} ran what a document names"
        assert code in (0, 1, 2), command
        assert "please report" not in error, (command, error)


@pytest.mark.parametrize("planted", OBJECTS.values(), ids=OBJECTS)
def test_reference_entries_run_nothing(audited, call, ran, planted):
    entry = json.loads(json.dumps(ComputedEntry("Na", -1.3).as_dict(), cls=MontyEncoder))
    for name, value in (("parameters", {"run_type": planted}), ("data", planted), ("energy_adjustments", [planted])):
        (audited / "entries.json").write_text(json.dumps([entry | {name: value}]))
        code, _, error = call("compare", "--reference", "entries.json")
        assert not ran()
        assert code in (0, 2)
        assert "please report" not in error


def test_entries_that_are_nested_too_deeply_are_told(audited, call):
    (audited / "entries.json").write_text("[" * 100_000 + "]" * 100_000)
    code, _, error = call("compare", "--reference", "entries.json")
    assert (code, error.count("\n"), "cannot be read as JSON" in error) == (2, 1, True)


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("where", ["site", "structure", "science"])
def test_crates_run_nothing(audited, call, ran, where, tmp_path, monkeypatch):
    """Whoever altered the crate made all hashes fit that stand in it."""
    pytest.importorskip("rocrate", reason="exporting needs the extra `crates`")
    verification = next(iter(collection(job_store(), "verifications").query()))["verification_id"]
    assert call("export-crate", verification, str(tmp_path / "crate.zip"), "--license", "CC0-1.0")[0] == 0
    fuzz = benchmark("fuzz_crate")
    fuzzer = fuzz.Fuzzer((tmp_path / "crate.zip").read_bytes(), 0)
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "theirs"))
    tried = 0
    for path in (path for path in fuzzer.documents if path.startswith("documents/")):
        document = json.loads(fuzzer.files[path])
        planted = OBJECTS["calculator" if "CalculationDoc" in json.dumps(document)[:20_000] else "bound"]
        if not isinstance(held := document.get("output", document), dict):
            continue
        plant(held, planted, where)
        if document == json.loads(fuzzer.files[path]):
            continue
        content = fuzz.as_json(fuzz.sealed(document))
        (tmp_path / "altered.zip").write_bytes(fuzzer.fitted({**fuzzer.files, path: content}))
        code, _, error = call("import-crate", str(tmp_path / "altered.zip"))
        assert not ran(), path
        assert (code, error.count("\n"), "please report" in error) == (2, 1, False), (path, error)
        tried += 1
    assert tried


def test_a_file_of_entries_is_no_dataset(audited, call, ran, tmp_path):
    (tmp_path / "entries.json").write_text(json.dumps([OBJECTS["callable"]]))
    code, _, error = call("dataset", "build", str(tmp_path / "set"), str(tmp_path / "entries.json"))
    assert (code, "of no kind that can be read" in error, ran()) == (2, True, False)


def test_documents_with_objects_at_any_depth_run_nothing():
    """A few hundred inputs of benchmarks/fuzz_documents.py."""
    found = benchmark("fuzz_documents").run(330, seed=3, tell=lambda _: None)
    assert found["findings"] == []
    assert all(found["outcomes"][reader]["taken"] for reader in ("structure", "entry", "document", "reuse", "crate"))


def test_the_objects_would_run_if_they_were_decoded(ran):
    from monty.json import MontyDecoder

    MontyDecoder().process_decoded(OBJECTS["class"])
    assert ran()
