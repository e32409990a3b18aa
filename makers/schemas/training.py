"""The documents of training."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import PlainData, Provenance

SCHEMA_VERSION = 1


class Rollback(BaseModel):
    """A run diverged and went back. rate_factor: of the rate since; rate: that it is a factor of."""

    step: int = Field(description="gone back to")
    from_step: int = Field(description="where it was found to diverge")
    reason: str
    rate: float
    rate_factor: float


class TrainingDoc(BaseModel):
    """What TrainMaker writes: a checkpoint, where it comes from and how it was learned. Rates are Adam's.

    path: folder of the checkpoint on the machine that trained it; checkpoint_sha256 names it everywhere.
    """

    FILES: ClassVar = ("path/card.json", "path/../metrics.jsonl", "plot")

    schema_version: int = SCHEMA_VERSION
    kind: str = Field(description="dao-g or dao-p")
    stage: str
    name: str = Field(description="of the checkpoint, in its card")
    run: str = Field(description="name of the run's folder, from the science hash")
    checkpoint_sha256: str
    path: str
    registered_as: str | None = Field(description="its name in the user's library")
    parent_sha256: str | None = Field(description="the checkpoint that it was trained on from")
    dataset_sha256: str
    dataset_rows: int = Field(description="crystals trained on")
    property_name: str | None = Field(description="learned in place of the energy")
    steps: int
    losses: dict[str, float] = Field(description="means over the last window of steps")
    validation: dict[str, float] | None = Field(description="of the averaged weights, at the end")
    loss_curve: list[PlainData] = Field(description="records of metrics.jsonl, thinned")
    rollbacks: list[Rollback]
    wall_time_s: float = Field(description="of training alone, over all jobs")
    crystals_per_s: float | None = Field(
        description="median over the windows of steps; None for a run shorter than one"
    )
    processes: int
    plot: str | None = Field(description="file of the picture, where matplotlib is installed")
    provenance: Provenance
