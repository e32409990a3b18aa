"""On a GPU: the same losses as on a CPU, the same steps with graphs as without, and states and checkpoints."""

import json

import pytest
import torch

from dao_flows.model.checkpoint.format import load, verify
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP
from dao_flows.model.data.table import read_crystals
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.process.flow_matching import log_stretch, squared_series
from dao_flows.model.process.objective import Draw
from dao_flows.model.sampling.sample import Request, SamplerConfig, sample
from dao_flows.model.train import main
from dao_flows.model.training.config import TrainConfig
from dao_flows.model.training.metrics import METRICS
from dao_flows.model.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

NETWORK = CrysformerConfig(hidden=64, layers=2, heads=8, frequencies=8, time_width=16)
FLAGS = ["--hidden", "64", "--layers", "2", "--heads", "8", "--frequencies", "8", "--time-width", "16"]
FLAGS += ["--batch-size", "8", "--warm-up", "20", "--volume-scaling", "--objective", "flow", "--optimizer", "muon"]


def model(kind, objective="flow"):
    torch.manual_seed(0)
    return kind(DaoConfig(network=NETWORK, volume_scaling=True, objective=objective))


def trainer(table, folder, graphs, kind=DaoG, fused=False, **settings):
    settings = {"warm_up": 5, "weight_decay": 0.1, "batch_size": 8, "optimizer": "muon", "bf16": True} | settings
    made = model(kind).to("cuda")
    return Trainer(made, TrainConfig(steps=100, **settings), table, None, folder, cuda_graphs=graphs, fused=fused)


def take(made, steps):
    batches = made._batches_from(made.step)
    return [{k: float(v) for k, v in made.take_step(*next(batches)).items()} for _ in range(steps)]


@pytest.mark.parametrize("kind", [DaoG, DaoP])
@pytest.mark.parametrize("objective", ["flow", "diffusion"])
def test_losses_and_gradients_are_those_of_a_cpu(parquet, kind, objective):
    table = read_crystals(parquet(), "train")
    host = model(kind, objective)
    device = model(kind, objective).to("cuda")
    crystals = host.collate(table.crystals)
    energy = torch.from_numpy(table.energy)
    draw = host.draw(crystals, torch.Generator().manual_seed(0))
    moved = Draw(draw.t.cuda(), draw.lattice.cuda(), draw.coordinates.cuda())
    expected = host.losses_at(crystals, energy, draw)
    found = device.losses_at(crystals.to("cuda"), energy.cuda(), moved, device.cell(crystals.to("cuda")))
    for name, loss in expected.items():
        assert float(found[name]) == pytest.approx(float(loss), rel=1e-4), name
    sum(expected.values()).backward(), sum(found.values()).backward()
    for (name, p), q in zip(host.named_parameters(), device.parameters(), strict=True):
        if p.grad is not None:
            assert (q.grad.cpu() - p.grad).norm() <= 2e-3 * p.grad.norm() + 1e-6, name
    with torch.autocast("cuda", torch.bfloat16):
        rough = device.losses_at(crystals.to("cuda"), energy.cuda(), moved)
    for name, loss in expected.items():
        assert float(rough[name]) == pytest.approx(float(loss), rel=0.05), name


def test_the_exponential_inverts_the_logarithm():
    log = torch.randn(1000, 3, 3, device="cuda")
    log = 0.98 * torch.eye(3, device="cuda") + 0.25 * (log + log.mT) / 2**0.5
    lattice = squared_series(log)
    assert torch.allclose(lattice.double(), torch.linalg.matrix_exp(log.double()), rtol=1e-4, atol=1e-5)
    assert torch.allclose(log_stretch(lattice), log, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "optimizer", "bf16"), [(DaoG, "muon", True), (DaoG, "muon", False), (DaoP, "adam", False)]
)
def test_graphs_take_the_same_steps(parquet, tmp_path, kind, optimizer, bf16):
    table = read_crystals(parquet(), "train")
    settings = {"kind": kind, "optimizer": optimizer, "bf16": bf16}
    eager, graphs = (trainer(table, tmp_path / str(on), on, **settings) for on in (False, True))
    expected, found = take(eager, 30), take(graphs, 30)
    assert len(graphs.replayed.recordings) == len({(b, len(rows)) for b, rows in graphs.batches.epoch(0)})
    for step, (old, new) in enumerate(zip(expected, found, strict=True)):
        assert new == pytest.approx(old, rel=0.03 if bf16 else 3e-3, abs=1e-6), step


def test_a_state_that_is_gone_back_to_is_captured_anew(parquet, tmp_path):
    table = read_crystals(parquet(), "train")
    made = trainer(table, tmp_path, True, bf16=False)
    take(made, 20)
    made.save_state()
    first = take(made, 15)
    made.resume()
    again = take(made, 15)
    for old, new in zip(first, again, strict=True):
        assert new == pytest.approx(old, rel=3e-3, abs=1e-6)


def test_a_run_is_stopped_goes_on_and_leaves_a_checkpoint(parquet, tmp_path, capsys):
    command = ["dao-g", str(parquet()), "--out", str(tmp_path / "run"), *FLAGS, "--steps", "300"]
    assert main([*command, "--wall-time-s", "0.1"]) == 75
    assert main([*command, "--store-as", "float16"]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    losses = [r["lattice"] + r["coordinate"] for r in records if "validation" not in r]
    assert losses[-1] < losses[0]
    assert verify(tmp_path / "run" / "checkpoint").training["device"] == torch.cuda.get_device_name()
    assert next(load(tmp_path / "run" / "checkpoint")[0].parameters()).dtype == torch.float32


def test_drawing_finds_what_a_cpu_finds(parquet):
    table = read_crystals(parquet(), "train")
    requests = [Request(crystal.numbers, (k,)) for k, crystal in enumerate(table.crystals[:12])]
    host, device = model(DaoG).eval(), model(DaoG).to("cuda").eval()
    expected = sample(host, requests, 0, SamplerConfig(3))
    found = sample(device, requests, 0, SamplerConfig(3))
    rough = sample(device, requests, 0, SamplerConfig(3, bf16=True))
    for one, other, third in zip(expected, found, rough, strict=True):
        assert abs(one.lattice - other.lattice).max() < 1e-3
        apart = one.frac - other.frac
        assert abs(apart - apart.round()).max() < 1e-3
        assert abs(one.lattice - third.lattice).max() < 0.5


def test_compiled_operations_take_the_same_steps(parquet, tmp_path):
    table = read_crystals(parquet(), "train")
    plain, fused = (trainer(table, tmp_path / str(on), True, fused=on) for on in (False, True))
    for step, (old, new) in enumerate(zip(take(plain, 30), take(fused, 30), strict=True)):
        assert new == pytest.approx(old, rel=0.03, abs=1e-6), step
