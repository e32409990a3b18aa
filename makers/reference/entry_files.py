"""Reference sets from files of ComputedEntries, as monty writes them."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

from pymatgen.entries.computed_entries import ComputedEntry

from .entry_decoding import entry as decoded
from .levels import functional_of, known
from .sets import ReferenceSet, ReferenceSetError, agreeing


@lru_cache(maxsize=4)
def read_file(path: Path, changed: int, size: int, code: str | None, functional: str | None) -> ReferenceSet:
    """A file of entries, read again when it has changed."""
    try:
        raw = path.read_bytes()
        found = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:100]
        raise ReferenceSetError(f"{path.name} cannot be read as JSON of ComputedEntries: {said}") from None
    found = found.get("entries", found) if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise ReferenceSetError(f"{path.name} holds no list of ComputedEntries")
    entries = [_entry(item, path.name, place) for place, item in enumerate(found, 1)]
    return agreeing(path.name, entries, (code, functional_of(functional) if functional else None))


def _entry(item: Any, name: str, place: int) -> ComputedEntry:
    """An entry from its JSON. Raises ReferenceSetError."""
    try:
        entry = decoded(item)
        if not isfinite(entry.energy):
            raise ValueError("its energy is not finite")
        known(entry)
    except Exception as error:  # what a broken entry causes depends on what is wrong
        said = " ".join(str(error).split())[:160]
        told = said.removeprefix("it ") if said.startswith("it ") else f"cannot be used: {said}"
        raise ReferenceSetError(f"{name}: entry {place} {told}") from None
    return entry
