"""`predict`: from formulas to ranked, stored structures in one call. The command line is a thin shell over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, PrivateAttr, field_serializer

from dao_flows.errors import InputError
from dao_flows.interruption import interruptible
from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.generators.sampler import Bf16, settled
from dao_flows.makers.jobs.provenance import digest, library_versions, science_hash
from dao_flows.makers.machine.masking import storable
from dao_flows.makers.machine.places import REFERENCE
from dao_flows.makers.models.checkpoints import pick_device
from dao_flows.makers.predict import PredictFlowMaker
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
from dao_flows.makers.science.chemistry import CompositionError, formula_of, parse_composition
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.screening.judge import chosen
from dao_flows.makers.verify import VerifyMaker
from dao_flows.model.checkpoint.format import verify
from dao_flows.model.checkpoint.library import find
from dao_flows.model.files.places import at_home, checkpoint_in_full, library_in_full
from dao_flows.model.sampling.names import SamplerName
from dao_flows.settings import settings
from dao_flows.store.candidates import CandidateBuilder, candidate_doc
from dao_flows.store.runs import Batch, Run, RunLog, unfinished
from dao_flows.store.stores import collection, describe, job_store, output

from .export import file_name, render, writable, write_files
from .inputs import Entry, Z, parse_z, raise_problems
from .local import run_here
from .reuse import marks, stored_batches, whole
from .verify import VERIFY_TOP, VerificationResult, best, verify_candidates

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


@dataclass(frozen=True)
class PlannedBatch:
    """Formulas that one flow handles.

    keys: the science hash that its screening document will have, or where bf16 is 'auto', both that it may have.
    """

    maker: PredictFlowMaker
    formulas: list[str]
    plan: list[CompositionPlan]
    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        """One hash of all that decides the result."""
        return self.keys[0] if len(self.keys) == 1 else digest(self.keys)


def predict(
    formulas: str | Sequence[str | Entry],
    n: int = 20,
    z: Z = "auto",
    seed: int = 0,
    guidance: bool | None = None,
    out: str | Path | None = None,
    *,
    steps: int | None = None,
    sampler: SamplerName = "renoising",
    relax: bool | None = None,
    judge: str | None = None,
    judge_steps: int = 0,
    rank_by: str | None = None,
    top_k: int | None = None,
    max_atoms: int | None = None,
    bf16: Bf16 = False,
    templates: int | None = None,
    library: str | Path | None = None,
    known: bool = True,
    checkpoint: str | Path | None = None,
    predictor: str | Path | None = None,
    device: str | None = None,
    verify_with: str | None = None,
    verify_top: int = VERIFY_TOP,
    reference_set: str | Path | None = None,
    reuse: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    command: Sequence[str] = (),
) -> PredictionResult:
    """Generate, screen, rank and store crystal structures for one formula or many.

    n: candidates a formula; z: formula units per cell, or 'auto' for all that fit; seed: the same seed gives the same
    candidates; guidance: steer by DAO-P's energy; out: folder for CIF files; sampler, steps: docs/sampling.md;
    relax: in DAO-P's energy; judge: a force field of atomate2 whose energies judge candidates, 'none', or 'auto'
    (CHGNet, where it is installed and rank_by can use it); judge_steps: of relaxation before its energy; rank_by: as
    `ScreenMaker`'s (None: 'both', or 'agreement' without a judge); top_k: structures kept a formula; max_atoms: in a
    cell; bf16: matrix products in bfloat16, 'auto' if that is measured to be faster; templates: candidates of a formula
    that may come from known crystals, library: which ones, known: those of the very composition, too (all as in
    `GenerateMaker`); verify_with: backend by which the verify_top best of each formula are then verified,
    reference_set: for their hulls (as in `verify_candidates`); reuse: take stored results of the same science,
    whichever run made them; on_notice: is told if there are any, and reuse is off; command: for the log of runs. None:
    guidance, steps and relax as the makers do by default; checkpoint, predictor, library, judge and device by the
    settings (DAO_FLOWS_*).

    Everything is checked before anything is computed. What is finished is stored batch by batch; a run that was
    interrupted goes on from there when it is called again, and one that finished is computed again without reuse.

    Raises InputError, CompositionError, ParameterError, CheckpointError, DataError or StoreError (all ValueErrors, one
    line each), and Interrupted on Ctrl-C.
    """
    config = settings()
    z = parse_z(str(z))
    out = at_home(out) if out is not None else None
    if out is not None and not writable(out):
        raise InputError(f"files cannot be written to {out}: choose another folder")
    jobs = job_store(config)
    predictor = checkpoint_in_full(predictor or config.predictor)
    device = pick_device(device or config.device)
    maker = prediction_maker(
        checkpoint=checkpoint_in_full(checkpoint or config.checkpoint),
        predictor=predictor,
        n=n,
        z=z,
        seed=seed,
        guidance=guidance,
        steps=steps,
        sampler=sampler,
        relax=relax,
        judge=judge or config.judge,
        judge_steps=judge_steps,
        rank_by=rank_by,
        top_k=top_k,
        max_atoms=max_atoms,
        bf16=bf16,
        templates=templates,
        library=library_in_full(library or config.library),
        known=known,
        device=device,
    )
    for reference in {maker.generate.checkpoint, maker.screen.predictor}:
        verify(find(reference))  # a damaged file shows now, not after the first batch
    entries = _entries(formulas)
    batches = plan_batches(entries, maker, config.batch_candidates)
    if verify_with is not None:
        elements = {str(e) for batch in batches for p in batch.plan for e in parse_composition(p.formula).elements}
        VerifyMaker(backend=verify_with, reference=REFERENCE(reference_set), top=verify_top).check(elements)
    runs = collection(jobs, "runs")
    request = {
        "formulas": [entry.formula for entry in entries],
        **{"n": n, "z": z, "seed": seed, "guidance": guidance, "steps": steps, "relax": relax, "top_k": top_k},
        "sampler": sampler,
        **{
            "judge": maker.screen.judge,
            "judge_steps": judge_steps,
            "rank_by": maker.screen.rank_by,
            "max_atoms": max_atoms,
            "bf16": bf16,
            **{"templates": templates, "library": maker.generate.library, "known": known},
            "checkpoint": maker.generate.checkpoint,
            "predictor": predictor,
            "device": device,
        },
    }
    log = RunLog(runs, digest([batch.key for batch in batches]), request, library_versions(), command)
    finished: list[Batch] = []
    earlier = _taken_over(jobs, batches, unfinished(runs, log.request_hash), reuse, on_notice)
    try:
        with log:
            for number, batch in enumerate(batches, 1):
                tell = _listener(on_progress, number, len(batches))
                with interruptible():
                    finished.append(_run_batch(batch, jobs, log, earlier.get(batch.key), tell, reuse))
    except KeyboardInterrupt:
        raise Interrupted(len(finished), len(batches)) from None
    result = PredictionResult(
        run_id=log.run_id,
        store=describe(jobs),
        compositions=[
            summary
            for planned, batch in zip(batches, finished, strict=True)
            for summary in _summaries(planned.plan, screening_doc(jobs, batch.screen_uuid))
        ],
        reused_batches=sum(batch.reused_from is not None for batch in finished),
    )
    result._jobs, result._uuids = jobs, [batch.screen_uuid for batch in finished]
    if out is not None:
        result.write(out)
    if verify_with is not None and (ids := best(list(result.candidates()), verify_top)):

        def tell_of_verification(done: int, total: int, stage: str) -> None:
            if on_progress is not None:
                on_progress(Progress(len(batches), len(batches), done, total, stage))

        result.verification = verify_candidates(
            ids, verify_with, reference_set=reference_set, on_progress=tell_of_verification, command=command
        )
    return result


def prediction_maker(
    *,
    checkpoint: str,
    predictor: str,
    n: int,
    z: Z,
    seed: int,
    guidance: bool | None,
    steps: int | None,
    sampler: SamplerName,
    relax: bool | None,
    judge: str,
    judge_steps: int,
    rank_by: str | None,
    top_k: int | None,
    max_atoms: int | None,
    bf16: Bf16,
    templates: int | None,
    library: str,
    known: bool,
    device: str,
) -> PredictFlowMaker:
    """The makers of a prediction. Arguments as of `predict`, checkpoints, library and device settled, the judge not."""
    generate = GenerateMaker(
        checkpoint=checkpoint,
        candidates=n,
        z=z,
        max_atoms=max_atoms,
        seed=seed,
        steps=steps,
        sampler=sampler,
        bf16=bf16,
        templates=templates,
        library=library,
        known=known,
        device=device,
    )
    judge_name, ranking = chosen(judge, rank_by)
    screen = ScreenMaker(
        predictor=predictor,
        judge=judge_name,
        judge_steps=judge_steps,
        rank_by=ranking,
        top_k=top_k,
        device=device,
    )
    guided = generate.guided if guidance is None else guidance
    return PredictFlowMaker(
        generate=replace(generate, predictor=predictor if guided else None),
        screen=screen if relax is None else replace(screen, relax=relax),
    )


def plan_batches(entries: Sequence[Entry], maker: PredictFlowMaker, batch_candidates: int) -> list[PlannedBatch]:
    """The formulas in batches of one Z setting each, all of them checked.

    What has the same reduced formula and Z shares a batch. Raises InputError for all bad formulas at once,
    ParameterError and CheckpointError.
    """
    problems: list[str] = []
    groups: dict[tuple[str, Z], list[Entry]] = {}
    for entry in entries:
        if entry.fault:
            problems.append(entry.problem(entry.fault))
            continue
        try:
            formula = formula_of(parse_composition(entry.formula)).name
        except CompositionError as error:
            problems.append(entry.problem(str(error)))
            continue
        groups.setdefault((formula, entry.z or maker.generate.z), []).append(entry)
    size = max(1, batch_candidates // max(1, maker.generate.candidates))
    batches = []
    for z in dict.fromkeys(z for _, z in groups):
        of_z = replace(maker, generate=replace(maker.generate, z=z))
        members = [found for (_, its_z), found in groups.items() if its_z == z]
        for start in range(0, len(members), size):
            batch = [entry for found in members[start : start + size] for entry in found]
            bad = _not_covered(of_z, batch)
            problems += [entry.problem(bad[entry.formula]) for entry in batch if entry.formula in bad]
            if not problems:
                batches.append(_planned(of_z, list(dict.fromkeys(entry.formula for entry in batch))))
    raise_problems(problems, len(entries))
    return batches


def screening_doc(jobs: JobStore, uuid: str) -> ScreeningDoc:
    """The document that a screening job stored. Raises StoreError if it is gone."""
    return ScreeningDoc.model_validate(output(jobs, uuid))


def _entries(formulas: str | Sequence[str | Entry]) -> list[Entry]:
    given = [formulas] if isinstance(formulas, str) else list(formulas)
    if not given:
        raise InputError("no formula given: write one such as Cr3Os")
    return [Entry(entry) if isinstance(entry, str) else entry for entry in given]


def _not_covered(maker: PredictFlowMaker, batch: Sequence[Entry]) -> dict[str, str]:
    """What is wrong with formulas of a batch, by their text."""
    bad: dict[str, str] = {}
    while good := [entry.formula for entry in batch if entry.formula not in bad]:
        try:
            maker.check(good)
            break
        except CompositionError as error:
            names = {text: formula_of(parse_composition(text)).name for text in good}
            found = {t: error.problems.get(t) or error.problems.get(name) for t, name in names.items()}
            named = {text: problem for text, problem in found.items() if problem}
            if not named:
                raise
            bad.update(named)
    return bad


def _planned(maker: PredictFlowMaker, formulas: list[str]) -> PlannedBatch:
    generations = [science_hash(each.science(formulas)) for each in settled(maker.generate)]
    keys = tuple(science_hash(maker.screen.science(generation)) for generation in generations)
    return PlannedBatch(maker, formulas, maker.check(formulas), keys)


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
        flow = batch.maker.make(batch.formulas)
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


def _summaries(plan: Sequence[CompositionPlan], document: ScreeningDoc) -> list[CompositionResult]:
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
