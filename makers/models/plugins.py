"""What installed packages add, by the names of their entry points: nothing in a store or a file can add anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from .checkpoints import ParameterError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def names(group: str) -> list[str]:
    """Names of a group's entry points. Nothing is loaded."""
    return list(points(group, tuple(sys.path)))


def load(group: str, name: str) -> Any:
    """The object that an entry point names. Raises KeyError if there is none, ParameterError if it cannot be loaded."""
    point = points(group, tuple(sys.path))[name]
    try:
        return point.load()
    except Exception as error:  # whatever the package raises
        raise ParameterError(f"{name!r} of {point.value} cannot be loaded: {in_one_line(error)}") from None


def opened(group: str, what: str, name: str, fault: Callable[[Any], str | None]) -> Any:
    """What an entry point's value returns. fault: what is wrong with it, in words that follow its name.

    Raises ParameterError for what cannot be loaded or opened, or has a fault; KeyError if there is none.
    """
    made = load(group, name)
    try:
        found = made()
        wrong = fault(found)
    except Exception as error:  # whatever the package raises
        raise ParameterError(f"the {what} {name!r} cannot be opened: {in_one_line(error)}") from None
    if wrong is not None:
        raise ParameterError(f"the {what} {name!r} {wrong}")
    return found


def in_one_line(error: BaseException) -> str:
    """An error of another's code."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@cache
def points(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """The entry points of a group, of packages that are installed in these places, by name; looked up once."""
    from importlib.metadata import entry_points  # which every start of the command line would pay for

    return {point.name: point for point in sorted(entry_points(group=group))}
