"""A small parquet file of random crystals, as the training reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def random_rows(count: int = 60) -> dict[str, list[Any]]:
    """Columns of random crystals of 1 to 6 atoms; every fifth is for validation, every seventh without energy."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 7, count)
    return {
        "numbers": [rng.integers(1, 84, n).tolist() for n in sizes],
        "frac": [rng.random(3 * n).tolist() for n in sizes],
        "lattice": [(n ** (1 / 3) * (2 * np.eye(3) + rng.normal(0, 0.3, (3, 3)))).ravel().tolist() for n in sizes],
        "e_above_hull": [None if i % 7 == 6 else float(rng.random()) for i in range(count)],
        "split": ["val" if i % 5 == 0 else "train" for i in range(count)],
    }


@pytest.fixture
def parquet(tmp_path) -> Callable[..., Path]:
    """Writes random_rows(), with changes: a column set to None is left out; returns the file."""

    def write(name: str = "crystals.parquet", **changes: Any) -> Path:
        columns = {key: values for key, values in (random_rows() | changes).items() if values is not None}
        pq.write_table(pa.table(columns), tmp_path / name)
        return tmp_path / name

    return write
