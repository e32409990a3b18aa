"""The collections beside the jobs: their names, keys and indexes, and what a document must have to be of use."""

from __future__ import annotations

DATABASE, JOBS = "dao_flows", "jobs"
KEYS = {
    "candidates": "candidate_id",
    "runs": "record_id",
    "verifications": "verification_id",
    "comparisons": "comparison_id",
}
LAID_OUT = {  # kinds of documents that are laid out from those of jobs -> their collection
    "candidate": "candidates",
    "verification": "verifications",
    "comparison": "comparisons",
}
WITHOUT_JOBS = ("candidate", "comparison")  # those of them that no job writes
INDEXES = {
    "candidates": ("candidate_id", "formula", "screening.execution.job_uuid"),
    "runs": ("record_id", "run_id", "request_hash", "job_uuid", "event", "chain.number"),
    "verifications": ("verification_id", "candidate_id", "formula"),
    "comparisons": ("comparison_id", "formula"),
}
JOB_INDEXES = (["uuid"], ["output.@class", "completed_at"], ["output.provenance.science_hash"])  # jobflow makes none
SHAPES: dict[str, dict[str, type]] = {  # what a document must have for anything to be done with it
    JOBS: {"uuid": str, "index": int},
    "candidates": {
        "candidate_id": str,
        "formula": str,
        **{f"{part}.science_hash": str for part in ("generation", "screening")},
        "screening.execution.ended_at": str,
        **dict.fromkeys(("z", "n_atoms", "rank", "seed"), int),
        "energy.value": float,
        "symmetry_loose.symbol": str,
        "symmetry_loose.number": int,
    },
    "runs": {"record_id": str, "event": str},
    "verifications": {
        "verification_id": str,
        "candidate_id": str,
        "state": str,
        "provenance.science_hash": str,
        "provenance.execution.ended_at": str,
    },
    "comparisons": {"comparison_id": str, "candidate_id": str, "verification_id": str},
}
MAY_BE_NONE = ("symmetry_loose", "seed")
