"""Plain documents by their fields, named with dots as MongoDB does: one, some, in order, and what is within them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any

from maggma.core import Sort

ABSENT = object()


def get(document: Any, field: str, default: Any = None) -> Any:
    """The value of a dotted field."""
    for part in field.split("."):
        if not isinstance(document, dict) or part not in document:
            return default
        document = document[part]
    return document


def projected(document: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """The named fields alone, those that are there."""
    out: dict[str, Any] = {}
    for field in fields:
        if (value := get(document, field, ABSENT)) is not ABSENT:
            *parents, last = field.split(".")
            reduce(lambda inner, part: inner.setdefault(part, {}), parents, out)[last] = value
    return out


def mappings(value: Any, wanted: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    """The mappings within a value that are wanted, but for those within another of them."""
    pending = [value]
    while pending:
        held = pending.pop()
        if isinstance(held, dict):
            if wanted(held):
                yield held
            else:
                pending += held.values()
        elif isinstance(held, list):
            pending += held


def in_order(documents: list[dict[str, Any]], sort: dict[str, Sort | int]) -> list[dict[str, Any]]:
    """By the fields in their order; None comes first when ascending, as in MongoDB."""

    def value_of(document: dict[str, Any], field: str) -> tuple[bool, Any]:
        value = get(document, field)
        return value is not None, 0 if value is None else value

    for field, direction in reversed(sort.items()):
        documents.sort(key=partial(value_of, field=field), reverse=direction in (-1, Sort.Descending))
    return documents
