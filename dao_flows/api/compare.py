"""`compare`: how DAO did against what was verified, from the user's store. The command line is a thin shell over it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maggma.core import Store
from maggma.stores import MemoryStore
from pydantic import BaseModel

from dao_flows.comparison.builder import ComparisonBuilder, against
from dao_flows.comparison.figures import ComparisonFigures, comparison_figures
from dao_flows.comparison.schemas import ComparisonDoc
from dao_flows.errors import InputError
from dao_flows.makers.reference import ReferenceSet, ReferenceSetError, reference_set
from dao_flows.makers.schemas.prediction import told_origin
from dao_flows.makers.science.chemistry import formula_of, parse_composition
from dao_flows.settings import settings
from dao_flows.store.candidates import CandidateBuilder
from dao_flows.store.collections import KEYS
from dao_flows.store.interface import forbids_writing
from dao_flows.store.stores import collection, describe, job_store, result_store
from dao_flows.store.verifications import VerificationBuilder

if TYPE_CHECKING:
    from jobflow.core.store import JobStore


class Uncompared(BaseModel):
    """A verification without a comparison, and why: it failed, or its prediction is not in the store."""

    verification_id: str
    candidate_id: str
    formula: str
    backend: str
    reason: str


class CompareResult(BaseModel):
    """Comparisons by formula and predicted energy, figures over them (None without any), and what is left out."""

    store: str
    comparisons: list[ComparisonDoc]
    figures: ComparisonFigures | None
    failed: list[Uncompared]
    unpaired: list[Uncompared]


def compare(
    compositions: Sequence[str] = (),
    *,
    backend: str | None = None,
    predictor: str | None = None,
    reference: str | None = None,
) -> CompareResult:
    """Compare all that is verified, or what the arguments pick.

    compositions: formulas; backend: as `verify` names it; predictor: DAO-P by name or the beginning of its sha256;
    reference: a reference set (see docs/comparison.md) against which all are put, in place of what they were verified
    with. Of several verifications of a candidate with one backend the latest counts, one with a hull before one
    without. Raises InputError if nothing is there or figures would mix what has different zeros, CompositionError,
    ReferenceSetError and StoreError.
    """
    formulas = {formula_of(parse_composition(text)).name for text in compositions}
    jobs = job_store(settings())
    # before the collections are brought up to date: what cannot be used is said at once
    known = None if reference is None else reference_set(reference, jobs)
    stored = _up_to_date(jobs)
    criteria: dict[str, Any] = {"formula": {"$in": sorted(formulas)}} if formulas else {}
    if backend is not None:
        criteria["backend"] = backend
    found = [ComparisonDoc.model_validate(document) for document in stored["comparisons"].query(criteria)]
    failed, unpaired = _uncompared(stored["verifications"], criteria, {doc.comparison_id for doc in found})
    if predictor is not None:
        found = [doc for doc in found if doc.predictor_name == predictor or doc.predictor.startswith(predictor)]
    chosen = sorted(_latest(found), key=lambda doc: (doc.formula, doc.predicted_energy_above_hull, doc.comparison_id))
    if not chosen and not failed and not unpaired:
        of = f" of {', '.join(sorted(formulas))}" if formulas else ""
        by = "" if backend is None else f" by {backend}"
        raise InputError(
            f"nothing{of} verified{by} yet in {describe(jobs)}: "
            "`dao-flows verify ID...` or `dao-flows predict FORMULA --verify abinit` does it"
        )
    if known is not None:
        chosen = [_against(document, known) for document in chosen]
    figures = comparison_figures(chosen) if chosen else None
    return CompareResult(store=describe(jobs), comparisons=chosen, figures=figures, failed=failed, unpaired=unpaired)


def _up_to_date(jobs: JobStore) -> dict[str, Store]:
    """The collections with all that jobs have stored laid out; in memory where the store can only be read."""
    stored = {name: collection(jobs, name) for name in ("candidates", "verifications", "comparisons")}
    try:
        if not result_store(jobs).read_only:
            CandidateBuilder(jobs, stored["candidates"]).build()
            _lay_out(jobs, stored)
            return stored
    except Exception as error:
        if not forbids_writing(error):
            raise
    for name in ("verifications", "comparisons"):  # candidates that are not laid out are looked up among the jobs
        copy = MemoryStore(name, key=KEYS[name])
        copy.connect()
        if documents := list(stored[name].query()):
            copy.update(documents, key="_id")
        stored[name] = copy
    _lay_out(jobs, stored)
    return stored


def _lay_out(jobs: JobStore, stored: dict[str, Store]) -> None:
    VerificationBuilder(jobs, stored["verifications"]).build()
    ComparisonBuilder(jobs, stored["verifications"], stored["candidates"], stored["comparisons"]).build()


def _against(document: ComparisonDoc, reference: ReferenceSet) -> ComparisonDoc:
    """Raises InputError that names the document."""
    try:
        return against(document, reference)
    except ReferenceSetError as error:
        raise InputError(f"{document.comparison_id} ({document.formula}): {error}") from error


def _latest(documents: Sequence[ComparisonDoc]) -> list[ComparisonDoc]:
    """One of each candidate and backend."""
    kept: dict[tuple[str, str, str], ComparisonDoc] = {}

    def weight(document: ComparisonDoc) -> tuple[bool, str]:
        return document.energy_above_hull is not None, document.verified_at or ""

    for document in documents:
        key = (document.candidate_id, document.backend, document.predictor)
        held = kept.setdefault(key, document)
        if weight(document) > weight(held):
            kept[key] = document
    return list(kept.values())


def _uncompared(
    verifications: Store, criteria: dict[str, Any], compared: set[str]
) -> tuple[list[Uncompared], list[Uncompared]]:
    """Failed verifications, and those whose prediction is not in the store."""
    failed, unpaired = [], []
    fields = ["verification_id", "candidate_id", "formula", "backend", "state", "error", "energy_per_atom", "level"]
    for document in verifications.query(criteria, properties=fields, sort={"formula": 1, "verification_id": 1}):
        reason = document["error"] if document["state"] == "failed" else "the prediction is not in this store"
        if document["state"] == "successful" and None in (document["energy_per_atom"], document["level"]):
            reason = "its document has no energy or level"
        entry = Uncompared(**{**document, "reason": reason or "unknown"})
        if document["state"] == "failed":
            failed.append(entry)
        elif document["verification_id"] not in compared:
            unpaired.append(entry)
    return failed, unpaired


def to_csv(comparisons: Sequence[ComparisonDoc]) -> str:
    """A line a comparison, its structures left out; energies in eV/atom, times in s."""
    rows = [_row(document) for document in comparisons]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(document: ComparisonDoc) -> dict[str, Any]:
    left_out = {"predicted_structure", "verified_structure", "structure_change", "cost", "level", "missing", "origin"}
    row: dict[str, Any] = document.model_dump(exclude=left_out)
    level, change = document.level, document.structure_change
    row |= {"code": level.code, "code_version": level.code_version, "functional": level.functional}
    row |= {"cutoff": level.cutoff, "kpoints": "x".join(map(str, level.kpoints)) if level.kpoints else None}
    row |= {"missing": " ".join(document.missing), "from": told_origin(document.origin)}
    row |= change.model_dump(exclude={"lengths_change", "angles_change"})
    row |= {f"{name}_change": value for name, value in zip("abc", change.lengths_change, strict=True)}
    row |= {f"{name}_change": v for name, v in zip(("alpha", "beta", "gamma"), change.angles_change, strict=True)}
    return row | document.cost.model_dump()
