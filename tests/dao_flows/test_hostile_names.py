"""Names in documents become names of files in the folder that was asked for, and of nothing outside of it."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from dao_flows.store.stores import collection, job_store

pytestmark = pytest.mark.skipif(find_spec("chgnet") is None, reason="the audited flow verifies with CHGNet")
HOSTILE = ("../../../outside", "{root}/outside", "a\0b", "x" * 300, "CON", "..", "-rf", "a/b\\c", "new\nline")
NAMES = {  # field of a document that can become a name of a file
    "candidates": ("candidate_id", "formula"),
    "verifications": ("verification_id", "candidate_id", "formula", "backend"),
    "comparisons": ("comparison_id", "formula", "backend"),
}
OF_JOBS = {
    "CalculationDoc": ("step", "backend", "candidate_id"),
    "DatasetDoc": ("name",),
    "TrainingDoc": ("name", "stage", "registered_as"),
    "GenerationDoc": (),
}


def all_files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_files_stay_in_their_folder(audited, call, tmp_path, hostile, monkeypatch):
    name = hostile.format(root=tmp_path)
    jobs, out = job_store(), tmp_path / "deep" / "er" / "out"
    out.mkdir(parents=True)
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(out / "runs"))
    ids = {"candidates": f"dao-{name}"}
    for kind, fields in NAMES.items():
        stored = collection(jobs, kind)
        document = next(iter(stored.query()))
        document |= {field: name for field in fields[1:] if field in document}
        document[fields[0]] = ids.setdefault(kind, document[fields[0]])
        stored.update([document], key="_id")
    for job in list(jobs.docs_store.query()):
        held = job["output"] if isinstance(job["output"], dict) else {}
        for field in OF_JOBS.get(held.get("@class"), ()):
            held[field] = name
        jobs.docs_store.update([job], key=["uuid", "index"])
    before = all_files(tmp_path) | all_files(audited.parent)
    for command in (
        ("export", ids["candidates"], "--out", str(out)),
        ("export", ids["candidates"], "--out", str(out), "--format", "poscar"),
        ("export-crate", ids["candidates"], str(out / "crate.zip")),
        ("compare", "--html", str(out / "report.html")),
        ("audit", "replay", ids["verifications"]),
        ("audit", "replay", ids["verifications"], "--dft"),
        ("audit", "replay", ids["candidates"]),
        ("audit", "verify", "--all"),
    ):
        code, _, error = call(*command)
        assert code in (0, 1, 2), command
        assert "please report" not in error, (command, error)
        if command[0] == "export":
            assert code == 0, error
    assert len(list(out.glob("*"))) >= 2
    new = (all_files(tmp_path) | all_files(audited.parent)) - before
    assert {path for path in new if out not in path.parents and "store" not in path.parts} == set()
