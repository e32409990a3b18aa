"""How long `audit verify` takes over many documents, and how long its parts take.

    python benchmarks/audit_verify.py [--documents 10000] [--quick] [--mongo URI]

A store is filled with real documents: a small prediction is made once, and its jobs, records and candidates are copied
under other ids, each copy sealed again as its job would have. Nothing is trained; the checkpoints are those that ship.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import bson
from jobflow import JobStore
from maggma.stores import MongoStore
from monty.json import jsanitize


def made() -> JobStore:
    """A store with one prediction."""
    from dao_flows import predict
    from dao_flows.settings import settings
    from dao_flows.store.stores import job_store

    predict("NaCl", n=4, z=2, steps=4, guidance=False)
    return job_store(settings())


def copies(source: JobStore, target: JobStore, documents: int) -> dict[str, int]:
    """Fill the target with as many documents as asked for, over all of its collections."""
    from dao_flows.makers.jobs.attempts import envelope, parts
    from dao_flows.makers.jobs.provenance import content_hash
    from dao_flows.makers.jobs.record_chain import advance, number_of
    from dao_flows.makers.schemas.prediction import ScreeningDoc
    from dao_flows.store.candidates import candidate_doc
    from dao_flows.store.stores import collection

    jobs = sorted(source.query(), key=lambda job: str(job["completed_at"]))
    records = list(collection(source, "runs").query({"event": {"$in": ["job-start", "job-end"]}}))
    counts = {"jobs": 0, "runs": 0, "candidates": 0}
    held: dict[str, list[dict[str, Any]]] = {name: [] for name in counts}

    def flush() -> None:
        for name, key in (("jobs", ["uuid", "index"]), ("runs", "record_id"), ("candidates", "candidate_id")):
            store = target.docs_store if name == "jobs" else collection(target, name)
            if held[name]:
                store.update(held[name], key=key)
            counts[name] += len(held[name])
            held[name].clear()

    runs = collection(target, "runs")
    last: dict[str, Any] | None = None
    while sum(counts.values()) + sum(map(len, held.values())) < documents:
        new = {job["uuid"]: str(uuid.uuid4()) for job in jobs}
        ids: dict[str, str] = {}
        for job in jobs:
            for accepted in (job["output"].get("candidates") or []) + (job["output"].get("accepted") or []):
                ids.setdefault(accepted["candidate_id"], f"dao-{uuid.uuid4().hex[:12]}")
        generation: dict[str, Any] | None = None
        for job in jobs:
            text = json.dumps({key: value for key, value in job.items() if key != "_id"})
            for old, fresh in {**new, **ids}.items():
                text = text.replace(old, fresh)
            copy = json.loads(text)
            output = copy["output"]
            if generation is not None and "generation" in output:
                output["generation"] = generation
            output["provenance"]["content_hash"] = content_hash(output)
            generation = generation or output["provenance"]
            held["jobs"].append(copy)
            for record in sorted((r for r in records if r["job_uuid"] == job["uuid"]), key=number_of):
                text = json.dumps({key: value for key, value in record.items() if key not in ("_id", "content_hash")})
                for old, fresh in new.items():
                    text = text.replace(old, fresh)
                end = json.loads(text)
                if end["event"] == "job-end":
                    end |= {"result": content_hash(output), "parts": parts(output), "envelope": envelope(copy)}
                before = [] if last is None else [[last["record_id"], last["content_hash"]]]
                end["chain"] = {"id": "benchmark", "number": 1 + number_of(last or {}), "previous": before}
                last = {"_id": end["record_id"], **end, "content_hash": content_hash(end)}
                if end["event"] == "job-start":
                    copy["metadata"]["dao_flows"]["attempt"] = [last["record_id"], last["content_hash"]]
                held["runs"].append(last)
            if output["@class"] == "ScreeningDoc":
                document = ScreeningDoc.model_validate(output)
                for place in range(len(document.accepted)):
                    clean = jsanitize(candidate_doc(document, place), strict=True)
                    sealed = {"_id": clean["candidate_id"], **clean, "content_hash": content_hash(clean)}
                    held["candidates"].append(sealed)
        if sum(map(len, held.values())) > 1000:
            flush()
    flush()
    assert last is not None
    advance(runs, last)
    return counts


def size_of(target: JobStore) -> int:
    """Bytes of all documents."""
    from dao_flows.store.stores import collection

    stores = [target.docs_store, collection(target, "runs"), collection(target, "candidates")]
    return sum(len(bson.encode(document)) for store in stores for document in store.query())


def main() -> None:
    """Fill a store, verify it, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="300 documents")
    parser.add_argument("--mongo", help="URI of a server; without one, the embedded store")
    asked = parser.parse_args()
    documents = 300 if asked.quick else asked.documents
    with tempfile.TemporaryDirectory(prefix="dao-audit-") as folder:
        os.environ |= {"DAO_FLOWS_DATA_DIR": folder, "DAO_FLOWS_CHECKPOINT_DIR": f"{folder}/checkpoints"}
        from dao_flows.audit.integrity.verify import verify
        from dao_flows.store.embedded import EmbeddedStore

        source = made()
        name = f"dao_flows_audit_{os.getpid()}"
        target = JobStore(
            MongoStore(name, "jobs", uri=asked.mongo)
            if asked.mongo
            else EmbeddedStore("jobs", str(Path(folder) / "many"))
        )
        target.connect()
        try:
            counts = copies(source, target, documents)
            size = size_of(target)
            before = resource.getrusage(resource.RUSAGE_SELF)
            report = verify(target)
            after = resource.getrusage(resource.RUSAGE_SELF)
        finally:
            if asked.mongo:
                target.docs_store._coll.database.client.drop_database(name)
    assert report.sound, report.findings[:3]
    total = sum(counts.values())
    print(
        json.dumps(
            {
                "documents": total,
                **counts,
                "megabytes": round(size / 1e6, 1),
                "store": "MongoDB" if asked.mongo else "embedded",
                "seconds": report.seconds,
                "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
                "documents_per_second": round(total / report.seconds),
                "peak_memory_mb": round(after.ru_maxrss / 1024),
                "memory_grown_mb": round((after.ru_maxrss - before.ru_maxrss) / 1024),
                "findings": report.counts,
                "host": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "at": time.strftime("%Y-%m-%d"),
            }
        )
    )


if __name__ == "__main__":
    main()
