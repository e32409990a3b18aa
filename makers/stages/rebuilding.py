"""What a replay hands to a stage, and what it gets: a recorded document, what it was made from, the job to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dao_flows.makers.machine.masking import mask
from dao_flows.makers.schemas.document import Science
from dao_flows.model.errors import DaoError

from .agreement import Terms

if TYPE_CHECKING:
    from jobflow.core.job import Job


class ReplayError(DaoError):
    """It cannot be replayed; the message says why, and what would help, without credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


class Materials(Protocol):
    """Where the inputs of recorded results are found. Every look-up raises ReplayError for what is gone."""

    @property
    def trust(self) -> Sequence[str]:
        """Modules whose makers may be made from a record."""

    def of_science(self, science_hash: str, what: str, job: str | None = None) -> dict[str, Any]:
        """The document of this science hash, of this job if it has several. what: what to call it."""

    def holding(self, field: str, value: str, what: str) -> dict[str, Any]:
        """A document of a job that holds this value in this field."""

    def structure(self, candidate_id: str) -> Mapping[str, Any] | None:
        """The structure of a candidate, as pymatgen writes it; None if the candidate is gone."""

    def sent(self, candidate_id: str) -> list[Mapping[str, Any]]:
        """The structures of a candidate that verifications sent to a code, likewise."""

    def checkpoint(self, sha256: str, role: str = "checkpoint") -> str:
        """The folder of a checkpoint whose weights have this sha256."""

    def dataset(self, sha256: str, what: str = "dataset") -> str:
        """The folder of a dataset, or a parquet file, of this identity."""

    def library(self, sha256: str, folder: Path) -> str:
        """The folder of a library of known crystals of this identity. folder: an empty one, for an index."""

    def file(self, path: str, sha256: str | None) -> str | None:
        """A file or folder where it was, or a file of the same content; None if there is neither."""


@dataclass(frozen=True)
class Recorded:
    """A document of a store, and its science."""

    document: Mapping[str, Any]

    @property
    def science(self) -> Science:
        """What decided it."""
        return Science.model_validate(self.document["provenance"]["science"])

    @property
    def execution(self) -> Mapping[str, Any]:
        """How it came about."""
        execution: Mapping[str, Any] = self.document["provenance"]["execution"]
        return execution

    @property
    def seconds(self) -> float:
        """What it took; of a training over several jobs, all of them."""
        return max(float(self.execution.get("wall_seconds") or 0.0), float(self.document.get("wall_time_s") or 0.0))


@dataclass(frozen=True)
class Rebuilt:
    """A job to run, what it must agree in, and its science where that is known before it runs."""

    job: Job
    terms: Terms
    science: Science | None = None
    note: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a replay runs: an empty folder for what it writes, a device, and torch's threads (None: as they are)."""

    folder: Path
    device: str
    threads: int | None = None


def settings(maker: type, science: Science) -> dict[str, Any]:
    """The science's parameters that are fields of the maker."""
    return {f.name: science.parameters[f.name] for f in fields(maker) if f.name in science.parameters}
