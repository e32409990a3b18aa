"""Documents out of a crate: plain JSON until it is known to be what it says, and never an object by a name in it.

A document has one form in which it may stand, so that nothing of it can be changed and read the same. It may name no
classes but our own documents, pymatgen's structures and the makers of calculations in their settings: a store's reader
turns such names into objects, and must meet none that are not meant for it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from bson import ObjectId
from bson.errors import InvalidId
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dao_flows.comparison.schemas import ComparisonDoc
from dao_flows.makers.jobs.provenance import EPOCH, canonical, content_hash, digest
from dao_flows.makers.jobs.renamed import current
from dao_flows.makers.schemas import decoding
from dao_flows.makers.schemas.prediction import CandidateDoc
from dao_flows.makers.stages.registry import stages
from dao_flows.model.errors import DaoError
from dao_flows.store.collections import KEYS
from dao_flows.store.runs import RunRecord

from .archive import Limits
from .layout import plain

COLLECTED = {"candidates": "CandidateDoc", "verifications": "VerificationDoc", "comparisons": "ComparisonDoc"}
STRUCTURE = ("pymatgen.core.structure", "Structure")
OTHER_CLASSES = {STRUCTURE, ("jobflow.core.reference", "OutputReference"), ("jobflow.core.schemas", "JobStoreDocument")}
# in the settings of a calculation: module, class
MAKERS = (
    (re.compile(r"atomate2(\.[a-z0-9_]+)+"), re.compile(r"[A-Za-z0-9]+(Maker|SetGenerator)")),
    (re.compile(r"pymatgen\.io\.vasp\.sets"), re.compile(r"[A-Za-z0-9]+Set")),
)
FACTORIES = "abipy.abio.factories"  # ABINIT's generators name functions of it
WORDS = frozenset(("@module", "@class", "@version", "@callable", "@bound"))


class DocumentError(DaoError):
    """What is wrong with a document, without its name."""


class JobRecord(BaseModel):
    """What a job store holds of one finished job, beside the words by which monty knows its class."""

    model_config = ConfigDict(extra="forbid", strict=True)

    uuid: str = Field(min_length=1)
    index: int = Field(ge=1)
    output: Any
    completed_at: str
    name: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    hosts: list[str] = Field(default_factory=list)


class Checked(NamedTuple):
    """A document that may be stored. key: its identity in its collection; sealed: whether it states its own hash."""

    document: dict[str, Any]
    key: str
    sealed: bool


def check(collection: str, data: bytes, bounds: Limits) -> Checked:
    """A document of a collection ('jobs' or one of KEYS), proven to be what it says. Raises DocumentError."""
    document = parse(data, bounds)
    if own := sorted(key for key in document if key.startswith("_") or key == "last_updated"):
        raise DocumentError(f"it has the field {plain(own[0])}, which a store alone gives")
    _check_words(document, bounds, decoded=collection != "runs")
    try:
        if collection == "jobs":
            record = JobRecord.model_validate({k: v for k, v in document.items() if k not in WORDS})
            held, key = record.output, job_key(document)
        elif collection == "runs":
            held, key = document, RunRecord.model_validate(document).record_id
        else:
            held, named = document, document.get(KEYS[collection])
            key = named if isinstance(named, str) else ""
            if not key or document.get("@class") != COLLECTED[collection]:
                raise DocumentError(f"it is no document of the collection {collection}")
    except ValidationError as error:
        raise DocumentError(_first(error)) from None
    if collection != "runs" and isinstance(held, dict) and "@class" in held:
        _check_model(held)
    return Checked(document, key, _check_hashes(held, collection))


def job_key(document: Mapping[str, Any]) -> str:
    """The identity of a job's document."""
    return f"{document['uuid']}-{document['index']}"


def parse(data: bytes, bounds: Limits) -> dict[str, Any]:
    """A document from its canonical form (extended JSON), not nested too deeply. Raises DocumentError."""
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict):
            raise DocumentError("it is no JSON object")
        if _deeper(raw, bounds.depth):
            raise DocumentError(f"it is nested deeper than DAO_FLOWS_CRATE_DEPTH allows ({bounds.depth})")
        document = _thawed(raw) if b'"$' in data else raw
        if not isinstance(document, dict) or written(document) != data:
            raise DocumentError("it is not in canonical form")
    except RecursionError:
        raise DocumentError(f"it is nested deeper than DAO_FLOWS_CRATE_DEPTH allows ({bounds.depth})") from None
    except DocumentError:
        raise
    except (ValueError, TypeError, OverflowError, InvalidId) as error:
        raise DocumentError(f"it is no JSON that a store could hold: {str(error)[:100]}") from None
    return document


def written(document: Mapping[str, Any]) -> bytes:
    """A document as it stands in a crate: canonical JSON, but with its keys in the order in which the store has them.

    In some documents the order means something: a dataset's columns.
    """
    even = canonical(document, extended=True)
    return json.dumps(even, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _thawed(value: Any) -> Any:
    """The value with dates, NaN, infinities, bytes and object ids in the place of what canonical JSON has for them."""
    if isinstance(value, list):
        return [_thawed(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$numberDouble": str(text), **rest} if not rest:
            return float(text)
        case {"$date": {"$numberLong": str(text)}, **rest} if not rest:
            return EPOCH + timedelta(milliseconds=int(text))
        case {"$binary": {"base64": str(text), "subType": "00"}, **rest} if not rest:
            return base64.b64decode(text)
        case {"$oid": str(text), **rest} if not rest:
            return ObjectId(text)
    return {key: _thawed(item) for key, item in value.items()}


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more levels than these."""
    layer = [value]
    for _ in range(levels):
        layer = [
            item
            for held in layer
            for item in (held.values() if isinstance(held, dict) else held)
            if isinstance(item, dict | list)
        ]
        if not layer:
            return False
    return True


def _check_words(document: dict[str, Any], bounds: Limits, decoded: bool) -> None:
    """No keys that a database would take for an order, and in what a reader decodes no classes but the known ones."""
    own = tuple(name.strip() for name in bounds.modules.split(",") if name.strip())
    for held in decoding.objects(document):
        words = {key for key in held if key[:1] in ("@", "$")}
        if not words <= WORDS:
            raise DocumentError(f"it has the key {plain(min(words - WORDS))}")
        if not words or not decoded:
            continue
        module = held.get("@module")
        if not isinstance(module, str) or held.get("@bound") is not None or ("@class" in held and "@callable" in held):
            raise DocumentError(f"it names an object of {plain(module)} in no known way")
        name = held.get("@class", held.get("@callable"))
        if not isinstance(name, str) or not (_known(module, name, "@class" in held) or _own(module, own)):
            raise DocumentError(f"it names {plain(name)} of {plain(module)}, which no document of ours does")


def _known(module: str, name: str, is_class: bool) -> bool:
    if (current(module), name) in known_documents():
        return True
    if not is_class:
        return module == FACTORIES and re.fullmatch(r"[a-z]\w*", name) is not None
    made = any(where.fullmatch(module) and what.fullmatch(name) for where, what in MAKERS)
    return made or (module, name) in OTHER_CLASSES


def _own(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module belongs to a package that the user has named."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@cache
def known_documents() -> dict[tuple[str, str], type[BaseModel]]:
    """The classes of documents that a crate may hold, by module and name: of all stages, and what is laid out."""
    laid_out = {(each.__module__, each.__name__): each for each in (CandidateDoc, ComparisonDoc)}
    return {**stages().documents, **laid_out}


def _check_model(held: dict[str, Any]) -> None:
    """Validate a document as the class that it names."""
    model = known_documents().get((current(held["@module"]), held["@class"]))
    if model is None:
        if (held["@module"], held["@class"]) == ("jobflow.core.reference", "OutputReference"):
            if set(held) - WORDS != {"uuid", "attributes", "output_schema"} or not isinstance(held["uuid"], str):
                raise DocumentError("it is no reference to the output of a job")
            return
        raise DocumentError(f"a {plain(held['@class'])} is no document of ours")
    if unknown := sorted(set(held) - set(model.model_fields) - WORDS):
        raise DocumentError(f"it has the field {plain(unknown[0])}, which no {plain(held['@class'])} has")
    version, newest = held.get("schema_version"), model.model_fields["schema_version"].default
    if isinstance(version, int) and version > newest:
        raise DocumentError("it was written by a newer version of dao_flows: update it to read the crate")
    try:
        model.model_validate({key: _built(item) for key, item in held.items()})
    except ValidationError as error:
        raise DocumentError(_first(error)) from None


def _built(value: Any) -> Any:
    """The value with structures as pymatgen's, which is all that our documents hold besides plain data."""
    if isinstance(value, list):
        return [_built(item) for item in value]
    if not isinstance(value, dict):
        return value
    if (value.get("@module"), value.get("@class")) != STRUCTURE:
        return {key: _built(item) for key, item in value.items()}
    try:
        return decoding.structure(value)
    except decoding.DecodingError as error:
        raise DocumentError(str(error)) from None


def _first(error: ValidationError) -> str:
    """The first thing that pydantic says, without the input."""
    said = error.errors(include_url=False, include_input=False)[0]
    return f"{plain('/'.join(str(part) for part in said['loc']))}: {' '.join(said['msg'].split())[:100]}"


def is_sealed(held: Any, collection: str) -> bool:
    """Whether a document states a hash of its content; of a job that made no document, the record of the attempt does.

    held: of a job its output.
    """
    return (
        not isinstance(held, dict) or (collection == "jobs" and "provenance" not in held) or _stated(held) is not None
    )


def _stated(held: dict[str, Any]) -> Any:
    provenance = held.get("provenance")
    return (provenance if isinstance(provenance, dict) else held).get("content_hash")


def _check_hashes(held: Any, collection: str) -> bool:
    """Recompute the hash that a document states over itself; whether it lacks none. Raises DocumentError.

    A document from before there were such hashes is held to those of its science instead.
    """
    sealed = is_sealed(held, collection)
    if not isinstance(held, dict):
        return sealed
    if (stated := _stated(held)) is not None:
        if content_hash(held) != stated:
            raise DocumentError("it was changed: it does not have the content_hash that it states")
        return True
    for inner in decoding.objects(held):
        science = inner.get("science")
        if isinstance(science, dict) and "science_hash" in inner and digest(science) != inner["science_hash"]:
            raise DocumentError("its science was changed: it does not have the science_hash that it states")
    return sealed
