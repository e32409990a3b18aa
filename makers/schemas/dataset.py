"""The document that IngestMaker writes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import SCHEMA_VERSION, PlainData, Provenance


class DatasetDoc(BaseModel):
    """A dataset that was built: its folder, its identity, and what its manifest says of its rows."""

    FILES: ClassVar = ("path/manifest.json", "rejects")

    schema_version: int = SCHEMA_VERSION
    path: str = Field(description="the dataset's folder")
    sha256: str = Field(description="the dataset's identity")
    name: str
    rows: int
    shards: int
    counts: dict[str, int] = Field(description="rows of each split")
    columns: dict[str, str]
    sources: list[PlainData] = Field(description="of each: name, location, licence, rows read, kept and rejected")
    filters: PlainData
    rejects: str = Field(description="file that names each row left out")
    provenance: Provenance
