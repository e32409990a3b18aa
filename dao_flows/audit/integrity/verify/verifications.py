"""Verifications against the jobs that made them; comparisons by themselves, and whom they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dao_flows.audit.integrity.consistency import science_fault
from dao_flows.audit.integrity.findings import first_difference
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.store.fields import get

from .by_itself import check_id, check_schema, check_seal

if TYPE_CHECKING:
    from .inspection import Inspection

COMPARED = {  # fields of a comparison: what each names
    "candidate_id": "candidate",
    "verification_id": "verification",
    "candidate_science_hash": "science",
    "verification_science_hash": "science",
}


def read_verification(inspection: Inspection, document: dict[str, Any]) -> None:
    """One document of the collection of verifications."""
    ledger, who = inspection.ledger, str(document.get("verification_id"))
    check_id(inspection, document, "verifications", (who,))
    check_schema(inspection, document, "verifications", who, "verification")
    ledger.verifications.add(who)
    stated = get(document, "provenance.content_hash")
    uuid = str(get(document, "provenance.execution.job_uuid"))
    ledger.want("job", uuid, f"verifications {who}")
    try:
        found = content_hash(document)
    except (TypeError, ValueError) as error:
        inspection.find("altered", "verifications", who, f"it has no content hash: {error}", "verification")
        return
    if stated is None:
        inspection.find("unverifiable", "verifications", who, "it was written before there were content hashes")
    if found not in ledger.verified or stated not in (found, None):
        _against_job(inspection, document, who, uuid, found)


def _against_job(inspection: Inspection, document: dict[str, Any], who: str, uuid: str, found: str) -> None:
    """Name the first field in which a verification differs from its job's output. found: its content hash."""
    stated, output = get(document, "provenance.content_hash"), inspection.output(uuid)
    known = {key: value for key, value in document.items() if key != "_id"}
    part = first_difference(output, known) if output is not None else None
    if stated is not None and found != stated:
        part = part or science_fault(document)
        reason = "it does not have the content hash that it states"
        inspection.find("altered", "verifications", who, reason, "verification", part)
    elif output is None:
        inspection.find("orphaned", "verifications", who, f"the job that made it is gone (job {uuid})")
    elif part is not None and uuid in inspection.ledger.altered:
        inspection.name_field(uuid, f"output.{part}")
    elif part is not None and found not in inspection.ledger.results:
        reason = f"it is not what job {uuid} holds"
        inspection.find("altered", "verifications", who, reason, "verification", part)


def read_comparison(inspection: Inspection, document: dict[str, Any]) -> None:
    """One document of the collection of comparisons, which is made again when all are known."""
    who = str(document.get("comparison_id"))
    check_id(inspection, document, "comparisons", (who,))
    check_seal(inspection, document, "comparisons", who, "comparison")
    check_schema(inspection, document, "comparisons", who, "comparison")
    for name, kind in COMPARED.items():
        inspection.ledger.want(kind, str(document.get(name)), f"comparisons {who}")
