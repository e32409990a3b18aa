"""What tests of several floors share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dao_flows.model import timing
from dao_flows.model.checkpoint import save
from dao_flows.model.crysformer import CrysformerConfig
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP
from dao_flows.model.library import FOLDER_VARIABLE


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory) -> Path:
    """A folder with untrained dao-g-tiny and dao-p-tiny: H to Bi, at most 20 atoms."""
    import torch

    folder = tmp_path_factory.mktemp("checkpoints")
    network = CrysformerConfig(hidden=16, layers=1, heads=2, frequencies=4, time_width=8)
    for name, cls in (("dao-g-tiny", DaoG), ("dao-p-tiny", DaoP)):
        torch.manual_seed(0)
        model = cls(DaoConfig(network=network, volume_scaling=True))
        save(folder / name, model, {"elements": list(range(1, 84)), "max_atoms": 20})
    return folder


@pytest.fixture
def tiny_library(tiny_checkpoints, monkeypatch) -> Path:
    """The tiny checkpoints under their names, in place of the user's own."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tiny_checkpoints))
    return tiny_checkpoints


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
