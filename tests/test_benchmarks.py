"""The benchmarks of the core run with one command, and end with their figure."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dao_flows.model.checkpoint.format import read_card, write_card
from dao_flows.model.files.user_folders import CHECKPOINTS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NUMBER = r"[\d.]+(e[+-]\d+)?"


@pytest.fixture
def run(tiny_checkpoints, tmp_path):
    """Runs a benchmark with the tiny checkpoints in an empty folder; returns its last line."""

    def command(script: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, CHECKPOINTS: str(tiny_checkpoints), "OMP_NUM_THREADS": "1"},
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


def test_labels_are_made_once_part_by_part(run, parquet, tmp_path):
    pytest.importorskip("chgnet")
    salts = {"numbers": [[19, 35], [37, 53]], "frac": [[0.0] * 3 + [0.5] * 3] * 2, "lattice": [[4.0, 0, 0] * 3] * 2}
    crystals = parquet(**salts, split=["train"] * 2, e_above_hull=None)
    few = ["--checkpoint", "dao-g-tiny", "--templates", 2, "--drawings", 0, "--quick"]
    arguments = [crystals, *few, "--out", "labels"]
    told = run("labels.py", *arguments)
    assert re.fullmatch(r"part-0000: \d+ frames of \d+ crystals, \d+ failed, [0-9a-f]{12}", told)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("labels/part-0000/*/*.parquet")}
    frames = [row for path in made if path.parent.name == "labels" for row in pq.read_table(path).to_pylist()]
    assert frames and all(len(frame["forces"]) == 3 * len(frame["numbers"]) for frame in frames)
    assert {len(frame["stress"]) for frame in frames} == {9}
    assert sum(frame["step"] == 0 and frame["numbers"] in salts["numbers"] for frame in frames) >= 2  # rows themselves
    assert run("labels.py", *arguments) == told
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())


def test_predictions_from_known_crystals_and_drawings_are_measured_shard_by_shard(run, parquet, tmp_path):
    pytest.importorskip("chgnet")
    crystals = parquet()
    draw = ["--split", "val", "--checkpoint", "dao-g-tiny", "--steps", 2, "--draws", 2, "--block", 1, "--rows", 5]
    run("drawings.py", crystals, *draw, "--out", "drawn")
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("drawn/*.npz")}
    (lost := next(iter(kept))).unlink()
    run("drawings.py", crystals, *draw, "--out", "drawn")
    assert lost.exists() and all(p.stat().st_mtime_ns == t for p, t in kept.items() if p != lost)
    measure = ["measure", crystals, "results", "--drawings", "drawn", "--predictor", "dao-p-tiny", "--draws", 2]
    run("known_and_drawn.py", *measure, "--part", "0/1")
    records = [json.loads(line) for file in tmp_path.glob("results/*.jsonl") for line in file.open()]
    assert len(records) == 12 and all(len(r["rms"]) == r["templates"] + 2 for r in records)
    assert "| both |" in run("known_and_drawn.py", "table", "results")


def test_a_library_that_holds_what_is_measured_is_refused(tmp_path):
    table = tmp_path / "cells.csv"
    table.write_text("full_formula,spacegroup,category\nNa4Cl4,225,easy\n")
    for script, data in (("cspbench.py", table), ("known_and_drawn.py", None)):
        if data is None:
            row = {"numbers": [11, 17], "lattice": [4.0, 0, 0, 0, 4, 0, 0, 0, 4], "frac": [0.0, 0, 0, 0.5, 0.5, 0.5]}
            pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
        arguments = [data] if data else ["measure", tmp_path / "rows.parquet", tmp_path / "results"]
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: the library known holds 1 of the formulas")
        assert not (tmp_path / "results").exists()


def test_space_groups_of_cells_are_counted(run, monkeypatch, tmp_path):
    for name, value in (("CHECKPOINT", "dao-g-tiny"), ("PREDICTOR", "dao-p-tiny"), ("JUDGE", "none")):
        monkeypatch.setenv(f"DAO_FLOWS_{name}", value)
    rows = ["full_formula,spacegroup,category", "Nb6Ge2,223,binary", "Nb6Sn2,1,binary"]
    (tmp_path / "cells.csv").write_text("\n".join(rows) + "\n")
    run("cspbench.py", "cells.csv", "-n", 1, "--judge", "none", "--out", "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["first"] == found["among_five"] == 0.5  # A15, from Cr3Si
    assert found["space_groups"] == {"Nb6Ge2": [223], "Nb6Sn2": [223]}


def test_ways_to_predict_are_timed(run, monkeypatch):
    for name, value in (("CHECKPOINT", "dao-g-tiny"), ("PREDICTOR", "dao-p-tiny")):
        monkeypatch.setenv(f"DAO_FLOWS_{name}", value)
    assert re.search(rf"1 compositions × 2: {NUMBER}× half from known crystals, ", run("predicting.py", "--quick"))
