"""What the rest asks of a store of results, whatever keeps it.

Documents are queried through maggma's Store, which every kind has. What maggma does not ask stands here, and every kind
answers it: nobody else needs to know which one it is.
"""

from __future__ import annotations

import errno
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bson.errors import BSONError

READ_ERRORS = (sqlite3.Error, BSONError)  # what the stores' own libraries raise for what cannot be read
FORBIDDEN = (13, 10107, 11602, 13435)  # MongoDB's codes for a user, or a server, that may only read


class Damaged(NamedTuple):
    """What cannot be read: the key of its row (empty: the collection itself), why, and what helps if it is known."""

    key: str
    reason: str
    fix: str | None = None


class ResultStore(Protocol):
    """One collection of results, that of the jobs or one beside them.

    shared: workers on several machines may write it at once; own_ids: every document is stored under an `_id` that was
    given to it, never under one that a server made; remedy: what helps where the store cannot be used.
    """

    shared: bool
    own_ids: bool
    remedy: str

    @property
    def read_only(self) -> bool:
        """Whether it is known that it can only be read; a server tells when it is written to."""

    def describe(self) -> str:
        """Where it is, without credentials."""

    def documents(self, fields: Sequence[str] | None = None) -> Iterator[dict[str, Any] | Damaged]:
        """Every document, or what is wrong with it. fields: those that are needed; a document may have more."""

    def document(self, key: str) -> dict[str, Any] | None:
        """The document with this value of the collection's key, found without reading the others."""

    def make_indexes(self, indexes: Sequence[Sequence[str]]) -> None:
        """Make searches by these fields quick, where the kind has indexes; safe to repeat."""

    def misplaced(self) -> Iterator[tuple[str, str]]:
        """Ids of documents that stand in a row with another key, and that key: no query by id finds them."""

    def damage(self) -> Iterator[Damaged]:
        """What cannot be read, row by row, and what is wrong with the file as a whole. Raises StoreError."""

    def set_aside(self, folder: Path) -> list[Path]:
        """Move every row that cannot be read into a file of its own in a folder. Raises StoreError and OSError."""


def forbids_writing(error: BaseException) -> bool:
    """Whether an error says that a store can only be read: by its files' permissions, a user's role, or the server."""
    if isinstance(error, OSError):
        return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if isinstance(error, sqlite3.OperationalError):
        return any(said in str(error) for said in ("readonly", "read-only", "unable to open"))
    pymongo = sys.modules.get("pymongo.errors")
    return pymongo is not None and isinstance(error, pymongo.OperationFailure) and error.code in FORBIDDEN
