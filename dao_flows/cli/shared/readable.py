"""Those of several things that can be read, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Name = TypeVar("Name")
Thing = TypeVar("Thing")


def readable(
    names: Iterable[Name], read: Callable[[Name], Thing], error: type[Exception], problems: list[str]
) -> Iterator[tuple[Name, Thing]]:
    """Each name with what `read` gives for it; what raises `error` is told in `problems`, and passed over."""
    for name in names:
        try:
            found = read(name)
        except error as refused:
            problems.append(str(refused))
        else:
            yield name, found
