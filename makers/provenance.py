"""Provenance of a document: what decided the result (science), and how it came about (execution).

Canonical JSON, over which the science hash is taken: keys sorted by code point, no whitespace, UTF-8 with only the
escapes that JSON asks for, floats in the shortest form that reads back the same, −0.0 as 0.0, integers (of at most 64
bits) as integers. NaN and infinities are refused. Lists and tuples are the same. A value that went through a JSON file
or a MongoDB has the same canonical form.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jobflow.core.state import CURRENT_JOB

from .schemas import Execution, Provenance, Science

LIBRARIES = ("torch", "numpy", "pymatgen", "pymatgen-core", "spglib", "smact", "jobflow", "dao-flows")
MAX_INTEGER = 2**63


def canonical(value: Any) -> Any:
    """The value with everything evened out that a store may change. Raises ValueError or TypeError."""
    match value:
        case None | bool() | str():
            return value
        case int():
            if not -MAX_INTEGER <= value < MAX_INTEGER:
                raise ValueError(f"{value} does not fit into 64 bits")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} cannot stand in provenance")
            return float(value) + 0.0  # −0.0 + 0.0 is 0.0
        case list() | tuple():
            return [canonical(item) for item in value]
        case Mapping():
            if any(not isinstance(key, str) for key in value):
                raise TypeError("keys in provenance must be strings")
            return {key: canonical(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} cannot stand in provenance")


def canonical_json(value: Any) -> bytes:
    """The value in canonical JSON (see the head of this module)."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """sha256 of the value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def science_hash(science: Science) -> str:
    """sha256 over all of the science: the same hash means the same result is due."""
    return digest(science.model_dump())


def library_versions() -> dict[str, str]:
    """Installed versions of what took part, and of Python."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:
            continue  # an in-place run has no metadata of its own
    return versions


def execution_record(started: datetime, device: str, checkpoints: Mapping[str, str]) -> Execution:
    """The record of a computation that began at `started` (UTC) and ends now.

    device: as torch names it; checkpoints: role -> the name it was called by. Holds no environment variables and no
    addresses of stores.
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
    )


def provenance(science: Science, execution: Execution) -> Provenance:
    """Both with the hash of the first."""
    return Provenance(science=science, execution=execution, science_hash=science_hash(science))
