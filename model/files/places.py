"""Places that a user names, in full from there on: what a job does is done in another folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dao_flows.model.errors import DaoError

ADDRESS = re.compile(r"\w[\w+.-]*://")
CARD = "card.json"  # in a checkpoint's folder
INDEX_CARD = "index.json"  # in a library's folder


class PlaceError(DaoError):
    """A file or folder is named in a way that a document cannot keep; one line that says which."""


def at_home(path: str | os.PathLike[str]) -> Path:
    """The path with the home folder for ~; one that names a user who is unknown stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file or folder; False for what can be none, such as a query of a thousand letters."""
    try:
        return at_home(path).exists()
    except (OSError, ValueError):
        return False


def absolute(path: str | os.PathLike[str], start: str | os.PathLike[str] = "") -> str:
    """The path in full, with the home folder for ~; links stay as they are, and so does an address (https://…).

    start: the folder from which it counts (the current one). Raises PlaceError for a name that is not UTF-8, which no
    store and no JSON can keep.
    """
    if ADDRESS.match(text := os.fspath(path)):  # its user's password is masked only while it looks like one
        return text
    home = at_home(path)
    try:
        found = str(home if home.is_absolute() else Path(start).absolute() / home)
    except FileNotFoundError:
        raise PlaceError(
            f"the current folder is not there any more: change to another, or name {home} in full"
        ) from None
    try:
        found.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(found).decode("utf-8", "backslashreplace")
        raise PlaceError(f"the name of {shown} is not UTF-8: rename it, or link to it by another name") from None
    return found


def folder_in_full(reference: str | os.PathLike[str], card: str, start: str | os.PathLike[str] = "") -> str:
    """What is found by name, path or sha256 as it is to be named in any folder: its path in full; else as it is.

    card: the file that lies in its folder; start: the folder from which a path counts (the current one). Raises
    PlaceError.
    """
    text = os.fspath(reference)
    is_path = os.sep in text or text.startswith(("~", "."))  # it may not be there yet
    if is_path or is_there(Path(start, text, card)):
        return absolute(text, start)
    return text


def checkpoint_in_full(reference: str | os.PathLike[str], start: str | os.PathLike[str] = "") -> str:
    """A checkpoint as it is to be named in any folder, as `folder_in_full` has it."""
    return folder_in_full(reference, CARD, start)


def library_in_full(reference: str | os.PathLike[str], start: str | os.PathLike[str] = "") -> str:
    """A library of crystals as it is to be named in any folder, as `folder_in_full` has it."""
    return folder_in_full(reference, INDEX_CARD, start)
