"""Documents of jobs: against the hashes in them and what the attempts at them recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dao_flows.audit.integrity.consistency import altered_part, integer, laid_out, origin_fault, science_fault
from dao_flows.audit.integrity.findings import first_difference
from dao_flows.audit.integrity.ledger import Ended, JobKey, Ledger, references
from dao_flows.audit.integrity.reading import blobs, with_blobs
from dao_flows.makers.jobs.attempts import envelope
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.makers.stages.registry import stages
from dao_flows.store.fields import get

from .by_itself import check_id, check_schema
from .claims import note_claims

if TYPE_CHECKING:
    from .inspection import Inspection


def read_job(inspection: Inspection, document: dict[str, Any]) -> None:
    """One document of a job, with what its output keeps in additional stores."""
    ledger, key = inspection.ledger, (str(document.get("uuid")), integer(document.get("index")))
    who, before = f"{key[0]}/{key[1]}", len(inspection.findings)

    def altered() -> bool:
        return any(each.problem == "altered" for each in inspection.findings[before:])

    check_id(inspection, document, "jobs", (key[0], who))
    inspection.records.job(document, who)
    for reference in blobs(document.get("output")):
        ledger.blobs[reference["store"], reference["blob_uuid"]] = key
    whole, lost = with_blobs(inspection.jobs, document)
    for reference in lost:
        reason = f"the blob that belongs to the output of job {who} is gone"
        inspection.find("missing", str(reference["store"]), str(reference["blob_uuid"]), reason, "blob")
    output = whole.get("output")
    if "output" not in document:
        inspection.find("altered", "jobs", who, "its output is gone", field="output")
    kind = stages().kind_of(output)
    if not lost:
        _content(inspection, output, key, who, kind)
    _envelope(inspection, document, key, who, kind)
    check_schema(inspection, output, "jobs", who, kind)
    if isinstance(output, dict) and kind == "generation" and not altered():
        _origins(inspection, output, who)
    if altered():
        ledger.altered.add(key[0])
    ledger.keys.add(key)
    ledger.uuids.add(key[0])
    for wanted_kind, wanted in references(output):
        ledger.want(wanted_kind, wanted, f"jobs {who}")
    if isinstance(output, dict):
        note_claims(ledger, output, who, kind)


def _content(inspection: Inspection, output: Any, key: JobKey, who: str, kind: str) -> None:
    """The output against the hash in it, and against what its attempt left."""
    try:
        found = content_hash(output)
    except (TypeError, ValueError) as error:
        inspection.find("altered", "jobs", who, f"its output has no content hash: {error}", kind)
        return
    _note_content(inspection.ledger, output, found, key, who, kind)
    recorded = inspection.ledger.attempt(key, found)
    unrecorded = recorded is None or recorded.result is None
    if (fault := _content_fault(inspection.ledger, output, found, key, recorded)) is not None:
        reason, part = fault
        inspection.find("altered", "jobs", who, reason, kind, part)
    elif unrecorded and _stated(output) is None and key not in inspection.ledger.doubtful:
        reason = "it was written before there were content hashes, or by a job of another package"
        inspection.find("unverifiable", "jobs", who, reason, kind)


def _stated(output: Any) -> Any:
    return get(output, "provenance.content_hash")


def _note_content(ledger: Ledger, output: Any, found: str, key: JobKey, who: str, kind: str) -> None:
    """What others may name of a document: its hashes, and of a screening its candidates. found: its content hash."""
    stated, science = _stated(output), get(output, "provenance.science_hash")
    ledger.contents.update({found} if stated is None else {found, str(stated)})
    if isinstance(science, str):
        ledger.sciences.add(science)
        ledger.made_by.setdefault(key[0], set()).add(science)
        computed = get(output, "provenance.execution.job_uuid")
        if computed not in (None, key[0]):
            ledger.taken_over.append((who, str(computed), science))
    if kind == "verification":
        ledger.verified.add(found)
    if kind == "screening":
        provenance = {"generation": output.get("generation"), "screening": output.get("provenance")}
        for entry in output.get("accepted") or ():
            if isinstance(entry, dict):
                ledger.layouts[str(entry.get("candidate_id")), key[0]] = laid_out({**entry, **provenance})


def _content_fault(
    ledger: Ledger, output: Any, found: str, key: JobKey, recorded: Ended | None
) -> tuple[str, str | None] | None:
    """Why an output is not what it was, and the first field that differs. found: its content hash."""
    stated, result = _stated(output), recorded.result if recorded is not None else None
    misstated = stated is not None and found != stated
    inner = science_fault(output)
    if misstated or (result is not None and found != result):
        if found == result:
            part: str | None = "output.provenance.content_hash"
        else:
            part = f"output.{inner}" if inner else altered_part(output, recorded)
        whose = "it states" if misstated else "the attempt at it recorded"
        return f"its output does not have the content hash that {whose}", part
    if recorded is None and key not in ledger.doubtful and found in ledger.results:
        uuid, index = ledger.results[found]
        return f"it is the result of job {uuid}/{index}", "uuid"
    return ("its science does not have its science hash", inner) if inner else None


def _envelope(inspection: Inspection, document: dict[str, Any], key: JobKey, who: str, kind: str) -> None:
    """uuid, index, name, metadata, … against what the attempt recorded."""
    ledger, findings = inspection.ledger, inspection.findings
    envelopes = [each.envelope for each in ledger.attempts.get(key, ()) if each.envelope is not None]
    if not envelopes:
        told = findings and findings[-1].id == who
        if key not in ledger.doubtful and not told:
            reason = "no attempt is logged that tells its name and metadata"
            inspection.find("unverifiable", "jobs", who, reason, kind)
        return
    try:
        found = envelope(document)
    except (TypeError, ValueError) as error:
        inspection.find("altered", "jobs", who, f"it cannot be hashed: {error}", kind)
        return
    if found not in envelopes:
        name = first_difference(envelopes[-1], found)
        inspection.find("altered", "jobs", who, "it is not what the attempt at the job left", kind, name)


def _origins(inspection: Inspection, output: dict[str, Any], who: str) -> None:
    """Whether what a generation tells of its templates fits their structures and its science."""
    candidates = output.get("candidates")
    for number, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
        if (wrong := origin_fault(candidate, get(output, "provenance.science"))) is not None:
            reason = "what it tells of a candidate's origin does not fit its structure, or its science"
            inspection.find("altered", "jobs", who, reason, "generation", f"output.candidates.{number}.{wrong}")
