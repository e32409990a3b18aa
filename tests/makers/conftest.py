"""Crystals to screen, without a generator."""

from datetime import UTC, datetime

import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from dao_flows.makers.chemistry import formula_of
from dao_flows.makers.provenance import execution_record, provenance
from dao_flows.makers.schemas import Cells, CompositionPlan, GeneratedCandidate, GenerationDoc, Science

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
