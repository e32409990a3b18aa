"""The documents of a collection, without holding them all, and without falling over a damaged one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maggma.utils import grouper

from dao_flows.errors import StoreError
from dao_flows.store.fields import mappings
from dao_flows.store.interface import READ_ERRORS, Damaged
from dao_flows.store.stores import result_store

if TYPE_CHECKING:
    from jobflow.core.store import JobStore
    from maggma.core import Store

CHUNK = 50  # the embedded store looks for up to 100 words at a time without decoding every document
BLOB = {"blob_uuid", "store"}


def documents(
    store: Store, field: str | None = None, wanted: Iterable[str] = (), needed: Sequence[str] | None = None
) -> Iterator[dict[str, Any] | Damaged]:
    """All documents (field None), or those whose field is one of `wanted`. needed: fields; they may have more."""
    try:
        if field is not None:
            for chunk in grouper(sorted(set(wanted)), CHUNK):
                yield from store.query({field: {"$in": list(chunk)}})
        else:
            yield from result_store(store).documents(needed)
    except (*READ_ERRORS, StoreError) as error:
        yield Damaged("(all)", f"the collection cannot be read: {error}")


def with_blobs(jobs: JobStore, document: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A job's document with what its output keeps in additional stores, and the references that lead nowhere."""
    references = list(blobs(document.get("output")))
    if not references:
        return document, []
    found: dict[tuple[str, str], Any] = {}
    for name, store in vars(jobs)["additional_stores"].items():
        store.connect()
        wanted = [reference["blob_uuid"] for reference in references if reference["store"] == name]
        for blob in store.query({"blob_uuid": {"$in": wanted}}) if wanted else ():
            found[name, blob["blob_uuid"]] = blob["data"]
    lost = [each for each in references if (each["store"], each["blob_uuid"]) not in found]
    return {**document, "output": _filled(document["output"], found)}, lost


def _filled(value: Any, found: Mapping[tuple[str, str], Any]) -> Any:
    """The value with blobs in the place of the references to them."""
    if isinstance(value, list):
        return [_filled(item, found) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() >= BLOB:
        return found.get((value["store"], value["blob_uuid"]), value)
    return {key: _filled(item, found) for key, item in value.items()}


def blobs(value: Any) -> Iterator[dict[str, Any]]:
    """References to an additional store, as jobflow puts them into a document."""
    return mappings(value, lambda held: held.keys() >= BLOB)
