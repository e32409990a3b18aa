"""The benchmarks of the core run with one command, and end with their figure."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dao_flows.model.checkpoint import read_card, write_card
from dao_flows.model.library import FOLDER_VARIABLE

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NUMBER = r"[\d.]+(e[+-]\d+)?"


@pytest.fixture
def run(tiny_checkpoints, tmp_path):
    """Runs a benchmark with the tiny checkpoints in an empty folder; returns its last line."""

    def command(script: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, FOLDER_VARIABLE: str(tiny_checkpoints), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    return command


@pytest.mark.parametrize(
    ("script", "arguments", "figure"),
    [
        ("sampling.py", ["--checkpoint", "dao-g-tiny"], rf"{NUMBER} crystals/s, {NUMBER}× the published form"),
        ("sampling.py", ["--checkpoint", "dao-g-tiny", "--sampler", "heun", "--bf16"], rf"{NUMBER} crystals/s"),
        ("forward.py", [], rf"MP-20 fp32: {NUMBER}×"),
        ("screening.py", ["--steps", "5"], rf"60 candidates in {NUMBER} s"),
        ("library.py", [], rf"{NUMBER} ms and \d+ MiB among 2000 crystals; 20 compositions .* in {NUMBER} s"),
    ],
    ids=["sampling", "sampling-heun-bf16", "forward", "screening", "library"],
)
def test_speed(run, script, arguments, figure):
    assert re.search(figure, run(script, *arguments, "--quick"))


def test_speed_of_training(run, parquet):
    assert re.search(rf"{NUMBER} crystals/s", run("training.py", parquet(), "--quick"))


def test_match_rate_tells_both_rankings(run, parquet, tmp_path):
    arguments = ["--checkpoint", "dao-g-tiny", "--samples", 2, "--steps", 2, "--rank", "dao-p-tiny", "--out", "rates"]
    assert re.search(rf"match rate {NUMBER} %", run("match_rate.py", parquet(), "--split", "val", *arguments))
    figures = json.loads((tmp_path / "rates.json").read_text())
    assert (figures["n"], figures["sampler"], figures["steps"]) == (12, "renoising", 2)
    assert {"energy", "agreement"} <= set(figures["first_ranked"])


def test_sampler_curve_has_a_point_for_each_sampler_and_keeps_it(run, parquet, tiny_checkpoints, tmp_path):
    crystals, arguments = parquet(), ["--split", "val", "--limit", 2, "--threads", 1, "--out", "curve", "--calls", 4]
    last = run("sampler_curve.py", crystals, "--checkpoint", "dao-g-tiny", *arguments)
    assert re.search(rf"at 4 calls: {NUMBER} % of {NUMBER}", last)
    points = json.loads((tmp_path / "curve/points.json").read_text())
    steps = {path.stem: json.loads(path.read_text())["steps"] for path in tmp_path.glob("curve/dao-g-tiny*.json")}
    assert len(points) == len({p["sampler"] for p in points}) == len(steps) == 5
    assert sorted(steps.values()) == [2, 2, 2, 4, 4]
    assert (tmp_path / "curve/curve.png").read_bytes().startswith(b"\x89PNG")

    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("curve/*-1.json")}
    assert run("sampler_curve.py", crystals, "--checkpoint", tiny_checkpoints / "dao-g-tiny", *arguments) == last
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_recorded_figures_tell_no_folders_of_the_machine(run, tiny_checkpoints, tmp_path):
    checkpoint = shutil.copytree(tiny_checkpoints / "dao-g-tiny", tmp_path / "dao-g-mine")

    def trained(folder: str) -> dict[str, object]:
        first = {"command": f"python -m dao_flows.model.train dao-g {folder}rows --out runs/a", "steps": 3}
        return {"parents": [{"training": first}], "data": {"sources": [{"location": f"{folder}rows", "rows": 2}]}}

    write_card(checkpoint, replace(read_card(checkpoint), training=trained("../data/")))
    command = "python benchmarks/match_rate.py ../elsewhere/test.parquet --out /data/runs/found"
    figures = {"checkpoint_sha256": read_card(checkpoint).sha256, "command": command, "n": 3}
    (tmp_path / "found.json").write_text(json.dumps(figures))
    assert run("record.py", checkpoint, "test_1_sample", "found.json") == "dao-g-tiny: test_1_sample is in its card"
    card = read_card(checkpoint)
    assert card.training == trained("")
    assert card.metrics["test_1_sample"] == figures | {
        "command": "python benchmarks/match_rate.py test.parquet --out found"
    }


def test_labels_are_written_once(run, parquet, tmp_path):
    pytest.importorskip("chgnet")
    arguments = [parquet(), "--checkpoint", "dao-g-tiny", "--out", "labels", "--quick"]
    assert run("labels.py", *arguments) == "1 shards written, 1 in labels"
    frames = pq.read_table(tmp_path / "labels/drawings-00000.parquet").to_pylist()
    assert {len(frame["forces"]) == 3 * len(frame["numbers"]) for frame in frames} == {True}
    assert {len(frame["stress"]) for frame in frames} == {9}
    assert run("labels.py", *arguments) == "0 shards written, 1 in labels"
