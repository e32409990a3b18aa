"""Ids as users type them: of candidates, verifications, jobs, runs, checkpoints and datasets, or beginnings of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dao_flows.errors import InputError
from dao_flows.store.candidates import ID_PREFIX as CANDIDATE
from dao_flows.store.verifications import ID_PREFIX as VERIFICATION

from .documents import Node
from .graph import Facts, Graph, text

SHORTEST = 4  # characters that the beginning of an id must have
SHOWN = 4
BEHIND = ("comparison", "source")  # kinds that share their id with another, which is meant


def find(graph: Graph, wanted: str) -> Node:
    """The node that an id means.

    An id is that of a candidate or verification, with or without its prefix; the uuid of a job; a science or content
    hash; the name or sha256 of a checkpoint; the name, sha256, folder or file of a dataset; the id of a run. The
    beginning of one does where no other has it, and KIND:ID (comparison:ver-…) tells kinds apart. Of several equal
    results that a hash names it is the latest. Raises InputError, one line.
    """
    wanted = wanted.strip()
    kind, colon, rest = wanted.partition(":")
    if not colon or kind not in {node[0] for node in graph.nodes}:
        kind, rest = "", wanted
    nodes = {node: facts for node, facts in graph.nodes.items() if node[0] == (kind or node[0])}
    for matches in (_ids, _hashes, _names, _beginnings):
        if found := sorted(set(matches(nodes, rest)) if rest else ()):
            return _one(found, graph, wanted, latest=matches is _hashes)
    if not kind and (node := _on_disk(wanted)) in graph.nodes:
        assert node is not None
        return node
    raise InputError(
        f"nothing in the store has the id {wanted!r}: `dao-flows list` shows candidates, `dao-flows checkpoint list` "
        "checkpoints, `dao-flows audit graph` all that there is"
    )


def _one(found: list[Node], graph: Graph, wanted: str, latest: bool) -> Node:
    """Of what an id matches, what it means. Raises InputError for more than one."""
    meant = [node for node in found if node[0] not in BEHIND] or found
    if len(meant) > 1 and latest:
        return max(meant, key=lambda node: (graph.nodes[node].when or "", node))
    if len(meant) > 1:
        shown = ", ".join(text(node) for node in meant[:SHOWN]) + (", …" if len(meant) > SHOWN else "")
        raise InputError(f"{wanted!r} means {len(meant)} things: {shown}; give one of these in full")
    return meant[0]


def _ids(nodes: dict[Node, Facts], wanted: str) -> Iterator[Node]:
    ids = {wanted, CANDIDATE + wanted, VERIFICATION + wanted}
    for node, facts in nodes.items():
        own = facts.job if node[0] not in ("candidate", "comparison") else None  # of these, the job is the screening
        if node[1] in ids or own == wanted:
            yield node


def _hashes(nodes: dict[Node, Facts], wanted: str) -> Iterator[Node]:
    for node, facts in nodes.items():
        if node[0] != "candidate" and wanted in (facts.science_hash, facts.content_hash):
            yield node


def _names(nodes: dict[Node, Facts], wanted: str) -> Iterator[Node]:
    for node, facts in nodes.items():
        if node[0] in ("checkpoint", "dataset"):
            details = facts.details
            if wanted in (details.get("registered"), details.get("name"), details.get("path")):
                yield node


def _beginnings(nodes: dict[Node, Facts], wanted: str) -> Iterator[Node]:
    if len(wanted.removeprefix(CANDIDATE).removeprefix(VERIFICATION)) < SHORTEST:
        return
    starts = (wanted, CANDIDATE + wanted, VERIFICATION + wanted)
    for node, facts in nodes.items():
        own = (facts.job, facts.science_hash) if node[0] not in ("candidate", "comparison") else ()
        if node[1].startswith(starts) or any(each and each.startswith(wanted) for each in own):
            yield node


def _on_disk(wanted: str) -> Node | None:
    """The checkpoint or dataset that lies at a path, or the checkpoint or library that is installed by this name."""
    from dao_flows.model.checkpoint.format import CheckpointError
    from dao_flows.model.checkpoint.library import card_of
    from dao_flows.model.data.shards import DataError, file_sha256, read_manifest
    from dao_flows.model.templates.places import find as find_library

    try:
        return "checkpoint", card_of(wanted).sha256
    except CheckpointError:
        pass
    try:
        return "dataset", read_manifest(find_library(wanted)).sha256
    except DataError:
        pass
    path = Path(wanted).expanduser()
    try:
        if path.is_dir():
            return "dataset", read_manifest(path).sha256
        return ("dataset", file_sha256(path)) if path.is_file() else None
    except (DataError, OSError):
        return None
