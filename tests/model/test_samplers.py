"""The samplers behind one interface: each reaches a known crystal, guided or not, and draws nothing by itself."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from dao_flows.model.crystals import Crystal
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.network.crysformer import CrysformerConfig, CrysformerOutput
from dao_flows.model.process.diffusion import wrapped_score
from dao_flows.model.process.flow_matching import COORDINATE_UNIT, LATTICE_UNIT, log_stretch, wrap
from dao_flows.model.sampling.registry import build_sampler
from dao_flows.model.sampling.requests import NormalStreams
from dao_flows.model.sampling.sample import Guidance, Request, SamplerConfig, SamplingError, sample

NETWORK = CrysformerConfig(hidden=16, layers=2, heads=2, frequencies=3, time_width=8)
WAYS = {
    "renoising": ("diffusion", SamplerConfig(40)),
    "published": ("diffusion", SamplerConfig(40, "predictor-corrector")),
    "ancestral": ("diffusion", SamplerConfig(40, "ancestral")),
    "second order": ("diffusion", SamplerConfig(20, "heun")),
    "with churn": ("diffusion", SamplerConfig(20, "heun", churn=0.5)),
    "flow, renoising": ("flow", SamplerConfig(20)),
    "flow, first order": ("flow", SamplerConfig(20, "euler")),
    "flow, second order": ("flow", SamplerConfig(10, "heun")),
}
TARGET = Crystal(
    np.array([22, 8, 8]),
    np.array([[0.1, 0.2, 0.3], [0.6, 0.7, 0.3], [0.4, 0.95, 0.8]]),
    np.array([[2.9, 0.1, 0.0], [-0.4, 3.2, 0.2], [0.3, 0.1, 4.6]]),
)


def build(cls, objective, seed=0):
    torch.manual_seed(seed)
    return cls(DaoConfig(network=NETWORK, volume_scaling=True, objective=objective)).eval().requires_grad_(False)


def requests(count=6):
    rng = np.random.default_rng(0)
    return [Request(rng.integers(1, 84, rng.integers(1, 9)), (7, k)) for k in range(count)]


class Oracle:
    """Says what a network would say that had only ever seen TARGET, or crystals around it.

    width: standard deviation of coordinates and lattice, in model units (diffusion).
    """

    def __init__(self, model, width=0.0):
        self.model, self.asked, self.width = model, [], width
        self.frac = torch.from_numpy(TARGET.frac)
        self.lattice = torch.from_numpy(TARGET.lattice / len(TARGET) ** (1 / 3))

    def __deepcopy__(self, memo):
        return self

    def __call__(self, crystals, t):
        k, none = int(t[0]), torch.zeros(())
        self.asked.append(k)
        schedule = self.model.schedule
        if self.model.config.objective == "flow":
            way = wrap(self.frac - crystals.frac) / (k / 1000) / COORDINATE_UNIT
            change = (log_stretch(self.lattice[None]) - log_stretch(crystals.lattice)) / (k / 1000) / LATTICE_UNIT
            return CrysformerOutput(change, change, way, none, none)
        spread = torch.tensor(np.hypot(schedule.sigma[k], self.width))
        score = wrapped_score(crystals.frac - self.frac, spread) / schedule.score_norm[k]
        alpha_bar = schedule.alpha_bar[k]
        apart = crystals.lattice - np.sqrt(alpha_bar) * self.lattice
        eps = apart * np.sqrt(1 - alpha_bar) / (1 - alpha_bar + alpha_bar * self.width**2)
        return CrysformerOutput(none, eps, score, none, none)


@pytest.mark.parametrize("way", WAYS)
def test_an_exact_network_leads_to_the_crystal(way):
    objective, config = WAYS[way]
    model = build(DaoG, objective).double()
    model.network.forward = Oracle(model)
    for drawn in sample(model, [Request(TARGET.numbers, (k,)) for k in range(20)], 0, config):
        apart = (drawn.frac - TARGET.frac + 0.5) % 1 - 0.5
        apart -= apart.mean(0) if objective == "flow" else 0  # which leaves the origin open
        assert np.abs(apart).max() < 5e-3
        assert np.allclose(drawn.lattice @ drawn.lattice.T, TARGET.lattice @ TARGET.lattice.T, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("way", WAYS)
def test_a_candidate_is_its_own_whatever_its_batch(way):
    objective, config = WAYS[way]
    model, wanted = build(DaoG, objective), requests()
    together, again = sample(model, wanted, 3, config), sample(model, wanted, 3, config)
    alone = [sample(model, [request], 3, config)[0] for request in wanted]
    for a, b, c in zip(together, again, alone, strict=True):
        assert np.array_equal(a.frac, b.frac)
        assert np.array_equal(a.lattice, b.lattice)
        assert np.abs((a.frac - c.frac + 0.5) % 1 - 0.5).max() < 1e-3
        assert np.allclose(a.lattice, c.lattice, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_guidance_lowers_the_energy(way):
    objective, config = WAYS[way]
    model, predictor, wanted = build(DaoG, objective), build(DaoP, objective, 1), requests(40)
    if objective == "diffusion":  # an untrained network would lead astray, beyond what DAO-P can push
        model, predictor = model.double(), predictor.double()
        model.network.forward = Oracle(model, width=0.1)
        wanted = [Request(TARGET.numbers, request.key) for request in wanted]
    for parameter in predictor.network.energy_out.parameters():
        parameter.data.mul_(3)
    free = sample(model, wanted, 0, config)
    none = sample(model, wanted, 0, config, predictor=predictor, guidance=Guidance(0.0, 0.0))
    assert all(np.array_equal(a.frac, b.frac) for a, b in zip(free, none, strict=True))
    guided = sample(model, wanted, 0, config, predictor=predictor, guidance=Guidance(20.0, 20.0))
    assert predict_energy(predictor, guided).mean() < predict_energy(predictor, free).mean()


@pytest.mark.parametrize(
    ("way", "calls"),
    [
        ("renoising", 40),
        ("published", 80),
        ("ancestral", 40),
        ("second order", 39),
        ("flow, renoising", 20),
        ("flow, first order", 20),
        ("flow, second order", 19),
    ],
)
def test_network_calls_are_what_the_docs_count(way, calls):
    objective, config = WAYS[way]
    model = build(DaoG, objective).double()
    model.network.forward = oracle = Oracle(model)
    sample(model, [Request(TARGET.numbers, (0,))], 0, config)
    assert len(oracle.asked) == calls


@pytest.mark.parametrize("steps", [5, 25, 250])
def test_churn_does_not_go_back_to_where_the_signal_is_lost(steps):
    model = build(DaoG, "diffusion").double()
    model.network.forward = oracle = Oracle(model)
    config = SamplerConfig(steps, "heun", churn=0.5)
    sample(model, [Request(TARGET.numbers, (0,))], 0, config)
    assert max(oracle.asked) == oracle.asked[0] == config.times(1000)[0] < 1000
    assert len(set(oracle.asked)) > steps  # it does go back elsewhere


def test_generator_and_predictor_must_have_learned_by_the_same_objective():
    with pytest.raises(SamplingError, match="generator learned by flow, the predictor by diffusion"):
        sample(build(DaoG, "flow"), requests(1), 0, predictor=build(DaoP, "diffusion"), guidance=Guidance())


@pytest.mark.parametrize("wrong", [{"churn": -1.0}, {"churn": 0.5}, {"churn": 0.5, "sampler": "ancestral"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SamplingError, match="must"):
        SamplerConfig(10, **wrong)


@pytest.mark.parametrize(
    ("objective", "settings", "words"),
    [
        ("flow", {"sampler": "ancestral"}, "one of renoising, euler, heun"),
        ("flow", {"sampler": "heun", "churn": 0.5}, "churn"),
        ("diffusion", {"sampler": "euler"}, "one of renoising, predictor-corrector, ancestral, heun"),
        ("diffusion", {"sampler": "ddim"}, "not 'ddim'"),
    ],
)
def test_a_sampler_that_the_objective_has_not_is_refused(objective, settings, words):
    with pytest.raises(SamplingError, match=words):
        sample(build(DaoG, objective), requests(1), 0, SamplerConfig(10, **settings))


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 601, 700, 1000])
def test_renoising_a_flow_goes_at_once_to_where_crystals_can_be_told_apart(steps):
    times = build_sampler(build(DaoG, "flow"), SamplerConfig(steps)).times()
    assert (times[0], times[-1], len(times)) == (1000, 0, steps + 1)
    assert all(t > s for t, s in pairwise(times))
    if 1 < steps <= 601:
        assert times[1] == 600
        lengths = [t - s for t, s in pairwise(times[1:])]
        assert max(lengths) - min(lengths) <= 1
    if steps == 1000:
        assert times == list(range(1000, -1, -1))


@pytest.mark.parametrize("objective", ["diffusion", "flow"])
def test_renoising_forgets_all_but_the_crystal_that_the_network_expects(objective):
    """Of two batches that lead to the same expectation nothing tells, after a step, which one it was."""
    model = build(DaoG, objective).double()
    model.network.forward = Oracle(model)
    sampler = build_sampler(model, SamplerConfig(40))
    wanted = [Request(TARGET.numbers, (k,)) for k in range(4)]
    like = model.collate([TARGET] * 4)
    ends = []
    for seed in (1, 2):
        noise = NormalStreams(wanted, seed, like.frac)
        begun = like.with_geometry((like.frac + 0.05 * noise.coordinates()) % 1, like.lattice + 0.1 * noise.lattice())
        ends.append(sampler.step(begun, 500, 480, NormalStreams(wanted, 3, like.frac)))
    if objective == "diffusion":  # flow leaves the origin open, and with it the shortest way from a new beginning
        assert wrap(ends[0].frac - ends[1].frac)[like.mask].abs().max() < 1e-6
    assert torch.allclose(*(end.lattice @ end.lattice.mT for end in ends), rtol=1e-6)
