"""Where libraries of crystals live: those that ship with the package, and the user's own."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from dao_flows.model.data.shards import MANIFEST, DataError
from dao_flows.model.files import user_folders
from dao_flows.model.files.named_folders import NamedFolders
from dao_flows.model.files.places import INDEX_CARD

from .library import INDEX, Library, read_card

SHIPPED = Path(__file__).parent / "shipped"
DEFAULT = "known"  # that ships


def _sha256(folder: Path) -> str:
    return str(read_card(folder)["library"])


_LIBRARIES = NamedFolders("library", INDEX_CARD, user_folders.libraries, SHIPPED, sha256=_sha256, error=DataError)


def available() -> dict[str, Path]:
    """Folders of all libraries by name; the user's own come before shipped ones of the same name."""
    return _LIBRARIES.available()


def find(reference: str | os.PathLike[str]) -> Path:
    """The folder of a library given by name, path, or sha256 (at least 8 digits of it).

    Raises DataError naming what there is.
    """
    return _LIBRARIES.find(reference)


def open_library(reference: str | os.PathLike[str]) -> Library:
    """A library given as for `find`, opened once a process while its files stay as they are. Raises DataError."""
    folder = find(reference)
    return _open(folder, *(_stamp(folder / name) for name in (MANIFEST, INDEX_CARD, INDEX)))


@lru_cache(maxsize=16)
def _open(folder: Path, *stamps: tuple[int, int] | None) -> Library:
    return Library(folder)


def _stamp(path: Path) -> tuple[int, int] | None:
    """When the file changed, and its size; None for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
