"""Drawings of a graph: SVG, and text for Mermaid."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .collapse import Card, View
from .documents import Node
from .graph import Graph
from .layout import Layout, layout

LONGEST = 34  # characters of a label
SMALL, LARGE = 34.0, 42.0  # heights of a card, of one that stands for several
CHARACTER, SIDE, GAP_X, MARGIN = 6.9, 32.0, 54.0, 24.0
LEGEND = 34.0
COLOURS = {  # of a kind: what is given, learned, drawn, computed
    "source": "#8d6e63",
    "dataset": "#b07d2b",
    "ingestion": "#c9a227",
    "relaxation": "#d98c3f",
    "relaxed_dataset": "#c9a227",
    "checkpoint": "#6a4fb3",
    "training": "#8e7cc3",
    "generation": "#2f7ed8",
    "screening": "#1f9bb5",
    "candidate": "#17866f",
    "calculation": "#4c9f50",
    "verification": "#2e7d32",
    "comparison": "#5d8a1f",
    "reference": "#795548",
    "evaluation": "#b0508c",
    "stages": "#b0508c",
    "cross_check": "#b0508c",
    "job": "#607d8b",
    "run": "#455a64",
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


def svg(view: View, title: str, style: str = STYLE) -> str:
    """A drawing of the view, from left to right, that stands on its own."""
    sizes = [LARGE if card.count > 1 else SMALL for card in view.cards]
    placed = layout(sizes, list(view.edges))
    columns = _columns(view, placed)
    right = max((x + width for x, width in columns), default=0.0) + MARGIN
    bottom = max((y + size / 2 for y, size in zip(placed.heights, sizes, strict=True)), default=0.0) + 2 * MARGIN
    kinds = list(dict.fromkeys(card.kind for card in view.cards))
    legend, legend_width = _legend(kinds, bottom)
    width, height = max(right, legend_width), bottom + LEGEND
    edges = "".join(_edge(edge, role, view, placed, columns) for edge, role in view.edges.items())
    cards = "".join(_card(number, card, placed, columns, sizes[number]) for number, card in enumerate(view.cards))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
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
        lines.append(f"  classDef {kind} fill:#fff,stroke:{COLOURS.get(kind, OTHER)},stroke-width:2px,color:#1d2733")
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


def _columns(view: View, placed: Layout) -> list[tuple[float, float]]:
    """Where each layer begins (x), and its width."""
    widths = [0.0] * (max(placed.layers, default=-1) + 1)
    for card, layer in zip(view.cards, placed.layers, strict=True):
        widths[layer] = max(widths[layer], _width(card))
    columns, x = [], MARGIN
    for width in widths:
        columns.append((x, width))
        x += width + GAP_X
    return columns


def _edge(edge: tuple[int, int], role: str, view: View, placed: Layout, columns: list[tuple[float, float]]) -> str:
    """A smooth line from the right of the parent to the left of the child, level where it passes a layer."""
    parent, child = edge
    x = columns[placed.layers[parent]][0] + _width(view.cards[parent])
    y = placed.heights[parent] + MARGIN
    path = f"M{x:.1f} {y:.1f}"
    stops = []
    for layer, height in placed.bends[edge]:
        left, width = columns[layer]
        stops.append((left, left + width, height + MARGIN))
    end = columns[placed.layers[child]][0]
    stops.append((end, end, placed.heights[child] + MARGIN))
    for left, right, height in stops:
        middle = (x + left) / 2
        path += f"C{middle:.1f} {y:.1f} {middle:.1f} {height:.1f} {left:.1f} {height:.1f}"
        if right > left:
            path += f"H{right:.1f}"
        x, y = right, height
    colour = COLOURS.get(view.cards[parent].kind, OTHER)
    return (
        f'<path class="edge" stroke="{colour}" data-from="{parent}" data-to="{child}" d="{path}">'
        f"<title>{escape(role)}</title></path>"
    )


def _card(number: int, card: Card, placed: Layout, columns: list[tuple[float, float]], size: float) -> str:
    x, width = columns[placed.layers[number]][0], _width(card)
    y = placed.heights[number] + MARGIN - size / 2
    colour = COLOURS.get(card.kind, OTHER)
    first, second = lines_of(card)
    classes = " ".join(["card", card.facts.state, *(["asked"] if card.asked else [])])
    behind = ""
    if card.count > 1:
        size -= 8
        behind = "".join(
            f'<rect class="box" x="{x + by:.1f}" y="{y + by:.1f}" width="{width:.1f}" height="{size:.1f}" rx="6"/>'
            for by in (8, 4)
        )
    label = escape(f"{card.facts.label} ({card.kind})")
    return (
        f'<g class="{classes}" data-card="{number}" tabindex="0"><title>{label}</title>{behind}'
        f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{size:.1f}" rx="6"/>'
        f'<rect x="{x + 5:.1f}" y="{y + 6:.1f}" width="5" height="{size - 12:.1f}" rx="2.5" fill="{colour}"/>'
        f'<text x="{x + 18:.1f}" y="{y + 14.5:.1f}">{escape(first)}</text>'
        f'<text class="small" x="{x + 18:.1f}" y="{y + 27.5:.1f}">{escape(second)}</text></g>'
    )


def _legend(kinds: Sequence[str], y: float) -> tuple[str, float]:
    """The kinds with their colours in a line, and how far it reaches."""
    parts, x = [], MARGIN
    for kind in sorted(kinds, key=lambda kind: list(COLOURS).index(kind) if kind in COLOURS else len(COLOURS)):
        words = kind.replace("_", " ")
        colour = COLOURS.get(kind, OTHER)
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="10" height="10" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15:.0f}" y="{y + 9:.0f}">{escape(words)}</text>')
        x += 15 + len(words) * 6.2 + 16
    return f'<g class="legend">{"".join(parts)}</g>', x + MARGIN


def _quoted(label: str) -> str:
    """A label within Mermaid's quotes."""
    for character, entity in (("&", "#amp;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        label = label.replace(character, entity)
    return label


def title_of(graph: Graph) -> str:
    """What a drawing of a graph is called."""
    if not graph.asked:
        return f"Provenance of everything in a store: {len(graph.nodes):,} nodes"
    names = ", ".join(graph.nodes[node].label for node in graph.asked[:3]) + (", …" if len(graph.asked) > 3 else "")
    return f"Provenance of {names}"
