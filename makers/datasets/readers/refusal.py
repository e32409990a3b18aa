"""Why a row is not taken: what every reader raises, and what the list of rejects says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dao_flows.model.errors import DaoError

Cause = Literal["unreadable", "disordered", "atoms", "energy", "distance", "held out", "duplicate"]


@dataclass(frozen=True)
class Rejected:
    """Why a row is not taken."""

    cause: Cause
    reason: str


class RefusedError(DaoError):
    """A row is not taken; `rejected` says why."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.rejected = Rejected(cause, reason)


def unreadable(reason: str) -> RefusedError:
    """What cannot be read as one certain crystal."""
    return RefusedError("unreadable", reason)
