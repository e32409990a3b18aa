"""Finished DFT documents of a jobflow store (atomate2's task documents) as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jobflow.core.state import CURRENT_JOB
from maggma.core import Store

from dao_flows.makers.datasets.readers.raw import Options, Raw, SourceError

from .known_dft import why_not_dft

CHUNK = 100
FIELDS = ("uuid", "index", "name", "output")


@dataclass(frozen=True)
class TaskDocuments:
    """`store:` with ?job=NAME: the documents of jobs whose output has a structure, newest run of each job.

    A row's `energy_per_atom` (eV) is what the calculation says, to be taken along as a property; its e_above_hull
    is filled only if the document has one, as a verification against a reference set does: a total energy is no energy
    above hull. Documents that did not finish, or are not known to come from DFT, are rejected.
    """

    store: Store
    options: Options
    properties: Sequence[str]

    location = "store:"

    @property
    def name(self) -> str:
        """'store', unless stated."""
        return self.options.name or "store"

    @property
    def licence(self) -> str | None:
        """As stated."""
        return self.options.licence

    def identity(self) -> dict[str, Any]:
        """The job's name and the documents that there are."""
        return {"job": self.options.own.get("job"), "documents": len(self._keys), "last": self._keys[-1:]}

    def total(self) -> int | None:
        """The number of documents."""
        return len(self._keys)

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Rows by the uuid of their job, verifications first."""
        for first in range(start, len(self._keys), CHUNK):
            chunk = dict(self._keys[first : first + CHUNK])
            found: dict[str, Any] = {}
            for document in self.store.query({"uuid": {"$in": list(chunk)}}, properties=list(FIELDS)):
                if document.get("index", 1) == chunk[document["uuid"]]:
                    found[document["uuid"]] = document
            for offset, uuid in enumerate(chunk):
                yield self._raw(found.get(uuid), uuid, first + offset)

    @cached_property
    def _keys(self) -> list[tuple[str, int]]:
        """(uuid, newest index) of every job with a structure, sorted.

        Verifications come before their own calculations: of two rows that match the first is kept, and only a
        verification knows its energy above hull.
        """
        criteria: dict[str, Any] = {"output.structure": {"$exists": True}}
        if "job" in self.options.own:
            criteria["name"] = self.options.own["job"]
        newest: dict[str, int] = {}
        verified = set()
        for document in self.store.query(criteria, properties=["uuid", "index", "output.verification_id"]):
            newest[document["uuid"]] = max(document.get("index", 1), newest.get(document["uuid"], 0))
            if (document.get("output") or {}).get("verification_id"):
                verified.add(document["uuid"])
        return sorted(newest.items(), key=lambda each: (each[0] not in verified, each))

    def _raw(self, document: dict[str, Any] | None, uuid: str, position: int) -> Raw:
        output = (document or {}).get("output") or {}
        parts = (output, output.get("output"), output.get("hull"))  # atomate2's documents, and verifications
        record = {"material_id": uuid, **{name: value for part in parts for name, value in _numbers(part).items()}}
        values = self.options.values(record, self.properties)
        values["material_id"] = uuid
        if "e_above_hull" in values:
            values.setdefault("e_above_hull_kind", "dft")
        if (reason := why_not_dft(output)) is not None:
            return Raw(position, values=values, fault=reason)
        if not isinstance(output.get("structure"), dict):
            return Raw(position, values=values, fault="it has no structure")
        return Raw(position, "structure", output["structure"], values)


def current_store() -> Store:
    """The store that the running job reads and writes. Raises SourceError outside a job."""
    store: Store | None = CURRENT_JOB.store
    if store is None:
        raise SourceError("store: is the store of a running job, or of `dao-flows dataset build`; pass one as `store`")
    return store


def _numbers(fields: Any) -> dict[str, float]:
    there = fields.items() if isinstance(fields, dict) else ()
    return {name: value for name, value in there if isinstance(value, int | float) and not isinstance(value, bool)}
