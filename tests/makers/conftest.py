"""Crystals to screen, without a generator; datasets to relax."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import Cells, CompositionPlan, GeneratedCandidate, GenerationDoc
from dao_flows.makers.science.chemistry import formula_of
from dao_flows.model.data.shards import Manifest, columns, write_manifest, write_shards

CRYSTALS = {
    "rock salt": Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "caesium chloride": Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]),
    "zinc blende": Structure.from_spacegroup("F-43m", Lattice.cubic(6.2), ["Na", "Cl"], [[0, 0, 0], [0.25] * 3]),
    "A15": Structure.from_spacegroup("Pm-3n", Lattice.cubic(4.68), ["Os", "Cr"], [[0, 0, 0], [0.25, 0, 0.5]]),
    "L12": Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.72), ["Os", "Cr"], [[0, 0, 0], [0.5, 0.5, 0]]),
    "quartz": Structure.from_spacegroup(
        "P3_121", Lattice.hexagonal(4.916, 5.405), ["Si", "O"], [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.4524]]
    ),
    "rutile": Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.18, 2.67), ["Si", "O"], [[0] * 3, [0.306] * 2 + [0]]
    ),
    "perovskite": Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]]
    ),
}


def as_generation(structures: list[Structure]) -> GenerationDoc:
    """A generation document of these structures, 'dao-0' and so on, as if DAO-G had drawn them."""
    plan: dict[str, CompositionPlan] = {}
    candidates = []
    for index, structure in enumerate(structures):
        formula = formula_of(structure.composition)
        cells = Cells(z=formula.units, n_atoms=len(structure), candidates=1)
        entry = plan.setdefault(formula.name, CompositionPlan(formula=formula.name, asked=[formula.name], cells=[]))
        entry.cells.append(cells)
        candidates.append(
            GeneratedCandidate(
                candidate_id=f"dao-{index}", formula=formula.name, z=formula.units, index=index, structure=structure
            )
        )
    science = Science(maker="GenerateMaker", parameters={}, inputs={}, checkpoints={}, seed=0, code_version="0")
    record = provenance(science, execution_record(datetime.now(UTC), "cpu", {}))
    return GenerationDoc(compositions=list(plan.values()), candidates=candidates, provenance=record)


@pytest.fixture
def crystals() -> dict[str, Structure]:
    """Known crystals by the name of their type."""
    return {name: structure.copy() for name, structure in CRYSTALS.items()}


@pytest.fixture
def generation():
    """The function that makes a generation document of structures."""
    return as_generation


@pytest.fixture
def job_store() -> JobStore:
    """A store in memory."""
    return JobStore(MemoryStore())


def random_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a dataset: random Niggli cells of 1 to 6 atoms, energies above hull from 0 to 0.6 eV/atom or unknown."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        size = int(rng.integers(1, 7))
        cell = 3.2 * size ** (1 / 3) * (np.eye(3) + rng.normal(0, 0.1, (3, 3)))
        numbers = sorted(rng.integers(1, 84, size).tolist())
        structure = Structure(cell, numbers, rng.random((size, 3))).get_reduced_structure("niggli")
        rows.append(
            {
                "material_id": f"random-{index}",
                "source": "random",
                "reduced_formula": structure.composition.reduced_formula,
                "n_atoms": size,
                "numbers": numbers,
                "lattice": structure.lattice.matrix.ravel().tolist(),
                "frac": (structure.frac_coords % 1).ravel().tolist(),
                "formation_energy_per_atom": -0.5,
                "e_above_hull": None if index % 11 == 10 else float(rng.uniform(0, 0.6)),
                "e_above_hull_kind": "dft",
                "band_gap": 1.0,
                "split": "val" if index % 5 == 0 else "train",
            }
        )
    return rows


@pytest.fixture
def random_dataset(tmp_path) -> Callable[..., Path]:
    """Writes a dataset of random rows, or of those given, and returns its folder."""

    def write(count: int = 60, rows_per_shard: int = 30, name: str = "random", rows: Any = None) -> Path:
        names = columns(["band_gap"])
        shards, counts = write_shards(tmp_path / name, rows or random_rows(count), names, rows_per_shard)
        source = [{"name": "random", "licence": "none"}]
        write_manifest(tmp_path / name, Manifest(name, names, shards, dict(counts), "0", source, {"max_atoms": 6}))
        return tmp_path / name

    return write


@pytest.fixture
def materials_project_at(monkeypatch) -> Callable[[str], None]:
    """Points the Materials Project's client to an address: it reads its variable once, when it is imported."""

    def point(url: str) -> None:
        settings = pytest.importorskip("mp_api.client.core.settings", reason="mp-api is not installed")
        monkeypatch.setenv("MP_API_ENDPOINT", url)
        monkeypatch.setattr(settings.MAPI_CLIENT_SETTINGS, "ENDPOINT", url)

    return point
