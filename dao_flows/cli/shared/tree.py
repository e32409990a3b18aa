"""A checkpoint's ancestry as a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

if TYPE_CHECKING:
    from dao_flows.model.checkpoint.lineage import Ancestor

DIGITS = 12  # of a sha256, as everywhere on the command line


def lineage_tree(ancestor: Ancestor) -> Tree:
    """The checkpoint at the root; below each its data and the checkpoints before it."""
    tree = Tree(_checkpoint(ancestor))
    _grow(tree, ancestor)
    return tree


def _grow(tree: Tree, ancestor: Ancestor) -> None:
    if line := _data(ancestor):
        tree.add(line)
    for parent in ancestor.parents:
        _grow(tree.add(_checkpoint(parent)), parent)


def _checkpoint(ancestor: Ancestor) -> Text:
    name = (f"{ancestor.name}  ", "bold") if ancestor.name else ""
    kind = f"{ancestor.kind}  " if ancestor.kind else ""
    lacking = "" if ancestor.here else "  (not in the library)"
    return Text.assemble(f"{ancestor.role}: ", name, f"{kind}{ancestor.sha256[:DIGITS]}{lacking}")


def _data(ancestor: Ancestor) -> Text | None:
    """What it was trained on, in a line."""
    data = ancestor.data
    if not data.get("sha256"):
        return None
    parts = [str(data.get("name") or data.get("file") or "unnamed"), str(data["sha256"])[:DIGITS]]
    if data.get("rows"):
        parts.append(f"{data['rows']:,} crystals")
    if sources := [str(source.get("name")) for source in data.get("sources") or () if source.get("name")]:
        parts.append(f"from {', '.join(sources)}")
    if data.get("parent"):
        maker = (data.get("made_by") or {}).get("maker")
        parts.append(f"made from {str(data['parent'])[:DIGITS]}" + (f" by {maker}" if maker else ""))
    return Text(f"data: {'  '.join(parts)}")
