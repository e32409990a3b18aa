"""Folders that are found by name, path or sha256: those that ship with the package, and the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dao_flows.model.errors import DaoError

from .places import folder_in_full


@dataclass(frozen=True)
class NamedFolders:
    """Folders of one kind.

    kind: what errors call one, and the command that lists them; card: the file that makes a folder one; own: where
    the user's own lie; shipped: those of the package; sha256: the identity of one, ValueError or OSError if it is
    damaged; error: raised for what is not there.
    """

    kind: str
    card: str
    own: Callable[[], Path]
    shipped: Path
    sha256: Callable[[Path], str]
    error: type[DaoError]

    def available(self) -> dict[str, Path]:
        """All folders by name; the user's own come before shipped ones of the same name."""
        found: dict[str, Path] = {}
        for folder in self._folders():
            found.setdefault(folder.name, folder)
        return found

    def find(self, reference: str | os.PathLike[str]) -> Path:
        """The folder that is given by name, path, or sha256 (at least 8 digits of it).

        Raises `error` naming what there is.
        """
        reference = folder_in_full(reference, self.card)
        path = Path(reference)
        if path.is_absolute() and (path / self.card).exists():
            return path
        folders = self.available()
        if reference in folders:
            return folders[reference]
        if len(reference) >= 8 and set(reference) <= set("0123456789abcdef"):
            matches: dict[str, Path] = {}
            for folder in self._folders():  # one that another hides by its name, too
                if (sha256 := self._identity(folder)).startswith(reference):
                    matches.setdefault(sha256, folder)
            if len(matches) == 1:  # under several names, perhaps
                return next(iter(matches.values()))
        names = ", ".join(sorted(folders)) or "none"
        raise self.error(f"no {self.kind} called {reference!r}; there are: {names} (`dao-flows {self.kind} list`)")

    def _folders(self) -> list[Path]:
        cards = [card for root in (self.own(), self.shipped) for card in sorted(root.glob(f"*/{self.card}"))]
        return [card.parent for card in cards if not card.parent.name.startswith(".")]  # one that is being built

    def _identity(self, folder: Path) -> str:
        try:
            card = (folder / self.card).stat()
            return _sha256(self.sha256, folder, card.st_mtime_ns, card.st_size)
        except (ValueError, OSError):  # a broken one is in nobody's way
            return ""


@lru_cache(maxsize=1024)  # a campaign asks thousands of times
def _sha256(read: Callable[[Path], str], folder: Path, changed: int, size: int) -> str:
    return read(folder)
