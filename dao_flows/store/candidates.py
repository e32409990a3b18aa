"""The `candidates` collection: one document a structure, laid out from the screening documents of the job store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from maggma.core import Builder, Store
from maggma.utils import grouper
from monty.json import jsanitize

from dao_flows.errors import InputError
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.makers.schemas.prediction import CandidateDoc, ScreeningDoc

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

JOB = "screening.execution.job_uuid"
WHEN = "screening.execution.ended_at"
ID_PREFIX = "dao-"


class CandidateBuilder(Builder):
    """Lays out what is new in the job store; safe to run again, and in several processes at once.

    uuids: of the screening jobs to look at (None: all). A candidate that two runs found is one document, the later's.
    """

    def __init__(self, jobs: JobStore, candidates: Store, uuids: list[str] | None = None) -> None:
        self.jobs, self.candidates, self.uuids = jobs, candidates, uuids
        super().__init__(sources=[jobs], targets=[candidates], chunk_size=1)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Screening documents that are not laid out yet, in the order in which they were stored."""
        criteria: dict[str, Any] = {"output.@class": ScreeningDoc.__name__}
        if self.uuids is not None:
            criteria["uuid"] = {"$in": self.uuids}
        fields = ["uuid", "index", "completed_at"]
        found = list(self.jobs.query(criteria, properties=fields, sort={"completed_at": 1}))  # servers end idle cursors
        known = set(self.candidates.distinct(JOB, {JOB: {"$in": self.uuids}} if self.uuids is not None else None))
        for job in found:
            if job["uuid"] not in known:
                whole = self.jobs.query({"uuid": job["uuid"], "index": job["index"]}, properties=["output"])
                yield from (document["output"] for document in whole)

    def process_item(self, item: dict[str, Any]) -> list[CandidateDoc]:
        """One document for each structure that passed."""
        document = ScreeningDoc.model_validate(item)
        return [candidate_doc(document, place) for place in range(len(document.accepted))]

    def update_targets(self, items: list[list[CandidateDoc]]) -> None:
        """Write those that are later than what is there."""
        for documents in items:
            ids = [document.candidate_id for document in documents]
            there = self.candidates.query({"candidate_id": {"$in": ids}}, properties=["candidate_id", WHEN])
            times = {d["candidate_id"]: d["screening"]["execution"]["ended_at"] for d in there}
            fresh = [d for d in documents if d.screening.execution.ended_at > times.get(d.candidate_id, "")]
            if fresh:
                clean = [jsanitize(document, strict=True) for document in fresh]
                sealed = [{"_id": d["candidate_id"], **d, "content_hash": content_hash(d)} for d in clean]
                self.candidates.update(sealed, key="_id")

    def build(self) -> None:
        """What `run` does, without its logging and with the stores left open."""
        for chunk in grouper(self.get_items(), self.chunk_size):
            self.update_targets([self.process_item(item) for item in chunk])


def candidate_doc(document: ScreeningDoc, place: int) -> CandidateDoc:
    """The structure at this place of the accepted ones, with its whole history."""
    screened = document.accepted[place]
    composition = screened.structure.composition
    return CandidateDoc(
        **{field: getattr(screened, field) for field in type(screened).model_fields},
        n_atoms=len(screened.structure),
        elements=sorted(element.symbol for element in composition.elements),
        chemsys=composition.chemical_system,
        seed=document.generation.science.seed,
        generation=document.generation,
        screening=document.provenance,
    )


def find(candidates: Store, reference: str) -> CandidateDoc:
    """A candidate by its id, or by a beginning of it that no other shares. Raises InputError."""
    return CandidateDoc.model_validate(by_beginning(candidates, ID_PREFIX, reference, "candidate"))


def by_beginning(store: Store, prefix: str, reference: str, kind: str) -> dict[str, Any]:
    """A document by its id (the store's key), with or without its prefix, or by a beginning of it that no other shares.

    Raises InputError.
    """
    wanted = reference if reference.startswith(prefix) else prefix + reference
    key = str(store.key)
    document: dict[str, Any] | None = store.query_one({key: wanted})
    if document is None:
        upper = wanted[:-1] + chr(ord(wanted[-1]) + 1)
        near = {key: {"$gte": wanted, "$lt": upper}}
        ids = [d[key] for d in store.query(near, properties=[key], limit=5)]
        if len(ids) > 1:
            raise InputError(f"{reference!r} is the beginning of several ids: {', '.join(sorted(ids))}")
        if not ids or len(wanted) == len(prefix):
            where = {"candidate": "list", "verification": "compare"}[kind]
            raise InputError(f"no {kind} has the id {reference!r}; `dao-flows {where}` shows what there is")
        document = store.query_one({key: ids[0]})
    assert document is not None
    return document
