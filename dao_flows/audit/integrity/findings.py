"""What an audit finds, and how it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

Problem = Literal["missing", "altered", "duplicated", "orphaned", "unverifiable"]
GRAVE = ("missing", "altered", "duplicated")


class Finding(BaseModel):
    """Something that is not as it was when it was written, or of which that cannot be told.

    missing: a document, record or file that another one names; altered: its content is not what a hash says;
    duplicated: it is there more than once; orphaned: what it was derived from is gone; unverifiable: nothing says what
    it should be.
    """

    problem: Problem
    collection: str = Field(description="jobs, candidates, …; datasets, checkpoints or files; or a store of blobs")
    id: str
    kind: str = ""
    field: str | None = Field(None, description="the first that differs, where it can be told")
    reason: str

    def line(self) -> str:
        """The finding on one line."""
        where = f", {self.field}" if self.field else ""
        kind = f" ({self.kind})" if self.kind else ""
        return f"{self.problem}: {self.collection} {self.id}{kind}{where}: {self.reason}"


class Report(BaseModel):
    """What was checked, by collection, and what was found."""

    store: str
    asked: list[str] = Field(description="what was verified; empty: all")
    checked: dict[str, int]
    findings: list[Finding]
    seconds: float
    before_chaining: int = Field(0, description="records of runs that were written before records named each other")

    @property
    def sound(self) -> bool:
        """Whether nothing is missing, altered or there twice."""
        return not any(finding.problem in GRAVE for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Findings of each problem."""
        return dict(Counter(finding.problem for finding in self.findings))


def first_difference(stated: Any, found: Any, path: str = "") -> str | None:
    """The dotted path of the first value that differs, in the order of the keys; None if all are equal."""
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        for key in sorted({*stated, *found}):
            inner = f"{path}.{key}" if path else str(key)
            if key not in stated or key not in found:
                return inner
            if (deeper := first_difference(stated[key], found[key], inner)) is not None:
                return deeper
        return None
    if isinstance(stated, list | tuple) and isinstance(found, list | tuple):
        for number, (one, other) in enumerate(zip(stated, found, strict=False)):
            if (deeper := first_difference(one, other, f"{path}.{number}")) is not None:
                return deeper
        return None if len(stated) == len(found) else f"{path}.{min(len(stated), len(found))}"
    same = type(stated) is type(found) and (stated == found or (stated != stated and found != found))
    return None if same else path or "."
