"""Crysformer: the golden values in value and gradient, and the symmetries of a crystal."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_flows.model.crysformer import Crysformer, CrysformerConfig, pair_features, time_embedding
from dao_flows.model.crystals import Crystal, Crystals
from dao_flows.model.lightning_import import PREFIX, RENAME, UNUSED

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "crysformer_reference.npz")
SMALL = CrysformerConfig(hidden=16, layers=2, heads=4, frequencies=3, time_width=8)


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


def test_pair_features_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    frac, lattice, count = rng.random((1, 4, 3)), rng.normal(0, 3, (1, 3, 3)), 5
    d = (frac[0, None, :] - frac[0, :, None]) % 1  # [i, j] = x_j − x_i
    angle = 2 * np.pi * d[..., None] * np.arange(count)  # (N, N, 3, K)
    gram = np.broadcast_to((lattice[0] @ lattice[0].T).ravel(), (4, 4, 9))
    raw = np.concatenate([gram, np.sin(angle).reshape(4, 4, -1), np.cos(angle).reshape(4, 4, -1)], axis=-1)
    expected = (raw - raw.mean(-1, keepdims=True)) / np.sqrt(raw.var(-1, keepdims=True) + 1e-5)
    found = pair_features(torch.tensor(frac), torch.tensor(lattice), count)[0]
    assert relative(found, expected) < 1e-12


# --- symmetries -----------------------------------------------------------------------------------------------------


def network(seed: int) -> Crysformer:
    torch.manual_seed(seed)
    made = Crysformer(SMALL).double()
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
    single = Crysformer(SMALL)
    single.load_state_dict(made.state_dict())
    output = single(Crystals.collate(crystals), torch.tensor([0.0, 30.0, 1000.0]))
    for i, expected in enumerate(exact):
        error = np.abs(output.eps[i].detach().numpy() - expected["eps"]).max()
        assert error < 1e-4 * np.abs(expected["eps"]).max()


def test_elements_beyond_the_table_are_refused():
    crystals = [Crystal(np.array([101]), np.zeros((1, 3)), np.eye(3))]
    with pytest.raises(IndexError):
        network(0)(Crystals.collate(crystals, torch.float64), torch.zeros(1))
