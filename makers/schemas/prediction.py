"""The documents of predictions: candidates as they are generated, and as they are screened.

Energies are objects that say what they are.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from .document import SCHEMA_VERSION, Provenance, SparseModel, Structure

Cause = Literal["generation", "geometry", "charge", "energy", "duplicate", "rank"]


class Energy(BaseModel):
    """A predicted energy that says what it is. model: name of the checkpoint; model_sha256: its identity."""

    value: float
    quantity: Literal["energy_above_hull"] = "energy_above_hull"
    unit: Literal["eV/atom"] = "eV/atom"
    model: str
    model_sha256: str


class Judgement(BaseModel):
    """A force field's energy that says what it is: total, on its own scale, so that one composition's compare.

    model: the force field; model_version: of the package that computes it; steps: of relaxation that were taken before;
    lowest_of: candidates that are this structure and were judged, as they are.
    """

    value: float
    quantity: Literal["energy_per_atom"] = "energy_per_atom"
    unit: Literal["eV/atom"] = "eV/atom"
    model: str
    model_version: str
    steps: int = 0
    lowest_of: int = 1

    def told(self) -> str:
        """In a few words."""
        relaxed = f", L-BFGS steps: {self.steps}" if self.steps else ""
        return f"{self.value:.4f} {self.unit} by {self.model} {self.model_version}{relaxed}"


class Origin(SparseModel):
    """Where a candidate comes from. drawn: a generator drew it; else it is a known crystal of a library.

    template: with its elements exchanged and its cell scaled; known: of the very composition, as the library has it.
    """

    LATER: ClassVar[frozenset[str]] = frozenset(
        {
            *("library", "library_name", "row", "material_id", "source", "formula", "exchange", "variant"),
            *("distance", "energy_above_hull", "weight", "copies", "cells", "generator"),
        }
    )

    kind: Literal["drawn", "template", "known"]
    library: str | None = Field(None, description="sha256 of the library")
    library_name: str | None = None
    row: int | None = Field(None, description="of the crystal in the library's dataset, from 0")
    material_id: str | None = Field(None, description="of the crystal at its source")
    source: str | None = Field(None, description="of the crystal, as the library names it")
    formula: str | None = Field(None, description="reduced, of the crystal")
    exchange: dict[str, list[str]] = Field(
        default_factory=dict, description="symbols of the crystal -> those in their place, several on one sublattice"
    )
    variant: int | None = Field(None, description="number among the templates of this crystal, exchange and Z, from 0")
    distance: float | None = Field(None, description="mean over atoms of how unlike the exchanged elements are")
    energy_above_hull: float | None = Field(None, description="of the crystal, eV/atom; None: not known")
    weight: float | None = Field(None, description="how likely among the templates, as a share of 1")
    copies: int | None = Field(None, description="templates that gave this structure, this one included")
    cells: int | None = Field(None, description="of the crystal in one cell of the candidate")
    generator: str | None = Field(None, description="that drew it, of an installed package; None: DAO-G")

    def told(self) -> str:
        """In a few words: 'drawn', 'drawn by pyxtal', 'Cr3Si mp-729' or 'known mp-729'."""
        if self.kind == "drawn":
            return self.kind if self.generator is None else f"{self.kind} by {self.generator}"
        return " ".join(filter(None, (self.kind if self.kind == "known" else self.formula, self.material_id)))


def told_origin(origin: Origin | None) -> str:
    """The same, for candidates of documents that tell none: those are drawn."""
    return (origin or Origin(kind="drawn")).told()


class Cells(SparseModel):
    """Candidates of one composition with z formula units per cell. templates: those that come from a library."""

    LATER: ClassVar[frozenset[str]] = frozenset({"templates"})

    z: int
    n_atoms: int
    candidates: int = Field(description="drawn by the generator")
    templates: int = Field(0, description="taken from known crystals, beside those drawn")

    @property
    def total(self) -> int:
        """Drawn and from templates."""
        return self.candidates + self.templates


class CompositionPlan(SparseModel):
    """What a composition was taken to mean.

    asked: as typed; cells: all Z that drawing may take, those that got no candidate too, and larger ones for which
    there is a template; looked_up: all Z for which a library was asked for templates.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"looked_up"})

    formula: str = Field(description="reduced formula, which Z counts")
    asked: list[str]
    cells: list[Cells]
    looked_up: list[int] = Field(default_factory=list)


class GeneratedCandidate(SparseModel):
    """A draw, or a template.

    index: its number among the draws of this formula and Z, or among all templates of this formula, best first. origin:
    None where DAO-G drew it and no library took part, and in documents from before there were any.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"origin"})

    candidate_id: str
    formula: str
    z: int
    index: int
    structure: Structure
    origin: Origin | None = None


class FailedCandidate(BaseModel):
    """A candidate of which no structure came at all."""

    candidate_id: str
    formula: str
    z: int
    index: int
    reason: str


class GenerationDoc(BaseModel):
    """What GenerateMaker writes: one batch of compositions."""

    schema_version: int = SCHEMA_VERSION
    compositions: list[CompositionPlan]
    candidates: list[GeneratedCandidate]
    failed: list[FailedCandidate] = Field(default_factory=list)
    provenance: Provenance


class Validity(BaseModel):
    """Geometry and charges in figures. distance_ratio: smallest distance over sum of covalent radii."""

    shortest_distance: float = Field(description="Å, periodic images included")
    shortest_pair: str = Field(description="its elements, as in 'O-Si'")
    distance_ratio: float
    volume_per_atom: float = Field(description="Å³")
    charge_neutral: bool | None = Field(description="by SMACT's oxidation states; None: not known for an element")


class Symmetry(BaseModel):
    """A space group found by spglib at a tolerance (Å)."""

    symprec: float
    number: int
    symbol: str


class Relaxation(BaseModel):
    """A relaxation in DAO-P's energy. converged: no further step promised a gain."""

    iterations: int
    converged: bool
    energy_before: Energy


class ScreenedCandidate(SparseModel):
    """A candidate that passed. rank: 1 is the best of its composition, as ScreenMaker's rank_by says."""

    LATER: ClassVar[frozenset[str]] = frozenset({"origin", "judgement", "unjudged"})

    candidate_id: str
    formula: str
    z: int
    rank: int
    structure: Structure = Field(description="as ranked: relaxed if there was a relaxation, else as generated")
    generated_structure: Structure | None = Field(description="as generated, where `structure` is relaxed")
    refined_structure: Structure | None = Field(description="conventional cell, symmetrised at the loose tolerance")
    energy: Energy
    relaxation: Relaxation | None = None
    validity: Validity
    symmetry_tight: Symmetry | None
    symmetry_loose: Symmetry | None
    prototype: str | None = Field(default=None, description="AFLOW label of the known prototype it matches")
    duplicates: list[str] = Field(default_factory=list, description="ids of candidates that are the same structure")
    origin: Origin | None = Field(None, description="None: drawn")
    judgement: Judgement | None = Field(None, description="energy of `structure` by a force field, where one judged")
    unjudged: str | None = Field(None, description="why the force field has none")


class RejectedCandidate(BaseModel):
    """A candidate that did not pass, and why. The structure is in the generation document."""

    candidate_id: str
    formula: str
    z: int
    cause: Cause
    reason: str
    duplicate_of: str | None = None
    energy: Energy | None = None


class ScreeningDoc(BaseModel):
    """What ScreenMaker writes. accepted: by composition, then by rank; generation: where the candidates came from."""

    schema_version: int = SCHEMA_VERSION
    accepted: list[ScreenedCandidate]
    rejected: list[RejectedCandidate]
    generation: Provenance
    provenance: Provenance


class CandidateDoc(ScreenedCandidate):
    """One candidate with its whole history: what the `candidates` collection holds."""

    schema_version: int = SCHEMA_VERSION
    n_atoms: int
    elements: list[str]
    chemsys: str
    seed: int | None
    generation: Provenance
    screening: Provenance
    content_hash: str | None = Field(None, description="over this document as it is stored, but for this field")
