"""`audit verify --files`: what codes left in their folders, altered, gone, added, cut and swapped for a link."""

import os
from pathlib import Path

import pytest

from dao_flows.audit.integrity.verify import verify
from dao_flows.store.stores import job_store

AFTER = {
    "byte": "altered",
    "cut": "altered",
    "link": "altered",
    "deleted": "missing",
    "folder": "missing",
    "added": "orphaned",
    "added link": "orphaned",
}


@pytest.fixture
def calculation(audited):
    """The output of a finished calculation whose folder is here."""
    found = [job["output"] for job in job_store().query({"output.@class": "CalculationDoc"}, load=True)]
    if not found:
        pytest.skip("no calculation without a force field")
    return found[-1]


def change(path, how):
    if how == "byte":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    elif how == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif how == "link":
        other = path.with_suffix(".moved")
        path.rename(other)
        path.symlink_to(other)
    elif how == "deleted":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "added":
        path.with_name("INCAR.added").write_text("x")
    else:
        path.with_name("added.link").symlink_to(path)


def problems(**options):
    return {(each.problem, Path(each.id).name) for each in verify(job_store(), **options).findings}


def test_each_file_of_a_calculation_has_a_hash(calculation):
    folder = Path(calculation["directory"].partition(":")[2])
    stated = {name for name in calculation["provenance"]["files"] if name.startswith("directory/")}
    assert stated == {f"directory/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    assert "directory/printed.txt" in stated
    assert not [each for each in problems(folders=True) if each[0] in ("altered", "missing")]


@pytest.mark.parametrize("how", AFTER)
def test_what_was_changed_is_named(calculation, call, how):
    folder = Path(calculation["directory"].partition(":")[2])
    path = max((each for each in folder.iterdir() if each.is_file()), key=lambda each: each.stat().st_size)
    before = path.read_bytes(), problems(folders=True)
    change(path, how)
    try:
        found = problems(folders=True) - before[1]
        name = {"added": "INCAR.added", "added link": "added.link"}.get(how, path.name)
        assert (AFTER[how], name) in found
        code, out, _ = call("audit", "verify", "--all", "--files")
        assert code == (0 if AFTER[how] == "orphaned" else 1)
        assert name in out
    finally:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(before[0])
        for extra in (path.with_suffix(".moved"), path.with_name("INCAR.added"), path.with_name("added.link")):
            extra.unlink(missing_ok=True)


def test_the_record_of_a_training(audited, call):
    output = next(iter(job_store().query({"output.@class": "TrainingDoc"}, load=True)))["output"]
    metrics = Path(output["path"]).parent / "metrics.jsonl"
    assert "path/../metrics.jsonl" in output["provenance"]["files"]
    before = metrics.read_bytes()
    metrics.write_bytes(before[:-2] + b"\n")
    try:
        code, out, _ = call("audit", "verify", "--all")
        assert code == 1
        assert "metrics.jsonl" in out
    finally:
        metrics.write_bytes(before)
