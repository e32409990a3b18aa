"""The graph of a store, or of what is around some of its documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dao_flows.errors import InputError

from .build import assemble
from .documents import read
from .graph import Direction, Graph
from .identify import find

if TYPE_CHECKING:
    from jobflow.core.store import JobStore


def build(store: JobStore, ids: str | Sequence[str] | None = None, direction: Direction = "both") -> Graph:
    """The graph of a store, or the part of it around these ids (see `identify.find`).

    The same few queries whatever the store's size. Raises InputError for an id that is unknown or not unique,
    StoreError.
    """
    whole = assemble(read(store))
    if ids is None:
        return whole
    wanted = [ids] if isinstance(ids, str) else ids
    if not wanted:
        raise InputError("give an id to look for")
    return whole.around(dict.fromkeys(find(whole, each) for each in wanted), direction)
