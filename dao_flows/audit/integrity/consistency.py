"""Where a document contradicts itself, what made it or what was recorded of it: functions of documents alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pymatgen.core.composition import Composition

from dao_flows.comparison.schemas import ComparisonDoc
from dao_flows.makers.jobs.attempts import parts
from dao_flows.makers.jobs.provenance import digest
from dao_flows.makers.jobs.renamed import in_present_names
from dao_flows.makers.schemas import decoding
from dao_flows.makers.schemas.prediction import CandidateDoc, Origin, ScreenedCandidate
from dao_flows.makers.stages.registry import stages
from dao_flows.store.fields import get

from .findings import first_difference
from .ledger import Ended

SCREENED = tuple(ScreenedCandidate.model_fields)


def laid_out(document: Mapping[str, Any]) -> str:
    """Hash of what a candidate takes over from its screening."""
    try:
        held = {name: document.get(name) for name in (*SCREENED, "generation", "screening")}
        return digest(held, extended=True)
    except (TypeError, ValueError):
        return ""


def in_screening(part: str, screening: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """The field of a screening that a candidate's field comes from."""
    if part.startswith("generation"):
        return f"output.{part}"
    if part.startswith("screening"):
        return f"output.provenance{part.removeprefix('screening')}"
    place = next(number for number, each in enumerate(screening["accepted"]) if each is entry)
    return f"output.accepted.{place}.{part}"


def first_departure(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """The first field that differs; structures that are the same in other words do not."""
    for name in sorted(expected):
        part = first_difference(expected[name], found[name], name)
        if part is not None and not _same_structure(expected[name], found[name]):
            return part
    return None


def _same_structure(one: Any, other: Any) -> bool:
    if not (isinstance(one, dict) and isinstance(other, dict) and one.get("@class") == "Structure"):
        return False
    if {**one, "@version": None}.keys() != {**other, "@version": None}.keys():
        return False
    try:
        read = [decoding.structure(each).as_dict() for each in (one, other)]
    except Exception:  # pymatgen checks nothing: what comes depends on what is wrong
        return False
    # read anew, the two must agree, and neither may hold what reading it does not give
    return first_difference(read[0], read[1]) is None and one.get("@version") != other.get("@version")


def derived_fault(document: Mapping[str, Any]) -> str | None:
    """The first field of a candidate that does not follow from the others."""
    sites = get(document, "structure.sites")
    if not isinstance(sites, list):
        return "structure"
    try:
        elements = sorted({species["element"] for site in sites for species in site["species"]})
    except (KeyError, TypeError):
        return "structure"
    expected = {
        "n_atoms": len(sites),
        "elements": elements,
        "chemsys": "-".join(elements),
        "seed": get(document, "generation.science.seed"),
    }
    marks = {"@module": CandidateDoc.__module__, "@class": CandidateDoc.__name__}
    expected |= {name: value for name, value in marks.items() if name in document}
    found = in_present_names(document)
    wrong = next((name for name, value in expected.items() if found.get(name) != value), None)
    return wrong or origin_fault(document, get(document, "generation.science"))


def origin_fault(candidate: Any, science: Any) -> str | None:
    """The field of a candidate's origin that does not fit its structure, or the science of its generation."""
    origin = candidate.get("origin") if isinstance(candidate, Mapping) else None
    if origin is None:
        return None
    library = get(science, "inputs.library")
    try:
        told = Origin.model_validate(origin)
        if told.kind == "drawn":
            by = get(science, "parameters.generator")
            expected = library is not None or by is not None, Origin(kind="drawn", generator=by)
            return None if expected == (True, told) else "origin.kind" if told.generator == by else "origin.generator"
        old, new = Composition(told.formula), decoding.structure(candidate["structure"]).composition
    except Exception:  # whatever reading it says
        return "origin"
    if library is None or told.library != library:
        return "origin.library"
    amounts = {symbol: sum(new[each] for each in taken) for symbol, taken in told.exchange.items()}
    fits = Composition(amounts).reduced_formula == old.reduced_formula
    if not fits or {each for taken in told.exchange.values() for each in taken} != {e.symbol for e in new.elements}:
        return "origin.exchange"
    if (told.kind == "known") != all(taken == [symbol] for symbol, taken in told.exchange.items()):
        return "origin.kind"
    return None


def science_fault(document: Any) -> str | None:
    """'provenance.science' where the science does not have the science hash beside it."""
    held = document.get("provenance") if isinstance(document, Mapping) else None
    if not isinstance(held, Mapping) or "science" not in held:
        return None
    try:
        sound = digest(held["science"]) == held.get("science_hash")
    except (TypeError, ValueError):
        sound = False
    return None if sound else "provenance.science"


def altered_part(output: Any, recorded: Ended | None) -> str | None:
    """The first field of an output that does not have the hash that the attempt recorded."""
    if recorded is None or not recorded.parts:
        return None
    found = parts(output)
    differing = (name for name in sorted({*found, *recorded.parts}) if found.get(name) != recorded.parts.get(name))
    return next((f"output.{name.replace('/', '.')}" for name in differing), None)


@cache
def newest_versions() -> dict[str, int]:
    """The newest schema version of each document that this version of dao_flows knows."""
    classes: list[type[BaseModel]] = [*stages().documents.values(), CandidateDoc, ComparisonDoc]
    return {each.__name__: each.model_fields["schema_version"].default for each in classes}


def integer(value: Any) -> int:
    """A count or an index; 0 for what is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def numbered(record_id: str) -> tuple[str, int]:
    """The run or attempt that a record is of, and its number there."""
    name, _, number = record_id.rpartition("-")
    return name, integer(number)
