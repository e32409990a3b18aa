"""Rows of the embedded store's tables, as montydb writes them: a key and a document in BSON, either perhaps damaged."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import bson
from bson.errors import BSONError
from montydb.types import bson as montydb_bson  # type: ignore[import-untyped]

from dao_flows.makers.machine.masking import one_line

from .collections import MAY_BE_NONE, SHAPES
from .fields import ABSENT, get

UNREADABLE = (BSONError, ValueError, TypeError, OverflowError, IndexError, KeyError, RecursionError)


def lenient(value: bytes) -> str:
    """Text of a row, whatever its bytes; no query falls over a key that is damaged."""
    return value.decode("utf-8", "surrogateescape")


def bound(value: Any) -> tuple[str, Any]:
    """How a value of a row is named in a statement: text by its bytes, which may be no UTF-8."""
    return ("CAST(? AS TEXT)", value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else ("?", value)


def shown(key: Any) -> str:
    """A row's key, to be shown: the `_id` of its document."""
    if isinstance(key, bytes):
        with suppress(*UNREADABLE):
            held = key[:1] + b"_id\0" + key[1:] + b"\0"  # montydb keeps the type and the value
            key = bson.decode((len(held) + 4).to_bytes(4, "little") + held)["_id"]
    text = key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def decoded(collection_name: str, value: Any) -> dict[str, Any] | str:
    """The document of a row, or what is wrong with it."""
    if not isinstance(value, bytes):
        return f"it holds {type(value).__name__} in place of BSON"
    try:
        document: dict[str, Any] = bson.decode(value)
    except UNREADABLE as error:
        return f"it is no BSON: {shown(one_line(error))}"
    for field, kind in SHAPES.get(collection_name, {}).items():
        found = get(document, field, ABSENT)
        parent = field.partition(".")[0]
        if parent in MAY_BE_NONE and document.get(parent) is None:
            continue
        if found is ABSENT or not isinstance(found, kind) or isinstance(found, bool):
            what = "is not there" if found is ABSENT else f"is {type(found).__name__}, not {kind.__name__}"
            return f"its {field} {what}"
    return document


def row_key(held: Any) -> Any:
    """The key of the row in which the document with this `_id` belongs; None if it can have none."""
    with suppress(KeyError, BSONError):
        return montydb_bson.id_encode(held)
    return None


def id_at_beginning(beginning: bytes) -> Any:
    """The id at the beginning of a document; None for what is no document or begins with something else."""
    with suppress(BSONError, ValueError, TypeError, OverflowError, IndexError):
        kind, name = beginning[4], beginning[5:9]
        if name != b"_id\0":
            return None
        if kind == 2:
            length = 4 + int.from_bytes(beginning[9:13], "little")
        elif kind == 7:
            length = 12
        else:
            return None
        element = beginning[4 : 9 + length]
        mini = (len(element) + 5).to_bytes(4, "little") + element + b"\0"
        return bson.decode(mini)["_id"]
    return None


def containing(criteria: dict[str, Any]) -> tuple[str, list[bytes]]:
    """A WHERE clause for rows whose bytes hold the strings that a match must have, and its parameters."""
    clauses, needles = [], []
    for field, wanted in criteria.items():
        choices = wanted.get("$in") if isinstance(wanted, dict) and len(wanted) == 1 else [wanted]
        if field.startswith("$") or not choices or len(choices) > 100 or not all(isinstance(c, str) for c in choices):
            continue
        if field == "_id":
            clauses.append(f"k IN ({', '.join('?' * len(choices))})")
            needles += [montydb_bson.id_encode(choice) for choice in choices]
            continue
        clauses.append("(" + " OR ".join("instr(CAST(v AS BLOB), ?)" for _ in choices) + ")")
        needles += [choice.encode() for choice in choices]
    return (" WHERE " + " AND ".join(clauses) if clauses else ""), needles
