"""A maker without science, whose document is sealed, stored and logged as any other's: what is left is overhead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from jobflow.core.maker import Maker
from pydantic import BaseModel

from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.jobs.stage import stage
from dao_flows.makers.schemas.document import Provenance, Science
from dao_flows.version import __version__


class IdleDoc(BaseModel):
    """What an idle job writes."""

    number: int
    provenance: Provenance


@dataclass
class IdleMaker(Maker):
    """Passes a number on."""

    name: str = "idle"

    @stage(output_schema=IdleDoc)
    def make(self, number: int, previous: IdleDoc | None = None) -> IdleDoc:
        """previous: a reference to another job's output, read from the store as a screening reads a generation."""
        started = datetime.now(UTC)
        inputs = {"number": number, "previous": None if previous is None else previous.number}
        science = Science(
            maker="IdleMaker", parameters={}, inputs=inputs, checkpoints={}, seed=0, code_version=__version__
        )
        return IdleDoc(number=number, provenance=provenance(science, execution_record(started, "cpu", {})))
