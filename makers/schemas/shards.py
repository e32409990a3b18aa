"""What documents of shards have in common: a dataset's shard went in, another one came out."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import Provenance

SCHEMA_VERSION = 1


class ShardFile(BaseModel):
    """One parquet file and its identity."""

    file: str
    sha256: str
    rows: int


class Spread(BaseModel):
    """How a figure is distributed over the crystals that have it."""

    mean: float
    minimum: float
    quartiles: tuple[float, float, float]
    maximum: float


class Computation(BaseModel):
    """What was computed by the attempt that finished the shard; the rest lay there already."""

    rows: int
    tried: int = Field(description="crystals that were computed, whatever became of them")
    seconds: float = Field(description="s, without loading the model and joining the chunks")
    chunks: int
    chunks_taken_over: int = Field(description="finished by an earlier attempt")


class ShardDoc(BaseModel):
    """One shard of a dataset, and what a maker made of it: `RESULT` names the field that tells of the new file."""

    RESULT: ClassVar[str]

    schema_version: int = SCHEMA_VERSION
    dataset: str = Field(description="sha256 of the dataset that the shard belongs to")
    shard: int = Field(description="its number in the dataset, the first is 0")
    path: str = Field(description="the file that was made")
    original: ShardFile
    columns: dict[str, str] = Field(description="name -> type, in order")
    splits: dict[str, int] = Field(description="rows of each split")
    computation: Computation
    provenance: Provenance

    @property
    def result(self) -> ShardFile:
        """The file that was made."""
        found: ShardFile = getattr(self, self.RESULT)
        return found
