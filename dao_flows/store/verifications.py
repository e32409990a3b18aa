"""The `verifications` collection: one document a verified candidate, laid out from the job store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from maggma.core import Builder, Store
from maggma.utils import grouper
from monty.json import jsanitize

from dao_flows.makers.schemas.verification import VerificationDoc

from .candidates import by_beginning

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

WHEN = "provenance.execution.ended_at"
MARKS = ("verification_id", "state", WHEN)
CHUNK = 50
ID_PREFIX = "ver-"


class VerificationBuilder(Builder):
    """Lays out what is new in the job store; safe to run again, and in several processes at once.

    uuids: of the jobs to look at (None: all). Of several attempts at one verification the latest counts, but no failed
    one takes the place of a successful one.
    """

    def __init__(self, jobs: JobStore, verifications: Store, uuids: list[str] | None = None) -> None:
        self.jobs, self.verifications, self.uuids = jobs, verifications, uuids
        super().__init__(sources=[jobs], targets=[verifications], chunk_size=CHUNK)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Documents that count for more than what is laid out."""
        criteria: dict[str, Any] = {"output.@class": VerificationDoc.__name__}
        if self.uuids is not None:
            criteria["uuid"] = {"$in": self.uuids}
        marks = ["uuid", "index", *(f"output.{mark}" for mark in MARKS)]
        newest: dict[str, dict[str, Any]] = {}
        for found in self.jobs.query(criteria, properties=marks):
            held = newest.setdefault(found["output"]["verification_id"], found)
            if _weight(found["output"]) > _weight(held["output"]):
                newest[found["output"]["verification_id"]] = found
        there = self._laid_out(list(newest))
        for verification_id, found in newest.items():
            if _weight(found["output"]) > there.get(verification_id, (False, "")):
                whole = {"uuid": found["uuid"], "index": found["index"]}
                yield from (job["output"] for job in self.jobs.query(whole, properties=["output"]))

    def process_item(self, item: dict[str, Any]) -> VerificationDoc:
        """The document, checked."""
        return VerificationDoc.model_validate(item)

    def update_targets(self, items: list[VerificationDoc]) -> None:
        """Write those that still count for more than what is there."""
        there = self._laid_out([document.verification_id for document in items])
        clean = [jsanitize(document, strict=True) for document in items]
        fresh = [d for d in clean if _weight(d) > there.get(d["verification_id"], (False, ""))]
        if fresh:
            self.verifications.update([{"_id": d["verification_id"], **d} for d in fresh], key="_id")

    def build(self) -> None:
        """What `run` does, without its logging and with the stores left open."""
        for chunk in grouper(self.get_items(), self.chunk_size):
            self.update_targets([self.process_item(item) for item in chunk])

    def _laid_out(self, ids: list[str]) -> dict[str, tuple[bool, str]]:
        """What each verification that is there counts."""
        criteria = {"verification_id": {"$in": ids}}
        return {d["verification_id"]: _weight(d) for d in self.verifications.query(criteria, properties=list(MARKS))}


def find(verifications: Store, reference: str) -> VerificationDoc:
    """A verification by its id, or by a beginning of it that no other shares. Raises InputError."""
    return VerificationDoc.model_validate(by_beginning(verifications, ID_PREFIX, reference, "verification"))


def _weight(document: dict[str, Any]) -> tuple[bool, str]:
    """What a verification counts: a successful one more than a failed one, then the later more than the earlier."""
    return document["state"] == "successful", document["provenance"]["execution"]["ended_at"]
