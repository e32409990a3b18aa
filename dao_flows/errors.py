"""What went wrong, in one line that a user can act on, and without secrets."""

from __future__ import annotations

import errno
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dao_flows.makers.machine.masking import mask, one_line
from dao_flows.model.errors import DaoError

if TYPE_CHECKING:
    from pydantic import ValidationError
from .configuration import fault as configuration_fault

FIXES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "your quota is used up: free some space and run the same command again",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "check its permissions, or choose another",
    errno.EFBIG: "the file size limit is reached (`ulimit -f`)",
}


class UserError(DaoError):
    """One of this floor, which knows of stores and servers: its message is without credentials from the first."""

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


class SettingsError(UserError):
    """An environment variable or configuration file holds something that cannot be used."""


class StoreError(UserError):
    """The store cannot be reached, read or written. fix: what helps, if that is known and the message does not say."""

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix


class InputError(UserError):
    """A formula, a file of formulas or an option cannot be used."""


@contextmanager
def configuration_guard() -> Iterator[None]:
    """Within, libraries are imported that read their settings then. Raises SettingsError for settings of no use."""
    try:
        yield
    except Exception as error:
        if (text := configuration_fault(error)) is not None:
            raise SettingsError(text) from None
        raise


def trace(error: BaseException) -> str:
    """Where an error comes from, masked; of a configuration's the places alone, for its text quotes what it holds."""
    if (text := configuration_fault(error)) is not None:
        return "".join(traceback.format_tb(error.__traceback__)) + text
    return mask("".join(traceback.format_exception(error)))


def explain(error: BaseException) -> str | None:
    """One masked line for an error that the user can put right; None for one that is our own fault."""
    text = configuration_fault(error)
    if text is not None:
        return text
    if isinstance(error, DaoError):
        text = str(error)
    elif isinstance(error, sqlite3.OperationalError):
        text = f"the embedded store: {error}{_fix_of_sqlite(str(error))}"
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        text = "out of memory: ask for fewer candidates at once (-n), or set DAO_FLOWS_BATCH_CANDIDATES lower"
    elif isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        fix = FIXES.get(error.errno or 0)
        text = f"{error.strerror or error}{where}" + (f" ({fix})" if fix else "")
    elif (pymongo := sys.modules.get("pymongo.errors")) and isinstance(error, pymongo.PyMongoError):
        details = getattr(error, "details", None) or {}
        said = [
            each.get("errmsg", "") for each in details.get("writeErrors") or []
        ]  # the message has the documents, too
        text = (
            f"the database server: {said[0] if said else one_line(error).split(' (configured')[0]}"  # or its topology
        )
    elif (pydantic := sys.modules.get("pydantic")) and isinstance(error, pydantic.ValidationError):
        text = _unreadable(error)
    return None if text is None else mask(text)


def _unreadable(error: ValidationError) -> str | None:
    """For a stored document that is not what its class says; nothing of its content is shown."""
    if not error.title.endswith("Doc") and error.title != "Science":
        return None
    said = error.errors(include_url=False, include_input=False)[0]
    where = "/".join(str(part) for part in said["loc"])
    return (
        f"a stored {error.title} cannot be read ({where}: {' '.join(said['msg'].split())[:120]}): it was altered, or "
        "another version wrote it; `dao-flows audit verify --all` names what was altered"
    )


def _fix_of_sqlite(message: str) -> str:
    if "full" in message:
        return f" ({FIXES[errno.ENOSPC]})"
    if "readonly" in message or "unable to open" in message:
        return " (check the permissions of its folder, or set DAO_FLOWS_DATA_DIR to another)"
    return ""
