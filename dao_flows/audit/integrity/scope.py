"""What to verify or to sign, from ids as users type them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dao_flows.audit.graph.from_store import build
from dao_flows.audit.graph.identify import find
from dao_flows.store.collections import LAID_OUT, WITHOUT_JOBS

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

MADE = {"dataset": "datasets", "checkpoint": "checkpoints", "run": "runs"}


@dataclass(frozen=True)
class Scope:
    """What to verify, by key: job uuids, run ids, ids of candidates, …; sha256 of datasets and checkpoints."""

    jobs: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()
    candidates: frozenset[str] = frozenset()
    verifications: frozenset[str] = frozenset()
    comparisons: frozenset[str] = frozenset()
    datasets: frozenset[str] = frozenset()
    checkpoints: frozenset[str] = frozenset()
    asked: tuple[str, ...] = field(default=(), compare=False)


def scope_of(store: JobStore, ids: Sequence[str], history: bool = False) -> Scope:
    """The whole graph of these ids; history: only them and what they were made from, which does not change later.

    A run stands for its jobs. Of a history the jobs' documents count: what is laid out from them, a later run may lay
    out anew, so it is there only if it was asked for. Raises InputError for an id that is unknown or not unique.
    """
    whole = build(store)
    asked = [find(whole, each) for each in ids]
    runs = {name for kind, name in asked if kind == "run"}
    members = {node for node, facts in whole.nodes.items() if facts.run in runs and node[0] not in WITHOUT_JOBS}
    graph = whole.around([*asked, *members], "back" if history else "both")
    found: dict[str, set[str]] = defaultdict(set)
    for (kind, name), facts in graph.nodes.items():
        if kind in MADE or (kind in LAID_OUT and (not history or (kind, name) in asked)):
            found[(LAID_OUT | MADE)[kind]].add(name)
        if kind == "job":
            found["jobs"].add(name)
        if facts.job is not None:
            found["jobs"].add(facts.job)
        if facts.run is not None:
            found["runs"].add(facts.run)
    return Scope(
        jobs=frozenset(found["jobs"]),
        runs=frozenset(found["runs"]),
        candidates=frozenset(found["candidates"]),
        verifications=frozenset(found["verifications"]),
        comparisons=frozenset(found["comparisons"]),
        datasets=frozenset(found["datasets"]),
        checkpoints=frozenset(found["checkpoints"]),
        asked=tuple(f"{kind}:{name}" for kind, name in asked),
    )
