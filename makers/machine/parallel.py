"""Many small independent pieces of host work, over all cores that this process may use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import joblib  # type: ignore[import-untyped]

Item = TypeVar("Item")
Result = TypeVar("Result")

SMALL = 64  # so few pieces are done before worker processes have started


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item], small: int = SMALL) -> list[Result]:
    """Results of the function for each item, in order; `small` or fewer items are done in this process.

    joblib's workers, unlike multiprocessing's, do not run the user's script again, and respect CPU affinity.
    """
    pieces = list(items)
    if len(pieces) <= small or joblib.cpu_count() == 1:
        return [function(piece) for piece in pieces]
    results: list[Result] = joblib.Parallel(n_jobs=joblib.cpu_count())(joblib.delayed(function)(p) for p in pieces)
    return results
