"""What comes of a replay: of each document, and of all."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from dao_flows.makers.stages.agreement import Difference

Outcome = Literal["identical", "equal", "different", "not replayed"]
ORDER: tuple[Outcome, ...] = ("identical", "equal", "different", "not replayed")  # from good to bad


class Change(BaseModel):
    """Something about the software or the machine that is not as it was recorded."""

    what: str
    recorded: str | None
    here: str | None

    def line(self) -> str:
        """In a few words."""
        return f"{self.what} {self.recorded or 'not recorded'} → {self.here or 'none'}"


class Step(BaseModel):
    """One document, and what its replay gave.

    how: run: the job ran again; inputs and outputs: a calculation was not run, but compared with what it follows from;
    sources: what is laid out was compared with what it is laid out from. own: the first place where the document itself
    is not what was written (replayed: what it holds now); recomputed: what computing again gave, whatever the document.
    first: the first difference of any size; beyond: the first that the tolerance does not cover. largest: by quantity.
    """

    kind: str
    id: str
    maker: str
    outcome: Outcome
    how: Literal["run", "inputs and outputs", "sources"] = "run"
    own: Difference | None = None
    recomputed: Outcome | None = None
    science_hash: str
    replayed_science_hash: str | None = None
    changes: list[Change] = Field(default_factory=list)
    tolerance: str | None = None
    first: Difference | None = None
    beyond: Difference | None = None
    largest: dict[str, float] = Field(default_factory=dict)
    differences: int = 0
    reason: str | None = Field(None, description="why it was not replayed")
    note: str | None = None
    recorded_seconds: float
    seconds: float = 0.0


class Replay(BaseModel):
    """What came of a replay; outcome: the worst of all.

    documents: candidates, verifications and comparisons, each beside what it is laid out from.
    """

    asked: str
    node: str
    store: str
    outcome: Outcome
    documents: list[Step] = Field(default_factory=list)
    steps: list[Step]
    seconds: float
