"""The documents of verifications: of one calculation, and of a candidate that went through all of them.

Energies in eV, forces in eV/Å, stresses in GPa, cut-offs in eV, times in s.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import PlainData, Provenance, Structure

SCHEMA_VERSION = 1

State = Literal["successful", "failed"]
Matrix = list[list[float]]


class Level(BaseModel):
    """The level of theory: what must be equal before two energies may be compared.

    functional: as 'PBE', 'r2SCAN', or the name of a force field; pseudopotentials: file or label of each element's.
    """

    code: str = Field(description="name of the code, or of a force field")
    code_version: str | None = None
    functional: str
    pseudopotentials: dict[str, str] = Field(default_factory=dict, description="element -> name")
    hubbard_u: dict[str, float] = Field(default_factory=dict, description="element -> U, eV")
    cutoff: float | None = Field(None, description="plane waves', eV")
    kpoints: list[int] | None = Field(None, description="divisions of the grid")
    spin_polarised: bool | None = None


class CustodianCorrection(BaseModel):
    """What custodian did about an error."""

    errors: list[str]
    actions: list[str]


class CalculationDoc(BaseModel):
    """One calculation of a verification: what came out, or what went wrong. A job's output.

    task: the whole document of the code, as atomate2 writes it (None for a failed one that wrote none).
    """

    schema_version: int = SCHEMA_VERSION
    state: State
    candidate_id: str
    backend: str
    step: str = Field(description="as in 'relax 1', 'static'")
    error: str | None = Field(None, description="of a failed one: what the code or custodian said, in one line")
    corrections: list[CustodianCorrection] = Field(default_factory=list)
    directory: str = Field(description="host:path")
    structure: Structure | None = Field(None, description="at the end")
    energy: float | None = Field(None, description="total, eV")
    energy_per_atom: float | None = None
    forces: Matrix | None = None
    stress: Matrix | None = None
    converged: bool | None = None
    ionic_steps: int | None = None
    level: Level | None = None
    forcefield_name: str | None = Field(None, description="where a force field stands in for DFT")
    wall_seconds: float
    cores: int
    task: PlainData | None = None
    provenance: Provenance


class CalculationRecord(BaseModel):
    """A calculation, as a verification names it."""

    step: str
    state: State
    job_uuid: str
    directory: str
    energy_per_atom: float | None
    ionic_steps: int | None
    converged: bool | None
    wall_seconds: float
    cores: int
    corrections: list[CustodianCorrection]


class HullEnergy(BaseModel):
    """Energies against a reference set, eV/atom. scheme: the corrections that both sides carry, 'none' or its name.

    raw_energy_above_hull: as if neither side carried any; negative energies lie below the reference set's hull.
    """

    reference: str = Field(description="name of the reference set")
    reference_sha256: str
    scheme: str
    scheme_version: str
    correction_per_atom: float
    corrected_energy_per_atom: float
    formation_energy_per_atom: float | None
    energy_above_hull: float | None
    raw_energy_above_hull: float | None = None
    missing: list[str] = Field(default_factory=list, description="elements the set has no entry of: no hull, no guess")


class VerificationDoc(BaseModel):
    """One candidate at one level of theory. A failed one says which step failed and why.

    sent: the symmetrised primitive cell that went in; structure: what came out of the relaxation; energy_per_atom:
    raw, of the last calculation.
    """

    schema_version: int = SCHEMA_VERSION
    verification_id: str
    state: State
    error: str | None = None
    candidate_id: str
    candidate_science_hash: str = Field(description="of the screening that ranked the candidate")
    formula: str
    chemsys: str
    backend: str
    level: Level | None = None
    sent: Structure
    structure: Structure | None = None
    energy: float | None = Field(None, description="raw total of the cell, eV")
    energy_per_atom: float | None = None
    max_force: float | None = None
    stress: Matrix | None = None
    converged: bool | None = None
    hull: HullEnergy | None = None
    calculations: list[CalculationRecord]
    core_seconds: float
    provenance: Provenance
