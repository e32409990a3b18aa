"""What came of a prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, PrivateAttr, field_serializer

from dao_flows.errors import InputError
from dao_flows.makers.machine.masking import storable
from dao_flows.makers.schemas.prediction import (
    CandidateDoc,
    Cells,
    CompositionPlan,
    Energy,
    Judgement,
    Origin,
    ScreenedCandidate,
    ScreeningDoc,
    Symmetry,
    told_origin,
)
from dao_flows.store.candidates import candidate_doc
from dao_flows.store.stores import output

from .export import file_name, render, write_files
from .verify import VerificationResult

if TYPE_CHECKING:
    from jobflow.core.store import JobStore


class Row(BaseModel):
    """A ranked structure in one line. shortest_distance: Å; volume_per_atom: Å³."""

    rank: int
    candidate_id: str
    formula: str
    z: int
    n_atoms: int
    space_group: Symmetry | None = Field(description="at the loose tolerance")
    energy: Energy
    volume_per_atom: float
    shortest_distance: float
    prototype: str | None
    duplicates: int
    judgement: Judgement | None = None
    origin: Origin | None = Field(description="where it comes from; None: drawn")

    @property
    def source(self) -> str:
        """Where it comes from, in a few words."""
        return told_origin(self.origin)

    @classmethod
    def of(cls, candidate: ScreenedCandidate) -> Row:
        """The line of a candidate."""
        shared = {
            name: getattr(candidate, name) for name in ("rank", "candidate_id", "formula", "z", "energy", "origin")
        }
        return cls(
            **shared,
            n_atoms=len(candidate.structure),
            space_group=candidate.symmetry_loose,
            volume_per_atom=candidate.validity.volume_per_atom,
            shortest_distance=candidate.validity.shortest_distance,
            prototype=candidate.prototype,
            duplicates=len(candidate.duplicates),
            judgement=candidate.judgement,
        )


class CompositionResult(BaseModel):
    """What came of one composition. cells: all Z that fit, and how many candidates each got.

    looked_up: Z for which a library of known crystals was asked; none: all candidates are drawn.
    """

    formula: str
    asked: list[str]
    cells: list[Cells]
    ranked: list[Row]
    rejected: dict[str, int] = Field(description="cause -> candidates")
    reasons: dict[str, str] = Field(description="cause -> the reason of the first candidate, as an example")
    looked_up: list[int] = Field(default_factory=list)


class PredictionResult(BaseModel):
    """What came of a run: summaries here, whole documents on demand. files: CIF files written."""

    run_id: str
    store: str
    compositions: list[CompositionResult]
    reused_batches: int = Field(description="taken from the store: of an attempt that was interrupted, or of any run")
    files: list[Path] = Field(default_factory=list)
    verification: VerificationResult | None = Field(None, description="of the best of each composition, if asked for")
    _jobs: Any = PrivateAttr(default=None)
    _uuids: list[str] = PrivateAttr(default_factory=list)

    @field_serializer("files", when_used="json")
    def _files(self, files: list[Path]) -> list[str]:
        return [storable(str(path)) for path in files]

    def candidates(self) -> Iterator[CandidateDoc]:
        """Every ranked candidate with its structure and history, read from the store a batch at a time."""
        for uuid in self._uuids:
            document = screening_doc(self._jobs, uuid)
            yield from (candidate_doc(document, place) for place in range(len(document.accepted)))

    def write(self, folder: Path) -> None:
        """Write CIF files, all or none. Raises InputError, which says that the results are stored all the same."""
        try:
            self.files = write_files(folder, self.cif_files())
        except InputError as error:
            raise InputError(f"{error}; the results are stored: `dao-flows list`, `dao-flows export`") from error

    def cif_files(self) -> dict[str, str]:
        """Texts of CIF files by file name."""
        return {file_name(c, "cif", ranked=True): render(c, "cif") for c in self.candidates()}


def screening_doc(jobs: JobStore, uuid: str) -> ScreeningDoc:
    """The document that a screening job stored. Raises StoreError if it is gone."""
    return ScreeningDoc.model_validate(output(jobs, uuid))


def summaries(plan: Sequence[CompositionPlan], document: ScreeningDoc) -> list[CompositionResult]:
    """One for each composition of a batch."""
    results = []
    for entry in plan:
        rejected = [r for r in document.rejected if r.formula == entry.formula]
        results.append(
            CompositionResult(
                formula=entry.formula,
                asked=entry.asked,
                cells=entry.cells,
                looked_up=entry.looked_up,
                ranked=[Row.of(c) for c in document.accepted if c.formula == entry.formula],
                rejected=dict(Counter(r.cause for r in rejected).most_common()),
                reasons={r.cause: r.reason for r in reversed(rejected)},
            )
        )
    return results
