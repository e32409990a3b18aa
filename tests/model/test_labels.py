"""A teacher's labels: its energies on the hull's scale, and that DAO-P learns them and their slopes beside examples."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dao_flows.model.checkpoint.format import load, verify
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.data.labels import GPA, HIGHEST, STEEPEST, read_labels
from dao_flows.model.data.shards import DataError
from dao_flows.model.data.table import NothingSelectedError
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.train import main
from dao_flows.model.training.metrics import METRICS, read

TINY = ["--hidden", "16", "--layers", "1", "--heads", "2", "--frequencies", "4", "--time-width", "8"]
TINY += ["--batch-size", "16", "--label-batch", "16", "--threads", "1", "--device", "cpu"]
NETWORK = CrysformerConfig(hidden=16, layers=2, heads=2, frequencies=4, time_width=8)


def salt(a: float) -> Crystal:
    return Crystal(np.array([11, 17]), np.array([[0.0] * 3, [0.5] * 3]), a * np.eye(3))


@pytest.fixture
def labels(tmp_path):
    """A function that writes labelled crystals: (formula, energy by the teacher, energy above hull or None, split)."""

    def write(rows, crystals=None, forces=None, stress=None, without=()):
        crystals = crystals or [salt(3.0 + 0.01 * i) for i in range(len(rows))]
        formulas, energies, above, splits = zip(*rows, strict=True)
        columns = {
            "numbers": [c.numbers.tolist() for c in crystals],
            "frac": [c.frac.ravel().tolist() for c in crystals],
            "lattice": [c.lattice.ravel().tolist() for c in crystals],
            "reduced_formula": list(formulas),
            "energy_per_atom": list(energies),
            "e_above_hull": pa.array(above, pa.float64()),
            "forces": forces or [[0.5] * 3 * len(c) for c in crystals],
            "stress": stress or [[GPA] * 9 for _ in crystals],
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
        ],
        forces=[[0.5] * 6, [STEEPEST + 1, *[0.0] * 5], *([[0.5] * 6] * 6)],
    )
    table = read_labels([path], "train")
    assert table.energy == pytest.approx([0.05, 0.15, 0.1, 1.0, HIGHEST], abs=1e-6)
    assert [c.lattice[0, 0] for c in table.crystals] == pytest.approx([3.0, 3.01, 3.02, 3.03, 3.04])
    learned = [bool(np.isfinite(forces).all()) for forces in table.forces]
    assert learned == np.isfinite(table.stresses).all((1, 2)).tolist() == [True, False, True, True, False]
    assert table.stresses[0] == pytest.approx(np.ones((3, 3)))  # eV/Å³
    assert read_labels([path], "val").energy == pytest.approx([0.0, 0.4])
    assert len(read_labels([path, path])) == 14
    with pytest.raises(NothingSelectedError, match="of this split and size"):
        read_labels([path], "train", max_atoms=1)


def test_what_cannot_teach_is_told(labels):
    known, unknown = ("NaCl", -3.0, 0.0, "train"), ("NaCl", -3.0, None, "train")
    with pytest.raises(DataError, match="nothing says where its zeros lie"):
        read_labels([labels([unknown])])
    for column in ("energy_per_atom", "forces"):
        with pytest.raises(DataError, match=f"no labelled dataset: it has no column {column}"):
            read_labels([labels([known], without=[column])])


@pytest.mark.parametrize("atoms", [3, 23])  # the waves of pairs are formed, and rotated
def test_smooth_attention_is_the_same_and_can_be_differentiated_twice(atoms):
    torch.manual_seed(0)
    model, rng = DaoP(DaoConfig(network=NETWORK, volume_scaling=True)).double(), np.random.default_rng(0)
    for block in model.network.blocks:
        torch.nn.init.normal_(block.attention_residual.gate.weight)
    cell = (15 * atoms) ** (1 / 3) * (np.eye(3) + rng.normal(0, 0.05, (2, 3, 3)))
    sizes = (atoms, atoms - 1)
    crystals = model.collate(
        [Crystal(rng.integers(1, 80, n), rng.random((n, 3)), cell[k]) for k, n in enumerate(sizes)]
    )
    frac, lattice = crystals.frac.requires_grad_(), crystals.lattice.requires_grad_()
    energies = [model.energy_above_hull(crystals.with_geometry(frac, lattice), smooth) for smooth in (False, True)]
    assert energies[1].detach().numpy() == pytest.approx(energies[0].detach().numpy(), abs=1e-10)
    once, smooth = (torch.autograd.grad(e.sum(), (frac, lattice), retain_graph=True) for e in energies)
    for one, other in zip(once, smooth, strict=True):
        assert other.numpy() == pytest.approx(one.numpy(), abs=1e-10)
    forces, stresses = model.slopes(crystals, energies[1], frac, lattice)
    step = 1e-5
    moved = frac.detach().clone()
    moved[0, 1] += step * torch.linalg.inv(lattice[0])[2]  # the second atom along z
    ends = [model.energy_above_hull(crystals.with_geometry(x, lattice)) for x in (moved, frac)]
    slope = -(ends[0] - ends[1])[0] * sizes[0] / step
    assert float(forces[0, 1, 2].detach()) == pytest.approx(float(slope.detach()), rel=1e-3, abs=1e-7)
    strain = torch.eye(3, dtype=frac.dtype)
    strain[0, 1] = strain[1, 0] = step / 2
    bent = model.energy_above_hull(crystals.with_geometry(frac, lattice @ strain))
    slope = (bent - ends[1])[0] * sizes[0] / step / torch.linalg.det(lattice[0]).abs()
    assert float(stresses[0, 0, 1].detach()) == pytest.approx(float(slope.detach()), rel=1e-3, abs=1e-7)
    forces.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.network.blocks.parameters())


def test_dao_p_learns_energies_beside_its_examples(parquet, labels, tmp_path, capsys):
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
    assert (data["labelled"], [each["file"] for each in data["labels"]]) == (33, ["labels.parquet"])
    assert len(data["labels"][0]["sha256"]) == 64
    assert data["sha256"] == verify(tmp_path / "without" / "checkpoint").training["data"]["sha256"]
    assert main(["dao-g", str(parquet()), *TINY, "--steps", "1", "--out", "x", "--labels", str(lessons)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: --labels are for dao-p, and for its energy"


def test_it_learns_slopes_and_a_stopped_run_ends_the_same(parquet, labels, tmp_path):
    sizes = np.linspace(3.0, 3.4, 32)  # a cube whose energy rises with its edge, 4 eV/atom each Å
    stress = [(GPA * np.eye(3) * 2 * 4 / (3 * a**2)).ravel().tolist() for a in sizes]
    rows = [("NaCl", -3.0, 0.0, "train"), *(("NaCl", 4 * (a - 3.0) - 3.0, None, "train") for a in sizes[1:])]
    lessons = labels(rows, [salt(a) for a in sizes], [[0.0] * 6] * 32, stress)
    run = ["dao-p", str(parquet()), *TINY, "--steps", "400", "--rate", "3e-3", "--labels", str(lessons)]
    run += ["--force-weight", "1", "--stress-weight", "100"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*run, "--out", str(whole)]) == 0
    losses = [record for record in read(whole / METRICS) if "force" in record]
    assert {"label", "force", "stress", "energy", "lattice", "coordinate"} <= set(losses[0])
    assert losses[-1]["stress"] < 0.7 * np.abs(stress).mean() / GPA  # that of one without slopes
    while main([*run, "--out", str(parts), "--wall-time-s", "3"]) == 75:
        pass
    assert verify(parts / "checkpoint").sha256 == verify(whole / "checkpoint").sha256
