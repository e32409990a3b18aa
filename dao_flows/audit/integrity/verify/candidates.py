"""Candidates: each by itself, and against what the screening that it comes from holds of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dao_flows.audit.integrity.consistency import SCREENED, derived_fault, first_departure, in_screening, laid_out
from dao_flows.store.fields import get

from .by_itself import check_id, check_schema, check_seal

if TYPE_CHECKING:
    from .inspection import Inspection


def read_candidate(inspection: Inspection, document: dict[str, Any]) -> None:
    """One document of the collection of candidates."""
    ledger, who = inspection.ledger, str(document.get("candidate_id"))
    check_id(inspection, document, "candidates", (who,))
    sound = check_seal(inspection, document, "candidates", who, "candidate")
    check_schema(inspection, document, "candidates", who, "candidate")
    ledger.candidates.add(who)
    screening = str(get(document, "screening.execution.job_uuid"))
    ledger.laid_out.add(screening)
    ledger.want("job", screening, f"candidates {who}")
    layout = ledger.layouts.get((who, screening))
    if layout is None and screening not in ledger.uuids and not inspection.holds("job", screening):
        reason = f"the screening that it comes from is gone (job {screening})"
        inspection.find("orphaned", "candidates", who, reason)
    elif layout is None or not sound or layout != laid_out(document):
        _against_screening(inspection, document, who, screening, sound)
    elif (wrong := derived_fault(document)) is not None:
        inspection.find("altered", "candidates", who, "it does not follow from its structure", "candidate", wrong)


def _against_screening(inspection: Inspection, document: dict[str, Any], who: str, screening: str, sound: bool) -> None:
    """Name the first field in which a candidate differs from what its screening holds of it."""
    found = inspection.output(screening)
    entries = found.get("accepted") if found is not None else None
    entry = next((e for e in entries or () if isinstance(e, dict) and e.get("candidate_id") == who), None)
    own = next((f for f in reversed(inspection.findings) if f.collection == "candidates" and f.id == who), None)
    if entry is None or found is None:
        if sound:
            inspection.find("altered", "candidates", who, f"the screening {screening} holds no such candidate")
        return
    expected = {name: entry.get(name) for name in SCREENED} | {
        "generation": found.get("generation"),
        "screening": found.get("provenance"),
    }
    part = first_departure(expected, {name: document.get(name) for name in expected}) or derived_fault(document)
    if not sound and own is not None:
        own.field = part or own.field
    elif part is None:
        return  # the same in other words: another version of pymatgen wrote it
    elif screening in inspection.ledger.altered:
        inspection.name_field(screening, in_screening(part, found, entry))
    else:
        reason = f"it is not what the screening {screening} holds of it"
        inspection.find("altered", "candidates", who, reason, "candidate", part)
