"""Records of runs and attempts: each by itself, and what those of finished attempts say of their jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dao_flows.audit.integrity.consistency import integer
from dao_flows.audit.integrity.ledger import Ended
from dao_flows.makers.jobs.attempts import ENDED

from .by_itself import check_id, check_seal

if TYPE_CHECKING:
    from .inspection import Inspection


def read_record(inspection: Inspection, record: dict[str, Any]) -> None:
    """One record of the collection of runs."""
    ledger, who, event = inspection.ledger, str(record.get("record_id")), record.get("event")
    check_id(inspection, record, "runs", (who,))
    kind, job = f"record of a {event}", (str(record.get("job_uuid")), integer(record.get("job_index")))
    if not check_seal(inspection, record, "runs", who, kind):
        ledger.doubtful.add(job)
        inspection.records.note(record)
        return
    for part, reason in inspection.records.see(record):
        inspection.find("altered", "runs", who, reason, kind, part)
    if event == ENDED and record.get("outcome") == "finished":
        ledger.ended(job, Ended.of(record))
