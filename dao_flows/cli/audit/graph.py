"""`dao-flows audit graph`: where a result comes from, and what was made from it."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dao_flows.errors import InputError

if TYPE_CHECKING:
    from dao_flows.audit.graph.graph import Graph

GRAPH_EXAMPLES = """[bold]Examples[/bold]

dao-flows audit graph dao-6d5d49f3a1c2

dao-flows audit graph my-checkpoint --direction forward

dao-flows audit graph ver-be2f5be4b9f7 --out history.html

dao-flows audit graph --format mermaid
"""
IDS_HELP = "Candidate, verification, job, checkpoint, dataset or run: its id, a beginning of it, or a hash; none: all."


class Format(StrEnum):
    """How a graph is written."""

    text = "text"
    mermaid = "mermaid"
    svg = "svg"
    html = "html"
    json = "json"


class Direction(StrEnum):
    """Which way from what was asked for."""

    back = "back"
    forward = "forward"
    both = "both"


BY_ENDING = {
    ".txt": Format.text, ".mmd": Format.mermaid, ".mermaid": Format.mermaid, ".svg": Format.svg,
    ".html": Format.html, ".htm": Format.html, ".json": Format.json,
}  # fmt: skip


def graph(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help=IDS_HELP, show_default=False)] = None,
    direction: Annotated[
        Direction, typer.Option(help="back to raw data, forward to all that was made from it, or both.")
    ] = Direction.both,
    form: Annotated[
        Format | None, typer.Option("--format", help="How to write it.", show_default="by --out's ending, else text")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; else it goes to stdout.")] = None,
    most: Annotated[
        int, typer.Option("--most", min=10, help="Boxes to draw; nodes that came about alike share one where more.")
    ] = 150,
) -> None:
    """Show what a result was made from, back to raw data, and what was made from it.

    Jobs, documents, checkpoints, datasets, raw data and runs, with the attempts that failed: read from the store alone.
    """
    from dao_flows.audit.graph.from_store import build
    from dao_flows.makers.machine.whole_files import write_whole
    from dao_flows.settings import settings
    from dao_flows.store.stores import job_store

    chosen = form or (BY_ENDING.get(out.suffix.lower(), Format.text) if out else Format.text)
    if out is not None and not out.expanduser().resolve().parent.is_dir():
        raise InputError(f"there is no folder {out.expanduser().resolve().parent} to write {out.name} into")
    found = build(job_store(settings()), ids or None, direction.value)
    if chosen is Format.text and out is None:
        _show(found, direction)
        return
    written = _written(found, direction, chosen, most)
    if out is None:
        print(written, end="")
        return
    write_whole(out.expanduser(), written)
    typer.echo(f"{out}: {len(found.nodes):,} nodes, {len(found.edges):,} edges")


def _show(found: Graph, direction: Direction) -> None:
    from dao_flows.cli.shared.tables import stdout

    console = stdout()
    for part in _text(found, direction):
        console.print(part)


def _text(found: Graph, direction: Direction) -> list[object]:
    """Trees of what was asked for; of a whole store, what it holds."""
    from .tree import graph_tree, overview

    if found.asked:
        return [graph_tree(found, node, direction.value) for node in found.asked]
    return list(overview(found)) or ["the store is empty; `dao-flows predict` makes a first result"]


def _written(found: Graph, direction: Direction, form: Format, most: int) -> str:
    """The graph in this format."""
    if form is Format.json:
        return json.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n"
    if form is Format.text:
        from io import StringIO

        from rich.console import Console

        from dao_flows.cli.shared.tables import PIPE_WIDTH

        text = StringIO()
        console = Console(file=text, width=PIPE_WIDTH, highlight=False)
        for part in _text(found, direction):
            console.print(part)
        return text.getvalue()
    from dao_flows.audit.graph.collapse import collapse
    from dao_flows.audit.graph.drawing import mermaid, svg, title_of
    from dao_flows.audit.graph.page import page

    view = collapse(found, most)
    if form is Format.mermaid:
        return mermaid(view)
    return svg(view, title_of(found)) if form is Format.svg else page(view, found)
