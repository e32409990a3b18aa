"""The match protocol: the same crystal matches however it is written, and figures come with honest intervals."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dao_flows.makers.science import match_rate
from dao_flows.makers.science.match_rate import compare, figures, match, wilson
from dao_flows.model.crystals import Crystal

PEROVSKITE = Crystal(
    np.array([38, 22, 8, 8, 8]),
    np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
    3.9 * np.eye(3),
)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_crystal_matches_itself_however_it_is_written(seed, mirrored):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(PEROVSKITE))
    turn = Rotation.random(rng=rng).as_matrix() * (-1 if mirrored else 1)
    written = Crystal(
        PEROVSKITE.numbers[order], (PEROVSKITE.frac + rng.random(3))[order] % 1, PEROVSKITE.lattice @ turn * 1.05
    )
    outcome = compare((PEROVSKITE, written))
    assert outcome.rms == pytest.approx(0, abs=1e-6)
    assert outcome.valid
    assert outcome.failure is None


@settings(max_examples=25, deadline=None)
@given(st.floats(0.001, 0.03), st.integers(0, 2**32 - 1))
def test_rms_grows_with_the_distortion(size, seed):
    shift = np.random.default_rng(seed).normal(size=(5, 3))
    near, far = (
        compare((PEROVSKITE, Crystal(PEROVSKITE.numbers, (PEROVSKITE.frac + s * shift) % 1, PEROVSKITE.lattice))).rms
        for s in (size / 4, size / 2)
    )
    assert 0 < near < far or np.isnan(far)


def test_what_cannot_be_compared_is_counted_and_matches_nothing(monkeypatch):
    samples = [
        PEROVSKITE,
        replace(PEROVSKITE, frac=np.full((5, 3), np.nan)),
        replace(PEROVSKITE, lattice=0.01 * np.eye(3)),
        replace(PEROVSKITE, frac=np.zeros((5, 3))),
    ]
    result = match([PEROVSKITE] * 2, samples)
    assert result.not_compared == {"not finite": 1, "degenerate cell": 1}
    assert result.rms.shape == result.valid.shape == (2, 2)
    assert np.isnan(result.rms).tolist() == [[False, True], [True, True]]
    assert result.valid.tolist() == [[True, False], [False, False]]
    assert (result.all.match_rate, result.valid_only.match_rate) == (0.5, 0.5)

    class Slow:
        def get_rms_dist(self, *_):
            time.sleep(5)

    monkeypatch.setattr(match_rate, "MATCHER", Slow())
    monkeypatch.setattr(match_rate, "SECONDS_A_PAIR", 1)
    assert compare((PEROVSKITE, PEROVSKITE)).failure == "timed out"


def test_a_sample_that_is_not_neutral_counts_without_the_filter_alone():
    odd = Crystal(np.array([11, 11, 11, 17]), np.eye(4, 3) / 2, 4.0 * np.eye(3))  # Na3Cl
    result = match([odd], [odd])
    assert (result.all.match_rate, result.valid_only.match_rate) == (1, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), st.floats(0, 0.5)), min_size=3, max_size=3), min_size=1, max_size=30))
def test_figures_are_of_the_best_sample_over_the_whole_set(rows):
    rms = np.array([[np.nan if value is None else value for value in row] for row in rows])
    best = [min(found) for row in rows if (found := [value for value in row if value is not None])]
    result = figures(rms)
    assert result.match_rate == pytest.approx(len(best) / len(rows))
    low, high = result.match_rate_95
    assert low + 1e-12 >= 0
    assert low <= result.match_rate + 1e-12
    assert result.match_rate <= high + 1e-12
    if best:
        assert result.rmse == pytest.approx(np.mean(best))
        assert result.rmse_95[0] <= result.rmse + 1e-12
        assert result.rmse <= result.rmse_95[1] + 1e-12
    else:
        assert result.rmse is result.rmse_95 is None


@given(st.data(), st.integers(1, 10_000))
def test_wilsons_interval_is_one_of_shares(data, n):
    hits = data.draw(st.integers(0, n))
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n + 1e-12 and hits / n - 1e-12 <= high <= 1


def test_wilsons_interval_holds_the_true_share_about_95_times_in_100():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.3, 0.8):
        intervals = [wilson(int(hits), 200) for hits in rng.binomial(200, share, 2000)]
        held = np.mean([low <= share <= high for low, high in intervals])
        assert 0.93 < held < 0.97
