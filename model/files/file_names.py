"""Names of files that come from data: formulas, ids, names of datasets and checkpoints, members of a list.

Whatever a document, a crate or a user calls something, the file lies where the program means it to lie, on every
system, and two different names give two different files.
"""

from __future__ import annotations

import hashlib
import re

LONGEST = 100  # bytes; a folder's name and a suffix fit beside it
PLAIN = re.compile(r"[A-Za-z0-9_(\[][A-Za-z0-9_()\[\]+=,.@ -]*")
OTHER = re.compile(r"[^A-Za-z0-9_()+=]+")
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # reserved on Windows
SHOWN, DIGITS = 40, 16
REPLACED = re.compile(rf".*-[0-9a-f]{{{DIGITS}}}")  # as `file_name` ends what it had to change


def is_file_name(text: object) -> bool:
    """Whether a text can be the name of a file as it is: no path, nothing that any system reads in another way."""
    return (
        isinstance(text, str)
        and len(text) <= LONGEST
        and PLAIN.fullmatch(text) is not None
        and not text.endswith((".", " "))
        and DEVICES.fullmatch(text) is None
    )


def file_name(text: str) -> str:
    """The text itself where it can be a file's name; else what can be kept of it, and a part of its sha256."""
    if is_file_name(text) and not REPLACED.fullmatch(text):
        return text
    kept = OTHER.sub("-", text)[:SHOWN].strip("-+=)") or "name"
    digits = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
    return f"{kept}-{digits}"
