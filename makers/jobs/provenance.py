"""Provenance of a document: what decided the result (science), and how it came about (execution).

Hashes are sha256 over canonical JSON: keys sorted by code point, no whitespace, UTF-8 with only the escapes that JSON
asks for, floats in the shortest form that reads back the same, −0.0 as 0.0, integers (of at most 64 bits) as integers.
A value that went through a JSON file or a MongoDB has the same canonical form. docs/provenance.md specifies it. RFC
8785 (JCS) is departed from where it would lose something: it writes every number as JavaScript does, so that 1.0 is 1
and integers above 2^53 change, and it has no NaN. It also sorts keys by UTF-16 unit, not by code point.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from jobflow.core.state import CURRENT_JOB

from dao_flows.makers.schemas.document import Execution, PrecisionChoice, Provenance, Science

if TYPE_CHECKING:
    from dao_flows.model.runtime.batching import BatchLog

LIBRARIES = ("torch", "numpy", "pymatgen", "pymatgen-core", "spglib", "smact", "jobflow", "dao-flows")
MAX_INTEGER, MAX_DEPTH = 2**63, 200
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXTENDED = frozenset({"$binary", "$date", "$numberDouble", "$oid"})


def canonical(value: Any, extended: bool = False, depth: int = 0) -> Any:
    """The value with everything evened out that a store may change.

    extended: values that a MongoDB keeps and JSON does not (dates, NaN, infinities, bytes, object ids) become what
    MongoDB's Extended JSON (canonical, version 2) writes for them. Raises ValueError or TypeError for what is refused.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"what is nested more than {MAX_DEPTH} levels deep cannot stand in provenance")
    match value:
        case None | bool() | str():
            return value
        case int():
            if not -MAX_INTEGER <= value < MAX_INTEGER:
                raise ValueError(f"{value} does not fit into 64 bits")
            return int(value)
        case float() if math.isfinite(value):
            return float(value) + 0.0  # −0.0 + 0.0 is 0.0
        case list() | tuple():
            return [canonical(item, extended, depth + 1) for item in value]
        case Mapping():
            if any(not isinstance(key, str) for key in value):
                raise TypeError("keys in provenance must be strings")
            if any("\0" in key for key in value):
                raise ValueError("a key with a NUL cannot stand in provenance")
            if extended and not EXTENDED.isdisjoint(value):
                raise ValueError(f"{min(EXTENDED & set(value))} as a key cannot stand in a document: it marks a type")
            return {key: canonical(item, extended, depth + 1) for key, item in value.items()}
        case float() if extended:
            return {"$numberDouble": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
        case float():
            raise ValueError(f"{value} cannot stand in provenance")
        case datetime() if extended:
            at = value.replace(tzinfo=UTC) if value.tzinfo is None else value  # as a MongoDB takes it
            return {"$date": {"$numberLong": str((at - EPOCH) // timedelta(milliseconds=1))}}
        case bytes() if extended:
            kind = getattr(value, "subtype", 0)
            return {"$binary": {"base64": base64.b64encode(value).decode(), "subType": f"{kind:02x}"}}
        case ObjectId() if extended:
            return {"$oid": str(value)}
    raise TypeError(f"{type(value).__name__} cannot stand in provenance")


def canonical_json(value: Any, extended: bool = False) -> bytes:
    """The value in canonical JSON (see the head of this module)."""
    even = canonical(value, extended)
    text = json.dumps(even, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("a string with half a surrogate pair cannot stand in provenance") from None


def digest(value: Any, extended: bool = False) -> str:
    """sha256 of the value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value, extended)).hexdigest()


def content_hash(document: Any) -> str:
    """sha256 over a stored document, in hex: of all of it but its own content hash, and `_id`, which is the store's.

    The own content hash is `provenance.content_hash`, or `content_hash` where there is no `provenance`.
    """
    if isinstance(document, Mapping):
        bare = {key: value for key, value in document.items() if key != "_id"}
        if isinstance(held := bare.get("provenance"), Mapping):
            bare["provenance"] = {key: value for key, value in held.items() if key != "content_hash"}
        else:
            bare.pop("content_hash", None)
        document = bare
    return digest(document, extended=True)


def science_hash(science: Science) -> str:
    """sha256 over all of the science: the same hash means the same result is due."""
    return digest(science.model_dump())


def library_versions() -> dict[str, str]:
    """Installed versions of what took part, and of Python."""
    return dict(_installed())


@cache  # 9 ms, twice a job
def _installed() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        if (found := installed_version(name)) is not None:  # an in-place run has no metadata of its own
            versions[name.replace("-", "_")] = found
    return versions


def installed_version(name: str) -> str | None:
    """The version of an installed package; None where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def code_sha256() -> str:
    """sha256 over the source files of the floors that compute results, in hex: tells versions of one number apart."""
    makers = Path(__file__).parents[1]
    floors = {"makers": makers, "model": makers.parent / "model"}
    sources = [(f"{name}/{path.relative_to(top)}", path) for name, top in floors.items() for path in top.rglob("*.py")]
    return digest([[name, hashlib.sha256(path.read_bytes()).hexdigest()] for name, path in sorted(sources)])


def execution_record(
    started: datetime,
    device: str,
    checkpoints: Mapping[str, str],
    log: BatchLog | None = None,
    precision: PrecisionChoice | None = None,
) -> Execution:
    """The record of a computation that began at `started` (UTC) and ends now.

    device: as torch names it; checkpoints: role -> the name it was called by; log: of the batches that ran; precision:
    how it was settled, if it was 'auto'. Holds no environment variables and no addresses of stores.
    """
    import torch

    ended = datetime.now(UTC)
    cuda = device.startswith("cuda")
    job = CURRENT_JOB.job
    return Execution(
        host=platform.node(),
        device=device,
        device_name=torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        libraries=library_versions(),
        checkpoints=dict(checkpoints),
        started_at=started.isoformat(),
        ended_at=ended.isoformat(),
        wall_seconds=(ended - started).total_seconds(),
        job_uuid=job.uuid if job is not None else None,
        threads=torch.get_num_threads(),
        code_sha256=code_sha256(),
        batches=log.batches if log is not None else None,
        memory_splits=log.splits if log is not None else None,
        precision=precision,
    )


def provenance(science: Science, execution: Execution) -> Provenance:
    """Both with the hash of the first."""
    return Provenance(science=science, execution=execution, science_hash=science_hash(science))
