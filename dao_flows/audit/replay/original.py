"""A recorded document, and the job and the place that it is made again by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_flows.makers.schemas.document import Science

from .agreement import Terms

if TYPE_CHECKING:
    from jobflow.core.job import Job


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
