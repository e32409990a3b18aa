"""Drawings of a graph: SVG, and text for Mermaid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from itertools import pairwise
from typing import NamedTuple

from dao_flows.makers.stages.registry import stages

from .collapse import Card, View
from .documents import Node
from .graph import Graph
from .layout import Layout, layout

LONGEST = 34  # characters of a label
SMALL, LARGE = 34.0, 42.0  # heights of a card, of one that stands for several
CHARACTER, SIDE, GAP_X, MARGIN = 6.9, 32.0, 54.0, 24.0
GAP_BESIDE, GAP_Y, SLIM = 22.0, 40.0, 8.0  # of a drawing downwards
SHAPE = 1.5  # width by height that is best to look at
LEGEND_WIDTH = 560.0
THINGS = {  # what no stage writes: the kind of the stage that it comes before in a legend, and its colour
    "source": ("ingestion", "#8d6e63"),
    "dataset": ("ingestion", "#b07d2b"),
    "checkpoint": ("training", "#6a4fb3"),
    "candidate": ("calculation", "#17866f"),
    "comparison": ("evaluation", "#5d8a1f"),
    "reference": ("evaluation", "#795548"),
    "job": ("", "#607d8b"),
    "run": ("", "#455a64"),
}
OTHER = "#78909c"
STYLE = """
.edge{fill:none;stroke-width:1.4;stroke-opacity:.5}
.card rect.box{fill:#fff;stroke:#cfd6de;stroke-width:1}
.card text{font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1d2733}
.card text.small{font-size:10px;fill:#69758a}
.card.external rect.box{stroke-dasharray:4 3}
.card.failed rect.box{stroke:#c62828;stroke-width:1.6;fill:#fff5f4}
.card.unfinished rect.box{stroke:#ef8f00;stroke-dasharray:2 2;stroke-width:1.6}
.card.asked rect.box{stroke:#111827;stroke-width:2.4}
.legend text{font:11px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#69758a}
"""


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float


class _Placed(NamedTuple):
    """boxes: of the cards; paths: of the edges, in SVG's words; both in the view's order."""

    boxes: list[_Box]
    paths: list[str]


@cache
def colours() -> dict[str, str]:
    """The colour of each kind, in the order of a legend: that of the data's way."""
    found: dict[str, str] = {}
    for kind, colour in (*((stage.kind, stage.colour) for stage in stages()), ("", "")):
        found |= {thing: own for thing, (before, own) in THINGS.items() if before == kind}
        found |= {kind: colour} if kind else {}
    return found


def svg(view: View, title: str, style: str = STYLE) -> str:
    """A drawing of the view that stands on its own, from left to right, or downwards where that is more compact."""
    placed = _placed(view)
    right = max((box.x + box.width for box in placed.boxes), default=0.0) + MARGIN
    bottom = max((box.y + box.height for box in placed.boxes), default=0.0) + MARGIN
    kinds = list(dict.fromkeys(card.kind for card in view.cards))
    legend, legend_width, legend_height = _legend(kinds, bottom, max(right, LEGEND_WIDTH))
    width, height = max(right, legend_width), bottom + legend_height
    edges = "".join(
        _edge(edge, role, view, path) for (edge, role), path in zip(view.edges.items(), placed.paths, strict=True)
    )
    cards = "".join(_card(number, card, placed.boxes[number]) for number, card in enumerate(view.cards))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{_safe(title)}"><title>{_safe(title)}</title>'
        f'<style>{style}</style><rect class="paper" width="100%" height="100%" fill="#fbfcfd"/>'
        f'<g class="edges">{edges}</g><g class="cards">{cards}</g>{legend}</svg>\n'
    )


def mermaid(view: View) -> str:
    """The view as a flow chart for Mermaid, which GitHub and many wikis draw."""
    lines = ["flowchart LR"]
    for number, card in enumerate(view.cards):
        first, second = lines_of(card)
        label = _quoted(first) + (f"<br/><small>{_quoted(second)}</small>" if second else "")
        opening, closing = {"checkpoint": ("[(", ")]"), "dataset": ("[(", ")]"), "run": ("([", "])")}.get(
            card.kind, ("[", "]")
        )
        lines.append(f'  n{number}{opening}"{label}"{closing}:::{card.kind}')
    lines += [f"  n{parent} --> n{child}" for parent, child in view.edges]
    for kind in dict.fromkeys(card.kind for card in view.cards):
        lines.append(f"  classDef {kind} fill:#fff,stroke:{colours().get(kind, OTHER)},stroke-width:2px,color:#1d2733")
    marks = {"failed": "stroke:#c62828,stroke-dasharray:6 3", "external": "stroke-dasharray:4 3"}
    for number, card in enumerate(view.cards):
        if card.facts.state in marks:
            lines.append(f"  style n{number} {marks[card.facts.state]}")
        if card.asked:
            lines.append(f"  style n{number} stroke-width:4px")
    return "\n".join(lines) + "\n"


def lines_of(card: Card) -> tuple[str, str]:
    """The two lines of a card: what it is called, and which one it is."""
    facts = card.facts
    if card.count > 1:
        failed = f"{facts.state} " if facts.state in ("failed", "unfinished") else ""
        return f"{card.count:,} {failed}{plural(card.kind)}", _examples(card.members)
    who = short(card.members[0])
    return cut(facts.label), card.kind.replace("_", " ") + (f"  {who}" if who not in facts.label else "")


def short(node: Node) -> str:
    """An id as it is shown: hashes and uuids by their beginning, others in full."""
    ours = node[0] in ("candidate", "verification", "comparison", "run")
    return node[1] if ours else node[1][:8]


def plural(kind: str) -> str:
    """The kind of several."""
    words = kind.replace("_", " ")
    return words if words.endswith("s") else f"{words}s"


def cut(label: str) -> str:
    """At most so many characters as fit into a card."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def _examples(members: Sequence[Node]) -> str:
    return f"{short(members[0])} … {short(members[-1])}"


def _width(card: Card) -> float:
    first, second = lines_of(card)
    return max(len(first) * CHARACTER, len(second) * CHARACTER * 0.84) + SIDE


def _placed(view: View) -> _Placed:
    """Boxes and edges in the direction in which the drawing is the more compact."""
    widths = [_width(card) for card in view.cards]
    heights = [LARGE if card.count > 1 else SMALL for card in view.cards]
    edges = list(view.edges)
    across = layout(heights, edges)
    rows: dict[int, list[int]] = {}
    for box, layer in enumerate(across.layers):
        rows.setdefault(layer, []).append(box)
    deep = sum(max(widths[box] for box in row) + GAP_X for row in rows.values())
    tall = max((box for box in across.heights), default=0.0)
    downwards = layout(widths, edges, GAP_BESIDE, SLIM)
    broad, high = max(downwards.heights, default=0.0), len(rows) * (LARGE + GAP_Y)
    if max(deep / SHAPE, tall) <= max(broad / SHAPE, high):
        return _laid(across, widths, heights, edges, down=False)
    return _laid(downwards, heights, widths, edges, down=True)


def _laid(placed: Layout, along: list[float], across: list[float], edges: list[tuple[int, int]], down: bool) -> _Placed:
    """A layout in x and y. along: sizes of the boxes in the direction of the edges; across: in the other one."""
    extents = [0.0] * (max(placed.layers, default=-1) + 1)
    for size, layer in zip(along, placed.layers, strict=True):
        extents[layer] = max(extents[layer], size)
    starts, place = [], MARGIN
    for extent in extents:
        starts.append(place)
        place += extent + (GAP_Y if down else GAP_X)
    boxes = []
    for box, layer in enumerate(placed.layers):
        begin, side = starts[layer], placed.heights[box] - across[box] / 2 + MARGIN
        boxes.append(_Box(side, begin, across[box], along[box]) if down else _Box(begin, side, along[box], across[box]))

    def point(distance: float, height: float) -> str:
        return f"{height:.1f} {distance:.1f}" if down else f"{distance:.1f} {height:.1f}"

    paths = []
    for parent, child in edges:
        first = starts[placed.layers[parent]] + along[parent], placed.heights[parent] + MARGIN
        passed = [(starts[k] + extents[k] / 2, bend + MARGIN) for k, bend in placed.bends[parent, child]]
        stops = [first, *passed, (starts[placed.layers[child]], placed.heights[child] + MARGIN)]
        rises = [(c[1] - a[1]) / (c[0] - a[0]) for a, c in pairwise(stops)]
        slopes = [0.0, *(2 * a * b / (a + b) if a * b > 0 else 0.0 for a, b in pairwise(rises)), 0.0]
        path = f"M{point(*first)}"
        for (at, height), (end, bend), leaving, arriving in zip(stops, stops[1:], slopes, slopes[1:], strict=False):
            third = (end - at) / (3 if passed else 2)  # through what it passes, and not beyond (Fritsch and Carlson)
            path += f"C{point(at + third, height + third * leaving)} {point(end - third, bend - third * arriving)} "
            path += point(end, bend)
        paths.append(path)
    return _Placed(boxes, paths)


def _edge(edge: tuple[int, int], role: str, view: View, path: str) -> str:
    """A smooth line from parent to child."""
    parent, child = edge
    colour = colours().get(view.cards[parent].kind, OTHER)
    return (
        f'<path class="edge" stroke="{colour}" data-from="{parent}" data-to="{child}" d="{path}">'
        f"<title>{_safe(role)}</title></path>"
    )


def _card(number: int, card: Card, box: _Box) -> str:
    x, y, width, size = box
    colour = colours().get(card.kind, OTHER)
    first, second = lines_of(card)
    classes = " ".join(["card", card.facts.state, *(["asked"] if card.asked else [])])
    behind = ""
    if card.count > 1:
        size -= 8
        behind = "".join(
            f'<rect class="box" x="{x + by:.1f}" y="{y + by:.1f}" width="{width:.1f}" height="{size:.1f}" rx="6"/>'
            for by in (8, 4)
        )
    label = _safe(f"{card.facts.label} ({card.kind})")
    return (
        f'<g class="{classes}" data-card="{number}" tabindex="0"><title>{label}</title>{behind}'
        f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{size:.1f}" rx="6"/>'
        f'<rect x="{x + 5:.1f}" y="{y + 6:.1f}" width="5" height="{size - 12:.1f}" rx="2.5" fill="{colour}"/>'
        f'<text x="{x + 18:.1f}" y="{y + 14.5:.1f}">{_safe(first)}</text>'
        f'<text class="small" x="{x + 18:.1f}" y="{y + 27.5:.1f}">{_safe(second)}</text></g>'
    )


def _legend(kinds: Sequence[str], y: float, most: float) -> tuple[str, float, float]:
    """The kinds with their colours, in lines no longer than `most`; how far they reach, and down to where."""
    parts, x, right, top = [], MARGIN, 0.0, y
    order = {kind: place for place, kind in enumerate(colours())}
    for kind in sorted(kinds, key=lambda kind: order.get(kind, len(order))):
        words = kind.replace("_", " ")
        length = 15 + len(words) * 6.6 + 14
        if x + length > most and x > MARGIN:
            x, y = MARGIN, y + 18
        colour = colours().get(kind, OTHER)
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="10" height="10" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15:.0f}" y="{y + 9:.0f}">{_safe(words)}</text>')
        x += length
        right = max(right, x)
    return f'<g class="legend">{"".join(parts)}</g>', right, y - top + 28


def _safe(label: str) -> str:
    """A label within XML, without the characters that it cannot hold."""
    return escape(_printable(label))


def _printable(label: str) -> str:
    return "".join(character if character.isprintable() else " " for character in label)


def _quoted(label: str) -> str:
    """A label within Mermaid's quotes."""
    label = _printable(label)
    for character, entity in (("&", "#amp;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        label = label.replace(character, entity)
    return label


def title_of(graph: Graph) -> str:
    """What a drawing of a graph is called."""
    if not graph.asked:
        return f"Provenance of everything in a store: {len(graph.nodes):,} nodes"
    names = ", ".join(graph.nodes[node].label for node in graph.asked[:3]) + (", …" if len(graph.asked) > 3 else "")
    return f"Provenance of {names}"
