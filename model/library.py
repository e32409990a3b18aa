"""Where checkpoints live: those that ship with the package, and the user's own."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from .checkpoint import CARD, Card, CheckpointError, read_card
from .places import checkpoint_in_full, data_folder, folder_of

SHIPPED = Path(__file__).parent / "checkpoints"
FOLDER_VARIABLE = "DAO_FLOWS_CHECKPOINT_DIR"


def user_folder() -> Path:
    """The user's own checkpoints: $DAO_FLOWS_CHECKPOINT_DIR, or checkpoints/ in the user's data folder."""
    return folder_of(FOLDER_VARIABLE) or data_folder() / "dao_flows" / "checkpoints"


def available() -> dict[str, Path]:
    """Folders of all checkpoints by name; the user's own come before shipped ones of the same name."""
    found: dict[str, Path] = {}
    for root in (user_folder(), SHIPPED):
        for card in sorted(root.glob(f"*/{CARD}")):
            found.setdefault(card.parent.name, card.parent)
    return found


def find(reference: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint given by name, path, or sha256 (at least 8 digits of it).

    Raises CheckpointError naming what there is.
    """
    reference = checkpoint_in_full(reference)
    path = Path(reference)
    if path.is_absolute() and (path / CARD).exists():
        return path
    folders = available()
    if reference in folders:
        return folders[reference]
    if len(reference) >= 8 and set(reference) <= set("0123456789abcdef"):
        matches = {sha256: folder for folder in folders.values() if (sha256 := _identity(folder)).startswith(reference)}
        if len(matches) == 1:  # under several names, perhaps
            return next(iter(matches.values()))
    names = ", ".join(sorted(folders)) or "none"
    raise CheckpointError(f"no checkpoint called {reference!r}; there are: {names} (`dao-flows checkpoint list`)")


def _identity(folder: Path) -> str:
    try:
        card = (folder / CARD).stat()
        return _sha256(folder, card.st_mtime_ns, card.st_size)
    except (CheckpointError, OSError):  # a broken one is in nobody's way
        return ""


@lru_cache(maxsize=1024)  # a campaign asks thousands of times
def _sha256(folder: Path, changed: int, size: int) -> str:
    return read_card(folder).sha256


def card_of(reference: str | os.PathLike[str]) -> Card:
    """The card of a checkpoint given as for `find`."""
    return read_card(find(reference))
