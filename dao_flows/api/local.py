"""Running a flow here and now, in this process."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobflow.managers.local import run_locally

from dao_flows.interruption import interruptible
from dao_flows.makers.jobs.progress import Reporter, reporter
from dao_flows.makers.jobs.provenance import digest, library_versions
from dao_flows.makers.machine.environment import environment_in_full
from dao_flows.settings import settings
from dao_flows.store.runs import RunLog
from dao_flows.store.stores import collection, job_store, output

from .reuse import marks

if TYPE_CHECKING:
    from jobflow.core.flow import Flow
    from jobflow.core.store import JobStore


def run_here(flow: Flow, jobs: JobStore, listener: Reporter) -> None:
    """Run a flow's jobs one after another, each in a scratch folder; the first error ends it and is raised as it is."""
    token = reporter.set(listener)
    try:
        with tempfile.TemporaryDirectory(prefix="dao-flows-") as scratch, _quiet(), environment_in_full():
            run_locally(flow, log=False, store=jobs, create_folders=True, root_dir=scratch, raise_immediately=True)
    finally:
        reporter.reset(token)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "cd is deprecated", FutureWarning)  # jobflow's use of monty
        yield


def run_logged(
    flow: Flow,
    request: dict[str, Any],
    listener: Reporter | None = None,
    command: Sequence[str] = (),
    reuse: bool = False,
) -> dict[str, Any]:
    """Run a flow here on the user's store, log it among the runs, and return its output's document.

    reuse: jobs take stored results of the same science.
    """
    jobs = job_store(settings())
    log = RunLog(collection(jobs, "runs"), digest(request), request, library_versions(), command)
    with log, interruptible():
        flow.update_metadata(marks(log.run_id, reuse))
        run_here(flow, jobs, listener or (lambda done, total, stage: None))
        document = output(jobs, flow.output.uuid)
        log.science_hashes.append(document["provenance"]["science_hash"])
    return document
