"""How often predicted crystals are the reference: the field's protocol (10.1038/s41467-026-72362-3, DiffCSP).

StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3); a composition counts as matched when any of its k samples matches
its reference; RMSE is the mean of the best sample of each matched one; the denominator is the whole set. Both with and
without the validity filter of the published scripts (SMACT charge neutrality, distances above 0.5 Å, volume above
0.1 Å³), which turns a sample away.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, Field
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure
from scipy.stats import binomtest  # type: ignore[attr-defined]
from scipy.stats import bootstrap as scipy_bootstrap  # type: ignore[attr-defined]
from smact.screening import smact_validity

from dao_flows.makers.machine.parallel import parallel_map
from dao_flows.model.crystals import Crystal

MATCHER = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
SECONDS_A_PAIR = 30
PAIRS_AT_ONCE = 512  # between two reports of progress
Interval = tuple[float, float]


class MatchFigures(BaseModel):
    """Match rate and RMSE (both as shares of 1), each with its 95 % interval; None where nothing matched."""

    match_rate: float
    match_rate_95: Interval = Field(description="Wilson's")
    rmse: float | None = Field(description="mean over matched compositions, in mean atomic spacings")
    rmse_95: Interval | None = Field(description="bootstrap over matched compositions")
    rmse_median: float | None


class Outcome(NamedTuple):
    """Of one sample: RMSE or NaN; whether its geometry is valid; why it could not be compared, if so."""

    rms: float
    valid: bool
    failure: str | None = None


class Matching(NamedTuple):
    """Of n compositions with k samples each. rms, valid: (n, k), NaN where a sample does not match."""

    rms: np.ndarray
    valid: np.ndarray
    not_compared: dict[str, int]

    @property
    def all(self) -> MatchFigures:
        """Every sample counts."""
        return figures(self.rms)

    @property
    def valid_only(self) -> MatchFigures:
        """Samples that are not valid count as no match."""
        return figures(np.where(self.valid, self.rms, np.nan))


def match(
    references: Sequence[Crystal],
    samples: Sequence[Crystal],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Matching:
    """Compare k samples of each of n references (in this order: n × k), on all cores.

    A pair that takes over 30 s, a degenerate cell and one that is not finite count as no match; not_compared says why.
    """
    k = len(samples) // len(references)
    pairs = [(references[i // k], sampled) for i, sampled in enumerate(samples)]
    outcomes: list[Outcome] = []
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        outcomes += parallel_map(compare, pairs[start : start + PAIRS_AT_ONCE])
        progress(len(outcomes), len(pairs))
    neutral = {formula: _neutral(formula) for formula in {_formula(reference) for reference in references}}
    charge = np.array([neutral[_formula(reference)] for reference in references])
    return Matching(
        np.array([o.rms for o in outcomes]).reshape(len(references), k),
        np.array([o.valid for o in outcomes]).reshape(len(references), k) & charge[:, None],
        dict(Counter(o.failure for o in outcomes if o.failure)),
    )


def compare(pair: tuple[Crystal, Crystal]) -> Outcome:
    """Match one sample with its reference. pair: (reference, sample)."""
    reference, sampled = pair
    if not (np.isfinite(sampled.frac).all() and np.isfinite(sampled.lattice).all()):
        return Outcome(np.nan, False, "not finite")
    predicted = _structure(sampled)
    # a 0.1 Å³ or needle-like cell has thousands of neighbours in any radius: such cells match nothing
    if predicted.volume < 0.1 or max(predicted.lattice.abc) > 100 or min(predicted.lattice.angles) < 5:
        return Outcome(np.nan, False, "degenerate cell")
    try:
        with warnings.catch_warnings(), _time_limit(SECONDS_A_PAIR):
            warnings.simplefilter("ignore")
            distances = predicted.distance_matrix + np.diag(np.full(len(predicted), np.inf))
            valid = bool(distances.min() > 0.5 and min(predicted.lattice.abc) > 0.5)
            found = MATCHER.get_rms_dist(_structure(reference), predicted)  # type: ignore[no-untyped-call]
    except TimeoutError:
        return Outcome(np.nan, False, "timed out")
    except (ValueError, np.linalg.LinAlgError):
        return Outcome(np.nan, False, "matcher failed")
    return Outcome(float(found[0]) if found else np.nan, valid)


def figures(rms: np.ndarray) -> MatchFigures:
    """Match rate and RMSE with intervals. rms: (n, k), NaN where a sample does not match."""
    matched = ~np.isnan(rms).all(1)
    rate, interval = float(matched.mean()), wilson(int(matched.sum()), len(matched))
    if not matched.any():
        return MatchFigures(match_rate=rate, match_rate_95=interval, rmse=None, rmse_95=None, rmse_median=None)
    best = np.nanmin(rms[matched], axis=1)
    return MatchFigures(
        match_rate=rate,
        match_rate_95=interval,
        rmse=float(best.mean()),
        rmse_95=bootstrap(best),
        rmse_median=float(np.median(best)),
    )


def wilson(hits: int, n: int) -> Interval:
    """95 % interval of a share."""
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return float(low), float(high)


def bootstrap(values: np.ndarray, sizes: np.ndarray | None = None, resamples: int = 1000) -> Interval:
    """95 % interval of the mean of values (n,), always from the same resamples.

    sizes: (n,), of groups whose sums the values are; the mean is then over the members of the groups that are drawn.
    """
    if len(values) == 1:  # whatever is drawn is the same; scipy asks for two
        mean = float(values[0]) / (1 if sizes is None else int(sizes[0]))
        return mean, mean
    found = scipy_bootstrap(
        (values, np.ones(len(values)) if sizes is None else sizes),
        lambda sums, members, axis: sums.sum(axis) / members.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=resamples,
        batch=100,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _structure(crystal: Crystal) -> Structure:
    return Structure(crystal.lattice, np.asarray(crystal.numbers).tolist(), crystal.frac)


def _formula(crystal: Crystal) -> str:
    return _structure(crystal).formula


def _neutral(formula: str) -> bool:
    """Whether SMACT finds charge-neutral oxidation states; elements and alloys pass, as in the published scripts."""
    return bool(smact_validity(Composition(formula)))


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block after so long; only a main thread has an alarm, elsewhere there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
