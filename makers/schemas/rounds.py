"""The documents of rounds: what was proposed, laid out and chosen, whether a round was better, and all rounds."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import Provenance

SCHEMA_VERSION = 1

Measure = Literal["match_rate", "valid_match_rate", "stable_share"]


class ProposalDoc(BaseModel):
    """What ProposeMaker writes: the formulas of a round, reduced."""

    schema_version: int = SCHEMA_VERSION
    round: int
    dataset: str = Field(description="sha256 of the training set")
    known: list[str] = Field(description="of training crystals with a known energy above hull")
    new: list[str] = Field(description="that the training set does not have")
    formulas: list[str] = Field(description="both")
    held_out: int = Field(description="formulas that were not to be proposed")
    provenance: Provenance


class CandidateSetDoc(BaseModel):
    """What LayOutMaker writes: candidates as a dataset, with training crystals of their formulas. path: its folder."""

    FILES: ClassVar = ("path/manifest.json",)

    schema_version: int = SCHEMA_VERSION
    round: int
    path: str
    sha256: str
    name: str
    rows: int
    candidates: int
    anchors: int = Field(description="training crystals, whose known energies say where a teacher's zeros lie")
    left_out: dict[str, str] = Field(description="candidates that are no crystals, by id, and why")
    provenance: Provenance


class Chosen(BaseModel):
    """A candidate that joined the training set."""

    candidate_id: str
    formula: str
    predicted_e_above_hull: float = Field(description="eV/atom, DAO-P's, of the crystal that joined")
    relaxed: bool = Field(description="whether DAO-P's relaxation moved it")
    template: str | None = Field(description="known crystal that it was made from; None: drawn")


class ExtendedDatasetDoc(BaseModel):
    """What ChooseMaker writes: the training set with the candidates that were chosen. path: its folder."""

    FILES: ClassVar = ("path/manifest.json",)

    schema_version: int = SCHEMA_VERSION
    round: int
    path: str
    sha256: str
    name: str
    rows: int
    parent: str = Field(description="sha256 of the training set before")
    teacher: str
    teacher_version: str
    candidates: int = Field(description="from which was chosen")
    chosen: list[Chosen]
    turned_away: dict[str, int] = Field(description="candidates that did not join, by reason")
    provenance: Provenance


class Held(BaseModel):
    """A dataset or checkpoint: where it lies on the machine that made it, and what it is."""

    path: str
    sha256: str


class Measured(BaseModel):
    """A figure of a generator on the held-out crystals, a share of 1. evaluation: science hash of its document."""

    measure: Measure
    value: float
    interval_95: tuple[float, float]
    evaluation: str


class Standing(BaseModel):
    """What there is after a round. labels: labelled datasets that the predictor has learned from."""

    dataset: Held
    generator: Held
    predictor: Held
    labels: list[Held] = Field(default_factory=list)
    measured: Measured


class RoundDoc(BaseModel):
    """What DecideMaker writes: a round, and whether what came of it is kept. after: None where nothing was chosen."""

    schema_version: int = SCHEMA_VERSION
    round: int
    kept: bool
    reason: str
    before: Standing
    after: Standing | None
    candidates: int
    chosen: int
    teacher: str
    registered: list[str] = Field(description="names of the checkpoints in the user's library")
    provenance: Provenance


class RoundsDoc(BaseModel):
    """What RoundsMaker writes when no round follows. standing: what was kept at last."""

    schema_version: int = SCHEMA_VERSION
    rounds: list[RoundDoc]
    kept: int = Field(description="rounds that were better than what was before")
    standing: Standing
    provenance: Provenance
