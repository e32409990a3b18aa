"""Adam and Muon: which parameters each of them moves, how far, and what they remember."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.training import muon
from dao_flows.model.training.config import TrainConfig
from dao_flows.model.training.muon import Muon
from dao_flows.model.training.optimizers import Optimizers

NETWORK = CrysformerConfig(hidden=16, layers=2, heads=4, frequencies=2, time_width=8)
FLAT = {"weight_decay": 0.0, "gate_rate": 0.1, "muon_rate": 2.0}


def model_with_gradients(seed: int = 0) -> DaoG:
    torch.manual_seed(seed)
    model = DaoG(DaoConfig(network=NETWORK))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def moved(model: DaoG, optimizers: Optimizers, rate: float) -> dict[str, torch.Tensor]:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers.step(rate)
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_every_parameter_is_moved_once_by_its_share_of_the_rate(optimizer):
    model = model_with_gradients()
    config = TrainConfig(steps=1, optimizer=optimizer, **FLAT)
    steps = moved(model, Optimizers(model, config), 1e-3)
    for name, step in steps.items():
        matrix = ".blocks." in name and step.dim() == 2 and not name.endswith("gate.weight")
        if optimizer == "muon" and matrix:
            singular = torch.linalg.svdvals(step) / (2.0 * 1e-3 * 0.2 * max(step.shape) ** 0.5)
            assert 0.4 < singular.min() <= singular.max() < 1.6, name  # Newton-Schulz makes them 1, about
        else:  # Adam's first step is the rate along each sign
            share = 0.1 if name.endswith("gate.weight") else 1.0
            assert torch.allclose(step.abs(), torch.full_like(step, share * 1e-3), rtol=1e-3), name


@settings(max_examples=20, deadline=None)
@given(before=st.sampled_from(["adam", "muon"]), after=st.sampled_from(["adam", "muon"]), seed=st.integers(0, 99))
def test_what_is_restored_goes_on_as_if_it_had_not_stopped(before, after, seed):
    calm, stopped = model_with_gradients(seed), model_with_gradients(seed)
    one = Optimizers(calm, TrainConfig(steps=1, optimizer=before))
    other = Optimizers(stopped, TrainConfig(steps=1, optimizer=before))
    one.step(1e-3), other.step(1e-3)
    state = {key: tensor.clone() for key, tensor in other.state().items()}
    fresh = Optimizers(stopped, TrainConfig(steps=1, optimizer=after))
    fresh.restore(state, 1)
    kept = fresh.state()
    assert all(torch.equal(kept[key], state[key]) for key in kept)
    if before == after:
        assert kept.keys() == state.keys()
        one.step(1e-3), fresh.step(1e-3)
        for p, q in zip(calm.parameters(), stopped.parameters(), strict=True):
            assert torch.equal(p, q)
    else:  # the matrices begin anew, the rest goes on
        moved(stopped, fresh, 1e-3)


def test_frozen_parameters_are_left_alone():
    model = model_with_gradients()
    model.network.blocks[0].requires_grad_(False)
    steps = moved(model, Optimizers(model, TrainConfig(steps=1, optimizer="muon")), 1e-3)
    for name, step in steps.items():
        assert bool(step.any()) != name.startswith("network.blocks.0."), name


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_rate_on_the_device_moves_as_far_as_one_on_the_host(optimizer):
    host, device = model_with_gradients(), model_with_gradients()
    config = TrainConfig(steps=1, optimizer=optimizer, weight_decay=0.1)
    by_host, by_device = Optimizers(host, config), Optimizers(device, config, capturable=True)
    for rate in (1e-3, 1e-2):
        by_host.step(rate), by_device.step(rate)
    for p, q in zip(host.parameters(), device.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("products_in", "close"), [(torch.bfloat16, 0.02), (torch.float32, 0.1)])
def test_muon_for_all_matrices_of_a_shape_is_muon_for_each(products_in, close, monkeypatch):
    monkeypatch.setattr(muon, "products_in", lambda device: products_in)  # torch's is in bf16
    torch.manual_seed(0)
    shapes = [(16, 16), (32, 16), (16, 33), (16, 16), (64, 16), (16, 64)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    batched = Muon(ours, 1e-2, 0.1, 0.95)
    settings = {"weight_decay": 0.1, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    one_by_one = torch.optim.Muon(theirs, 1e-2, **settings)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        batched.step(), one_by_one.step()
    for p, q in zip(ours, theirs, strict=True):  # to what bf16 leaves of a step of this size
        assert torch.allclose(p, q, rtol=0, atol=close * 1e-2 * 0.2 * max(p.shape) ** 0.5)
