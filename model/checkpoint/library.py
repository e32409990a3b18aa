"""Where checkpoints live: those that ship with the package, and the user's own."""

from __future__ import annotations

import os
from pathlib import Path

from dao_flows.model.files import user_folders
from dao_flows.model.files.named_folders import NamedFolders
from dao_flows.model.files.places import CARD

from .format import Card, CheckpointError, read_card

SHIPPED = Path(__file__).parent / "shipped"


def _sha256(folder: Path) -> str:
    return read_card(folder).sha256


_CHECKPOINTS = NamedFolders(
    "checkpoint", CARD, user_folders.checkpoints, SHIPPED, sha256=_sha256, error=CheckpointError
)


def available() -> dict[str, Path]:
    """Folders of all checkpoints by name; the user's own come before shipped ones of the same name."""
    return _CHECKPOINTS.available()


def find(reference: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint given by name, path, or sha256 (at least 8 digits of it).

    Raises CheckpointError naming what there is.
    """
    return _CHECKPOINTS.find(reference)


def card_of(reference: str | os.PathLike[str]) -> Card:
    """The card of a checkpoint given as for `find`."""
    return read_card(find(reference))
