"""`verify`: DFT, or a force field in its place, for stored candidates, one after another, here and now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from dao_flows.errors import InputError
from dao_flows.interruption import interruptible
from dao_flows.makers.jobs.provenance import digest, library_versions
from dao_flows.makers.machine.places import REFERENCE
from dao_flows.makers.schemas.verification import VerificationDoc
from dao_flows.makers.verify import VerifyMaker
from dao_flows.model.files import user_folders
from dao_flows.settings import settings
from dao_flows.store.candidates import find
from dao_flows.store.runs import RunLog
from dao_flows.store.stores import collection, describe, job_store, output
from dao_flows.store.verifications import VerificationBuilder

from .local import run_here

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

    from dao_flows.makers.jobs.progress import Reporter
    from dao_flows.makers.schemas.prediction import CandidateDoc


class VerificationResult(BaseModel):
    """What came of a run. verifications: in the order asked for, failed ones too; files: folder of the codes' own."""

    run_id: str
    store: str
    backend: str
    files: Path
    verifications: list[VerificationDoc]


class VerificationInterrupted(KeyboardInterrupt):
    """Ctrl-C during a verification; finished calculations are stored, and the same call goes on from there."""

    def __init__(self, finished: int, candidates: int) -> None:
        super().__init__(f"{finished} of {candidates} candidates are verified; finished calculations are stored")
        self.finished = finished


def verify_candidates(
    references: Sequence[str],
    backend: str,
    *,
    reference_set: str | Path | None = None,
    again: bool = False,
    on_progress: Reporter | None = None,
    command: Sequence[str] = (),
) -> VerificationResult:
    """Verify candidates given by id, or by the beginning of one.

    backend: as `VerifyMaker` names them; reference_set: for formation energies and hulls (see docs/comparison.md).
    All is checked before anything runs. Calculations that the store holds are not repeated unless `again`; a candidate
    whose calculation fails is told, and harms no other. Raises InputError, ParameterError and StoreError.
    """
    config = settings()
    jobs = job_store(config)
    if not references:
        raise InputError("no candidate given: `dao-flows list` shows their ids")
    stored = collection(jobs, "candidates")
    candidates = list({c.candidate_id: c for c in (find(stored, reference) for reference in references)}.values())
    maker = VerifyMaker(backend=backend, reference=REFERENCE(reference_set), again=again)
    maker.check(sorted({element for candidate in candidates for element in candidate.elements}))
    request = {"verify": [c.candidate_id for c in candidates], "backend": backend, "reference_set": maker.reference}
    verifications: list[VerificationDoc] = []
    log = RunLog(collection(jobs, "runs"), digest(request), request, library_versions(), command)
    try:
        with log:
            for number, candidate in enumerate(candidates):
                if on_progress is not None:
                    on_progress(number, len(candidates), f"verify with {backend}")
                with interruptible():
                    verifications.append(_verify(candidate, maker, jobs, log))
    except KeyboardInterrupt:
        raise VerificationInterrupted(len(verifications), len(candidates)) from None
    return VerificationResult(
        run_id=log.run_id, store=describe(jobs), backend=backend, files=user_folders.runs(), verifications=verifications
    )


def _verify(candidate: CandidateDoc, maker: VerifyMaker, jobs: JobStore, log: RunLog) -> VerificationDoc:
    """One candidate through its calculations, laid out among the verifications."""
    flow = maker.make(candidate.structure, candidate.candidate_id, candidate.screening.science_hash, candidate.formula)
    flow.update_metadata({"dao_flows": {"run_id": log.run_id}})
    run_here(flow, jobs, lambda done, total, stage: None)
    found = VerificationDoc.model_validate(output(jobs, flow.output.uuid))
    VerificationBuilder(jobs, collection(jobs, "verifications"), [flow.output.uuid]).build()
    log.science_hashes.append(found.provenance.science_hash)
    return found


def best(candidates: Sequence[CandidateDoc], top: int) -> list[str]:
    """The ids of the `top` best-ranked candidates of each composition."""
    ordered = sorted(candidates, key=lambda candidate: (candidate.formula, candidate.rank))
    kept: dict[str, list[str]] = {}
    for candidate in ordered:
        kept.setdefault(candidate.formula, []).append(candidate.candidate_id)
    return [candidate_id for ids in kept.values() for candidate_id in ids[:top]]
