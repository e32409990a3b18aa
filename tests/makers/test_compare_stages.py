"""Stages side by side: what is measured stands in the table, what was not is a dash, and the picture is one."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from jobflow import run_locally

from dao_flows.makers.compare_stages import CompareStagesMaker, StagesDoc, table
from dao_flows.makers.evaluate import EvaluationDoc, energy_figures
from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.science.match_rate import figures


def evaluation(checkpoint: str, rms: list[float], energies: list[float] | None) -> EvaluationDoc:
    science = Science(maker="EvaluateMaker", parameters={}, inputs={}, checkpoints={}, seed=0, code_version="0")
    found = figures(np.array(rms)[:, None])
    return EvaluationDoc(
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint * 64,
        data="x.parquet",
        data_sha256="d",
        split="val",
        n=len(rms),
        samples=1,
        all=found,
        valid_only=found,
        valid_share=1.0,
        not_compared={},
        energies=None if energies is None else energy_figures(np.array(energies), "p"),
        sampling_seconds=1.0,
        provenance=provenance(science, execution_record(datetime.now(UTC), "cpu", {})),
    )


STAGES = {
    "Stage I": evaluation("a", [0.1, np.nan, np.nan, 0.3], [0.02, 0.2, 0.3, 0.01]),
    "Stage I+II": evaluation("b", [np.nan] * 4, None),
}


def test_the_table_says_what_was_measured():
    head, rule, one, two = table(STAGES).splitlines()
    assert len({line.count("|") for line in (head, rule, one, two)}) == 1
    assert "| Stage I | aaaaaaaaaaaa | 4 × 1 | 50.0 [15.0, 85.0] | 0.200 [0.100, 0.300] |" in one
    assert "50.0 [15.0, 85.0] (< 0.08 eV/atom)" in one
    assert two.count("–") == 3
    assert "| 0.0 [0.0, 49.0] |" in two


def test_the_job_writes_both_and_names_the_last_stage(tmp_path, job_store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = CompareStagesMaker().make(list(STAGES), list(STAGES.values()), str(tmp_path / "out"))
    output = run_locally(made, store=job_store, ensure_success=True)[made.uuid][1].output
    document = StagesDoc.model_validate(output)
    assert document.checkpoint == "b" * 64
    assert Path(document.table).read_text() == table(STAGES)
    assert Path(document.picture).read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["stages.md", "stages.png"]


def test_a_relative_folder_is_refused():
    with pytest.raises(ParameterError, match="in full"):
        CompareStagesMaker().make.original(CompareStagesMaker(), list(STAGES), list(STAGES.values()), "out")
