"""The files of a folder by their sha256: what a code left there when its calculation ended."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from .masking import one_line

log = logging.getLogger(__name__)

PREFIX = "directory/"  # of the names under which a calculation's document holds them
LINK = "link to "
CHUNK = 2**20


def folder_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its path in it; of a link, where it leads. Memory holds 1 MiB of a file.

    A file that cannot be read is left out, with a line on stderr: no result is lost for want of a hash.
    """
    found = {}
    for place, folders, names in os.walk(folder):
        for name in sorted((*names, *(each for each in folders if (Path(place) / each).is_symlink()))):
            path = Path(place) / name
            try:
                held = entry_hash(path)
            except OSError as error:
                log.error("%s has no hash: %s", path, one_line(error))
                continue
            if held is not None:
                found[str(path.relative_to(folder)).encode("utf-8", "backslashreplace").decode()] = held
    return found


def entry_hash(path: Path) -> str | None:
    """sha256 of a file, the target of a link; None of what is neither, as a pipe. Raises OSError."""
    if path.is_symlink():
        return LINK + os.fsencode(path.readlink()).decode("utf-8", "backslashreplace")
    if not path.is_file():
        return None
    hashed = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(CHUNK):
            hashed.update(part)
    return hashed.hexdigest()
