"""The documents of labelled datasets: of a shard, and of the whole."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import Provenance

from .shards import SCHEMA_VERSION, ShardDoc, ShardFile, Spread


class FailedCrystal(BaseModel):
    """A crystal for which the force field has no figures, or none after so many steps."""

    material_id: str | None
    row: int = Field(description="in the original shard, the first is 0")
    step: int = Field(description="of its frames, the first that is missing")
    reason: str


class LabellingDoc(ShardDoc):
    """What LabelMaker writes: one shard of a dataset, with a force field's labels. Energies on its own scale, eV/atom.

    energy_before, energy_after: of the first and the last frame of each crystal; energy_fall: the first minus the last.
    None where there are none.
    """

    RESULT: ClassVar = "labelled"

    labelled: ShardFile
    force_field: str
    force_field_version: str
    crystals: int = Field(description="with a frame at least; each has a row for each of its frames")
    failed: list[FailedCrystal]
    energy_before: Spread | None
    energy_after: Spread | None
    energy_fall: Spread | None


class LabelledDatasetDoc(BaseModel):
    """What MergeLabelsMaker writes: a dataset of labelled shards. path: its folder, with the manifest."""

    FILES: ClassVar = ("path/manifest.json", "rejects")

    schema_version: int = SCHEMA_VERSION
    path: str
    sha256: str
    parent: str = Field(description="sha256 of the dataset that was labelled")
    rows: int
    crystals: int
    failed: int
    force_field: str
    force_field_version: str
    rejects: str | None = Field(description="file that names each crystal that failed")
    provenance: Provenance
