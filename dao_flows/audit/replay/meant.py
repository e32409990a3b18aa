"""What an id stands for in a replay: documents of jobs, and what is laid out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dao_flows.audit.graph.graph import Graph
from dao_flows.makers.stages.rebuilding import ReplayError
from dao_flows.makers.stages.registry import stages
from dao_flows.store.collections import LAID_OUT, WITHOUT_JOBS
from dao_flows.store.stores import collection

from . import own

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

    from dao_flows.audit.graph.documents import Document, Node


def laid_out_of(graph: Graph, node: Node) -> list[Node]:
    """What is laid out of what is asked for, and is compared with what it was laid out from."""
    if node[0] == "run":
        made = [other for other, facts in graph.nodes.items() if facts.run == node[1]]
        return [other for other in graph.order() if other[0] in LAID_OUT and other in made]
    if node[0] == "comparison":
        behind = [other for other in graph.order() if other == ("verification", node[1])]
        return [*(parent for parent in graph.parents(node) if parent[0] == "candidate"), *behind, node]
    return [node] if node[0] in LAID_OUT else []


def jobs_of(graph: Graph, node: Node, jobs: JobStore) -> list[tuple[Node, str]]:
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
        return jobs_of(graph, ("verification", name), jobs)
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
