"""Noise processes and random streams: golden values, definitions, and statistics of the draws."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_flows.model.crystals import Crystal, Crystals
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.process.diffusion import NoiseConfig, NoiseSchedule, expected_squared_score, wrapped_score
from dao_flows.model.runtime.random import stream

GOLDEN = np.load(Path(__file__).parent / "data" / "crysformer_reference.npz")
SCHEDULE = NoiseSchedule()


@pytest.mark.parametrize("name", ["beta", "alpha_bar", "sigma"])
def test_golden_schedules(name):
    assert np.allclose(getattr(SCHEDULE, name)[GOLDEN["schedule/t"]], GOLDEN[f"schedule/{name}"], rtol=1e-10, atol=0)


def test_golden_posterior():
    for t, expected in zip(GOLDEN["schedule/t"], GOLDEN["schedule/posterior_std"], strict=True):
        if t > 0:
            assert SCHEDULE.posterior_std(int(t), int(t) - 1) == pytest.approx(expected, rel=1e-10, abs=1e-15)


def test_golden_scores():
    x, sigma = torch.tensor(GOLDEN["wrapped/x"]), torch.tensor(GOLDEN["wrapped/sigma"])
    found, expected = wrapped_score(x[None], sigma[:, None]).numpy(), GOLDEN["wrapped/neg_score"]
    known = np.isfinite(expected)  # the reference underflows between two images of a narrow peak
    assert known.mean() > 0.8
    assert np.abs((found - expected)[known]).max() < 1e-10 * np.abs(expected[known]).max()
    for row, expected_row, k in zip(found, expected, known, strict=True):
        assert np.allclose(row[k], expected_row[k], rtol=1e-10, atol=1e-12)
    assert np.isfinite(found).all()
    squared = SCHEDULE.score_norm[GOLDEN["wrapped/expected_sq_score_t"]] ** 2
    expected = GOLDEN["wrapped/expected_sq_score"]
    known = np.isfinite(expected)
    assert known.sum() >= 5
    assert np.allclose(squared[known], expected[known], rtol=1e-10, atol=0)


@pytest.mark.parametrize("config", [NoiseConfig(), NoiseConfig(steps=50), NoiseConfig(sigma_min=0.01, sigma_max=0.3)])
def test_schedules_are_monotone_and_clean_at_zero(config):
    schedule = NoiseSchedule(config)
    assert (schedule.alpha_bar[0], schedule.sigma[0], schedule.beta[0]) == (1, 0, 0)
    assert np.all(np.diff(schedule.alpha_bar) < 0)
    assert np.all(np.diff(schedule.sigma) > 0)
    assert np.all(np.diff(schedule.score_norm[1:]) < 0)
    assert np.all((schedule.beta[1:] >= config.beta_min) & (schedule.beta[1:] <= config.beta_max))
    assert np.allclose([schedule.sigma[1], schedule.sigma[-1]], [config.sigma_min, config.sigma_max])


@settings(max_examples=100, deadline=None)
@given(st.floats(-2, 2), st.floats(0.005, 0.5))
def test_wrapped_score_is_the_gradient_of_the_log_density(x, sigma):
    position = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    images = torch.arange(-40, 41, dtype=torch.float64)
    log_density = torch.logsumexp(-((position + images) ** 2) / (2 * sigma**2), dim=0)
    (gradient,) = torch.autograd.grad(log_density, position)
    found = wrapped_score(position.detach(), torch.tensor(sigma, dtype=torch.float64))
    assert float(found) == pytest.approx(-float(gradient), rel=1e-8, abs=1e-8 / sigma)


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.5, 0.5), st.integers(-5, 5), st.floats(0.005, 0.5))
def test_wrapped_score_is_periodic_and_odd(x, cells, sigma):
    s = torch.tensor(sigma, dtype=torch.float64)
    here, there, mirrored = (wrapped_score(torch.tensor(y, dtype=torch.float64), s) for y in (x, x + cells, -x))
    scale = 1 / sigma
    if abs(abs(x) - 0.5) > 1e-6:  # at the seam between two images the sign is a matter of rounding for small sigma
        assert float(there) == pytest.approx(float(here), abs=1e-6 * scale / sigma)
        assert float(mirrored) == pytest.approx(-float(here), abs=1e-9 * scale)


def test_expected_squared_score_agrees_with_monte_carlo():
    rng = np.random.default_rng(0)
    sigmas = np.array([0.005, 0.05, 0.2, 0.35, 0.5])
    draws = torch.tensor(rng.normal(size=(5, 50_000)) * sigmas[:, None])
    squares = wrapped_score(draws, torch.tensor(sigmas)[:, None]).numpy() ** 2
    error = squares.std(1) / np.sqrt(squares.shape[1])
    assert np.all(np.abs(squares.mean(1) - expected_squared_score(sigmas)) < 4 * error)
    assert np.allclose(expected_squared_score(sigmas, 4096), expected_squared_score(sigmas), rtol=1e-12)


def test_strides_compose():
    # two ancestral steps leave as much noise as one stride: variance of q(L_s | L_0) is 1 − ᾱ_s whatever the path
    for t, m, s in ((900, 500, 100), (1000, 30, 2)):
        for a, b in ((t, m), (m, s), (t, s)):
            ratio = SCHEDULE.alpha_bar[a] / SCHEDULE.alpha_bar[b]
            mean_weight = np.sqrt(ratio) * (1 - SCHEDULE.alpha_bar[b]) / (1 - SCHEDULE.alpha_bar[a])
            variance = SCHEDULE.posterior_std(a, b) ** 2 + mean_weight**2 * (1 - SCHEDULE.alpha_bar[a])
            assert variance == pytest.approx(1 - SCHEDULE.alpha_bar[b], rel=1e-9)
            spread = SCHEDULE.sigma[b] ** 2 / SCHEDULE.sigma[a] ** 2
            kept = SCHEDULE.coordinate_std(a, b) ** 2 + spread**2 * SCHEDULE.sigma[a] ** 2
            assert kept == pytest.approx(SCHEDULE.sigma[b] ** 2, rel=1e-9)


# --- the forward process ----------------------------------------------------------------------------------------------

MODEL = DaoG(DaoConfig(network=CrysformerConfig(hidden=8, layers=1, heads=2, frequencies=2, time_width=8)))


def many(count: int, n: int = 2) -> Crystals:
    one = Crystal(np.full(n, 14), np.full((n, 3), 0.98), 4 * np.eye(3))
    return Crystals.collate([one] * count, torch.float64)


@pytest.mark.parametrize("t", [1, 200, 700, 1000])
def test_noised_crystals_have_the_variance_of_the_schedule(t):
    crystals = many(4000)
    noised = MODEL.add_noise(crystals, torch.full((4000,), t), stream(0, t))
    alpha_bar, sigma = SCHEDULE.alpha_bar[t], SCHEDULE.sigma[t]
    lattice = noised.crystals.lattice - np.sqrt(alpha_bar) * crystals.lattice
    assert float(lattice.var()) == pytest.approx(1 - alpha_bar, rel=0.05)
    assert torch.allclose(lattice, np.sqrt(1 - alpha_bar) * noised.lattice, atol=1e-12)
    assert float((noised.coordinates**2).mean()) == pytest.approx(1, rel=0.05)  # the target is normalised
    assert 0 <= float(noised.crystals.frac.min()) <= float(noised.crystals.frac.max()) < 1
    # the first circular moment of a wrapped normal is exp(−2π²σ²)
    moment = torch.exp(2j * torch.pi * (noised.crystals.frac - 0.98)).mean()
    assert abs(complex(moment) - np.exp(-2 * np.pi**2 * sigma**2)) < 0.02


def test_clean_crystals_stay_clean_and_do_not_count():
    crystals = many(6)
    t = torch.tensor([0, 0, 500, 0, 500, 0])
    noised = MODEL.add_noise(crystals, t, stream(1))
    clean = t == 0
    assert torch.equal(noised.crystals.lattice[clean], crystals.lattice[clean])
    assert torch.allclose(noised.crystals.frac[clean], crystals.frac[clean])
    assert noised.coordinates.isfinite().all()
    output = MODEL.double().network(noised.crystals, t)
    before = MODEL.denoising_losses(noised, output)
    noised.lattice[clean], noised.coordinates[clean] = 1e6, 1e6
    assert MODEL.denoising_losses(noised, output) == before


def test_padding_does_not_count_in_the_losses():
    torch.manual_seed(0)
    model = DaoG(MODEL.config).double()
    crystals = many(3)
    pad = torch.nn.functional.pad
    wide = Crystals(pad(crystals.numbers, (0, 4)), pad(crystals.frac, (0, 0, 0, 4)), crystals.lattice)
    t = torch.tensor([3, 400, 1000])
    model.requires_grad_(False)
    narrow_noised, noised = (model.add_noise(c, t, stream(5)) for c in (crystals, wide))
    # the same draws for the atoms that are there
    frac, score = noised.crystals.frac.clone(), noised.coordinates.clone()
    frac[:, :2], score[:, :2] = narrow_noised.crystals.frac, narrow_noised.coordinates
    same = type(noised)(wide.with_geometry(frac, narrow_noised.crystals.lattice), t, score, narrow_noised.lattice)
    expected = model.denoising_losses(narrow_noised, model.network(narrow_noised.crystals, t))
    found = model.denoising_losses(same, model.network(same.crystals, t))
    for name, loss in expected.items():
        assert float(found[name]) == pytest.approx(float(loss), rel=1e-6)


def test_unknown_energies_do_not_count_and_do_not_spread():
    torch.manual_seed(0)
    model = DaoP(MODEL.config)
    crystals = Crystals.collate([Crystal(np.array([14, 8]), np.zeros((2, 3)), 4 * np.eye(3))] * 8)
    energy = torch.tensor([0.1, torch.nan, 0.3, torch.nan, 0.0, 0.5, torch.nan, 1.0])
    losses = model.losses(crystals, energy, stream(0))
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    other = energy.clone().nan_to_num(nan=float("nan"))
    assert torch.equal(model.losses(crystals, other, stream(0))["energy"], losses["energy"])
    assert model.losses(crystals, torch.full((8,), torch.nan), stream(0))["energy"].item() == 0


def test_the_noisy_energy_term_is_least_at_the_mean_of_exponentials():
    # exp(−E_t) = E[exp(−E_0) | M_t]: for crystals that noise has made alike, the best E lies below the mean energy
    model = DaoP(MODEL.config)
    crystals = many(400).with_geometry(*(a.float() for a in (many(400).frac, many(400).lattice)))
    energy = torch.tensor([0.0, 2.0]).repeat(200)
    best, least = None, np.inf
    for candidate in np.linspace(0, 1.2, 25):
        model.network.energy = lambda output, e=candidate: torch.full((len(output.graph),), float(e))  # type: ignore[method-assign]
        model.random_times = lambda batch, generator, clean=0.0: torch.full((batch,), 1000)  # type: ignore[method-assign]
        loss = float(model.losses(crystals, energy, stream(0))["energy"])
        if loss < least:
            best, least = candidate, loss
    assert best == pytest.approx(-np.log((1 + np.exp(-2)) / 2), abs=0.05)


# --- streams --------------------------------------------------------------------------------------------------------


def test_streams_depend_on_their_name_alone():
    keys = [(0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1), (0, 0, 1)]
    first = {key: torch.randn(50, generator=stream(*key)) for key in keys}
    for order in list(permutations(keys))[::7]:
        again = {key: torch.randn(50, generator=stream(*key)) for key in order}
        assert all(torch.equal(again[key], first[key]) for key in keys)
    drawn = list(first.values())
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.5


def test_streams_do_not_touch_the_global_generator():
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    torch.randn(10, generator=stream(0, 7))
    assert torch.equal(torch.randn(4), expected)
