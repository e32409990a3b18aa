"""`audit replay`: a recorded result is computed again from its inputs, in a store of its own, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from dao_flows.audit.graph import identify
from dao_flows.audit.graph.from_store import build
from dao_flows.audit.graph.graph import text
from dao_flows.errors import InputError, explain
from dao_flows.makers.jobs.progress import Reporter
from dao_flows.makers.machine.masking import one_line
from dao_flows.makers.stages.rebuilding import Recorded, ReplayError
from dao_flows.store.stores import describe

from . import own
from .again import compute_again, is_checked
from .materials import Materials
from .meant import jobs_of, laid_out_of
from .results import ORDER, Replay, Step

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

    from dao_flows.audit.graph.documents import Node

LONG = 300.0  # s of recorded time, beyond which a replay must be confirmed


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
    uuids = dict(jobs_of(graph, node, jobs))
    recorded = [(each, Recorded(materials.document(uuid))) for each, uuid in uuids.items()]
    if not recorded:
        raise InputError(f"{text(node)} was not made by a job that the store knows: there is nothing to replay")
    runs = [r.seconds for _, r in recorded if options.dft or not is_checked(r)]
    if sum(runs) > LONG and not options.yes:
        raise InputError(
            f"replaying {text(node)} means to compute again what took {sum(runs) / 60:.0f} min: --yes does it"
        )
    laid_out = [step for each in laid_out_of(graph, node) if (step := _own_step(each, jobs)) is not None]
    steps = [
        compute_again(each, uuids[each], found, materials, options.device, options.dft, listener)
        for each, found in recorded
    ]
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
