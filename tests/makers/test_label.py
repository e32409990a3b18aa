"""A force field's labels of a dataset: what is written, and that killed jobs lose and repeat nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from jobflow import run_locally
from monty.json import jsanitize
from pymatgen.core import Lattice, Structure

from dao_flows.makers.jobs.progress import reporter
from dao_flows.makers.jobs.shards import WORK
from dao_flows.makers.label import COLUMNS, MEANING, LabelMaker, MergeLabelsMaker, label_jobs
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.labels import LabelledDatasetDoc, LabellingDoc
from dao_flows.model.data.shards import DataError, dataset_rows, file_sha256, read_manifest, read_rows
from dao_flows.model.data.table import read_crystals

pytestmark = pytest.mark.skipif(
    not (find_spec("atomate2") and find_spec("chgnet")), reason="needs dao-flows[forcefields]"
)

MAKER = LabelMaker(steps=(0, 1, 2), chunk_rows=2, device="cpu")
OF_THE_ORIGINAL = ("e_above_hull", "e_above_hull_kind", "formation_energy_per_atom", "band_gap")
ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(6.3), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
CRYSTALS = {
    "rock salt": ROCK_SALT.get_primitive_structure(),
    "silicon": Structure.from_spacegroup("Fd-3m", Lattice.cubic(6.0), ["Si"], [[0, 0, 0]]).get_primitive_structure(),
    "bent": Structure(Lattice([[3.0, 0.2, 0], [0, 3.3, 0.1], [0.3, 0, 3.1]]), ["Cs", "Cl"], [[0, 0, 0], [0.45] * 3]),
    "lonely": Structure(Lattice.cubic(30), ["He"], [[0, 0, 0]]),  # no atom has a neighbour
}


def row_of(name: str, structure: Structure) -> dict:
    return {
        "material_id": name,
        "source": "by hand",
        "reduced_formula": structure.composition.reduced_formula,
        "n_atoms": len(structure),
        "numbers": list(structure.atomic_numbers),
        "lattice": structure.lattice.matrix.ravel().tolist(),
        "frac": (structure.frac_coords % 1).ravel().tolist(),
        "formation_energy_per_atom": -0.5,
        "e_above_hull": 0.1,
        "e_above_hull_kind": "dft",
        "band_gap": 1.0,
        "split": "train",
    }


def structure_of(row: dict) -> Structure:
    return Structure(np.reshape(row["lattice"], (3, 3)), row["numbers"], np.reshape(row["frac"], (-1, 3)))


def label(dataset: Path, out: Path, maker: LabelMaker = MAKER, shard: int = 0) -> LabellingDoc:
    return LabelMaker.make.original(maker, str(dataset), shard, str(out))


def merge(dataset: Path, shards: list, out: Path) -> LabelledDatasetDoc:
    return MergeLabelsMaker.make.original(MergeLabelsMaker(), str(dataset), shards, str(out))


@pytest.fixture
def dataset(random_dataset) -> Path:
    """Four crystals, one of which no force field computes; a shard."""
    return random_dataset(rows=[row_of(name, crystal) for name, crystal in CRYSTALS.items()], name="crystals")


@pytest.fixture(scope="module")
def chgnet():
    """CHGNet's own call."""
    from chgnet.model import CHGNet

    return CHGNet.load(use_device="cpu", verbose=False)


def test_every_frame_has_the_labels_of_the_crystal_in_its_row(dataset, tmp_path, chgnet):
    document = label(dataset, tmp_path / "out")
    rows = list(read_rows(Path(document.path)))
    assert [row["material_id"] for row in rows] == [n for n in CRYSTALS if n != "lonely" for _ in MAKER.steps]
    assert [row["step"] for row in rows] == [0, 1, 2] * 3
    for row in rows:
        told = chgnet.predict_structure(structure_of(row))
        assert row["energy_per_atom"] == pytest.approx(float(told["e"]), abs=1e-4)
        assert np.reshape(row["forces"], (-1, 3)) == pytest.approx(told["f"], abs=2e-3)
        assert np.reshape(row["stress"], (3, 3)) == pytest.approx(told["s"], abs=2e-2)
        original = row_of(row["material_id"], CRYSTALS[row["material_id"]])
        assert row["numbers"] == original["numbers"]
        assert 0 <= min(row["frac"]) <= max(row["frac"]) < 1
        if row["step"]:
            assert all(row[name] is None for name in OF_THE_ORIGINAL)
        else:
            assert {name: row[name] for name in OF_THE_ORIGINAL} == {name: original[name] for name in OF_THE_ORIGINAL}
            assert row["lattice"] == pytest.approx(original["lattice"], rel=1e-6)
            assert row["frac"] == pytest.approx(original["frac"], abs=1e-6)


def test_a_left_handed_cell_has_the_forces_of_the_one_in_its_row(random_dataset, tmp_path, chgnet):
    row = row_of("bent", CRYSTALS["bent"])
    dataset = random_dataset(rows=[row | {"lattice": [-x for x in row["lattice"]]}], name="left")
    (row,) = read_rows(Path(label(dataset, tmp_path / "out", replace(MAKER, steps=(0,))).path))
    told = chgnet.predict_structure(structure_of(row))["f"]
    assert np.abs(told).max() > 0.1
    assert np.reshape(row["forces"], (-1, 3)) == pytest.approx(told, abs=2e-3)


def test_the_stress_has_the_sign_that_is_told(random_dataset, tmp_path):
    small, large = (CRYSTALS["rock salt"].apply_strain(strain, inplace=False) for strain in (-0.2, 0))
    dataset = random_dataset(rows=[row_of("small", small), row_of("large", large)], name="strained")
    compressed, stretched = read_rows(Path(label(dataset, tmp_path / "out", replace(MAKER, steps=(0,))).path))
    assert compressed["stress"][0] < 0 < stretched["stress"][0]  # it would grow; it would shrink


def test_relaxation_lowers_the_energy_and_the_document_tells_it(dataset, tmp_path):
    document = label(dataset, tmp_path / "out")
    rows = list(read_rows(Path(document.path)))
    energies = np.reshape([row["energy_per_atom"] for row in rows], (3, 3))
    assert (energies[:, -1] <= energies[:, 0]).all()
    assert energies[2, -1] < energies[2, 0] - 0.01  # the bent one
    falls = energies[:, 0] - energies[:, -1]
    assert document.energy_fall.mean == pytest.approx(falls.mean())
    assert document.energy_before.maximum == pytest.approx(energies[:, 0].max())
    assert document.energy_after.minimum == pytest.approx(energies[:, -1].min())
    assert document.labelled.sha256 == file_sha256(Path(document.path))
    assert (document.labelled.rows, document.crystals, document.splits) == (9, 3, {"train": 9})
    assert document.provenance.science.parameters["force_field"] == document.force_field == "CHGNet"
    assert document.provenance.science.parameters["force_field_version"] == document.force_field_version != ""
    jsanitize(document, strict=True)


def test_what_cannot_be_computed_is_told_and_harms_no_other(dataset, random_dataset, tmp_path):
    document = label(dataset, tmp_path / "out")
    (failed,) = document.failed
    assert (failed.material_id, failed.row, failed.step) == ("lonely", 3, 0)
    assert failed.reason and "\n" not in failed.reason
    row = row_of("silicon", CRYSTALS["silicon"])
    dataset = random_dataset(rows=[row | {"lattice": [1.0] * 9}, row, row | {"numbers": [0, 14]}], name="flat")
    document = label(dataset, tmp_path / "flat-out", replace(MAKER, steps=(0,)))
    assert [(each.row, each.reason[:10]) for each in document.failed] == [(0, "no crystal"), (2, "no crystal")]
    assert [row["material_id"] for row in read_rows(Path(document.path))] == ["silicon"]


def test_a_crystal_whose_relaxation_fails_keeps_its_first_frame(dataset, tmp_path, monkeypatch):
    from dao_flows.makers.models.force_field import ForceField, ForceFieldError

    def torn(self, structure, steps, frames=False):
        raise ForceFieldError("the cell is torn")

    monkeypatch.setattr(ForceField, "relax", torn)
    document = label(dataset, tmp_path / "out")
    assert [row["step"] for row in read_rows(Path(document.path))] == [0, 0, 0]
    assert [(each.row, each.step) for each in document.failed] == [(0, 1), (1, 1), (2, 1), (3, 0)]
    assert (document.crystals, document.energy_fall.maximum) == (3, 0)
    document = label(dataset, tmp_path / "later", replace(MAKER, steps=(1, 2)))
    assert (document.crystals, document.labelled.rows, len(document.failed), document.energy_fall) == (0, 0, 4, None)


def test_a_relaxation_that_ends_soon_gives_its_last_frame_once(random_dataset, tmp_path):
    dataset = random_dataset(rows=[row_of("silicon", CRYSTALS["silicon"])])
    document = label(dataset, tmp_path / "out", replace(MAKER, steps=(0, 90, 99)))
    first, last = (row["step"] for row in read_rows(Path(document.path)))
    assert first == 0 < last < 90


def test_training_reads_a_labelled_shard(dataset, tmp_path):
    document = label(dataset, tmp_path / "out")
    table = read_crystals(Path(document.path))
    assert len(table) == 9
    assert np.isnan(table.energy).sum() == 6


KILLED = """
import sys, torch
from dao_flows.makers.label import LabelMaker
torch.set_num_threads(1)
dataset, out = sys.argv[1:]
LabelMaker.make.original(LabelMaker(steps=(0, 1, 2), chunk_rows=2, device="cpu"), dataset, 0, out)
"""


def test_a_killed_job_goes_on_after_the_last_finished_chunk(random_dataset, tmp_path):
    names = [*CRYSTALS] * 4
    rows = [row_of(f"{name} {number}", CRYSTALS[name]) for number, name in enumerate(names)]
    dataset = random_dataset(rows=rows, name="many")
    undisturbed = label(dataset, tmp_path / "undisturbed")
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(dataset), str(out)], env=os.environ)
    deadline = time.monotonic() + 240
    while len(list(out.glob(f"{WORK}/*/*/chunk-*.parquet"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survived = len(list(out.glob(f"{WORK}/*/*/chunk-*.parquet")))
    assert 2 <= survived < 8
    assert not (out / "shard-00000.parquet").exists()
    document = label(dataset, out)
    assert document.computation.chunks_taken_over == survived
    assert document.computation.rows == 16 - 2 * survived  # nothing was done twice
    assert (document.labelled, document.failed) == (undisturbed.labelled, undisturbed.failed)
    assert [each.row for each in document.failed] == [3, 7, 11, 15]
    here, there = merge(dataset, [document], out), merge(dataset, [undisturbed], tmp_path / "undisturbed")
    assert here.sha256 == there.sha256
    for name in ("manifest.json", "rejects.jsonl", "shard-00000.parquet"):
        assert (out / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_a_whole_dataset_is_labelled_by_one_job_a_shard(random_dataset, tmp_path, job_store):
    rows = [row_of(name, crystal) for name, crystal in CRYSTALS.items()]
    dataset, told = random_dataset(rows=rows, rows_per_shard=2, name="crystals"), []
    top = label_jobs({"path": str(dataset)}, str(tmp_path / "out"), replace(MAKER, steps=(0,), chunk_rows=1))
    top.metadata = {"dao_flows": {"run": "one"}}
    token = reporter.set(lambda *each: told.append(each))
    try:
        run_locally(top, store=job_store, ensure_success=True)
    finally:
        reporter.reset(token)
    assert told == [(1, 2, "label"), (2, 2, "label")] * 2
    result = job_store.get_output(top.uuid, load=True)
    assert isinstance(result, LabelledDatasetDoc)
    manifest, parent = read_manifest(Path(result.path)), read_manifest(dataset)
    assert manifest.sha256 == result.sha256
    assert manifest.parent == parent.sha256 == result.parent
    assert manifest.columns == parent.columns | COLUMNS
    assert set(COLUMNS) <= set(MEANING)
    assert (manifest.name, result.rows, result.crystals, result.failed) == ("crystals-labelled", 3, 3, 1)
    assert manifest.made_by["parameters"]["force_field_version"] == result.force_field_version
    assert [row["material_id"] for row in dataset_rows(Path(result.path))] == ["rock salt", "silicon", "bent"]
    (line,) = (json.loads(line) for line in Path(result.rejects).read_text().splitlines())
    assert (line["shard"], line["row"], line["material_id"]) == (1, 1, "lonely")
    assert manifest.files()["rejects.jsonl"] == file_sha256(Path(result.rejects))
    documents = list(job_store.query({"name": {"$regex": "label shard"}}))
    assert sorted(document["name"] for document in documents) == ["label shard 0", "label shard 1"]
    assert all(document["metadata"]["dao_flows"]["run"] == "one" for document in documents)


def test_what_cannot_go_on_is_refused_in_one_line(dataset, tmp_path):
    out = tmp_path / "out"
    shard = label(dataset, out, replace(MAKER, steps=(0,)))
    written = Path(shard.path).stat().st_mtime_ns
    assert label(dataset, out, replace(MAKER, name="again", steps=(0, 0))) == shard
    assert Path(shard.path).stat().st_mtime_ns == written
    for error, says, attempt in [
        (ParameterError, "another version", lambda: label(dataset, out)),
        (ParameterError, "the dataset itself", lambda: label(dataset, dataset)),
        (ParameterError, "no shard 2", lambda: label(dataset, out, shard=2)),
        (ParameterError, "in full", lambda: label(dataset, Path("out"))),
        (ParameterError, "steps must be", lambda: label(dataset, out, replace(MAKER, steps=()))),
        (ParameterError, "steps must be", lambda: label(dataset, out, replace(MAKER, steps=(-1, 2)))),
        (ParameterError, "chunk_rows", lambda: label(dataset, out, replace(MAKER, chunk_rows=0))),
        (
            ParameterError,
            "no force field 'Nonsense'",
            lambda: label(dataset, out, replace(MAKER, force_field="Nonsense")),
        ),
        (DataError, "no dataset", lambda: label(tmp_path, out)),
        (ParameterError, "are missing", lambda: merge(dataset, [], out)),
    ]:
        with pytest.raises(error, match=says) as raised:
            attempt()
        assert "\n" not in str(raised.value)
