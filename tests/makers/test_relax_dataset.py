"""Relaxing the shards of a dataset: what is written, and that killed jobs lose and repeat nothing."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jobflow import run_locally
from monty.json import jsanitize

from dao_flows.makers.jobs.shards import WORK
from dao_flows.makers.models.checkpoints import ParameterError, load_model
from dao_flows.makers.relax_dataset import COLUMNS, RelaxDatasetMaker, relax_jobs
from dao_flows.makers.schemas.relaxation import RelaxationDoc, RelaxedDatasetDoc
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_p import predict_energy
from dao_flows.model.data.shards import DataError, file_sha256, read_manifest, read_rows
from dao_flows.model.data.table import read_crystals
from dao_flows.model.files.user_folders import CHECKPOINTS

MAKER = RelaxDatasetMaker(predictor="dao-p-tiny", iterations=3, chunk_rows=8, device="cpu")
LABELS = {"e_above_hull", "e_above_hull_kind", "formation_energy_per_atom", "band_gap"}

pytestmark = pytest.mark.usefixtures("tiny_library")


def relax(maker: RelaxDatasetMaker, dataset: Path, shard: int, out: Path) -> RelaxationDoc:
    return RelaxDatasetMaker.make.original(maker, str(dataset), shard, str(out))


def crystal(row: dict) -> Crystal:
    return Crystal(np.array(row["numbers"]), np.reshape(row["frac"], (-1, 3)), np.reshape(row["lattice"], (3, 3)))


@pytest.fixture
def both(random_dataset, tmp_path):
    """The document of a relaxed shard, and its rows before and after."""
    dataset = random_dataset(60, rows_per_shard=60)
    document = relax(MAKER, dataset, 0, tmp_path / "out")
    before, after = (list(read_rows(path)) for path in (dataset / "shard-00000.parquet", Path(document.path)))
    return document, before, after


def test_the_window_is_relaxed_and_all_else_stays(both):
    document, before, after = both
    assert [row["material_id"] for row in after] == [row["material_id"] for row in before]
    for old, new in zip(before, after, strict=True):
        energy = old["e_above_hull"]
        in_window = energy is not None and 0.08 < energy <= 0.5
        assert (new["relax_outcome"] in ("stable", "above window", "unlabelled")) == (not in_window)
        assert (new["energy_before"] is not None) == in_window
        assert new["relaxed"] == (new["relax_outcome"] == "relaxed")
        if not new["relaxed"]:
            assert {key: new[key] for key in old} == old
            assert new["energy_after"] is new["displacement"] is new["volume_ratio"] is new["iterations"] is None
        else:
            assert {key: new[key] for key in old if key not in LABELS | {"lattice", "frac"}} == {
                key: old[key] for key in old if key not in LABELS | {"lattice", "frac"}
            }
            assert all(new[label] is None for label in LABELS)
    assert sum(row["relaxed"] for row in after) == document.outcomes["relaxed"] > 15
    assert sum(document.outcomes.values()) == len(after) == document.relaxed.rows


def test_energies_are_those_of_the_crystals_as_written(both):
    _, before, after = both
    model, _ = load_model("dao-p-tiny", "dao-p", "cpu")
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if new["relaxed"]]
    for which, rows in (("energy_before", [old for old, _ in pairs]), ("energy_after", [new for _, new in pairs])):
        told = [new[which] for _, new in pairs]
        assert told == pytest.approx(predict_energy(model, [crystal(row) for row in rows]), abs=2e-6)
    for _, new in pairs:
        assert new["energy_after"] < new["energy_before"]
        assert min(new["frac"]) >= 0
        assert max(new["frac"]) < 1
        assert 1 <= new["iterations"] <= 3


def test_the_document_tells_the_figures_of_the_rows(both, tiny_library):
    document, before, after = both
    relaxed = [row for row in after if row["relaxed"]]
    falls = [row["energy_before"] - row["energy_after"] for row in relaxed]
    assert document.energy_fall.mean == pytest.approx(np.mean(falls))
    assert document.energy_fall.quartiles == pytest.approx(np.percentile(falls, [25, 50, 75]))
    assert document.displacement.maximum == pytest.approx(max(row["displacement"] for row in relaxed))
    volumes = [abs(np.linalg.det(crystal(row).lattice)) for row in relaxed]
    originals = {row["material_id"]: abs(np.linalg.det(crystal(row).lattice)) for row in before}
    for row, volume in zip(relaxed, volumes, strict=True):
        assert row["volume_ratio"] == pytest.approx(volume / originals[row["material_id"]], rel=1e-5)
    assert document.splits == {"train": 48, "val": 12}
    assert document.relaxed.sha256 == file_sha256(Path(document.path))
    assert document.computation.chunks == 8
    assert document.provenance.science.checkpoints.keys() == {"predictor"}
    jsanitize(document, strict=True)


def test_training_reads_a_relaxed_shard(both):
    document, _, after = both
    table = read_crystals(Path(document.path))
    assert len(table) == len(after)
    assert np.isnan(table.energy).sum() == sum(row["e_above_hull"] is None for row in after)


def test_what_cannot_be_relaxed_stays_and_says_why(random_dataset, tmp_path):
    dataset = random_dataset(2)
    template = {**next(read_rows(dataset / "shard-00000.parquet")), "e_above_hull": 0.2}
    size = template["n_atoms"]
    rows = [
        template | {"numbers": [98] * size},
        template | {"numbers": [6] * 21, "frac": np.linspace(0, 0.99, 63).tolist()},
        template | {"frac": [0.5] * (3 * size - 1)},
        template | {"lattice": [1.0] * 9},
        template | {"lattice": [float("nan")] * 9},
    ]
    dataset = random_dataset(rows=rows, name="odd")
    document = relax(MAKER, dataset, 0, tmp_path / "out")
    after = list(read_rows(Path(document.path)))
    assert [row["relax_outcome"] for row in after] == [
        "not covered: dao-p-tiny does not know the atomic number 98",
        "not covered: 21 atoms, dao-p-tiny covers 20",
        *["no crystal: the figures are not those of a cell with atoms"] * 3,
    ]
    assert document.outcomes == {"not covered": 2, "no crystal": 3}
    assert document.energy_fall is None
    assert after[0]["frac"] == rows[0]["frac"]


@pytest.mark.parametrize(
    ("settings", "outcome"),
    [
        ({"min_volume_ratio": 0.999999, "max_volume_ratio": 1.000001}, "volume"),
        ({"min_distance_ratio": 100.0, "max_displacement": 0.05}, "distance"),
    ],
)
def test_what_leaves_the_bounds_is_not_taken(random_dataset, tmp_path, settings, outcome):
    dataset = random_dataset(60, rows_per_shard=60)
    document = relax(replace(MAKER, **settings), dataset, 0, tmp_path / "out")
    assert document.outcomes[outcome] > 5
    before = {row["material_id"]: row for row in read_rows(dataset / "shard-00000.parquet")}
    for row in read_rows(Path(document.path)):
        if row["relax_outcome"].startswith(outcome):
            assert row["relax_outcome"].startswith(f"{outcome}: ")
            assert {key: row[key] for key in before[row["material_id"]]} == before[row["material_id"]]


def test_crystals_without_an_energy_are_relaxed_if_asked(random_dataset, tmp_path):
    dataset = random_dataset(60, rows_per_shard=60)
    document = relax(replace(MAKER, unlabelled=True), dataset, 0, tmp_path / "out")
    assert "unlabelled" not in document.outcomes
    before = read_rows(dataset / "shard-00000.parquet")
    unlabelled = {row["material_id"] for row in before if row["e_above_hull"] is None}
    assert any(row["relaxed"] for row in read_rows(Path(document.path)) if row["material_id"] in unlabelled)


KILLED = """
import sys, torch
from dao_flows.makers.relax_dataset import RelaxDatasetMaker
torch.set_num_threads(1)
dataset, out = sys.argv[1:]
maker = RelaxDatasetMaker(predictor="dao-p-tiny", iterations=3, chunk_rows=8, device="cpu")
RelaxDatasetMaker.make.original(maker, dataset, 0, out)
"""


def test_a_killed_job_goes_on_after_the_last_finished_chunk(random_dataset, tmp_path, tiny_library):
    dataset = random_dataset(240, rows_per_shard=240)
    undisturbed = relax(MAKER, dataset, 0, tmp_path / "undisturbed")
    out = tmp_path / "killed"
    environment = os.environ | {CHECKPOINTS: str(tiny_library)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(dataset), str(out)], env=environment)
    deadline = time.monotonic() + 120
    while len(list(out.glob(f"{WORK}/*/*/chunk-*.parquet"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survived = len(list(out.glob(f"{WORK}/*/*/chunk-*.parquet")))
    assert 3 <= survived < 30
    assert not (out / "shard-00000.parquet").exists()
    document = relax(MAKER, dataset, 0, out)
    assert document.computation.chunks_taken_over == survived
    assert document.computation.rows == 240 - 8 * survived  # nothing was done twice
    assert document.relaxed == undisturbed.relaxed
    assert document.provenance.science_hash == undisturbed.provenance.science_hash
    assert sorted(path.name for path in out.glob("*")) == [WORK, "shard-00000.json", "shard-00000.parquet"]


def test_two_jobs_at_once_do_the_work_once(random_dataset, tmp_path):
    dataset, out = random_dataset(120, rows_per_shard=120), tmp_path / "out"
    with ThreadPoolExecutor() as pool:
        document, other = pool.map(lambda _: relax(MAKER, dataset, 0, out), range(2))
    assert document == other
    assert document.computation.rows == 120
    assert document.relaxed == relax(MAKER, dataset, 0, tmp_path / "alone").relaxed


def test_a_finished_shard_is_not_computed_again(random_dataset, tmp_path):
    dataset, out = random_dataset(), tmp_path / "out"
    first = relax(MAKER, dataset, 1, out)
    written = Path(first.path).stat().st_mtime_ns
    assert relax(replace(MAKER, name="again"), dataset, 1, out) == first
    assert Path(first.path).stat().st_mtime_ns == written
    Path(first.path).write_bytes(b"damaged")
    assert relax(MAKER, dataset, 1, out).relaxed == first.relaxed
    assert file_sha256(Path(first.path)) == first.relaxed.sha256


def test_what_cannot_go_on_is_refused_in_one_line(random_dataset, tmp_path):
    dataset, out = random_dataset(), tmp_path / "out"
    relax(MAKER, dataset, 0, out)
    other = random_dataset(40, name="other")
    for error, says, attempt in [
        (ParameterError, "another version", lambda: relax(replace(MAKER, high=0.4), dataset, 0, out)),
        (ParameterError, "the dataset itself", lambda: relax(MAKER, dataset, 0, dataset)),
        (ParameterError, "another dataset", lambda: relax(MAKER, dataset, 0, other)),
        (ParameterError, "no shard 2", lambda: relax(MAKER, dataset, 2, out)),
        (ParameterError, "in full", lambda: relax(MAKER, dataset, 0, Path("out"))),
        (ParameterError, "the window is empty", lambda: relax(replace(MAKER, low=0.6), dataset, 0, out)),
        (ParameterError, "iterations", lambda: relax(replace(MAKER, iterations=0), dataset, 0, out)),
        (ParameterError, "max_strain", lambda: relax(replace(MAKER, max_strain=0.0), dataset, 0, out)),
        (ParameterError, "max_volume_ratio", lambda: relax(replace(MAKER, max_volume_ratio=0.9), dataset, 0, out)),
        (ParameterError, "DAO-G", lambda: relax(replace(MAKER, predictor="dao-g-tiny"), dataset, 0, out)),
        (DataError, "no dataset", lambda: relax(MAKER, tmp_path, 0, out)),
    ]:
        with pytest.raises(error, match=says) as raised:
            attempt()
        assert "\n" not in str(raised.value)
    (dataset / "shard-00001.parquet").write_bytes(b"changed")
    with pytest.raises(DataError, match="was changed"):
        relax(MAKER, dataset, 1, out)
    assert not (out / "shard-00001.parquet").exists()


def test_a_whole_dataset_is_relaxed_by_one_job_a_shard(random_dataset, tmp_path, job_store):
    dataset = random_dataset(70, rows_per_shard=30)
    top = relax_jobs({"path": str(dataset)}, str(tmp_path / "out"), MAKER)
    top.metadata = {"dao_flows": {"run": "one"}}
    responses = run_locally(top, store=job_store, ensure_success=True)
    result = job_store.get_output(top.uuid, load=True)
    assert isinstance(result, RelaxedDatasetDoc)
    manifest, parent = read_manifest(Path(result.path)), read_manifest(dataset)
    assert manifest.sha256 == result.sha256
    assert manifest.parent == parent.sha256 == result.parent
    assert [shard.rows for shard in manifest.shards] == [30, 30, 10]
    assert manifest.columns == parent.columns | COLUMNS
    assert manifest.counts == parent.counts
    assert len(responses) == 5  # this job, three shards, the merge; its output is a reference
    documents = list(job_store.query({"name": {"$regex": "relax shard"}}))
    assert sorted(document["name"] for document in documents) == ["relax shard 0", "relax shard 1", "relax shard 2"]
    assert all(document["metadata"]["dao_flows"]["run"] == "one" for document in documents)
    again = relax_jobs(str(dataset), str(tmp_path / "again"), replace(MAKER, predictor=""), predictor="dao-p-tiny")
    run_locally(again, store=job_store, ensure_success=True)
    assert job_store.get_output(again.uuid, load=True).sha256 == result.sha256
