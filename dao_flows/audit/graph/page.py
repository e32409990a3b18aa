"""The page of a graph: one file, which opens without a network. Drag, zoom, look for an id, follow a lineage."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from dao_flows.pages.page import render

from .collapse import Card, View
from .drawing import lines_of, svg, title_of
from .graph import Graph, lean, text

MEMBERS = 100  # of a card of many, whose facts the page has; of the others it has the ids

STYLE = """
.paper{fill:none}
.edge{fill:none;stroke-width:1.4;stroke-opacity:.5}
.box{fill:var(--card);stroke:var(--line);stroke-width:1}
.card{cursor:pointer;outline:none}
.card text{font:12px system-ui,sans-serif;fill:var(--text)}
.card text.small{font-size:10px;fill:var(--soft)}
.external .box{stroke-dasharray:4 3}
.failed .box{stroke:#d9383a;stroke-width:1.6}
.unfinished .box{stroke:#ef8f00;stroke-dasharray:2 2;stroke-width:1.6}
.asked .box{stroke:var(--text);stroke-width:2.4}
.card:focus .box,.card:hover .box{stroke:var(--mark);stroke-width:2}
.chosen .card:not(.on),.chosen .edge:not(.on){opacity:.13}
.chosen .edge.on{stroke-opacity:.95;stroke-width:2}
.legend text{font:11px system-ui,sans-serif;fill:var(--soft)}
"""


def page(view: View, graph: Graph) -> str:
    """A drawing of the view with what is known of each node."""
    told = f"{len(graph.nodes):,} nodes, {len(graph.edges):,} edges"
    if len(view.cards) < len(graph.nodes):
        told += f", in {len(view.cards):,} boxes: what came about alike shares one"
    data = {
        "cards": [_told(card, graph) for card in view.cards],
        "edges": [[parent, child] for parent, child in view.edges],
    }
    title = title_of(graph)
    drawing = Markup(svg(view, title, STYLE))  # noqa: S704  # whose labels are escaped where it is drawn
    return render(__package__, title, data, told=told, drawing=drawing)


def _told(card: Card, graph: Graph) -> dict[str, Any]:
    members = [
        {"node": text(node), **(lean(graph.nodes[node]) if place < MEMBERS else {})}
        for place, node in enumerate(card.members)
    ]
    return {"title": lines_of(card)[0], "kind": card.kind.replace("_", " "), "members": members}
