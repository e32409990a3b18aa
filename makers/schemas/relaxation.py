"""The documents of relaxed datasets: of a shard, of the whole, and of the check against a force field."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import Provenance

from .shards import SCHEMA_VERSION, ShardDoc, ShardFile, Spread

Outcome = Literal[
    "relaxed",
    "stable",
    "above window",
    "unlabelled",
    "not covered",
    "no crystal",
    "not finite",
    "energy",
    "volume",
    "distance",
]


class RelaxationDoc(ShardDoc):
    """What RelaxDatasetMaker writes: one shard of a dataset. Energies are DAO-P's, above hull, in eV/atom.

    energy_fall, displacement (Å), volume_ratio: over the relaxed rows; None where there are none.
    """

    RESULT: ClassVar = "relaxed"

    relaxed: ShardFile
    outcomes: dict[Outcome, int] = Field(description="rows of each outcome")
    energy_before: Spread | None
    energy_after: Spread | None
    energy_fall: Spread | None
    displacement: Spread | None
    volume_ratio: Spread | None


class RelaxedDatasetDoc(BaseModel):
    """What MergeShardsMaker writes: a dataset of relaxed shards. path: its folder, with the manifest."""

    FILES: ClassVar = ("path/manifest.json",)

    schema_version: int = SCHEMA_VERSION
    path: str
    sha256: str
    parent: str = Field(description="sha256 of the dataset that was relaxed")
    rows: int
    outcomes: dict[Outcome, int]
    provenance: Provenance


class Estimate(BaseModel):
    """A figure with its 95 % bootstrap interval over the sample; None where it cannot be had."""

    value: float | None
    interval_95: tuple[float, float] | None


class CheckedCrystal(BaseModel):
    """One crystal of the sample. Energies in eV/atom; the force field's own scale."""

    material_id: str
    shard: str
    row: int
    predicted_change: float = Field(description="DAO-P's energy after minus before")
    force_field_before: float | None
    force_field_after: float | None
    fault: str | None = Field(default=None, description="why the force field gave no energy")


class CrossCheckDoc(BaseModel):
    """What CrossCheckMaker writes: DAO-P's changes in energy beside those of a force field, in eV/atom.

    mean_error, mean_absolute_error: predicted change minus the force field's; spearman: rank correlation between the
    two changes; agreeing: share of crystals whose energy falls by the force field too.
    """

    schema_version: int = SCHEMA_VERSION
    dataset: str = Field(description="sha256 of the relaxed dataset")
    parent: str = Field(description="sha256 of the dataset before")
    force_field: str
    force_field_version: str
    relaxed_rows: int = Field(description="from which the sample was drawn")
    predicted_change: Estimate
    force_field_change: Estimate
    mean_error: Estimate
    mean_absolute_error: Estimate
    spearman: Estimate
    agreeing: Estimate
    failed: int = Field(description="crystals of the sample without an energy by the force field")
    crystals: list[CheckedCrystal]
    provenance: Provenance
