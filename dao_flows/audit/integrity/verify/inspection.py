"""A store while it is verified: what all readers of its documents write to and look up in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dao_flows.audit.integrity.findings import Finding, Problem
from dao_flows.audit.integrity.ledger import Ledger
from dao_flows.store.collections import KEYS
from dao_flows.store.stores import collection

from .identity import Identities
from .records import Records

if TYPE_CHECKING:
    from jobflow.core.store import JobStore
    from maggma.core import Store

    from dao_flows.audit.integrity.scope import Scope

FIELDS = {  # what is named by ids and hashes: the collection where it is, and its field there
    "job": ("jobs", "uuid"),
    "science": ("jobs", "output.provenance.science_hash"),
    "content": ("jobs", "output.provenance.content_hash"),
    "candidate": ("candidates", "candidate_id"),
    "verification": ("verifications", "verification_id"),
}


@dataclass
class Inspection:
    """What is known and what was found of a store.

    scope: what of it is verified (None: all); ledger: what its documents say of each other; checked: how many of each
    collection were read; stores: its collections by name.
    """

    jobs: JobStore
    scope: Scope | None = None
    ledger: Ledger = field(default_factory=Ledger)
    findings: list[Finding] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    records: Records = field(default_factory=Records)
    identities: Identities = field(default_factory=Identities)
    stores: dict[str, Store] = field(init=False)

    def __post_init__(self) -> None:
        self.stores = {"jobs": self.jobs.docs_store} | {name: collection(self.jobs, name) for name in KEYS}

    def find(
        self, problem: Problem, where: str, who: str, reason: str, kind: str = "", field: str | None = None
    ) -> None:
        """Note a finding. where: the collection; who: the id; kind, field: of the document, as `Finding` has them."""
        found = Finding(problem=problem, collection=where, id=who, kind=kind, field=field, reason=reason)
        self.findings.append(found)

    def name_field(self, uuid: str, part: str) -> None:
        """Say of the documents of an altered job which field differs, where nothing told that yet."""
        for finding in self.findings:
            if finding.collection == "jobs" and finding.id.startswith(f"{uuid}/") and finding.field is None:
                finding.field = part

    def holds(self, kind: str, wanted: str) -> bool:
        """Whether the store has what an id or hash names outside of the scope, where nothing was read."""
        if self.scope is None:
            return False
        name, path = FIELDS[kind]
        return self.stores[name].query_one({path: wanted}, properties=[path]) is not None

    def output(self, uuid: str) -> dict[str, Any] | None:
        """What a job's last document holds as its output."""
        found = self.jobs.query_one({"uuid": uuid}, properties=["output", "index"], sort={"index": -1})
        output = found.get("output") if found is not None else None
        return output if isinstance(output, dict) else None
