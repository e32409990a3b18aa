"""What comparing DAO with DFT gives: a document for each verified candidate, and the figures over many of them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import SparseModel, Structure
from dao_flows.makers.schemas.prediction import Origin
from dao_flows.makers.schemas.verification import Level

SCHEMA_VERSION = 1


class StructureChange(BaseModel):
    """What the relaxation did to the structure that DAO predicted.

    rmse: StructureMatcher's get_rms_dist (at the match rate's tolerances), in units of the cube root of an atom's
    volume; None where they do not match. Space groups are found at one tolerance, the screening's loose one; 1 where
    there is none.
    """

    matches: bool
    rmse: float | None
    volume_ratio: float = Field(description="relaxed by predicted")
    lengths_change: list[float] = Field(description="relative change of a, b, c, of the primitive Niggli cell")
    angles_change: list[float] = Field(description="change of α, β, γ in degrees, of the primitive Niggli cell")
    space_group_before: int
    space_group_after: int
    space_group_kept: bool


class Cost(BaseModel):
    """Times in s. prediction: a candidate's share of generation and screening, wall; verification: wall × cores.

    sampling_step: a candidate's share of one step of the sampler; dft_iteration: one ionic step of the calculations.
    """

    prediction_seconds: float | None
    verification_core_seconds: float
    sampling_step_seconds: float | None
    dft_iteration_core_seconds: float | None


class ComparisonDoc(SparseModel):
    """One verified candidate beside its prediction. Energies in eV/atom.

    rank: DAO's, within its composition in its run; predicted_energy_above_hull: DAO-P's; energy_per_atom: raw, as
    verified; energy_above_hull: with the reference set and the correction scheme named, None without one;
    raw_energy_above_hull: as if neither side carried corrections; missing: elements for which there is no hull.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"origin"})

    schema_version: int = SCHEMA_VERSION
    comparison_id: str = Field(description="that of the verification")
    candidate_id: str
    verification_id: str
    formula: str
    chemsys: str
    backend: str
    level: Level
    reference_sha256: str | None
    scheme: str | None
    rank: int
    predicted_energy_above_hull: float
    predictor: str = Field(description="sha256 of DAO-P")
    energy_per_atom: float
    energy_above_hull: float | None
    energy_error: float | None = Field(description="predicted minus verified energy above hull")
    structure_change: StructureChange
    predicted_structure: Structure
    verified_structure: Structure
    cost: Cost
    candidate_science_hash: str
    verification_science_hash: str
    reference: str | None = Field(None, description="name of the reference set")
    scheme_version: str | None = None
    raw_energy_above_hull: float | None = None
    missing: list[str] = Field(default_factory=list)
    predictor_name: str | None = None
    verified_at: str | None = Field(None, description="ISO 8601, UTC")
    origin: Origin | None = Field(None, description="of the candidate; None: drawn")
    content_hash: str | None = Field(None, description="over this document as it is stored, but for this field")
