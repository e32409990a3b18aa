"""Checkpoints and libraries of known crystals that are installed here, and what a graph has from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dao_flows.model.checkpoint.format import Card

    from .graph import Growing


def cards() -> dict[str, Card]:
    """The checkpoints of the library by their sha256; a damaged one is left out."""
    from dao_flows.model.checkpoint.format import CheckpointError, read_card
    from dao_flows.model.checkpoint.library import available

    found: dict[str, Card] = {}
    for folder in available().values():
        try:
            card = read_card(folder)
        except CheckpointError:
            continue
        found.setdefault(card.sha256, card)
    return found


def known_crystals() -> dict[str, Path]:
    """The folders of installed libraries by their sha256; a damaged one is left out."""
    from dao_flows.model.data.shards import DataError, read_manifest
    from dao_flows.model.templates.places import available

    found: dict[str, Path] = {}
    for folder in available().values():
        try:
            found.setdefault(read_manifest(folder).sha256, folder)
        except DataError:
            continue
    return found


def add_library(growing: Growing, library: Mapping[str, Card]) -> None:
    """What the cards of the library tell of checkpoints, and of those before them."""
    waiting = [node[1] for node in growing.nodes if node[0] == "checkpoint"]
    seen = set(waiting)
    while waiting:
        sha256 = waiting.pop()
        card = library.get(sha256)
        if card is None:
            continue
        node = ("checkpoint", sha256)
        growing.thing(node, {"name": card.name, "model": card.kind})
        if growing.nodes[node].state == "external":
            growing.nodes[node].state = "stored"
            growing.nodes[node].details["from"] = "library"
        if any(parent[0] == "training" for parent in growing.parents[node]):
            continue  # its document says more
        growing.nodes[node].code_version = card.code_version
        if card.parent:
            growing.edge(("checkpoint", card.parent), node, "start")
        data = card.training.get("data") or {}
        if data.get("sha256"):
            growing.thing(("dataset", data["sha256"]), {name: data.get(name) for name in ("name", "file", "rows")})
            growing.edge(("dataset", data["sha256"]), node, "dataset")
        for entry in (("checkpoint", card.parent), *growing.parents[node]):
            if entry[0] == "checkpoint" and entry[1] and entry[1] not in seen:
                seen.add(entry[1])
                waiting.append(entry[1])


def add_known_crystals(growing: Growing) -> None:
    """Installed libraries of known crystals, which no document of the store made."""
    wanted = [node for node, facts in growing.nodes.items() if node[0] == "dataset" and facts.state == "external"]
    installed = known_crystals() if wanted else {}
    for node in wanted:
        if (folder := installed.get(node[1])) is not None:
            growing.thing(node, {"name": folder.name, "from": "library"}, "stored")
