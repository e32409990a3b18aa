"""What is asked of a dataset."""

from __future__ import annotations

from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dao_flows.makers.science.duplicates import Tolerance
from dao_flows.model.data.shards import COLUMNS, ROWS_PER_SHARD

from .readers.raw import SourceError

HELD_OUT = Tolerance(ltol=0.3, stol=0.5, angle_tol=10.0)  # at which match rates are measured: what would match is out


class BuildConfig(BaseModel):
    """Settings of a build. All decide its result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(None, description="of the dataset; by default that of its folder")
    licence: str | None = Field(None, description="of sources that state none")
    properties: tuple[str, ...] = Field((), description="numeric columns to take along, as in band_gap")
    min_atoms: int = Field(1, ge=1, description="per cell")
    max_atoms: int = Field(64, ge=1, description="per cell")
    min_energy: float | None = Field(None, description="energy above hull, eV/atom")
    max_energy: float | None = Field(None, description="energy above hull, eV/atom")
    keep_unlabelled: bool = Field(False, description="keep crystals of unknown energy where a window is set")
    min_distance: float = Field(0.5, ge=0, description="shortest distance between atoms, Å")
    primitive: bool = Field(False, description="reduce cells to primitive ones first")
    keep_duplicates: bool = Field(False, description="do not look for crystals that are there twice")
    held_out: tuple[str, ...] = Field((), description="sources whose crystals must not be in the dataset")
    held_out_formulas: bool = Field(False, description="exclude every crystal of a held-out formula")
    val_share: float = Field(0.0, ge=0, lt=1, description="of formulas, for rows whose source has no split")
    rows_per_shard: int = Field(ROWS_PER_SHARD, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> BuildConfig:
        if self.min_atoms > self.max_atoms:
            raise ValueError("min_atoms must not be above max_atoms")
        bounds = [energy for energy in (self.min_energy, self.max_energy) if energy is not None]
        if not all(isfinite(energy) for energy in bounds) or bounds != sorted(bounds):
            raise ValueError("min_energy and max_energy must be numbers, the first not above the second")
        if taken := set(self.properties) & set(COLUMNS):
            raise ValueError(f"{', '.join(sorted(taken))}: every dataset has this column, it is no property")
        if len(set(self.properties)) < len(self.properties):
            raise ValueError("a property is named twice")
        return self

    @property
    def windowed(self) -> bool:
        """Whether a window of energies is set."""
        return self.min_energy is not None or self.max_energy is not None


def build_config(**settings: Any) -> BuildConfig:
    """A BuildConfig. Raises SourceError, in one line, for a setting out of range."""
    try:
        return BuildConfig(**settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise SourceError(f"{name}: {said}" if name else said) from None
