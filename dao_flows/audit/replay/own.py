"""The document that a replay is asked for, against what it was written from: before anything is computed again.

Candidates and verifications are laid out from documents of jobs, comparisons from both; a job's document has the hash
that it states and the one that its attempt recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monty.json import jsanitize

from dao_flows.audit.integrity.consistency import altered_part
from dao_flows.audit.integrity.ledger import Ended
from dao_flows.comparison.builder import comparison_doc
from dao_flows.comparison.schemas import SCHEMA_VERSION
from dao_flows.makers.jobs.attempts import ENDED
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.makers.jobs.renamed import current
from dao_flows.makers.schemas.prediction import CandidateDoc, ScreeningDoc
from dao_flows.makers.schemas.verification import VerificationDoc
from dao_flows.makers.stages.agreement import Difference, agree, exact
from dao_flows.makers.stages.rebuilding import ReplayError
from dao_flows.model.checkpoint.format import CheckpointError
from dao_flows.model.checkpoint.format import verify as verify_checkpoint
from dao_flows.model.data.shards import DataError, read_manifest, shard_path
from dao_flows.store.candidates import candidate_doc
from dao_flows.store.collections import LAID_OUT
from dao_flows.store.fields import get
from dao_flows.store.stores import collection

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

    from dao_flows.audit.graph.documents import Node

Document = dict[str, Any]


class Own(NamedTuple):
    """A document beside what it should be. difference: None: none; expected: as it was written from."""

    difference: Difference | None
    expected: Document


def laid_out(jobs: JobStore, node: Node) -> Own | None:
    """A candidate, verification or comparison against what it is laid out from; None: it is not. Raises ReplayError."""
    kind, name = node
    document = collection(jobs, LAID_OUT[kind]).query_one({f"{kind}_id": name})
    if document is None:
        return None
    document = {key: value for key, value in document.items() if key != "_id"}
    choices = {"candidate": _candidates, "verification": _verifications, "comparison": _comparisons}[kind]
    best: Own | None = None
    for expected in choices(jobs, document):
        found = agree(expected, document) if kind == "comparison" else exact(expected, document)
        difference = found.first if kind != "comparison" or found.outcome == "different" else None
        if difference is None:
            stated = document.get("content_hash")
            if kind != "verification" and stated is not None and stated != (actual := content_hash(document)):
                difference = Difference(path="content_hash", recorded=actual, replayed=stated)
            return Own(difference, expected)
        best = best or Own(difference, expected)
    if best is None:
        raise ReplayError(f"the store does not hold what {kind} {name} was laid out from")
    return best


def _candidates(jobs: JobStore, document: Document) -> Iterator[Document]:
    """What screenings hold of a candidate: first of the one that it names, then of the others, the latest first."""
    wanted = document["candidate_id"]
    named = get(document, "screening.execution.job_uuid")
    found = jobs.query({"output.@class": ScreeningDoc.__name__, "output.accepted.candidate_id": wanted}, load=True)
    ordered = sorted(found, key=lambda job: str(job.get("completed_at")), reverse=True)
    for job in sorted(ordered, key=lambda job: job["uuid"] != named):
        screening = ScreeningDoc.model_validate(job["output"])
        for place, accepted in enumerate(screening.accepted):
            if accepted.candidate_id == wanted:
                yield _plain(candidate_doc(screening, place), document)


def _verifications(jobs: JobStore, document: Document) -> Iterator[Document]:
    wanted, named = document["verification_id"], get(document, "provenance.execution.job_uuid")
    asked = {"output.@class": VerificationDoc.__name__, "output.verification_id": wanted}
    found = list(jobs.query(asked, load=True))
    ordered = sorted(found, key=lambda job: str(job.get("completed_at")), reverse=True)
    for job in sorted(ordered, key=lambda job: job["uuid"] != named):
        yield _plain(VerificationDoc.model_validate(job["output"]), document)


def _comparisons(jobs: JobStore, document: Document) -> Iterator[Document]:
    """What the jobs' verification and candidate give, put beside each other again."""
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ReplayError("another version of dao_flows compared them: `dao-flows compare` does it again")
    verification = laid_out(jobs, ("verification", str(document.get("verification_id"))))
    if verification is None:
        raise ReplayError(f"verification {document.get('verification_id')} is not laid out beside the comparison")
    candidate = laid_out(jobs, ("candidate", verification.expected["candidate_id"]))
    if candidate is None:
        raise ReplayError(f"candidate {verification.expected['candidate_id']} is not laid out beside the comparison")
    compared = comparison_doc(
        VerificationDoc.model_validate(verification.expected), CandidateDoc.model_validate(candidate.expected)
    )
    yield _plain(compared, document)


def _plain(expected: Any, document: Document) -> Document:
    """As it is stored; fields that this version adds to older documents are left out, and so is the own hash."""
    plain: Document = jsanitize(expected, strict=True, enum_values=True)
    held = {key: value for key, value in plain.items() if key in document or value not in (None, [], {})}
    if "content_hash" in document:
        held["content_hash"] = document["content_hash"]
    if current(str(document.get("@module"))) == held.get("@module"):
        held["@module"] = document["@module"]  # which may be a former name
    return held


def written(jobs: JobStore, uuid: str, output: Mapping[str, Any]) -> Difference | None:
    """A job's document against the hash that it states, and against what its attempts recorded."""
    stated, found = get(output, "provenance.content_hash"), content_hash(output)
    query = {"job_uuid": uuid, "event": ENDED}
    records = [r for r in collection(jobs, "runs").query(query) if r.get("outcome") == "finished" and r.get("result")]
    known = [str(record["result"]) for record in records]
    if (stated in (None, found)) and (not known or found in known):
        return None
    part = None
    if records and found not in known:
        last = max(records, key=lambda record: str(record.get("at")))
        part = altered_part(output, Ended.of(last))
    recorded = known[-1] if known and found not in known else stated
    return Difference(
        path=(part or "output.provenance.content_hash").removeprefix("output."), recorded=recorded, replayed=found
    )


def lies_here(kind: str, sha256: str, folder: Path) -> Difference | None:
    """A checkpoint or dataset in its folder, against the hash that it has in the store; None where it is not here."""
    if not folder.is_dir():
        return None
    path = f"{folder} (sha256)"
    try:
        if kind == "checkpoint":
            found = verify_checkpoint(folder).sha256
        else:
            manifest = read_manifest(folder)
            found = manifest.sha256
            for shard in manifest.shards:
                shard_path(folder, shard)
    except (CheckpointError, DataError, OSError) as error:
        return Difference(path=path, recorded=sha256, replayed=str(error))
    return None if found == sha256 else Difference(path=path, recorded=sha256, replayed=found)
