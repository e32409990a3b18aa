"""What a teacher says of wrong crystals: its energies on the hull's scale, which DAO-P learns beside examples."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dao_flows.model.checkpoint.format import load, verify
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_p import predict_energy
from dao_flows.model.data.shards import DataError
from dao_flows.model.data.table import NothingSelectedError
from dao_flows.model.data.taught import HIGHEST, read_taught
from dao_flows.model.train import main

TINY = ["--hidden", "16", "--layers", "1", "--heads", "2", "--frequencies", "4", "--time-width", "8"]
TINY += ["--batch-size", "16", "--threads", "1", "--device", "cpu"]


def salt(a: float) -> Crystal:
    return Crystal(np.array([11, 17]), np.array([[0.0] * 3, [0.5] * 3]), a * np.eye(3))


@pytest.fixture
def labels(tmp_path):
    """A function that writes labelled crystals: (formula, energy by the teacher, energy above hull or None, split)."""

    def write(rows, crystals=None, without=()):
        crystals = crystals or [salt(3.0 + 0.01 * i) for i in range(len(rows))]
        formulas, energies, above, splits = zip(*rows, strict=True)
        columns = {
            "numbers": [c.numbers.tolist() for c in crystals],
            "frac": [c.frac.ravel().tolist() for c in crystals],
            "lattice": [c.lattice.ravel().tolist() for c in crystals],
            "reduced_formula": list(formulas),
            "energy_per_atom": list(energies),
            "e_above_hull": pa.array(above, pa.float64()),
            "split": list(splits),
        }
        path = tmp_path / "labels.parquet"
        pq.write_table(pa.table({name: values for name, values in columns.items() if name not in without}), path)
        return path

    return write


def test_the_zero_of_a_formula_is_that_of_its_known_crystals(labels):
    path = labels(
        [
            ("NaCl", -3.0, 0.0, "train"),
            ("NaCl", -2.9, 0.2, "train"),  # the teacher and the hull differ by -3.0, -3.1 and -3.05
            ("NaCl", -2.95, 0.1, "train"),
            ("NaCl", -2.05, None, "train"),
            ("NaCl", 9.0, None, "train"),
            ("KCl", -3.3, None, "train"),  # nobody knows its zero
            ("MgO", -5.0, 0.0, "val"),
            ("MgO", -4.6, None, "val"),
        ]
    )
    table = read_taught(path, "train")
    assert table.energy == pytest.approx([0.05, 0.15, 0.1, 1.0, HIGHEST], abs=1e-6)
    assert table.taught.all()
    assert [c.lattice[0, 0] for c in table.crystals] == pytest.approx([3.0, 3.01, 3.02, 3.03, 3.04])
    assert read_taught(path, "val").energy == pytest.approx([0.0, 0.4])
    assert len(read_taught(path)) == 7
    with pytest.raises(NothingSelectedError, match="of this split and size"):
        read_taught(path, "train", max_atoms=1)


def test_what_cannot_teach_is_told(labels):
    known, unknown = ("NaCl", -3.0, 0.0, "train"), ("NaCl", -3.0, None, "train")
    with pytest.raises(DataError, match="nothing says where its zeros lie"):
        read_taught(labels([unknown]))
    with pytest.raises(DataError, match="no labelled dataset: it has no column energy_per_atom"):
        read_taught(labels([known], without=["energy_per_atom"]))


def test_dao_p_learns_them_beside_its_examples(parquet, labels, tmp_path, capsys):
    wrong = [salt(a) for a in np.linspace(2.4, 3.2, 32)]
    energies = [1.5 + 0.5 * (3.2 - c.lattice[0, 0]) for c in wrong]
    rows = [("NaCl", -3.0, 0.0, "train"), *(("NaCl", energy - 3.0, None, "train") for energy in energies)]
    lessons = labels(rows, [salt(3.9), *wrong])
    run = ["dao-p", str(parquet()), *TINY, "--steps", "300", "--rate", "3e-3"]
    assert main([*run, "--out", str(tmp_path / "without")]) == 0
    assert main([*run, "--out", str(tmp_path / "with"), "--labels", str(lessons)]) == 0
    error = {
        name: np.abs(predict_energy(load(tmp_path / name / "checkpoint")[0], wrong) - energies).mean()
        for name in ("without", "with")
    }
    assert error["with"] < 0.3 < error["without"]
    data = verify(tmp_path / "with" / "checkpoint").training["data"]
    assert (data["taught"], [each["file"] for each in data["labels"]]) == (33, ["labels.parquet"])
    assert len(data["labels"][0]["sha256"]) == 64
    assert data["sha256"] == verify(tmp_path / "without" / "checkpoint").training["data"]["sha256"]
    assert main(["dao-g", str(parquet()), *TINY, "--steps", "1", "--out", "x", "--labels", str(lessons)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: --labels are for dao-p, and for its energy"
