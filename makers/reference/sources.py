"""Where reference sets come from: a file of entries, the Materials Project, or the user's own verifications."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from dao_flows.makers.schemas import decoding
from dao_flows.makers.schemas.verification import Level, VerificationDoc

from .entry_files import read_file
from .levels import entry_of
from .materials_project import PER_SYSTEM, MaterialsProject, api_key, chemical_system
from .sets import MP2020, NONE, ReferenceSet, ReferenceSetError, scheme_version

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

STORE = "store:"


def reference_set(text: str, jobs: JobStore | None = None) -> ReferenceSet:
    """A reference set by what a user writes.

    A file of ComputedEntries or ComputedStructureEntries as monty writes them (.json, .json.gz), with
    `?code=abinit&functional=PBE` behind it if the entries do not say; `mp:` or `mp:Li-Fe-O`, the Materials Project with
    the key in MP_API_KEY; `store:`, the successful verifications of a store. jobs: that store (None: the running job's,
    or that of jobflow's configuration). Raises ReferenceSetError.
    """
    if text.startswith(STORE):
        if text != STORE:
            raise ReferenceSetError(f"store: takes nothing behind it, not {text.removeprefix(STORE)!r}")
        return read_store(jobs)
    if text.startswith(PER_SYSTEM):
        api_key()
        system = text.removeprefix(PER_SYSTEM) or None
        return MaterialsProject("mp:", (), "vasp", None, MP2020, scheme_version(), system=chemical_system(system))
    place, _, query = (text, "", "") if Path(text).expanduser().exists() else text.partition("?")
    path = Path(place).expanduser()
    if not path.is_file():
        raise ReferenceSetError(
            f"there is no file {place}: a reference set is a file of ComputedEntries, mp: or store:"
        )
    options = dict(parse_qsl(query))
    if unknown := set(options) - {"code", "functional"}:
        raise ReferenceSetError(f"a file of entries takes ?code=…&functional=…, not {', '.join(sorted(unknown))}")
    status = path.stat()
    return read_file(path, status.st_mtime_ns, status.st_size, options.get("code"), options.get("functional"))


def read_store(jobs: JobStore | None) -> ReferenceSet:
    """The latest successful verification of each id."""
    jobs = jobs or _running_store()
    wanted = ["verification_id", "structure", "energy", "level", "provenance.execution.ended_at"]
    criteria = {"output.@class": VerificationDoc.__name__, "output.state": "successful"}
    latest: dict[str, dict[str, Any]] = {}
    for job in jobs.query(criteria, properties=[f"output.{name}" for name in wanted]):
        output = job["output"]
        ended = output["provenance"]["execution"]["ended_at"]
        held = latest.get(output["verification_id"])
        if held is None or ended > held["provenance"]["execution"]["ended_at"]:
            latest[output["verification_id"]] = output
    entries = []
    for verification_id, output in sorted(latest.items()):
        structure, level = output["structure"], output["level"]
        if structure is None or level is None or output["energy"] is None:
            continue
        entries.append(
            entry_of(decoding.structure(structure), output["energy"], Level.model_validate(level), verification_id)
        )
    if not entries:
        raise ReferenceSetError("store: holds no successful verification yet: there is nothing to make a hull of")
    return ReferenceSet("store", tuple(entries), None, None, NONE, "", selects=True)


def _running_store() -> JobStore:
    """The running job's store, or that of jobflow's configuration."""
    from jobflow.core.state import CURRENT_JOB

    store: JobStore | None = CURRENT_JOB.store
    if store is None:
        from jobflow import SETTINGS

        store = SETTINGS.JOB_STORE
        store.connect()
    return store
