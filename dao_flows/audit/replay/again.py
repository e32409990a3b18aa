"""One document, computed again from what it records, and compared."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from jobflow.core.flow import Flow
from jobflow.core.store import JobStore
from maggma.stores import MemoryStore

from dao_flows.api.local import run_here
from dao_flows.errors import explain
from dao_flows.makers.jobs.progress import Reporter
from dao_flows.makers.jobs.provenance import science_hash
from dao_flows.makers.machine.masking import one_line
from dao_flows.makers.models.checkpoints import ParameterError, pick_device
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.stages.agreement import Agreement, Difference, agree
from dao_flows.makers.stages.declaration import Stage
from dao_flows.makers.stages.rebuilding import Place, Rebuilt, Recorded, ReplayError
from dao_flows.makers.stages.registry import stages
from dao_flows.model.files import user_folders

from . import changes, own
from .changes import VERSIONS
from .materials import Materials
from .results import Change, Step

if TYPE_CHECKING:
    from dao_flows.audit.graph.documents import Node

SAME = "software and machine are as recorded, so nothing should differ: `audit verify` tells whether it was altered"


def compute_again(
    node: Node,
    uuid: str,
    recorded: Recorded,
    materials: Materials,
    asked: str | None,
    dft: bool,
    listener: Reporter | None,
) -> Step:
    """Run the job of a document again, and compare. What cannot be replayed is told in the step.

    uuid: of the job; asked: the device (None: the recorded kind, where there is one); dft: run calculations, too.
    """
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
        device, told = _device(recorded, asked)
        step.changes = changes.of_the_machine(recorded, device)
        step.note = told
        if is_checked(recorded) and not dft:
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


def is_checked(recorded: Recorded) -> bool:
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
    step.changes += changes.of_programs(recorded.science, fresh.science)
    batches = [str(each) if each else None for each in (r.execution.get("batches") for r in (recorded, fresh))]
    if batches[0] is not None and batches[0] != batches[1]:
        step.changes.append(Change(what="batches", recorded=batches[0], here=batches[1]))
    found: Agreement = agree(recorded.document, document, rebuilt.terms)
    for name in ("outcome", "first", "beyond", "largest", "differences"):
        setattr(step, name, getattr(found, name))
    same = None if step.changes or found.outcome == "identical" or device != "cpu" else SAME
    step.note = "; ".join(filter(None, (step.note, rebuilt.note, same))) or None


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
