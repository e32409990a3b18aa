"""A provenance graph as a tree: what a document was made from, and what was made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

from dao_flows.audit.graph.drawing import plural, short

if TYPE_CHECKING:
    from dao_flows.audit.graph.documents import Node
    from dao_flows.audit.graph.graph import Facts, Graph

FEW = 5  # of one kind below one node; of more the first are shown
BACK, FORWARD = "made from", "led to"
COLOURS = {"failed": "red", "unfinished": "yellow", "external": "dim"}


def graph_tree(graph: Graph, node: Node, direction: str) -> Tree:
    """The node at the root. What stands in several places is followed in the first of them."""
    tree = Tree(line(node, graph.nodes[node]))
    steps = {BACK: graph.parents, FORWARD: graph.children}
    if direction != "both":
        del steps[BACK if direction == "forward" else FORWARD]
    for name, step in steps.items():
        if step(node):
            _grow(tree.add(Text(name, style="bold")) if len(steps) > 1 else tree, graph, node, step)
    return tree


def overview(graph: Graph) -> Iterator[str]:
    """What a whole store holds, a line a kind."""
    kinds = sorted(graph.nodes, key=lambda node: node[0])
    for kind, nodes in groupby(kinds, key=lambda node: node[0]):
        members = list(nodes)
        states = [graph.nodes[node].state for node in members]
        odd = [f"{states.count(state)} {state}" for state in COLOURS if state in states]
        name = kind.replace("_", " ") if len(members) == 1 else plural(kind)
        yield f"{len(members):,} {name}" + (f" ({', '.join(odd)})" if odd else "")


def line(node: Node, facts: Facts, role: str = "") -> Text:
    """A node on one line."""
    kind, ident = node[0].replace("_", " "), short(node)
    parts = [facts.label]
    told = [] if kind in facts.label else [kind]
    told += [] if ident in facts.label else [ident]
    told += [(facts.when or "")[:16].replace("T", " ")] if facts.when else []
    told += [f"dao_flows {facts.code_version}"] if facts.code_version else []
    if facts.state != "stored":
        told.append({"external": "not in the store"}.get(facts.state, facts.state))
    if lost := sum(attempt.outcome != "finished" for attempt in facts.attempts):
        told.append(f"{lost} of {len(facts.attempts)} attempts failed")
    head = Text(f"{role}: " if role else "", style="dim")
    head.append(", ".join(parts), style=COLOURS.get(facts.state, "bold"))
    if told:
        head.append(f"  {'  '.join(told)}", style="not bold")
    if facts.state == "failed" and facts.details.get("error"):
        head.append(f"  {facts.details['error']}", style="red")
    return head


def _grow(tree: Tree, graph: Graph, root: Node, step: Callable[[Node], list[Node]]) -> None:
    seen = {root}
    waiting = _branches(tree, graph, root, step)
    while waiting:
        branch, told, node = waiting.pop()
        if node is None:
            branch.add(told)
        elif node in seen and step(node):
            branch.add(told.append("  (see above)", style="dim"))
        else:
            seen.add(node)
            waiting += _branches(branch.add(told), graph, node, step)


def _branches(
    branch: Tree, graph: Graph, node: Node, step: Callable[[Node], list[Node]]
) -> list[tuple[Tree, Text, Node | None]]:
    """What goes below a node, the last first: of many of one kind a few, and how many more there are."""
    found: list[tuple[Tree, Text, Node | None]] = []
    for kind, nodes in groupby(sorted(step(node), key=lambda each: each[0]), key=lambda each: each[0]):
        members = list(nodes)
        for each in members[:FEW]:
            role = graph.edges.get((each, node)) or graph.edges[node, each]
            found.append((branch, line(each, graph.nodes[each], role), each))
        if len(members) > FEW:
            found.append((branch, Text(f"and {len(members) - FEW:,} more {plural(kind)}", style="dim"), None))
    return found[::-1]
