"""What every document holds: its provenance, plain data and structures. Lengths in Å, volumes in Å³.

A document is valid without the code that wrote it. `schema_version` grows with every change that a reader must know of;
class names of documents stay, and the modules that stores name them by stay importable.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pymatgen.core.structure import Structure as PymatgenStructure

from .decoding import structure as structure_of
from .decoding import unnamed, unreferenced

SCHEMA_VERSION = 1

Structure = Annotated[
    PymatgenStructure,
    BeforeValidator(structure_of),  # before monty's own validator, which imports what a dictionary names
    PlainSerializer(lambda structure: structure.as_dict(), when_used="json"),
]
PlainData = Annotated[dict[str, Any], AfterValidator(unnamed)]


def settings_apart(parameters: dict[str, Any]) -> dict[str, Any]:
    """A calculator's settings tell its classes: nothing else may name any."""
    unnamed({name: value for name, value in parameters.items() if name != "settings"})
    unreferenced(parameters.get("settings"))
    return parameters


class Science(BaseModel):
    """All that decides a result, and nothing else. Known before the run."""

    maker: str = Field(description="class of the maker")
    parameters: Annotated[dict[str, Any], AfterValidator(settings_apart)] = Field(description="its settings, resolved")
    inputs: PlainData = Field(description="compositions and cells, or science hashes of input documents")
    checkpoints: dict[str, str] = Field(description="role -> sha256 of the weights")
    seed: int | None = None
    code_version: str = Field(description="version of dao_flows")


class PrecisionChoice(BaseModel):
    """How bf16='auto' was settled: seconds of one network call on the batch in which most atoms are drawn."""

    bf16: bool = Field(description="what was taken")
    fp32_seconds: float
    bf16_seconds: float
    batch: tuple[int, int] = Field(description="[crystals, atoms of each] that were timed")


class JudgeCost(BaseModel):
    """What a judge took. calls: of the force field; seconds: s, opening it included."""

    structures: int
    calls: int
    seconds: float


class Execution(BaseModel):
    """How the result came about: nothing here decides it."""

    host: str
    device: str
    device_name: str
    libraries: dict[str, str] = Field(description="library -> version; dots in names as underscores")
    checkpoints: dict[str, str] = Field(description="role -> name it was called by")
    started_at: str = Field(description="ISO 8601, UTC")
    ended_at: str = Field(description="ISO 8601, UTC")
    wall_seconds: float
    job_uuid: str | None = None
    threads: int | None = Field(None, description="of torch on the CPU, by which sums are cut into parts")
    code_sha256: str | None = Field(None, description="of the source of dao_flows.model and dao_flows.makers")
    batches: list[tuple[int, int]] | None = Field(None, description="[crystals, atoms of each] of each batch, in order")
    memory_splits: int | None = Field(None, description="how often a batch was halved because memory ran out")
    precision: PrecisionChoice | None = Field(None, description="what was measured where bf16 was 'auto'")
    judge: JudgeCost | None = Field(None, description="of the force field that judged, where one did")


class Provenance(BaseModel):
    """Where a document comes from; science_hash: sha256 over the canonical JSON of `science`.

    content_hash: over the whole document as it is stored, but for this field (see docs/provenance.md); None where the
    document was not written by a job, or before there were content hashes. files: those that the document names, by
    its field ('plot', or 'path/card.json' for a file in a folder), with their sha256 when it was written.
    """

    science: Science
    execution: Execution
    science_hash: str
    content_hash: str | None = None
    files: dict[str, str] = Field(default_factory=dict)


class SparseModel(BaseModel):
    """Fields in LATER are written where they say something, so that documents from before them stay as they were."""

    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _lean(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        silent = {
            n for n in self.LATER & written.keys() if written[n] == fields[n].get_default(call_default_factory=True)
        }
        return {name: value for name, value in written.items() if name not in silent}
