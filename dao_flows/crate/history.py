"""What happened, in the words that RO-Crate and PROV share: things, and the activities that used and made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

EARLIEST = "1980-01-01T00:00:00.000+00:00"


@dataclass(frozen=True)
class Thing:
    """Something that was used or made. ident: its path in the crate, or a name of its own where it is not there.

    kind: document, structure, checkpoint, dataset, or another node's kind; parts: paths of the files it is made of.
    """

    ident: str
    kind: str
    name: str
    sha256: str | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Activity:
    """An attempt at a job. maker: class that ran; used, made: idents of things; error: of one that failed."""

    ident: str
    name: str
    maker: str
    version: str
    started: str | None
    ended: str | None
    who: str | None = None
    used: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class History:
    """All of it. asked: idents of the things that the crate is about; derived: pairs of parent and child."""

    things: Mapping[str, Thing]
    activities: tuple[Activity, ...]
    asked: tuple[str, ...]
    derived: tuple[tuple[str, str], ...] = ()

    @property
    def latest(self) -> str:
        """When the last of the activities ended, ISO 8601; the day zip begins with if none says."""
        return max(
            (activity.ended for activity in self.activities if activity.ended), default="1980-01-01T00:00:00+00:00"
        )


@dataclass(frozen=True)
class About:
    """What the one who exports says of the crate. authors: (name, ORCID or None)."""

    name: str
    description: str
    licence: str
    authors: tuple[tuple[str, str | None], ...] = ()
    published: str | None = field(default=None)


def moment(text: Any) -> str | None:
    """A time in ISO 8601 to the millisecond, in UTC; None for what is no time."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return when.isoformat(timespec="milliseconds")
