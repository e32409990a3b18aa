"""Means and shares over comparisons, with 95 % intervals: of shares Wilson's, of means from a bootstrap over groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel

from dao_flows.makers.science.match_rate import bootstrap, wilson

from .schemas import ComparisonDoc

FEWEST_RESAMPLED = 5  # compositions: a bootstrap over fewer says nothing
RESAMPLES = 2000


class Estimate(BaseModel):
    """A mean or share over n documents (or compositions), and its 95 % interval where there are enough for one."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


class Spread(BaseModel):
    """Median, smallest and largest of n values."""

    median: float
    smallest: float
    largest: float
    n: int


def share(flags: Sequence[bool]) -> Estimate:
    """The share of True."""
    low, high = wilson(sum(flags), len(flags))
    return Estimate(value=sum(flags) / len(flags), n=len(flags), low=low, high=high)


def mean_of(values: Sequence[float] | np.ndarray, groups: Sequence[Hashable]) -> Estimate:
    """Mean over documents; its interval from resampled groups, always the same resamples."""
    numbers = np.asarray(values, dtype=float)
    members: Mapping[Hashable, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    estimate = Estimate(value=float(numbers.mean()), n=len(numbers))
    if len(members) >= FEWEST_RESAMPLED:
        sums = np.array([numbers[places].sum() for places in members.values()])
        sizes = np.array([len(places) for places in members.values()])
        estimate.low, estimate.high = bootstrap(sums, sizes, RESAMPLES)
    return estimate


def by_formula(docs: Sequence[ComparisonDoc]) -> dict[str, list[ComparisonDoc]]:
    """Those of each composition."""
    groups: dict[str, list[ComparisonDoc]] = defaultdict(list)
    for doc in docs:
        groups[doc.formula].append(doc)
    return dict(groups)


def rmse_of(docs: Sequence[ComparisonDoc]) -> Estimate | None:
    """The mean RMSE of the structures that still match; None where none does."""
    matched = [(doc.structure_change.rmse, doc.formula) for doc in docs if doc.structure_change.rmse is not None]
    return mean_of([rmse for rmse, _ in matched], [formula for _, formula in matched]) if matched else None
