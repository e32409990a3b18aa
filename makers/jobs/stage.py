"""`@stage`: jobflow's `@job` for makers. It seals the documents that a job writes and logs every attempt at it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jobflow.core.flow import Flow
from jobflow.core.job import Job, Response, job
from monty.json import jsanitize
from pydantic import BaseModel

from dao_flows.makers.machine.environment import check_environment
from dao_flows.makers.machine.masking import one_line
from dao_flows.makers.machine.places import Places, call_in_full
from dao_flows.makers.schemas.document import Provenance
from dao_flows.model.data.shards import file_sha256

from .attempts import Attempt, parts
from .provenance import content_hash
from .reuse import job_store

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

log = logging.getLogger(__name__)


class StageJob(Job):
    """A job whose attempts are appended to the `runs` collection of the store that it runs on."""

    def run(self, store: JobStore, job_dir: Any = None) -> Response[Any]:
        """As jobflow's, and logged."""
        with Attempt(self, store) as attempt:
            check_environment()
            token = job_store.set(store)
            try:
                response: Response[Any] = super().run(store=store, job_dir=job_dir)
            finally:
                job_store.reset(token)
            found = getattr(response.output, "provenance", None)
            if isinstance(found, Provenance):
                attempt.science_hash = found.science_hash
                made_by = found.execution.job_uuid
                attempt.reused_from = made_by if made_by != self.uuid else None
            attempt.result, attempt.parts = _hashes(response.output)
        if isinstance(response.replace, Flow):
            for new in response.replace.jobs:
                if new.uuid == self.uuid and type(new) is Job:  # jobflow's own, which stores the flow's output
                    new.__class__ = StageJob
        return response


def stage(
    method: Callable[..., Any] | None = None, *, places: Places = MappingProxyType({}), **options: Any
) -> Callable[..., Any]:
    """In place of jobflow's `@job`, with the same arguments.

    places: arguments that name files or folders, beside those in its maker's PLACES: a job is given them in full.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def sealed(*args: Any, **kwargs: Any) -> Any:
            return seal(function(*args, **kwargs))

        make = job(sealed, **options)

        @wraps(make)
        def build(*args: Any, **kwargs: Any) -> Job:
            given, named = call_in_full(function, args, kwargs, places)
            built = make(*given, **named)
            built.__class__ = StageJob
            return built

        return build

    return decorate if method is None else decorate(method)


def seal(returned: Any) -> Any:
    """What a job returns, its document with the content hash in its provenance."""
    if isinstance(returned, Response):
        if returned.replace is None:
            returned.output = seal(returned.output)
        return returned
    held = getattr(returned, "provenance", None)
    if not isinstance(returned, BaseModel) or not isinstance(held, Provenance):
        return returned
    held = held.model_copy(update={"files": {**held.files, **_files(returned)}})
    content = _hashes(returned.model_copy(update={"provenance": held}))[0]
    return returned.model_copy(update={"provenance": held.model_copy(update={"content_hash": content})})


def _files(document: BaseModel) -> dict[str, str]:
    """sha256 of the files that a document names, by its class's FILES: fields, or paths in a field's folder."""
    found = {}
    for name in getattr(type(document), "FILES", ()):
        field, _, inside = name.partition("/")
        try:
            if (held := getattr(document, field)) is not None and (path := Path(held) / inside).is_file():
                found[name] = file_sha256(path)
        except OSError as error:
            log.error("a %s is stored without the hash of its %s: %s", type(document).__name__, name, one_line(error))
    return found


def _hashes(output: Any) -> tuple[str | None, dict[str, str]]:
    """The content hash of an output as jobflow stores it, and those of its parts.

    None, and a line on stderr, for what cannot be hashed: no result is lost for want of a hash.
    """
    try:
        stored = jsanitize(output, strict=True, enum_values=True, allow_bson=True)
        return content_hash(stored), parts(stored)
    except (AttributeError, TypeError, ValueError) as error:
        log.error("a %s is stored without a content hash: %s", type(output).__name__, one_line(error))
        return None, {}
