"""A graph small enough to look at: nodes that came about alike become one card that counts them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

from .documents import Node
from .graph import Facts, Graph

FEW = 4  # nodes alike that still stand for themselves


@dataclass
class Card:
    """One node, or several that came about alike. members: in the graph's order."""

    members: list[Node]
    facts: Facts
    asked: bool = False

    @property
    def kind(self) -> str:
        """The kind of all of them."""
        return self.members[0][0]

    @property
    def count(self) -> int:
        """How many nodes it stands for."""
        return len(self.members)


@dataclass
class View:
    """Cards, and edges between them by their numbers: (parent, child) -> role."""

    cards: list[Card]
    edges: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """Nodes that it stands for."""
        return sum(card.count for card in self.cards)


def collapse(graph: Graph, most: int = 150) -> View:
    """A view of at most about `most` cards; a graph of no more nodes is shown as it is.

    First nodes of one kind and state become one whose parents did; if those are still too many, all of one kind that
    are as many steps from the raw data. Neither closes a circle. What was asked for keeps a card of its own.
    """
    order = graph.order()
    if len(order) <= most:
        return _view(graph, order, {node: node for node in order})
    alike = _by_parents(graph, order)
    view = _view(graph, order, alike)
    return view if len(view.cards) <= most else _view(graph, order, _by_depth(graph, order))


def _by_parents(graph: Graph, order: list[Node]) -> dict[Node, Hashable]:
    classes: dict[Hashable, int] = {}
    found: dict[Node, Hashable] = {}
    for node in order:
        before = frozenset(found[parent] for parent in graph.parents(node))
        found[node] = classes.setdefault((node[0], graph.nodes[node].state, before), len(classes))
    sizes = Counter(found.values())
    return {node: alike if sizes[alike] >= FEW else node for node, alike in found.items()}


def _by_depth(graph: Graph, order: list[Node]) -> dict[Node, Hashable]:
    depths: dict[Node, int] = {}
    for node in order:
        depths[node] = 1 + max((depths[parent] for parent in graph.parents(node)), default=0)
    return {node: (depth, node[0], graph.nodes[node].state) for node, depth in depths.items()}


def _view(graph: Graph, order: list[Node], alike: dict[Node, Hashable]) -> View:
    asked = set(graph.asked)
    groups: dict[Hashable, list[Node]] = defaultdict(list)
    for node in order:
        groups[("asked", node) if node in asked else alike[node]].append(node)
    view = View([Card(members, graph.nodes[members[0]], members[0] in asked) for members in groups.values()])
    place = {node: number for number, card in enumerate(view.cards) for node in card.members}
    for (parent, child), role in graph.edges.items():
        view.edges.setdefault((place[parent], place[child]), role)
    return view
