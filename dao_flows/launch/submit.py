"""Handing flows to the LaunchPad: each once, none too large, and no credentials in any of them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import bson
from pydantic import BaseModel, Field

from dao_flows.api.reuse import marks
from dao_flows.errors import StoreError
from dao_flows.makers.machine.masking import carries, environment_secrets
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.settings import Settings
from dao_flows.store.stores import index, job_store, result_store

from .flows import Planned
from .launchpad import SET_UP, SUBMISSION, launchpad, prepare
from .routes import Queue, Routes, apply_routes

if TYPE_CHECKING:
    from fireworks import LaunchPad, Workflow

MAX_SPEC = 1_000_000  # bytes; MongoDB takes 16 MB, but every claim of a job reads and writes its spec
URI = re.compile(r"mongodb(\+srv)?://|\w://[^\s/\"']+:[^\s/\"']+@")
SECRET_FIELD = re.compile(r"(password|passwd|passphrase|secret|token|api_?key|access_?key)$", re.IGNORECASE)
FIELDS = {"nodes": 1, "state": 1, "created_on": 1, "metadata": 1}
DUPLICATE_KEY = 11000  # of MongoDB's errors
ON_ITS_WAY = 60  # s after which a submission that is not whole was killed


class Submitted(BaseModel):
    """A flow on the LaunchPad. flow: id of its first job, by which lpad knows the flow, too."""

    flow: int
    kind: str
    label: str
    key: str = Field(description="science hash")
    jobs: list[int]
    state: str
    submitted_at: str
    new: bool = Field(description="False: an earlier submission of the same flow, shown in place of another")


class Submission(BaseModel):
    """What a command submitted."""

    run_id: str
    flows: list[Submitted]


def open_for_submission(config: Settings) -> LaunchPad:
    """The LaunchPad, beside a store that several machines can share. Raises StoreError and SettingsError."""
    store = job_store(config)
    if not result_store(store).shared:
        raise StoreError(f"the embedded store is for one machine and cannot take results of several workers: {SET_UP}")
    index(store)
    return launchpad(config)


def submit(planned: Sequence[Planned], pad: LaunchPad, routes: Routes, queue: Queue, again: bool = False) -> Submission:
    """Submit flows, all of them checked before the first.

    A flow that was submitted before is shown and not submitted, unless `again`; of two that submit the same at once,
    one does. A kill between two flows leaves the first whole, and the same command goes on. Raises ParameterError for a
    job that is too large or would carry credentials.
    """
    prepare(pad)
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    workflows = []
    for each in planned:
        each.flow.update_metadata(marks(run_id, each.reuse))
        apply_routes(each.flow, routes, queue)
        workflows.append(_checked(each, run_id))
    flows = [_add(each, workflow, pad, again) for each, workflow in zip(planned, workflows, strict=True)]
    return Submission(run_id=run_id, flows=flows)


def _checked(planned: Planned, run_id: str) -> Workflow:
    """The flow as a workflow. The store is left to the workers: in a spec it would bring its password along."""
    from jobflow.managers.fireworks import flow_to_workflow

    about = {"run_id": run_id, "kind": planned.kind, "key": planned.key, "label": planned.label}
    workflow: Workflow = flow_to_workflow(planned.flow, store=None, metadata={"dao_flows": about})
    known = environment_secrets()
    for firework in workflow.fws:
        document = firework.to_db_dict()
        if (size := len(bson.encode(document))) > MAX_SPEC:
            raise ParameterError(
                f"the job {firework.name!r} of {planned.label} would be {size / 1e6:.1f} MB on the LaunchPad, at most "
                f"{MAX_SPEC / 1e6:.0f} MB is allowed: give large inputs as files or datasets, or split the flow"
            )
        text = json.dumps(document, default=str)
        found = next((f"the value of {name}" for name, secret in known.items() if carries(text, secret)), None)
        if found is None and URI.search(text):
            found = "a URI with credentials"
        if found is None and (field := _secretive(document)):
            found = f"what its field {field} says"
        if found is not None:
            raise ParameterError(
                f"the job {firework.name!r} of {planned.label} would carry {found} to the LaunchPad "
                "for all to read: give it to the workers by their environment instead"
            )
    return workflow


def _secretive(value: Any) -> str | None:
    """A field that is named like a secret and holds text."""
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := _secretive(item))), None)
    if not isinstance(value, dict):
        return None
    for name, held in value.items():
        if isinstance(held, str) and held and SECRET_FIELD.search(str(name)):
            return str(name)
        if found := _secretive(held):
            return found
    return None


def _add(planned: Planned, workflow: Workflow, pad: LaunchPad, again: bool) -> Submitted:
    from pymongo.errors import BulkWriteError

    while True:
        earlier = _earlier(planned.key, pad)
        if earlier and not again:
            return _told(earlier[-1], new=False)
        number = 1 + max((_number(found) for found in earlier), default=0)
        workflow.metadata["dao_flows"]["submission"] = f"{planned.key}-{number}"
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # a bar of progress
                pad.bulk_add_wfs([workflow])  # the workflow first: nobody takes a job that no workflow knows
        except BulkWriteError as error:
            if any(each.get("code") != DUPLICATE_KEY for each in error.details["writeErrors"]):
                raise
            continue  # somebody else was quicker
        stored = pad.workflows.find_one({SUBMISSION: workflow.metadata["dao_flows"]["submission"]}, FIELDS)
        return _told(stored, new=True)


def _earlier(key: str, pad: LaunchPad) -> list[dict[str, Any]]:
    """Submissions of the same flow, first to last; one that is on its way is waited for."""
    while (found := _whole(key, pad)) is None:
        time.sleep(0.5)
    return found


def _whole(key: str, pad: LaunchPad) -> list[dict[str, Any]] | None:
    """Submissions of the same flow, None while one is on its way; one that a kill cut short is cleared away in time."""
    whole = []
    for found in sorted(pad.workflows.find({"metadata.dao_flows.key": key}, FIELDS), key=_number):
        jobs = list(pad.fireworks.find({"fw_id": {"$in": found["nodes"]}}, {"launches": 1}))
        if len(jobs) == len(found["nodes"]) or any(job["launches"] for job in jobs):
            whole.append(found)
        elif (datetime.now(UTC) - _when(found)).total_seconds() > ON_ITS_WAY:
            pad.fireworks.delete_many({"fw_id": {"$in": found["nodes"]}})
            pad.workflows.delete_one({"_id": found["_id"]})
        else:
            return None
    return whole


def _number(workflow: dict[str, Any]) -> int:
    return int(workflow["metadata"]["dao_flows"]["submission"].rpartition("-")[2])


def _told(workflow: dict[str, Any], new: bool) -> Submitted:
    about = workflow["metadata"]["dao_flows"]
    return Submitted(
        flow=min(workflow["nodes"]),
        jobs=sorted(workflow["nodes"]),
        state=workflow["state"],
        submitted_at=_when(workflow).isoformat(),
        new=new,
        **{name: about[name] for name in ("kind", "label", "key")},
    )


def _when(workflow: dict[str, Any]) -> datetime:
    created = workflow["created_on"]
    at = created if isinstance(created, datetime) else datetime.fromisoformat(created)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
