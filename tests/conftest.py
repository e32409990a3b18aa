"""What tests of several floors share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dao_flows.model.checkpoint.format import save
from dao_flows.model.dao import DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP
from dao_flows.model.data.shards import Manifest, columns, write_manifest, write_shards
from dao_flows.model.files.user_folders import CHECKPOINTS, LIBRARIES
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.sampling import timing
from dao_flows.model.templates.library import build_index

TINY = CrysformerConfig(hidden=16, layers=1, heads=2, frequencies=4, time_width=8)


FCC, CUBIC = 0.5 * (1 - np.eye(3)), np.eye(3)
HALF, QUARTER = [0.5] * 3, [0.25] * 3
FACES = [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
A15 = [[0.25, 0, 0.5], [0.75, 0, 0.5], [0.5, 0.25, 0], [0.5, 0.75, 0], [0, 0.5, 0.25], [0, 0.5, 0.75]]
RUTILE = [[0.305, 0.305, 0], [0.695, 0.695, 0], [0.195, 0.805, 0.5], [0.805, 0.195, 0.5]]
# reduced formula, energy above hull (eV/atom), lattice (Å), positions by element
KNOWN: list[tuple[str, float | None, np.ndarray, dict[int, list[Any]]]] = [
    ("Cr3Si", 0.0, 4.56 * CUBIC, {14: [[0] * 3, HALF], 24: A15}),
    ("NaCl", 0.0, 5.64 * FCC, {11: [[0] * 3], 17: [HALF]}),
    ("NaCl", 0.05, 3.4 * CUBIC, {11: [[0] * 3], 17: [HALF]}),
    ("CsCl", 0.0, 4.12 * CUBIC, {17: [[0] * 3], 55: [HALF]}),
    ("ZnS", None, 5.41 * FCC, {16: [QUARTER], 30: [[0] * 3]}),
    ("MgO", 0.0, 4.21 * FCC, {8: [HALF], 12: [[0] * 3]}),
    ("Si", 0.0, 5.43 * FCC, {14: [[0] * 3, QUARTER]}),
    ("Cu", 0.0, 3.61 * FCC, {29: [[0] * 3]}),
    ("Cu3Au", 0.01, 3.75 * CUBIC, {29: FACES, 79: [[0] * 3]}),
    ("CaF2", 0.0, 5.46 * FCC, {9: [QUARTER, [0.75] * 3], 20: [[0] * 3]}),
    ("TiO2", 0.0, np.diag([4.59, 4.59, 2.96]), {8: RUTILE, 22: [[0] * 3, HALF]}),
    ("SrTiO3", 0.0, 3.9 * CUBIC, {8: FACES, 22: [[0] * 3], 38: [HALF]}),
]


def write_library(folder: Path) -> Path:
    """A library of a dozen simple crystals, and no more than that: formulas of other multiplicities find nothing."""
    rows = []
    for number, (formula, energy, lattice, atoms) in enumerate(KNOWN):
        numbers = [element for element, positions in atoms.items() for _ in positions]
        frac = np.array([position for positions in atoms.values() for position in positions], float)
        rows.append(
            {
                "material_id": f"mp-{number}",
                "source": "Materials Project",
                "reduced_formula": formula,
                "n_atoms": len(numbers),
                "numbers": numbers,
                "lattice": lattice.ravel().tolist(),
                "frac": frac.ravel().tolist(),
                "formation_energy_per_atom": None,
                "e_above_hull": energy,
                "e_above_hull_kind": "dft",
                "split": "train",
            }
        )
    shards, counts = write_shards(folder, rows, columns([]), 100)
    source = [{"name": "Materials Project", "licence": "CC-BY-4.0"}]
    write_manifest(folder, Manifest(folder.name, columns([]), shards, dict(counts), "0", source, {}))
    build_index(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def known_crystals(tmp_path_factory) -> Iterator[Path]:
    """For all tests, the library called `known` is a small one (`write_library`), in place of the one that ships."""
    folder = tmp_path_factory.mktemp("libraries")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LIBRARIES, str(folder))
        yield write_library(folder / "known")


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
    monkeypatch.setenv(CHECKPOINTS, str(tiny_checkpoints))
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
