"""What tests of several floors share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dao_flows.model import timing
from dao_flows.model.checkpoint import save
from dao_flows.model.crysformer import CrysformerConfig
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP
from dao_flows.model.library import FOLDER_VARIABLE

TINY = CrysformerConfig(hidden=16, layers=1, heads=2, frequencies=4, time_width=8)


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory) -> Path:
    """A folder with untrained dao-g-tiny and dao-p-tiny: H to Bi, at most 20 atoms."""
    import torch

    folder = tmp_path_factory.mktemp("checkpoints")
    for name, cls in (("dao-g-tiny", DaoG), ("dao-p-tiny", DaoP)):
        torch.manual_seed(0)
        model = cls(DaoConfig(network=TINY, volume_scaling=True))
        save(folder / name, model, {"elements": list(range(1, 84)), "max_atoms": 20})
    return folder


@pytest.fixture
def tiny_library(tiny_checkpoints, monkeypatch) -> Path:
    """The tiny checkpoints under their names, in place of the user's own."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tiny_checkpoints))
    return tiny_checkpoints


@pytest.fixture
def by_flow(tmp_path, tiny_library) -> str:
    """An untrained generator by flow matching."""
    model = DaoG(DaoConfig(network=TINY, volume_scaling=True, objective="flow"))
    save(tmp_path / "dao-g-flowing", model, {"elements": list(range(1, 84)), "max_atoms": 20})
    return str(tmp_path / "dao-g-flowing")


@pytest.fixture
def call_takes(monkeypatch) -> Callable[[float, float], list[tuple[int, int]]]:
    """Has network calls take these seconds in fp32 and in bf16; returns the list of batches that are measured."""

    def take(fp32: float, bf16: float) -> list[tuple[int, int]]:
        measured = []

        def call_seconds(model: Any, crystals: int, atoms: int) -> timing.CallSeconds:
            measured.append((crystals, atoms))
            return timing.CallSeconds(fp32, bf16, crystals)

        monkeypatch.setattr(timing, "call_seconds", call_seconds)
        return measured

    return take


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
