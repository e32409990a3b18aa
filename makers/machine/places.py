"""Where a user names files and folders for jobs, they are named in full: jobs run in folders of their own.

A maker says in PLACES which of its fields, and which arguments of its methods, name what; `stage` puts them in full
when a job is made.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

from jobflow.core.maker import Maker

from dao_flows.model.files.places import absolute, checkpoint_in_full, is_there, library_in_full

QUERIES = ("mp:", "store:")  # reference sets that are no files
SHA256 = "sha256:"

AnyMaker = TypeVar("AnyMaker", bound=Maker)
Places = Mapping[str, Callable[[Any], Any]]  # name of a field or argument -> what puts its value in full


def named(in_full: Callable[[str | os.PathLike[str]], str]) -> Callable[[Any], Any]:
    """For PLACES: paths, and lists of them, become what the function says; what is no path stays."""

    def convert(value: Any) -> Any:
        if isinstance(value, str | os.PathLike):
            return in_full(value)
        return type(value)(map(convert, value)) if type(value) in (list, tuple) else value

    return convert


def source(text: str | os.PathLike[str], start: str | os.PathLike[str] = "") -> str:
    """A source of crystals as it is to be named in any folder; those that are no files (mp:, optimade:, store:) stay.

    start: the folder from which it counts (the current one). Raises PlaceError.
    """
    text = os.fspath(text)
    there = is_there(Path(start, text))
    prefix, colon, _ = text.partition(":")
    if colon and "/" not in prefix and not there:
        return text
    place, mark, query = (text, "", "") if there else text.partition("?")
    return absolute(place, start) + mark + query


def reference(text: str | os.PathLike[str], start: str | os.PathLike[str] = "") -> str:
    """A reference set as it is to be named in any folder: a file in full; mp: and store: as they are.

    start: the folder from which it counts (the current one). Raises PlaceError.
    """
    text = os.fspath(text)
    if text.startswith(QUERIES):
        return text
    place, mark, query = (text, "", "") if is_there(Path(start, text)) else text.partition("?")
    return absolute(place, start) + mark + query


def told(text: str) -> str:
    """What a document says of a reference set: mp: and store: as they are, a file by its name and content.

    So the same file is the same science, wherever it lies. A file that is not there is told by its name alone.
    """
    if text.startswith(QUERIES):
        return text
    place, mark, query = (text, "", "") if is_there(text) else text.partition("?")
    path = Path(absolute(place))
    try:
        content = f" {SHA256}{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError:
        content = ""
    return f"{path.name}{mark}{query}{content}"


PATH, SOURCE, CHECKPOINT, LIBRARY, REFERENCE = map(
    named, (absolute, source, checkpoint_in_full, library_in_full, reference)
)


def maker_in_full(maker: AnyMaker) -> AnyMaker:
    """The maker, or a copy in which what PLACES names is in full."""
    places: Places = getattr(maker, "PLACES", {})
    if not places or not is_dataclass(maker):
        return maker
    held = {field.name: getattr(maker, field.name) for field in fields(maker) if field.name in places}
    full = {name: places[name](value) for name, value in held.items()}
    return maker if full == held else replace(maker, **full)


def call_in_full(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], places: Places
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a job in full: those that `places` and the PLACES of its maker name, and makers among them."""
    places = {**places, **(getattr(args[0], "PLACES", {}) if args else {})}
    names = list(signature(function).parameters)

    def each(name: str, value: Any) -> Any:
        if isinstance(value, Maker):
            return maker_in_full(value)
        return places[name](value) if name in places else value

    given = [each(name, value) for name, value in zip(names, args, strict=False)]
    return [*given, *args[len(given) :]], {name: each(name, value) for name, value in kwargs.items()}
