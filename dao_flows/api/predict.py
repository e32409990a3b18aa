"""`predict`: from formulas to ranked, stored structures in one call. The command line is a thin shell over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_flows.errors import InputError
from dao_flows.interruption import interruptible
from dao_flows.makers.generators.generator import DAO_G
from dao_flows.makers.jobs.provenance import digest, library_versions
from dao_flows.makers.models.checkpoints import pick_device
from dao_flows.model.checkpoint.format import verify
from dao_flows.model.checkpoint.library import find
from dao_flows.model.files.places import at_home
from dao_flows.settings import settings
from dao_flows.store.candidates import CandidateBuilder
from dao_flows.store.runs import Batch, Run, RunLog, unfinished
from dao_flows.store.stores import collection, describe, job_store

from .export import writable
from .local import run_here
from .prediction.batches import PlannedBatch, plan_batches
from .prediction.inputs import Entry
from .prediction.keywords import keywords_of
from .prediction.makers import prediction_maker, settled, verifier
from .prediction.request import PredictionRequest
from .results import PredictionResult, screening_doc, summaries
from .reuse import marks, stored_batches, whole
from .verify import best, verify_candidates

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

__all__ = ["Interrupted", "LocalPrediction", "PredictionRequest", "PredictionResult", "Progress", "predict"]


@dataclass(frozen=True)
class Progress:
    """How far a run is: batch (from 1) of batches, and steps of the stage that runs."""

    batch: int
    batches: int
    done: int
    total: int
    stage: str


class Interrupted(KeyboardInterrupt):
    """The run was interrupted (Ctrl-C); finished batches are stored, and the same call goes on from there."""

    def __init__(self, finished: int, batches: int) -> None:
        super().__init__(f"{finished} of {batches} batches are finished and stored")
        self.finished, self.batches = finished, batches


@dataclass(frozen=True, kw_only=True)
class LocalPrediction(PredictionRequest):
    """A request to be computed here, and how. Its own fields: as `predict` says."""

    out: str | Path | None = None
    reuse: bool = False
    on_progress: Callable[[Progress], None] | None = None
    on_notice: Callable[[str], None] | None = None
    command: Sequence[str] = ()


@keywords_of(LocalPrediction)
def predict(formulas: str | Sequence[str | Entry], asked: LocalPrediction) -> PredictionResult:
    """Generate, screen, rank and store crystal structures for one formula or many.

    What is asked for are the fields of `PredictionRequest`, as keyword arguments; beside them: verify_top: of each
    formula, how many are verified with verify_with; out: folder for CIF files; reuse: take stored results of the same
    science, whichever run made them; on_progress: is told how far the run is; on_notice: is told if there are stored
    results, and reuse is off; command: for the log of runs. What is None is done as the makers do by default, and
    checkpoint, predictor, library, judge and device by the settings (DAO_FLOWS_*).

    Everything is checked before anything is computed. What is finished is stored batch by batch; a run that was
    interrupted goes on from there when it is called again, and one that finished is computed again without reuse.

    Raises InputError, CompositionError, ParameterError, CheckpointError, DataError or StoreError (all ValueErrors, one
    line each), and Interrupted on Ctrl-C.
    """
    config = settings()
    out = at_home(asked.out) if asked.out is not None else None
    if out is not None and not writable(out):
        raise InputError(f"files cannot be written to {out}: choose another folder")
    jobs = job_store(config)
    request = settled(asked, config)
    request = replace(request, device=pick_device(str(request.device)))
    maker = prediction_maker(request)
    generators = [maker.generate.checkpoint] if request.generator == DAO_G else []
    for reference in {*generators, maker.screen.predictor}:
        verify(find(reference))  # a damaged file shows now, not after the first batch
    entries = _entries(formulas)
    batches = plan_batches(entries, maker, config.batch_candidates)
    if (verifying := verifier(request)) is not None:
        verifying.check(set().union(*(batch.plan.elements for batch in batches)))
    runs = collection(jobs, "runs")
    record: dict[str, Any] = {"formulas": [entry.formula for entry in entries], **request.recorded()}
    log = RunLog(runs, digest([batch.key for batch in batches]), record, library_versions(), asked.command)
    finished: list[Batch] = []
    earlier = _taken_over(jobs, batches, unfinished(runs, log.request_hash), asked.reuse, asked.on_notice)
    try:
        with log:
            for number, batch in enumerate(batches, 1):
                tell = _listener(asked.on_progress, number, len(batches))
                with interruptible():
                    finished.append(_run_batch(batch, jobs, log, earlier.get(batch.key), tell, asked.reuse))
    except KeyboardInterrupt:
        raise Interrupted(len(finished), len(batches)) from None
    result = PredictionResult(
        run_id=log.run_id,
        store=describe(jobs),
        compositions=[
            summary
            for planned, batch in zip(batches, finished, strict=True)
            for summary in summaries(planned.plan.compositions, screening_doc(jobs, batch.screen_uuid))
        ],
        reused_batches=sum(batch.reused_from is not None for batch in finished),
    )
    result._jobs, result._uuids = jobs, [batch.screen_uuid for batch in finished]
    if out is not None:
        result.write(out)
    if verifying is not None and (ids := best(list(result.candidates()), verifying.top)):
        result.verification = verify_candidates(
            ids,
            verifying.backend,
            reference_set=verifying.reference,
            on_progress=_listener(asked.on_progress, len(batches), len(batches)),
            command=asked.command,
        )
    return result


def _entries(formulas: str | Sequence[str | Entry]) -> list[Entry]:
    given = [formulas] if isinstance(formulas, str) else list(formulas)
    if not given:
        raise InputError("no formula given: write one such as Cr3Os")
    return [Entry(entry) if isinstance(entry, str) else entry for entry in given]


def _taken_over(
    jobs: JobStore,
    batches: Sequence[PlannedBatch],
    attempts: Sequence[Run],
    reuse: bool,
    notice: Callable[[str], None] | None,
) -> dict[str, Batch]:
    """Batches not to compute, by key: what interrupted attempts left in the store, with `reuse` what any run did."""
    keys = {key: batch for batch in batches for key in batch.keys}
    begun = {batch.screen_uuid: batch.reused_from or run.run_id for run in attempts for batch in run.batches}
    found = stored_batches(jobs, keys)
    if begun and not reuse:
        found |= stored_batches(jobs, keys, list(begun))
    taken: dict[str, Batch] = {}
    other: set[str] = set()
    for key, stored in found.items():
        batch = keys[key]
        if not (reuse or stored.screen_uuid in begun):
            other.add(batch.key)
        elif whole(jobs, stored):
            taken[batch.key] = Batch(
                key=batch.key,
                formulas=batch.formulas,
                generate_uuid=stored.generate_uuid,
                screen_uuid=stored.screen_uuid,
                reused_from=begun.get(stored.screen_uuid, stored.made_by),
            )
    if (left := len(other - set(taken))) and notice is not None:
        notice(f"{left} of {len(batches)} batches are in the store already: --reuse takes them")
    return taken


def _run_batch(
    batch: PlannedBatch,
    jobs: JobStore,
    log: RunLog,
    earlier: Batch | None,
    listener: Callable[[int, int, str], None],
    reuse: bool,
) -> Batch:
    """Compute a batch, or take over what an earlier attempt computed, and lay out its candidates."""
    if earlier is not None:
        log.begin(earlier)
        record = earlier
    else:
        flow = batch.maker.flow(batch.formulas)
        flow.update_metadata(marks(log.run_id, reuse))
        generate_uuid = flow.jobs[0].uuid
        record = Batch(
            key=batch.key, formulas=batch.formulas, generate_uuid=generate_uuid, screen_uuid=flow.output.uuid
        )
        log.begin(record)
        run_here(flow, jobs, listener)
    CandidateBuilder(jobs, collection(jobs, "candidates"), [record.screen_uuid]).build()
    auto = len(batch.keys) > 1
    key = screening_doc(jobs, record.screen_uuid).provenance.science_hash if auto else record.key
    log.science_hashes.append(key)
    return record


def _listener(
    on_progress: Callable[[Progress], None] | None, batch: int, batches: int
) -> Callable[[int, int, str], None]:
    def tell(done: int, total: int, stage: str) -> None:
        if on_progress is not None:
            on_progress(Progress(batch, batches, done, total, stage))

    return tell
