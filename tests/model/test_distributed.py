"""Two processes train as one does, whatever the batch, and stop and resume together."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_flows.model.checkpoint.format import read_card, verify
from dao_flows.model.crystals import Crystal, Crystals
from dao_flows.model.dao import Dao, DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP, PropertyHead
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.runtime.random import stream
from dao_flows.model.train import main
from dao_flows.model.training.distributed import Group, joined, local_device
from dao_flows.model.training.metrics import METRICS, read

NETWORK = CrysformerConfig(hidden=8, layers=1, heads=2, frequencies=2, time_width=8)
TINY = ["--hidden", "8", "--layers", "1", "--heads", "2", "--frequencies", "2", "--time-width", "8", "--threads", "1"]
TINY += ["--batch-size", "7", "--warm-up", "20", "--device", "cpu", "--steps", "110", "--validate-every", "100"]

# one launch of torchrun for all runs: an undisturbed one, and one that is stopped and goes on
WORKER = """
import sys
from dao_flows.model.training.distributed import joined
from dao_flows.model.train import main
data, out, *options = sys.argv[1:]
stopped = ["dao-p", data, "--out", out + "/stopped", *options]
with joined("cpu"):
    assert main(["dao-p", data, "--out", out + "/calm", *options]) == 0
    assert main([*stopped, "--wall-time-s", "1e-3"]) == 75
    assert main(stopped) == 0
    assert main(["dao-p", data + "x", "--out", out + "/none", *options]) == 2
"""


def batch(sizes: list[int]) -> Crystals:
    rng = np.random.default_rng(len(sizes))
    crystals = [Crystal(rng.integers(1, 84, n), rng.random((n, 3)), 3 * np.eye(3) + rng.random((3, 3))) for n in sizes]
    return Crystals.collate(crystals, torch.float64)


def curves(metrics: Path) -> dict[tuple[int, str, str], float]:
    """All losses of a run by step, kind and term."""
    terms = ("lattice", "coordinate", "energy")
    trained = {(r["step"], "train", name): r[name] for r in read(metrics) for name in terms if name in r}
    checked = [r for r in read(metrics) if "validation" in r]
    return trained | {(r["step"], "val", name): r["validation"][name] for r in checked for name in terms}


def gradients(model: Dao) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(["dao-g", "dao-p", "property"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.integers(1, 4),
    st.data(),
)
def test_losses_and_gradients_of_parts_add_up_to_those_of_the_batch(kind, sizes, processes, data):
    torch.manual_seed(0)
    model = DaoG(DaoConfig(NETWORK)) if kind == "dao-g" else DaoP(DaoConfig(NETWORK), [PropertyHead("tc", log=True)])
    model.double()
    crystals = batch(sizes)
    known = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    labels = torch.linspace(0.5, 2, len(sizes), dtype=torch.float64)
    if kind == "dao-p":
        labels[~torch.tensor(known)] = torch.nan

    def losses(part: slice) -> dict[str, torch.Tensor]:
        if kind == "property":
            return model.property_losses("tc", crystals, labels, part)
        return model.losses(crystals, labels, stream(0, 3), part)

    whole = losses(slice(None))
    sum(whole.values()).backward()
    expected = gradients(model)
    parts = [losses(Group(rank, processes).part(len(sizes))) for rank in range(processes)]
    for name, loss in whole.items():
        assert float(sum(part[name] for part in parts).detach()) == pytest.approx(float(loss.detach()), rel=1e-12)
    sum(loss for part in parts for loss in part.values()).backward()
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], rtol=1e-10, atol=1e-14) for name in expected)


@given(st.integers(0, 100), st.integers(1, 20))
def test_every_row_is_in_one_part(rows, processes):
    parts = [list(range(rows))[Group(rank, processes).part(rows)] for rank in range(processes)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_processes_train_as_one(parquet: Callable[..., Path], tmp_path):
    data = parquet()
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(script), str(data), str(tmp_path), *TINY],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("stopped at step 10: run the same command again") == 1
    assert done.stderr.count("error: there is no file") == 1  # not one for each process
    assert main(["dao-p", str(data), "--out", str(tmp_path / "alone"), *TINY]) == 0
    alone, calm = (curves(tmp_path / name / METRICS) for name in ("alone", "calm"))
    assert len(calm) == 3 * (2 + 2)  # terms; two windows, two validations
    assert calm == pytest.approx(alone, rel=1e-4)  # float32 sums in another order, over 110 steps
    assert verify(tmp_path / "stopped" / "checkpoint").sha256 == verify(tmp_path / "calm" / "checkpoint").sha256
    assert read_card(tmp_path / "calm" / "checkpoint").training["processes"] == 2


def test_without_torchrun_there_is_one_process(monkeypatch):
    with joined("cpu") as group:
        assert (group.size, group.leads, group.part(5)) == (1, True, slice(0, 5))
    assert local_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [local_device(device) for device in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]
