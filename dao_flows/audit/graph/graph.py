"""The provenance graph: what was made from what, from raw data to comparisons, put together from a store alone."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from .documents import Node

SCHEMA_VERSION = 1
SHORT = 12  # digits of a hash in a label
Direction = Literal["back", "forward", "both"]
State = Literal["stored", "failed", "unfinished", "external"]
Edge = tuple[Node, Node]  # parent, child


@dataclass(slots=True)
class Attempt:
    """One attempt at a job, as the `runs` collection has it. outcome: None if it did not end, or was killed."""

    index: int
    began: str | None = None
    ended: str | None = None
    outcome: str | None = None
    error: str | None = None
    host: str | None = None
    who: str | None = None


@dataclass(slots=True)
class Facts:
    """What is known of a node.

    state: failed: a document that says so, or a job whose attempts all failed; unfinished: a job that began and has no
    result; external: named by a document, and in neither the store nor the library. details: what its kind has.
    """

    label: str
    state: State = "stored"
    when: str | None = None
    run: str | None = None
    job: str | None = None
    job_name: str | None = None
    maker: str | None = None
    code_version: str | None = None
    host: str | None = None
    science_hash: str | None = None
    content_hash: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Graph:
    """Nodes, and edges from parents to what was made from them; without circles.

    edges: (parent, child) -> what the parent was to the child. asked: the nodes that it was built for (none: all).
    dropped: edges that a store claims and that would close a circle, so that one of its documents was altered.
    """

    nodes: dict[Node, Facts] = field(default_factory=dict)
    edges: dict[Edge, str] = field(default_factory=dict)
    asked: tuple[Node, ...] = ()
    dropped: list[Edge] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parents: dict[Node, dict[Node, None]] | None = None
        self._children: dict[Node, dict[Node, None]] = {}

    def parents(self, node: Node) -> list[Node]:
        """What a node was made from, directly."""
        self._index()
        assert self._parents is not None
        return list(self._parents.get(node, ()))

    def children(self, node: Node) -> list[Node]:
        """What was made from a node, directly."""
        self._index()
        return list(self._children.get(node, ()))

    def ancestors(self, *nodes: Node) -> set[Node]:
        """All that these nodes were made from, without themselves unless one was made from another."""
        return self._reached(nodes, self.parents)

    def descendants(self, *nodes: Node) -> set[Node]:
        """All that was made from these nodes, without themselves unless one was made from another."""
        return self._reached(nodes, self.children)

    def order(self) -> list[Node]:
        """All nodes, parents before their children."""
        sorter: TopologicalSorter[Node] = TopologicalSorter(dict.fromkeys(self.nodes, ()))
        for parent, child in self.edges:
            sorter.add(child, parent)
        return list(sorter.static_order())

    def around(self, asked: Iterable[Node], direction: Direction = "both") -> Graph:
        """The part that leads to these nodes (back), that was made from them (forward), or both."""
        asked = tuple(asked)
        kept = set(asked)
        if direction != "forward":
            kept |= self.ancestors(*asked)
        if direction != "back":
            kept |= self.descendants(*asked)
        return self.part(kept, asked)

    def part(self, nodes: Iterable[Node], asked: tuple[Node, ...] | None = None) -> Graph:
        """These nodes and the edges between them."""
        kept = set(nodes)
        return Graph(
            {node: facts for node, facts in self.nodes.items() if node in kept},
            {edge: role for edge, role in self.edges.items() if edge[0] in kept and edge[1] in kept},
            self.asked if asked is None else asked,
            [edge for edge in self.dropped if edge[0] in kept and edge[1] in kept],
        )

    def as_dict(self) -> dict[str, Any]:
        """The graph as plain JSON; docs/audit.md describes it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "asked": [text(node) for node in self.asked],
            "nodes": [
                {"node": text(node), "kind": node[0], "id": node[1], **lean(f)} for node, f in self.nodes.items()
            ],
            "edges": [{"from": text(a), "to": text(b), "role": role} for (a, b), role in self.edges.items()],
            "dropped": [{"from": text(a), "to": text(b)} for a, b in self.dropped],
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Graph:
        """What `as_dict` wrote. Raises ValueError for another version, KeyError for an edge without its nodes."""
        if told["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"a graph of schema version {told['schema_version']} cannot be read")
        nodes: dict[str, Node] = {each["node"]: (each["kind"], each["id"]) for each in told["nodes"]}
        facts = {}
        for each in told["nodes"]:
            known = {name: value for name, value in each.items() if name not in ("node", "kind", "id")}
            known["attempts"] = [Attempt(**attempt) for attempt in known.get("attempts", ())]
            facts[nodes[each["node"]]] = Facts(**known)
        return cls(
            facts,
            {(nodes[edge["from"]], nodes[edge["to"]]): edge["role"] for edge in told["edges"]},
            tuple(nodes[each] for each in told["asked"]),
            [(nodes[edge["from"]], nodes[edge["to"]]) for edge in told["dropped"]],
        )

    def _index(self) -> None:
        if self._parents is None:
            self._parents = {}
            for parent, child in self.edges:
                self._parents.setdefault(child, {})[parent] = None
                self._children.setdefault(parent, {})[child] = None

    def _reached(self, nodes: Sequence[Node], step: Any) -> set[Node]:
        found: set[Node] = set()
        waiting = deque(nodes)
        while waiting:
            for reached in step(waiting.popleft()):
                if reached not in found:
                    found.add(reached)
                    waiting.append(reached)
        return found


@dataclass
class Growing:
    """A graph while it is put together, circles and all. of_job: the node of each job, by its uuid."""

    nodes: dict[Node, Facts] = field(default_factory=dict)
    edges: dict[Edge, str] = field(default_factory=dict)
    of_job: dict[str, Node] = field(default_factory=dict)
    parents: dict[Node, set[Node]] = field(default_factory=lambda: defaultdict(set))

    def edge(self, parent: Node, child: Node, role: str) -> None:
        """An edge with what the parent was to the child, once; what is not known otherwise is external."""
        if parent == child:
            return
        for node in (parent, child):
            if node not in self.nodes:
                self.nodes[node] = Facts(f"{node[0]} {node[1][:SHORT]}", "external")
        held = self.edges.get((parent, child))
        if held is None:
            self.edges[parent, child] = role
        elif role not in held.split(", "):
            self.edges[parent, child] = f"{held}, {role}"
        self.parents[child].add(parent)

    def thing(self, node: Node, told: Mapping[str, Any], state: State | None = None) -> None:
        """A checkpoint, a dataset or raw data, with what is told of it; what was told before stays."""
        facts = self.nodes.setdefault(node, Facts("", "external"))
        facts.state = state or facts.state
        facts.details = {k: v for k, v in told.items() if v is not None} | facts.details
        name = facts.details.get("registered") or facts.details.get("name") or facts.details.get("location")
        words = {"source": str(name or "raw data"), "reference": f"reference set {name or node[1][:SHORT]}"}
        facts.label = words.get(node[0], f"{name or node[0]} {node[1][:8]}")


def text(node: Node) -> str:
    """A node in one word, as `--format json` and the ids of the command line have it."""
    return f"{node[0]}:{node[1]}"


def without_circles(edges: Mapping[Edge, str]) -> tuple[dict[Edge, str], list[Edge]]:
    """The edges, and those taken out of them because they would close a circle."""
    kept, dropped = dict(edges), []
    before: dict[Node, dict[Node, None]] = {}
    for parent, child in kept:
        before.setdefault(child, {})[parent] = None
    while True:
        try:
            TopologicalSorter(before).prepare()
        except CycleError as error:
            circle = error.args[1]  # each a parent of the next
            edge = (circle[0], circle[1])
            del kept[edge]
            del before[edge[1]][edge[0]]
            dropped.append(edge)
        else:
            return kept, dropped


def lean(facts: Facts) -> dict[str, Any]:
    """What is known of a node, as plain JSON."""
    told = {name: value for name, value in asdict(facts).items() if value not in (None, [], {})}
    if facts.attempts:
        told["attempts"] = [{k: v for k, v in attempt.items() if v is not None} for attempt in told["attempts"]]
    return told
