"""Crysformer: the golden values in value and gradient, and the symmetries of a crystal."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_flows.model.checkpoint.lightning_import import PREFIX, RENAME, UNUSED
from dao_flows.model.crystals import Crystal, Crystals
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.network import pair_attention
from dao_flows.model.network.crysformer import Crysformer, CrysformerConfig, gated, gated_by_sums, time_embedding
from dao_flows.model.network.pair_attention import SMALL, PairGeometry, attend

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "crysformer_reference.npz")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]
TINY = CrysformerConfig(hidden=16, layers=2, heads=4, frequencies=3, time_width=8)


def our_name(published: str) -> str:
    name = published.removeprefix(PREFIX)
    for theirs, ours in RENAME.items():
        name = name.replace(theirs, ours)
    return name


@pytest.fixture(scope="module")
def reference() -> Crysformer:
    network = Crysformer(CrysformerConfig(hidden=32, layers=3, heads=4, frequencies=8, time_width=16)).double()
    published = {key.removeprefix("state/"): GOLDEN[key] for key in GOLDEN.files if key.startswith("state/")}
    used = {our_name(k): torch.tensor(v) for k, v in published.items() if not UNUSED.fullmatch(k)}
    network.load_state_dict(used)
    return network


def golden_batch() -> tuple[Crystals, torch.Tensor]:
    ends = np.cumsum(GOLDEN["out/num_atoms"])
    crystals = [
        Crystal(GOLDEN["out/atomic_numbers"][end - n : end], GOLDEN["out/frac_coords"][end - n : end], lattice)
        for n, end, lattice in zip(GOLDEN["out/num_atoms"], ends, GOLDEN["out/lattice"], strict=True)
    ]
    return Crystals.collate(crystals, torch.float64), torch.tensor(GOLDEN["out/t"])


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    assert tuple(found.shape) == expected.shape
    return float(np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max())


def test_golden_outputs_and_gradients(reference):
    batch, t = golden_batch()
    frac, lattice, mask = batch.frac.requires_grad_(), batch.lattice.requires_grad_(), batch.mask
    output = reference(batch.with_geometry(frac, lattice), t)
    energy = reference.energy(output)
    by_frac, by_lattice = torch.autograd.grad(energy.sum(), (frac, lattice))
    found = {
        "time_embedding": time_embedding(t, 16),
        "lattice_eps": output.eps,
        "coord_score": output.score[mask],
        "energy": energy[:, None],
        "node_features": output.nodes[mask],
        "graph_features": output.graph,
        "grad_energy_frac": by_frac[mask],
        "grad_energy_lattice": by_lattice,
    }
    assert {f"out/{name}" for name in found} == {
        key for key in GOLDEN.files if key.startswith("out/")
    } - {"out/num_atoms", "out/atomic_numbers", "out/frac_coords", "out/lattice", "out/t"}  # fmt: skip
    for name, tensor in found.items():
        assert relative(tensor, GOLDEN[f"out/{name}"]) < 1e-10, name
    assert torch.all(by_frac[~mask] == 0)


def test_the_default_size_is_the_published_one():
    published = json.loads((DATA / "published_state_dict_keys.json").read_text())
    expected = {our_name(key): tuple(shape) for key, shape in published.items() if not UNUSED.fullmatch(key)}
    with torch.device("meta"):
        network = Crysformer(CrysformerConfig())
    state = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    first = {name: shape for name, shape in state.items() if not name.startswith("blocks.") or ".0." in name[:9]}
    assert first == expected
    assert len(network.blocks) == 12


# --- the network as published, pair by pair ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edge_list() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "edge_list", Path(__file__).parents[2] / "benchmarks" / "edge_list.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_edge_list_gives_the_golden_outputs(reference, edge_list):
    batch, t = golden_batch()
    output = edge_list.forward(reference, batch, t)
    found = {"lattice_eps": output.eps, "coord_score": output.score, "node_features": output.nodes}
    for name, tensor in found.items():
        assert relative(tensor, GOLDEN[f"out/{name}"]) < 1e-10, name


@pytest.mark.parametrize(
    ("precision", "autocast", "bound", "gradient_bound"),
    [(torch.float64, False, 1e-10, 1e-10), (torch.float32, False, 1e-4, 1e-3), (torch.float32, True, 0.05, 0.15)],
    ids=["float64", "float32", "bf16"],
)
@pytest.mark.parametrize("sizes", [(1, 2, 7, SMALL + 3), (1, 2, 3, 5)], ids=["rotated", "formed"])
@pytest.mark.parametrize("device", DEVICES)
def test_outputs_and_gradients_are_those_of_the_edge_list(
    edge_list, device, sizes, precision, autocast, bound, gradient_bound
):
    # errors relative to the norm of each; bf16 keeps 8 bits, and three layers and their gradients add up
    rng = np.random.default_rng(2)
    torch.manual_seed(2)
    exact = Crysformer(CrysformerConfig(hidden=64, layers=3, heads=4, frequencies=24, time_width=16)).double()
    for name, parameter in exact.named_parameters():
        if name.endswith("gate.weight"):
            torch.nn.init.normal_(parameter, std=0.3)
        elif "edge_norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    made = Crysformer(exact.config).to(device, precision)
    made.load_state_dict(exact.state_dict())
    crystals, t = [crystal(rng, n) for n in sizes], torch.tensor([0.0, 1.0, 300.0, 1000.0])

    def results(network: Crysformer, forward, batch: Crystals) -> dict[str, torch.Tensor]:
        frac, lattice = batch.frac.clone().requires_grad_(), batch.lattice.clone().requires_grad_()
        with torch.autocast(frac.device.type, torch.bfloat16, enabled=autocast and network is made):
            output = forward(batch.with_geometry(frac, lattice), t.to(frac))
            score = output.score[batch.mask] if output.score.ndim == 3 else output.score
            loss = network.energy(output).sum() + score.square().sum() + output.eps.square().mean()
        variables = {"frac": frac, "lattice": lattice, **dict(network.named_parameters())}
        slopes = torch.autograd.grad(loss, list(variables.values()))
        return {
            "score": score.detach().cpu(),
            "eps": output.eps.detach().cpu(),
            **{f"by {k}": g.cpu() for k, g in zip(variables, slopes, strict=True)},
        }

    expected = results(exact, lambda c, at: edge_list.forward(exact, c, at), Crystals.collate(crystals, torch.float64))
    found = results(made, made, Crystals.collate(crystals, precision).to(device))
    largest = max(float(g.norm()) for name, g in expected.items() if name.startswith("by "))
    for name, exactly in expected.items():
        limit = gradient_bound if name.startswith("by ") else bound
        floor = 1e-3 * largest if name.startswith("by ") else 0.0  # what vanishes is compared with what does not
        error = float((found[name].double() - exactly).norm()) / max(float(exactly.norm()), floor)
        assert error < limit, (name, error)


@pytest.mark.parametrize("products", [torch.float64, torch.float32, torch.bfloat16])
def test_a_prepared_network_says_the_same_bit_for_bit_and_is_a_copy(products):
    rng, autocast = np.random.default_rng(4), products == torch.bfloat16
    precision = torch.float32 if autocast else products
    made = network(4).to(precision)
    prepared = made.prepared(products)
    batch = Crystals.collate([crystal(rng, n) for n in (3, 7)], precision)
    t = torch.tensor([1.0, 300.0], dtype=precision)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = vars(made(batch, t))
        after = vars(prepared(batch, t))
        for parameter in made.parameters():
            parameter.data.zero_()
        later = vars(prepared(batch, t))
    assert all(torch.equal(before[name], after[name]) and torch.equal(after[name], later[name]) for name in before)


def test_a_model_in_the_published_form_says_the_same(edge_list):
    rng = np.random.default_rng(3)
    torch.manual_seed(3)
    model = DaoG(DaoConfig(TINY)).double()
    other = edge_list.as_published(model)
    assert type(model.network) is Crysformer and type(other.network) is not Crysformer
    batch, t = Crystals.collate([crystal(rng, 6) for _ in range(3)], torch.float64), torch.tensor([1.0, 300.0, 1000.0])
    for ours, theirs in zip(
        vars(model.network(batch, t)).values(), vars(other.network(batch, t)).values(), strict=True
    ):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("small", [0, 5], ids=["rotated", "formed"])
def test_the_gradient_of_attention_written_by_hand_is_that_of_differences(monkeypatch, small, moving):
    monkeypatch.setattr(pair_attention, "SMALL", small)
    torch.manual_seed(0)
    b, n, h, d, frequencies = 2, 3, 2, 2, 2
    numbers = torch.tensor([[1, 2, 3], [4, 5, 0]])
    frac, lattice = (
        torch.rand(b, n, 3, dtype=torch.float64),
        torch.randn(b, 3, 3, dtype=torch.float64) + 3 * torch.eye(3),
    )
    inputs = [torch.randn(*shape, h * d, dtype=torch.float64) for shape in ((b, n), (b, n, 2), (b,))]
    q, kv, constant = inputs[0], inputs[1].flatten(2), inputs[2]
    waves = torch.randn(h, d, 16, dtype=torch.float64)

    def function(q, kv, waves, constant, frac, lattice):
        pairs = PairGeometry.of(Crystals(numbers, frac, lattice), frequencies, torch.float64)
        return attend(q, kv, waves, constant, pairs, h)

    inputs = [x.requires_grad_() for x in (q, kv, waves, constant)]
    inputs += [x.requires_grad_(moving) for x in (frac, lattice)]
    assert torch.autograd.gradcheck(function, inputs)


# --- symmetries -----------------------------------------------------------------------------------------------------


def network(seed: int) -> Crysformer:
    torch.manual_seed(seed)
    made = Crysformer(TINY).double()
    for name, parameter in made.named_parameters():
        if name.endswith("gate.weight"):  # zero at the start: give the gates something to do
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval().requires_grad_(False)


def crystal(rng: np.random.Generator, n: int) -> Crystal:
    return Crystal(rng.integers(1, 101, n), rng.random((n, 3)), rng.normal(0, 2, (3, 3)) + 4 * np.eye(3))


def evaluate(made: Crysformer, crystals: list[Crystal], t: list[float]) -> list[dict[str, np.ndarray]]:
    """Outputs of each crystal, without padding."""
    batch = Crystals.collate(crystals, torch.float64)
    output = made(batch, torch.tensor(t, dtype=torch.float64))
    energy = made.energy(output)
    return [
        {
            "eps": output.eps[i].numpy(),
            "score": output.score[i, : len(c)].numpy(),
            "nodes": output.nodes[i, : len(c)].numpy(),
            "graph": output.graph[i].numpy(),
            "energy": energy[i].numpy(),
        }
        for i, c in enumerate(crystals)
    ]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name, expected in a.items():
        assert np.allclose(b[name], expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max()), name


seeds, sizes, times = st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(0, 1000)
quickly = settings(max_examples=30, deadline=None)


@quickly
@given(seeds, sizes, times)
def test_permuting_atoms_permutes_their_outputs(seed, n, t):
    rng, made = np.random.default_rng(seed), network(seed % 5)
    c, order = crystal(rng, n), rng.permutation(n)
    permuted = Crystal(c.numbers[order], c.frac[order], c.lattice)
    (before,), (after,) = evaluate(made, [c], [t]), evaluate(made, [permuted], [t])
    same({**before, "score": before["score"][order], "nodes": before["nodes"][order]}, after)


@quickly
@given(seeds, sizes, times, st.tuples(*[st.floats(-3, 3)] * 3))
def test_translating_all_atoms_changes_nothing(seed, n, t, shift):
    rng, made = np.random.default_rng(seed), network(seed % 5)
    c = crystal(rng, n)
    wrapped = Crystal(c.numbers, (c.frac + shift) % 1, c.lattice)
    unwrapped = Crystal(c.numbers, c.frac + rng.integers(-2, 3, (n, 3)), c.lattice)
    (before,) = evaluate(made, [c], [t])
    same(before, evaluate(made, [wrapped], [t])[0])
    same(before, evaluate(made, [unwrapped], [t])[0])


@quickly
@given(seeds, sizes, times, st.booleans())
def test_turning_the_lattice_turns_its_output_alone(seed, n, t, reflect):
    rng, made = np.random.default_rng(seed), network(seed % 5)
    c = crystal(rng, n)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.linalg.det(q) * (-1 if reflect else 1)
    assert np.isclose(np.linalg.det(q), -1 if reflect else 1)
    (before,), (after,) = evaluate(made, [c], [t]), evaluate(made, [Crystal(c.numbers, c.frac, c.lattice @ q)], [t])
    same({**before, "eps": before["eps"] @ q}, after)


@quickly
@given(seeds, st.lists(st.tuples(sizes, times), min_size=2, max_size=5))
def test_a_crystal_sees_neither_padding_nor_its_neighbours(seed, batch):
    rng, made = np.random.default_rng(seed), network(seed % 5)
    crystals, t = [crystal(rng, n) for n, _ in batch], [float(t) for _, t in batch]
    together = evaluate(made, crystals, t)
    for c, time, output in zip(crystals, t, together, strict=True):
        same(evaluate(made, [c], [time])[0], output)


def test_it_tells_elements_coordinates_cells_and_times_apart():
    # the symmetries would also hold for a network that says the same of all crystals
    rng, made = np.random.default_rng(0), network(0)
    c = crystal(rng, 4)
    others = [
        (Crystal(c.numbers % 100 + 1, c.frac, c.lattice), 5.0),
        (Crystal(c.numbers, rng.random((4, 3)), c.lattice), 5.0),
        (Crystal(c.numbers, c.frac, 1.1 * c.lattice), 5.0),
        (c, 500.0),
    ]
    (before,) = evaluate(made, [c], [5.0])
    for other, t in others:
        (after,) = evaluate(made, [other], [t])
        assert all(np.abs(after[name] - before[name]).max() > 1e-4 * np.abs(before[name]).max() for name in before)


def test_float32_stays_close_to_float64():
    rng, made = np.random.default_rng(1), network(1)
    crystals = [crystal(rng, n) for n in (1, 5, 8)]
    exact = evaluate(made, crystals, [0.0, 30.0, 1000.0])
    single = Crysformer(TINY)
    single.load_state_dict(made.state_dict())
    output = single(Crystals.collate(crystals), torch.tensor([0.0, 30.0, 1000.0]))
    for i, expected in enumerate(exact):
        error = np.abs(output.eps[i].detach().numpy() - expected["eps"]).max()
        assert error < 1e-4 * np.abs(expected["eps"]).max()


def test_elements_beyond_the_table_are_refused():
    crystals = [Crystal(np.array([101]), np.zeros((1, 3)), np.eye(3))]
    with pytest.raises(IndexError):
        network(0)(Crystals.collate(crystals, torch.float64), torch.zeros(1))


def test_what_is_compiled_for_training_is_the_gate_that_is_shipped():
    torch.manual_seed(0)
    x, f = (torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(1, 48, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 5, 16, dtype=torch.float64)
    slopes = []
    for gate in (gated, gated_by_sums):
        slopes.append(torch.autograd.grad((gate(x, f, weight) * weights).sum(), (x, f, weight)))
    assert torch.allclose(gated(x, f, weight), gated_by_sums(x, f, weight), atol=1e-5)  # sums are single precision
    for one, other in zip(*slopes, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
