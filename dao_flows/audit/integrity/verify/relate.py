"""What documents say of each other, once all of them are known: what is named and gone, what is there and not named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dao_flows.store.stores import result_store

from .inspection import FIELDS
from .read import COLLECTIONS
from .records import head_of

if TYPE_CHECKING:
    from dao_flows.audit.integrity.findings import Problem

    from .inspection import Inspection


def relate(inspection: Inspection) -> None:
    """Note what the documents that were read show together."""
    _lost_results(inspection)
    _lost_records(inspection)
    _lost_candidates(inspection)
    _misplaced(inspection)
    _taken_over(inspection)
    _wanted(inspection)
    _blobs(inspection)


def _lost_results(inspection: Inspection) -> None:
    """Finished attempts whose document is gone."""
    ledger, scope = inspection.ledger, inspection.scope
    for (uuid, index), attempts in ledger.attempts.items():
        if (uuid, index) not in ledger.keys and (scope is None or uuid in scope.jobs):
            reason = f"an attempt at it finished at {attempts[-1].at}, but its document is gone"
            inspection.find("missing", "jobs", f"{uuid}/{index}", reason)


def _lost_records(inspection: Inspection) -> None:
    """Records of runs that something names."""
    records, runs, scope = inspection.records, inspection.stores["runs"], inspection.scope
    records.head(head_of(runs))
    if scope is not None:
        records.rest(runs)
    told = [finding.id for finding in inspection.findings if finding.collection == "runs"]
    inspection.findings += records.gone(runs, scope, told)


def _lost_candidates(inspection: Inspection) -> None:
    """Those of a screening that was laid out."""
    ledger, scope = inspection.ledger, inspection.scope
    for candidate, screening in ledger.layouts:
        wanted = scope is None or candidate in scope.candidates
        if wanted and screening in ledger.laid_out and candidate not in ledger.candidates:
            reason = f"its screening holds it (job {screening}), and others of the same are there"
            inspection.find("missing", "candidates", candidate, reason, "candidate")


def _misplaced(inspection: Inspection) -> None:
    """Documents in rows of other keys, which no query by id finds."""
    for name in COLLECTIONS if inspection.scope is None else ():
        for who, key in result_store(inspection.stores[name]).misplaced():
            inspection.find("altered", name, who, f"its row has the key {key}", field="row key")


def _taken_over(inspection: Inspection) -> None:
    """Results that say that another job computed them, which computed something else."""
    ledger = inspection.ledger
    for who, computed, science in ledger.taken_over:
        if science not in ledger.made_by.get(computed, {science}):
            reason = f"it names job {computed} as the one that computed it, which has another science"
            inspection.find("altered", "jobs", who, reason, field="output.provenance.execution.job_uuid")


def _wanted(inspection: Inspection) -> None:
    """Documents that others name."""
    ledger = inspection.ledger
    there = {
        "job": ledger.uuids,
        "science": ledger.sciences,
        "candidate": ledger.candidates | {candidate for candidate, _ in ledger.layouts},
        "verification": ledger.verifications,
        "content": ledger.contents,
    }
    lost_already = {finding.id.partition("/")[0] for finding in inspection.findings if finding.problem == "missing"}
    for (kind, wanted), names in ledger.wanted.items():
        if kind not in there or wanted in there[kind] or wanted in lost_already or inspection.holds(kind, wanted):
            continue
        needed = f"{names[0]} was made from it" + (f", and {len(names) - 1} more" if len(names) > 1 else "")
        if kind == "content":
            overwritten = wanted in ledger.results
            reason = "a later attempt has taken its place" if overwritten else "no document has this content hash"
            problem: Problem = "unverifiable" if overwritten or inspection.scope is not None else "missing"
            inspection.find(problem, "jobs", wanted, f"{reason}; {needed}", "content hash")
        else:
            told = {"job": "", "science": "science hash"}.get(kind, kind)
            inspection.find("missing", FIELDS[kind][0], wanted, f"it is not in the store; {needed}", told)


def _blobs(inspection: Inspection) -> None:
    """What additional stores say of their blobs, and blobs that no document names."""
    blobs = inspection.ledger.blobs
    for name, store in vars(inspection.jobs)["additional_stores"].items():
        store.connect()
        wanted = [uuid for where, uuid in blobs if where == name]
        criteria = None if inspection.scope is None else {"blob_uuid": {"$in": wanted}}
        for blob in store.query(criteria, properties=["blob_uuid", "job_uuid", "job_index"]):
            inspection.checked[name] += 1
            uuid = str(blob.get("blob_uuid"))
            key = blobs.get((name, uuid))
            if key is None:
                inspection.find("orphaned", name, uuid, "no document names it: its job was run again", "blob")
            elif (blob.get("job_uuid"), blob.get("job_index")) != key:
                told = f"it says that it is of job {blob.get('job_uuid')}/{blob.get('job_index')}"
                part = "job_uuid" if blob.get("job_uuid") != key[0] else "job_index"
                inspection.find("altered", name, uuid, told, "blob", part)
