"""Where a checkpoint comes from: its data, the checkpoint it was trained on from, and the one that relaxed its data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .checkpoint import Card, CheckpointError
from .library import card_of


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint in another's ancestry. role: what it was to its child; card: None if it is not in the library."""

    role: str
    sha256: str
    card: Card | None = None
    parents: tuple[Ancestor, ...] = ()

    @property
    def data(self) -> dict[str, Any]:
        """What the card tells of the training data: file, sha256, rows, and of a dataset its sources and parent."""
        told: dict[str, Any] = self.card.training.get("data", {}) if self.card else {}
        return told

    def walk(self) -> Iterator[Ancestor]:
        """It and all before it."""
        yield self
        for parent in self.parents:
            yield from parent.walk()


def ancestry(reference: str) -> Ancestor:
    """A checkpoint with its whole ancestry, as far as cards tell and the library holds it.

    Raises CheckpointError if there is no such checkpoint.
    """
    return _ancestor("checkpoint", card_of(reference), ())


def _ancestor(role: str, card: Card, seen: tuple[str, ...]) -> Ancestor:
    named = {"trained on from": card.parent} if card.parent else {}
    made_by = card.training.get("data", {}).get("made_by") or {}
    for task, sha256 in (made_by.get("checkpoints") or {}).items():
        named[f"{task} of its data"] = sha256
    parents, seen = [], (*seen, card.sha256)
    for its_role, sha256 in named.items():
        if sha256 in seen:  # a card may be edited: no circles
            continue
        try:
            parents.append(_ancestor(its_role, card_of(sha256), seen))
        except CheckpointError:
            parents.append(Ancestor(its_role, sha256))
    return Ancestor(role, card.sha256, card, tuple(parents))
