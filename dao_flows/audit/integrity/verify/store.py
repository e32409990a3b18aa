"""Whether everything in a store is what it was when it was written, and all that it names is still there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dao_flows.audit.integrity.comparisons import verify_comparisons
from dao_flows.audit.integrity.files import verify_files
from dao_flows.audit.integrity.findings import Report
from dao_flows.store.stores import describe

from .read import Tell, read, untold
from .relate import relate

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

    from dao_flows.audit.integrity.scope import Scope


def verify(jobs: JobStore, scope: Scope | None = None, tell: Tell = untold, *, folders: bool = False) -> Report:
    """Verify what is in scope (None: all) in a job store and its collections, and the files that it names.

    tell: is told how many documents, then files, are done of how many; folders: hash what codes left in the folders of
    calculations, too. Raises StoreError.
    """
    began = time.monotonic()
    inspection = read(jobs, scope, tell)
    relate(inspection)
    compared = verify_comparisons(jobs, inspection.stores, scope, inspection.findings)
    files = verify_files(inspection.ledger, tell, folders=folders)
    inspection.checked.update(files.checked)
    findings = [*inspection.findings, *compared, *files.findings]
    return Report(
        store=describe(jobs),
        asked=list(scope.asked) if scope is not None else [],
        checked=dict(inspection.checked),
        findings=sorted(findings, key=lambda each: (each.collection, each.id, each.problem)),
        seconds=round(time.monotonic() - began, 3),
        before_chaining=inspection.records.before_chaining,
    )
