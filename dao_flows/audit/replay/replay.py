"""`audit replay`: a recorded result is computed again from its inputs, in a store of its own, and compared."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from jobflow.core.flow import Flow
from jobflow.core.store import JobStore
from maggma.stores import MemoryStore
from pydantic import BaseModel, Field

from dao_flows.api.local import run_here
from dao_flows.audit.graph import identify
from dao_flows.audit.graph.from_store import build
from dao_flows.audit.graph.graph import Graph, text
from dao_flows.errors import InputError, explain
from dao_flows.makers.jobs.progress import Reporter
from dao_flows.makers.jobs.provenance import code_sha256, library_versions, science_hash
from dao_flows.makers.machine.masking import one_line
from dao_flows.makers.models.checkpoints import ParameterError, pick_device
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.stages.agreement import Agreement, Difference, agree
from dao_flows.makers.stages.declaration import Stage
from dao_flows.makers.stages.rebuilding import Place, Rebuilt, Recorded, ReplayError
from dao_flows.makers.stages.registry import stages
from dao_flows.model.files import user_folders
from dao_flows.store.collections import LAID_OUT, WITHOUT_JOBS
from dao_flows.store.stores import collection, describe
from dao_flows.version import __version__

from . import own
from .materials import Materials

if TYPE_CHECKING:
    from dao_flows.audit.graph.documents import Document, Node

Outcome = Literal["identical", "equal", "different", "not replayed"]
ORDER: tuple[Outcome, ...] = ("identical", "equal", "different", "not replayed")  # from good to bad
LONG = 300.0  # s of recorded time, beyond which a replay must be confirmed
SAME = "software and machine are as recorded, so nothing should differ: `audit verify` tells whether it was altered"
# versions of programs, which stand in the science for they decide the result
VERSIONS = (
    *("code_version", "parameters.program_version", "parameters.atomate2", "parameters.force_field_version"),
    "parameters.judge_version",
)


class Change(BaseModel):
    """Something about the software or the machine that is not as it was recorded."""

    what: str
    recorded: str | None
    here: str | None

    def line(self) -> str:
        """In a few words."""
        return f"{self.what} {self.recorded or 'not recorded'} → {self.here or 'none'}"


class Step(BaseModel):
    """One document, and what its replay gave.

    how: run: the job ran again; inputs and outputs: a calculation was not run, but compared with what it follows from;
    sources: what is laid out was compared with what it is laid out from. own: the first place where the document itself
    is not what was written (replayed: what it holds now); recomputed: what computing again gave, whatever the document.
    first: the first difference of any size; beyond: the first that the tolerance does not cover. largest: by quantity.
    """

    kind: str
    id: str
    maker: str
    outcome: Outcome
    how: Literal["run", "inputs and outputs", "sources"] = "run"
    own: Difference | None = None
    recomputed: Outcome | None = None
    science_hash: str
    replayed_science_hash: str | None = None
    changes: list[Change] = Field(default_factory=list)
    tolerance: str | None = None
    first: Difference | None = None
    beyond: Difference | None = None
    largest: dict[str, float] = Field(default_factory=dict)
    differences: int = 0
    reason: str | None = Field(None, description="why it was not replayed")
    note: str | None = None
    recorded_seconds: float
    seconds: float = 0.0


class Replay(BaseModel):
    """What came of a replay; outcome: the worst of all.

    documents: candidates, verifications and comparisons, each beside what it is laid out from.
    """

    asked: str
    node: str
    store: str
    outcome: Outcome
    documents: list[Step] = Field(default_factory=list)
    steps: list[Step]
    seconds: float


@dataclass(frozen=True)
class Options:
    """How to replay.

    device: None: the recorded kind, where there is one; dft: run calculations; yes: long ones too; trust: modules of
    the user's own makers, which a record may name.
    """

    device: str | None = None
    places: Sequence[Path] = ()
    dft: bool = False
    yes: bool = False
    trust: Sequence[str] = ()


def replay(jobs: JobStore, wanted: str, options: Options | None = None, listener: Reporter | None = None) -> Replay:
    """Compute again what an id stands for, and compare. Nothing is written into the store.

    A candidate stands for its generation and screening, a verification for its calculations and itself, a checkpoint
    for its training, a dataset for its building, a run for all that it made. Raises InputError for an unknown id, and
    for what would take long and is not confirmed; what cannot be replayed is told in its step.
    """
    options = options or Options()
    began = monotonic()
    graph = build(jobs)
    node = identify.find(graph, wanted)
    materials = Materials(jobs, options.places, options.trust)
    uuids = dict(_steps_of(graph, node, jobs))
    recorded = [(each, Recorded(materials.document(uuid))) for each, uuid in uuids.items()]
    if not recorded:
        raise InputError(f"{text(node)} was not made by a job that the store knows: there is nothing to replay")
    runs = [r.seconds for _, r in recorded if options.dft or not _is_checked(r)]
    if sum(runs) > LONG and not options.yes:
        raise InputError(
            f"replaying {text(node)} means to compute again what took {sum(runs) / 60:.0f} min: --yes does it"
        )
    laid_out = [step for each in _asked(graph, node) if (step := _own_step(each, jobs)) is not None]
    steps = [_step(each, uuids[each], found, materials, options, listener) for each, found in recorded]
    if node[0] in ("checkpoint", "dataset"):
        _in_its_folder(node, steps[-1], recorded[-1][1].document)
    outcomes = [step.outcome for step in (*laid_out, *steps)]
    worst = max(outcomes, key=ORDER.index)
    if "different" in outcomes:
        worst = "different"
    seconds = monotonic() - began
    return Replay(
        asked=wanted,
        node=text(node),
        store=describe(jobs),
        outcome=worst,
        documents=laid_out,
        steps=steps,
        seconds=seconds,
    )


def _asked(graph: Graph, node: Node) -> list[Node]:
    """What is laid out of what is asked for, and is compared with what it was laid out from."""
    if node[0] == "run":
        made = [other for other, facts in graph.nodes.items() if facts.run == node[1]]
        return [other for other in graph.order() if other[0] in LAID_OUT and other in made]
    if node[0] == "comparison":
        behind = [other for other in graph.order() if other == ("verification", node[1])]
        return [*(parent for parent in graph.parents(node) if parent[0] == "candidate"), *behind, node]
    return [node] if node[0] in LAID_OUT else []


def _own_step(node: Node, jobs: JobStore) -> Step | None:
    """A candidate, verification or comparison beside what it is laid out from."""
    began = monotonic()
    step = Step(
        kind=node[0], id=node[1], maker="laid out", outcome="not replayed", how="sources", science_hash="",
        recorded_seconds=0.0,
    )  # fmt: skip
    try:
        if (held := own.laid_out(jobs, node)) is None:
            return None
        step.own = held.difference
        step.outcome = "different" if step.own is not None else "identical"
    except ReplayError as error:
        step.reason = str(error)
    except Exception as error:  # of a document that its class cannot read
        step.reason = explain(error) or f"{type(error).__name__}: {one_line(error)}"
    step.seconds = monotonic() - began
    return step


def _in_its_folder(node: Node, step: Step, document: Mapping[str, Any]) -> None:
    """The checkpoint or dataset that was asked for, where its document says that it lies."""
    path = document.get("path")
    found = own.lies_here(node[0], node[1], Path(path)) if isinstance(path, str) else None
    if found is not None:
        step.own = step.own or found
        step.outcome = "different"


def _steps_of(graph: Graph, node: Node, jobs: JobStore) -> list[tuple[Node, str]]:
    """The documents that an id stands for, parents first, each with its job."""
    kind, name = node
    if kind == "candidate":
        found: Document | None = None
        try:
            if (held := own.laid_out(jobs, node)) is not None:
                found = held.expected
        except ReplayError:
            found = collection(jobs, "candidates").query_one({"candidate_id": name})
        if found is not None:
            uuids = [found[part]["execution"].get("job_uuid") for part in ("generation", "screening")]
            return [((part, uuid), uuid) for part, uuid in zip(("generation", "screening"), uuids, strict=True) if uuid]
    if kind == "comparison":
        return _steps_of(graph, ("verification", name), jobs)
    if kind == "run":
        wanted = {other for other, facts in graph.nodes.items() if facts.run == name and other[0] not in WITHOUT_JOBS}
    elif kind == "verification":
        wanted = {node, *(parent for parent in graph.parents(node) if parent[0] == "calculation")}
    elif kind in ("checkpoint", "dataset"):
        makers = [parent for parent in graph.parents(node) if graph.nodes[parent].job]
        latest = max(makers, key=lambda each: graph.nodes[each].when or "", default=None)
        wanted = {latest} if latest else set()
        if latest is not None:
            wanted |= {parent for parent in graph.parents(latest) if parent[0] in stages().of_shards}
    else:
        wanted = {node}
    order = [each for each in graph.order() if each in wanted]
    return [(each, uuid) for each in order if (uuid := graph.nodes[each].job) and graph.nodes[each].science_hash]


def _step(
    node: Node, uuid: str, recorded: Recorded, materials: Materials, options: Options, listener: Reporter | None
) -> Step:
    provenance = recorded.document["provenance"]
    science = recorded.science
    began = monotonic()
    step = Step(
        kind=node[0],
        id=node[1],
        maker=science.maker,
        outcome="not replayed",
        science_hash=provenance["science_hash"],
        recorded_seconds=recorded.seconds,
    )
    try:
        step.own = own.written(materials.jobs, uuid, recorded.document)
        if (stated := provenance["science_hash"]) != (found := science_hash(science)):
            first = Difference(path="provenance.science_hash", recorded=stated, replayed=found)
            return step.model_copy(update={"outcome": "different", "first": first, "beyond": first, "differences": 1})
        device, told = _device(recorded, options.device)
        step.changes = _changes(recorded, device)
        step.note = told
        if _is_checked(recorded) and not options.dft:
            _checked(step, recorded, materials)
        else:
            _run(step, recorded, materials, device, listener)
    except (ReplayError, ParameterError) as error:
        step.reason = str(error)
    except Exception as error:  # whatever stops a stage stops this one alone, and is told
        step.reason = explain(error) or f"{type(error).__name__}: {one_line(error)}"
    if step.outcome != "not replayed":
        step.recomputed = step.outcome
    if step.own is not None:
        step.outcome = "different"
    step.seconds = monotonic() - began
    return step


def _stage(recorded: Recorded) -> Stage:
    """The stage that a document is of. Raises ReplayError where none here can write it."""
    known, maker = stages().by_maker, recorded.science.maker
    if maker not in known or known[maker].rebuild is None:
        able = ", ".join(sorted(name for name, stage in known.items() if stage.rebuild is not None))
        raise ReplayError(f"documents of {maker} cannot be replayed: this version knows {able}")
    return known[maker]


def _is_checked(recorded: Recorded) -> bool:
    """Whether its inputs and outputs are compared in place of running it, as of calculations."""
    stage = stages().by_maker.get(recorded.science.maker)
    return stage is not None and stage.check is not None


def _checked(step: Step, recorded: Recorded, materials: Materials) -> None:
    """A calculation by its inputs and outputs."""
    check = _stage(recorded).check
    assert check is not None
    differences = check(recorded, materials)
    step.how = "inputs and outputs"
    step.replayed_science_hash = step.science_hash
    step.note = "not run: --dft calculates it again"
    step.differences = len(differences)
    step.outcome = "different" if differences else "identical"
    step.first = step.beyond = differences[0] if differences else None


def _run(step: Step, recorded: Recorded, materials: Materials, device: str, listener: Reporter | None) -> None:
    """The job again, in a store and folders of its own."""
    threads = recorded.execution.get("threads")
    with tempfile.TemporaryDirectory(prefix="dao-flows-replay-") as folder, _alone(Path(folder), threads):
        rebuild = _stage(recorded).rebuild
        assert rebuild is not None
        rebuilt = rebuild(recorded, materials, Place(Path(folder), device, threads))
        if rebuilt.science is not None:
            _same_science(recorded.science, rebuilt)
        store = JobStore(MemoryStore(), additional_stores={name: MemoryStore() for name in _blob_stores(materials)})
        store.connect()
        flow = Flow([rebuilt.job])
        run_here(flow, store, listener or (lambda done, total, stage: None))
        document = Materials(store).document(rebuilt.job.uuid)
    fresh = Recorded(document)
    _same_science(recorded.science, Rebuilt(rebuilt.job, rebuilt.terms, fresh.science))
    step.replayed_science_hash = document["provenance"]["science_hash"]
    step.tolerance = rebuilt.terms.tolerance.told()
    if step.replayed_science_hash != step.science_hash:  # another version, told among the changes
        versions = ("provenance.science_hash", *(f"provenance.science.{name}" for name in VERSIONS))
        rebuilt.terms.ignored += versions
    step.changes += _versions(recorded.science, fresh.science)
    batches = [str(each) if each else None for each in (r.execution.get("batches") for r in (recorded, fresh))]
    if batches[0] is not None and batches[0] != batches[1]:
        step.changes.append(Change(what="batches", recorded=batches[0], here=batches[1]))
    found: Agreement = agree(recorded.document, document, rebuilt.terms)
    for name in ("outcome", "first", "beyond", "largest", "differences"):
        setattr(step, name, getattr(found, name))
    same = None if step.changes or found.outcome == "identical" or device != "cpu" else SAME
    step.note = "; ".join(filter(None, (step.note, rebuilt.note, same))) or None


def _versions(recorded: Science, fresh: Science) -> list[Change]:
    """Programs among what decides a result that are of another version here."""
    found = []
    for name in (path.removeprefix("parameters.") for path in VERSIONS if path.startswith("parameters.")):
        was, here = recorded.parameters.get(name), fresh.parameters.get(name)
        if was != here:
            found.append(Change(what=name, recorded=was, here=here))
    return found


def _same_science(recorded: Science, rebuilt: Rebuilt) -> None:
    """Raises ReplayError if the rebuilt maker would compute something else; another version of the code is told."""
    assert rebuilt.science is not None
    prefix = "provenance.science."
    ignored = tuple(each.removeprefix(prefix) for each in rebuilt.terms.ignored if each.startswith(prefix))
    rules = type(rebuilt.terms)(ignored=(*VERSIONS, *ignored))
    found = agree(recorded.model_dump(mode="json"), rebuilt.science.model_dump(mode="json"), rules)
    if found.first is not None:
        raise ReplayError(f"what would run is not what was recorded: {found.first.line()}")


def _blob_stores(materials: Materials) -> list[str]:
    return list(vars(materials.jobs)["additional_stores"])


def _device(recorded: Recorded, asked: str | None) -> tuple[str, str | None]:
    """The device to run on, and what to say if the recorded kind is not there."""
    was = str(recorded.execution.get("device") or "cpu")
    if asked is not None:
        return pick_device(asked), None
    try:
        return pick_device(was), None
    except ParameterError:
        try:
            return pick_device(was.partition(":")[0]), None
        except ParameterError:
            return pick_device("auto"), f"it was computed on {was}, which is not here"


def _changes(recorded: Recorded, device: str) -> list[Change]:
    """How software and machine differ from the recorded ones, where it may matter to the result."""
    import torch

    execution = recorded.execution
    libraries: Mapping[str, Any] = execution.get("libraries") or {}
    here = library_versions()
    cuda = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine()
    kinds = [str(each).partition(":")[0] for each in (execution.get("device"), device)]
    pairs: list[tuple[str, Any, Any]] = [
        ("dao_flows", recorded.science.code_version, __version__),
        *((library, libraries.get(library), here.get(library)) for library in {**libraries, **here}),
        ("device", kinds[0], kinds[1]),
        ("processor" if not cuda else "GPU", execution.get("device_name"), name),
    ]
    if (code := execution.get("code_sha256")) is not None:
        pairs.append(("code", code[:12], code_sha256()[:12]))
    changes = [Change(what=what, recorded=was, here=now) for what, was, now in pairs if was != now and was is not None]
    return [change for change in changes if change.what != "dao-flows" or change.here is not None]


@contextmanager
def _alone(folder: Path, threads: int | None) -> Iterator[None]:
    """Nothing of earlier runs is taken over, and torch has the recorded threads; both are put back."""
    import torch

    before, had = os.environ.get(user_folders.RUNS), torch.get_num_threads()
    os.environ[user_folders.RUNS] = str(folder / "runs")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(had)
        if before is None:
            del os.environ[user_folders.RUNS]
        else:
            os.environ[user_folders.RUNS] = before
