"""Comparisons, made again in memory from the candidate and the verification that they are over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from maggma.utils import grouper
from monty.json import jsanitize

from dao_flows.comparison.builder import ComparisonBuilder, comparison_doc
from dao_flows.comparison.schemas import SCHEMA_VERSION
from dao_flows.makers.jobs.provenance import library_versions
from dao_flows.makers.jobs.renamed import in_present_names
from dao_flows.makers.schemas.verification import VerificationDoc
from dao_flows.store.fields import get
from dao_flows.store.interface import Damaged

from .consistency import first_departure
from .findings import Finding, Problem
from .reading import documents

if TYPE_CHECKING:
    from jobflow.core.store import JobStore
    from maggma.core import Store

    from .scope import Scope

CHUNK = 50
OWN = ("_id", "content_hash", "@version")
MEASURED = "structure_change"  # by algorithms of these libraries, with rounding that depends on the machine
LIBRARIES = ("pymatgen", "pymatgen_core", "spglib", "numpy")
CLOSE = 1e-6
_ABSENT = object()


def verify_comparisons(
    jobs: JobStore, stores: Mapping[str, Store], scope: Scope | None, known: Iterable[Finding]
) -> Iterator[Finding]:
    """Comparisons that are not what their candidate and verification give.

    known: what was found so far; what is over an altered or missing document is left alone.
    """
    told = {(finding.collection, finding.id) for finding in known if finding.problem != "unverifiable"}
    store = stores["comparisons"]
    wanted = None if scope is None else scope.comparisons
    found = documents(store) if wanted is None else documents(store, "comparison_id", wanted)
    builder = ComparisonBuilder(jobs, stores["verifications"], stores["candidates"], store)
    for chunk in grouper((each for each in found if _can_be_judged(each, told)), CHUNK):
        ids = [str(document["verification_id"]) for document in chunk]
        there = {
            str(each.get("verification_id")): each
            for each in documents(stores["verifications"], "verification_id", ids)
            if not isinstance(each, Damaged)
        }
        for document in chunk:
            source = _as_compared(jobs, document, there.get(str(document["verification_id"])))
            if source is not None and (finding := _judged(builder, document, source)) is not None:
                yield finding


def _can_be_judged(document: dict[str, Any] | Damaged, told: set[tuple[str, str]]) -> bool:
    if isinstance(document, Damaged) or document.get("content_hash") is None:
        return False
    if document.get("schema_version") != SCHEMA_VERSION:
        return False
    named = (
        ("comparisons", "comparison_id"),
        ("verifications", "verification_id"),
        ("candidates", "candidate_id"),
    )
    return not any((where, str(document.get(name))) in told for where, name in named)


def _as_compared(jobs: JobStore, document: dict[str, Any], newest: dict[str, Any] | None) -> dict[str, Any] | None:
    """The verification that a comparison is over; a later one of the same candidate may have taken its place since."""
    when = document.get("verified_at")
    if newest is None or get(newest, "provenance.execution.ended_at") == when:
        return newest
    wanted = {
        "output.verification_id": document.get("verification_id"),
        "output.provenance.science_hash": document.get("verification_science_hash"),
    }
    for job in jobs.query(wanted, properties=["output"]):
        output = job.get("output")
        if isinstance(output, dict) and get(output, "provenance.execution.ended_at") == when:
            return output
    return newest


def _judged(builder: ComparisonBuilder, document: dict[str, Any], source: dict[str, Any]) -> Finding | None:
    who = str(document.get("comparison_id"))
    try:
        verification = VerificationDoc.model_validate(source)
        candidate = builder.predicted(verification)
        if candidate is None:
            return _finding("orphaned", who, "the prediction that it is over is gone")
        expected = jsanitize(comparison_doc(verification, candidate), strict=True)
    except Exception as error:  # what comes of documents that contradict themselves depends on what is wrong
        return _finding("unverifiable", who, f"it cannot be made again: {type(error).__name__}")
    part = _departure(expected, document)
    if part is None:
        return None
    if part.startswith(MEASURED) and (other := _other_libraries(source)):
        return _finding("unverifiable", who, f"made again with another {other} it is not the same", part)
    return _finding("altered", who, "it is not what its candidate and its verification give", part)


def _departure(expected: dict[str, Any], document: dict[str, Any]) -> str | None:
    """The first field that differs."""
    held = {name: value for name, value in in_present_names(document).items() if name not in OWN}
    due = {
        name: value for name, value in expected.items() if name not in OWN and (name in held or value not in (None, []))
    }
    if extra := sorted(set(held) - set(due)):
        return extra[0]
    due[MEASURED] = _rounded(due.get(MEASURED), held.get(MEASURED))
    return first_departure(due, {name: held.get(name, _ABSENT) for name in due})


def _rounded(due: Any, held: Any) -> Any:
    """What is due, with the numbers that are held in the place of those that are as good as the same."""
    if isinstance(due, Mapping) and isinstance(held, Mapping):
        return {name: _rounded(value, held.get(name)) for name, value in due.items()}
    if isinstance(due, list) and isinstance(held, list) and len(due) == len(held):
        return [_rounded(one, other) for one, other in zip(due, held, strict=True)]
    if isinstance(due, float) and isinstance(held, float) and math.isclose(due, held, rel_tol=CLOSE, abs_tol=CLOSE):
        return held
    return due


def _other_libraries(verification: Mapping[str, Any]) -> str | None:
    """A library whose version was another when the verification was made, which was before it was compared."""
    held, here = get(verification, "provenance.execution.libraries"), library_versions()
    if not isinstance(held, Mapping):
        return "environment"
    return next((name for name in LIBRARIES if held.get(name) != here.get(name)), None)


def _finding(problem: Problem, who: str, reason: str, field: str | None = None) -> Finding:
    return Finding(problem=problem, collection="comparisons", id=who, kind="comparison", field=field, reason=reason)
