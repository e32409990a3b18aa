"""Documents in brief become a graph: names of parents are looked up among what there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dao_flows.makers.stages.registry import stages

from .documents import (
    Document,
    Node,
    Stored,
    claims,
    job_node,
    listed,
    made,
    named,
    number,
    part,
    source_node,
    string,
)
from .facts import of_document, of_job
from .graph import Graph, Growing, without_circles
from .installed import add_known_crystals, add_library, cards
from .records import TOOK_OVER, add_attempts, add_flows, add_inputs, add_runs

if TYPE_CHECKING:
    from dao_flows.model.checkpoint.format import Card


def assemble(stored: Stored, library: Mapping[str, Card] | None = None) -> Graph:
    """The graph of all documents. library: cards of checkpoints by sha256 (None: the user's, and those that ship).

    Which libraries of known crystals are installed is looked up. Nodes come first, then the edges that documents claim,
    then what the records of attempts and runs add.
    """
    growing = Growing()
    documents = _Documents(stored, growing)
    documents.add()
    inputs = add_attempts(growing, stored.runs, documents.latest)
    documents.relate()
    add_library(growing, cards() if library is None else library)
    add_known_crystals(growing)
    add_inputs(growing, inputs, stored.references)
    add_flows(growing, documents.flows)
    add_runs(growing, stored.runs)
    edges, dropped = without_circles(growing.edges)
    return Graph(growing.nodes, edges, (), dropped)


class _Documents:
    """The documents of jobs and of collections: the nodes that they are, then the edges that they claim.

    latest: the last document of each job; flows: the flows that its documents were made in, of each; both by uuid.
    """

    def __init__(self, stored: Stored, growing: Growing) -> None:
        self.stored, self.growing = stored, growing
        self.by_science: dict[str, list[Node]] = defaultdict(list)
        self.shards: dict[str, list[Node]] = defaultdict(list)
        self.claimed: list[tuple[Node, str, Document]] = []
        self.latest: dict[str, Document] = {}
        self.flows: dict[str, list[set[str]]] = defaultdict(list)

    def add(self) -> None:
        """The nodes."""
        self._jobs()
        self._collections()

    def _jobs(self) -> None:
        """The last document of each job, and what it made."""
        groups: dict[str, list[Document]] = defaultdict(list)
        for job in self.stored.jobs:
            if uuid := string(job.get("uuid")):
                groups[uuid].append(job)
        for uuid, documents in groups.items():
            documents.sort(key=lambda job: number(job.get("index")))
            self.flows[uuid] = [set(filter(string, listed(job.get("hosts")))) for job in documents]
            job = self.latest[uuid] = documents[-1]
            output = job.get("output")
            node = self.growing.of_job[uuid] = job_node(uuid, output)
            facts = of_job(node, job, documents)
            kept = self.growing.nodes.get(node)
            if kept is None or (facts.when or "") > (kept.when or ""):
                self.growing.nodes[node] = facts
                if kept is not None:
                    facts.details["earlier"] = [*kept.details.get("earlier", ()), kept.job]
            if facts.science_hash:
                self.by_science[facts.science_hash].append(node)
            if isinstance(output, dict) and (kind := stages().kind_of(output)):
                self.claimed.append((node, kind, output))
                for (what, sha256), _ in made(kind, output):
                    if what == "shard":
                        self.shards[sha256].append(node)

    def _collections(self) -> None:
        """What is laid out: candidates, comparisons, and verifications whose jobs are elsewhere."""
        for document in self.stored.candidates:
            self._collected("candidate", document, part(document, "screening"))
        for document in self.stored.verifications:
            if ("verification", string(document.get("verification_id"))) not in self.growing.nodes:
                self._collected("verification", document, part(document, "provenance"))
        for document in self.stored.comparisons:
            self._collected("comparison", document, {})

    def _collected(self, kind: str, document: Document, provenance: Mapping[str, Any]) -> None:
        if (key := string(document.get(f"{kind}_id"))) is None:
            return
        node = (kind, key)
        facts = self.growing.nodes[node] = of_document(node, document, provenance)
        facts.content_hash = string(document.get("content_hash")) or facts.content_hash
        if kind == "comparison":
            facts.when = string(document.get("verified_at"))
        if kind == "verification" and facts.science_hash:
            self.by_science[facts.science_hash].append(node)
        self.claimed.append((node, kind, document))

    def relate(self) -> None:
        """The edges, and what is told of things that were made or named."""
        growing, before = self.growing, self.growing.parents
        self.claimed.sort(key=lambda each: (each[1] != "candidate", growing.nodes[each[0]].when or "", each[0]))
        for node, kind, document in self.claimed:
            own = self.latest.get(growing.nodes[node].job or "", {})
            original = string(part(document, "provenance", "execution").get("job_uuid"))
            if kind not in ("candidate", "comparison") and original and own and original != own["uuid"]:
                taken = growing.of_job.get(original, ("job", original))
                if taken != node:
                    growing.edge(taken, node, TOOK_OVER)  # a result that was in the store already
            for claim in claims(kind, document):
                for parent in self._meant(claim.what, claim.value, node):
                    led = claim.what == "science" and any(parent in before.get(p, ()) for p in before[node])
                    if not led:  # a verification's screening led to its candidate
                        growing.edge(parent, node, claim.role)
            for thing, told in made(kind, document):
                if thing[0] != "shard":  # which is no node of its own
                    growing.thing(thing, told, "stored")
                    growing.edge(node, thing, "made")
        for _, kind, document in self.claimed:  # what made a thing says more of it than what used it
            for thing, told in named(kind, document):
                if thing in growing.nodes:
                    growing.thing(thing, told)
        self._same_data()

    def _meant(self, what: str, value: Any, child: Node) -> Iterator[Node]:
        """The nodes that a claim names."""
        if what in ("checkpoint", "dataset", "reference", "candidate", "verification"):
            yield what, value
        elif what == "job":
            yield self.growing.of_job.get(str(value), ("job", str(value)))
        elif what == "source" and isinstance(value, Mapping):
            node = source_node(value)
            self.growing.thing(node, {name: value.get(name) for name in ("name", "location", "licence", "rows")})
            yield node
        elif what == "science":
            yield self._of_hash(self.by_science.get(str(value), ()), child) or ("document", str(value))
        elif what == "shard":
            yield self._of_hash(self.shards.get(str(value), ()), child) or ("shard", str(value))

    def _of_hash(self, found: Iterable[Node], child: Node) -> Node | None:
        """Of equal documents the last that was there when the child was made, else the first."""
        nodes = self.growing.nodes
        began = nodes[child].when or "~"
        ordered = sorted((node for node in found if node != child), key=lambda node: nodes[node].when or "")
        before = [node for node in ordered if (nodes[node].when or "") <= began]
        return before[-1] if before else ordered[0] if ordered else None

    def _same_data(self) -> None:
        """A file that is raw data to one document and a dataset to another is one node."""
        growing = self.growing
        same = {node: ("dataset", node[1]) for node in growing.nodes if node[0] == "source"}
        same = {source: dataset for source, dataset in same.items() if dataset in growing.nodes}
        if not same:
            return
        for source, dataset in same.items():
            facts = growing.nodes.pop(source)
            growing.thing(dataset, {"name": facts.details.get("name"), **facts.details})
        edges, growing.edges, growing.parents = growing.edges, {}, defaultdict(set)
        for (parent, child), role in edges.items():
            growing.edge(same.get(parent, parent), child, role)
