"""Replay of what was altered: the document asked for is compared first, and which of the two differs is said."""

import json
from pathlib import Path

import pytest

from dao_flows.audit.graph.from_store import build
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.store.stores import collection, job_store


@pytest.fixture
def jobs(audited):
    return job_store()


def lattice_doubled(document):
    matrix = document["structure"]["lattice"]["matrix"]
    document["structure"]["lattice"]["matrix"] = [[2 * x for x in row] for row in matrix]


def energy(document):
    document["energy_per_atom"] = (document.get("energy_per_atom") or 0.0) + 1.0


def hull(document):
    document["predicted_energy_above_hull"] = -9.0


CHANGES = [
    ("candidate", lattice_doubled, "structure.lattice"),
    ("candidate", lambda d: d["energy"].__setitem__("value", -99.0), "energy.value"),
    ("candidate", lambda d: d.__setitem__("rank", 77), "rank"),
    ("candidate", lambda d: d.__setitem__("seed", 77), "seed"),
    (
        "candidate",
        lambda d: d["screening"]["execution"].__setitem__("job_uuid", "gone"),
        "screening.execution.job_uuid",
    ),
    ("verification", energy, "energy_per_atom"),
    ("verification", lambda d: d["provenance"]["execution"].__setitem__("host", "elsewhere"), "provenance.execution"),
    ("comparison", hull, "predicted_energy_above_hull"),
]


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("kind", "change", "path"), CHANGES)
def test_an_altered_document_is_never_identical(jobs, call, kind, change, path, sealed):
    store = collection(jobs, f"{kind}s")
    document = next(iter(store.query()), None)
    if document is None:
        pytest.skip(f"no {kind} without a force field")
    change(document)
    if sealed and "content_hash" in document:
        document["content_hash"] = content_hash(document)
    elif sealed:
        document["provenance"]["content_hash"] = content_hash(document)
    store.update([document], key="_id")
    code, out, err = call("audit", "replay", f"{kind}:{document[f'{kind}_id']}", "--yes", "--json")
    assert code == 1, out + err
    found = json.loads(out)
    assert found["outcome"] == "different"
    own = next(step for step in found["documents"] if step["kind"] == kind)
    assert own["own"]["path"].startswith(path)
    assert all(step["outcome"] in ("identical", "equal") for step in found["steps"])  # what jobs hold is as it was


def test_a_document_that_was_not_altered_is_as_it_was_laid_out(jobs, call):
    for kind in ("candidate", "comparison"):
        document = next(iter(collection(jobs, f"{kind}s").query()), None)
        if document is not None:
            code, out, err = call("audit", "replay", f"{kind}:{document[f'{kind}_id']}", "--yes")
            assert code == 0, out + err
            assert "its document is as it was laid out" in out


def test_a_calculation_that_is_called_failed(jobs, call):
    found = next(iter(jobs.docs_store.query({"output.@class": "CalculationDoc", "output.state": "successful"})), None)
    if found is None:
        pytest.skip("no calculation without a force field")
    found["output"]["state"], found["output"]["error"] = "failed", "made up"
    found["output"]["provenance"]["content_hash"] = content_hash(found["output"])  # its record tells
    jobs.docs_store.update([found], key=["uuid", "index"])
    code, out, err = call("audit", "replay", found["uuid"])
    assert code == 1, out + err
    assert "its document is not what was written: " in out


def test_a_checkpoint_whose_file_was_altered(jobs, call):
    node = next(node for node in build(jobs).nodes if node[0] == "training")
    output = jobs.query_one({"uuid": node[1]}, load=True)["output"]
    weights = next(Path(output["path"]).glob("*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        code, out, err = call("audit", "replay", f"checkpoint:{output['checkpoint_sha256']}", "--yes", "--json")
    finally:
        weights.write_bytes(content)  # others read it, too
    assert code == 1, out + err
    assert json.loads(out)["steps"][-1]["own"] is not None
