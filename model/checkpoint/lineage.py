"""Where a checkpoint comes from: its data, the one it was trained on from, those that relaxed or judged its data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .format import Card, CheckpointError
from .library import card_of

Memory = dict[str, dict[str, Any]]  # what the cards of descendants remember, by sha256


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint in another's ancestry. role: what it was to its child; training: what is told of how it was made.

    here: whether the library holds it; of another one only what its children's cards tell is known.
    """

    role: str
    sha256: str
    name: str | None = None
    kind: str | None = None
    training: dict[str, Any] | None = None
    here: bool = False
    parents: tuple[Ancestor, ...] = ()

    @property
    def data(self) -> dict[str, Any]:
        """What is told of the training data: file, sha256, rows, and of a dataset its sources and parent."""
        return (self.training or {}).get("data") or {}

    def ancestors(self) -> Iterator[Ancestor]:
        """It and all before it."""
        yield self
        for parent in self.parents:
            yield from parent.ancestors()


def remembered(card: Card) -> list[dict[str, Any]]:
    """What the card of a child keeps of this parent and of those before it, nearest first."""
    training = {key: value for key, value in card.training.items() if key not in ("loss_curve", "parents")}
    told = {"name": card.name, "kind": card.kind, "sha256": card.sha256, "parent": card.parent, "training": training}
    return [told, *card.training.get("parents", [])]


def checkpoint_lineage(reference: str) -> Ancestor:
    """A checkpoint with its whole ancestry, as far as the library holds it or cards remember it.

    Raises CheckpointError if there is no such checkpoint.
    """
    card = card_of(reference)
    return _ancestor("checkpoint", card, {}, ())


def _ancestor(role: str, card: Card, memory: Memory, seen: tuple[str, ...]) -> Ancestor:
    memory = {entry["sha256"]: entry for entry in card.training.get("parents", [])} | memory
    parents = _parents(card.parent, card.training, memory, (*seen, card.sha256))
    return Ancestor(role, card.sha256, card.name, card.kind, card.training, True, parents)


def _parents(
    parent: str | None, training: dict[str, Any], memory: Memory, seen: tuple[str, ...]
) -> tuple[Ancestor, ...]:
    named = {"trained on from": parent} if parent else {}
    data = training.get("data") or {}
    for task, sha256 in ((data.get("made_by") or {}).get("checkpoints") or {}).items():
        named[f"{task} of its data"] = sha256
    if "judge" in data:
        named["judge of its data"] = data["judge"]
    found = []
    for role, sha256 in named.items():
        if sha256 in seen:  # a card may be edited: no circles
            continue
        try:
            found.append(_ancestor(role, card_of(sha256), memory, seen))
        except CheckpointError:
            told = memory.get(sha256, {})
            before = _parents(told.get("parent"), told.get("training") or {}, memory, (*seen, sha256))
            found.append(
                Ancestor(role, sha256, told.get("name"), told.get("kind"), told.get("training"), False, before)
            )
    return tuple(found)
