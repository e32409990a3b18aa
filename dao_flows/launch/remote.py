"""The same flows through jobflow-remote, for nodes that reach no database: a runner beside it moves what jobs need.

A project of jobflow-remote gets one worker and one execution configuration for each of our routes, of the same names.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dao_flows.configuration import what
from dao_flows.errors import InputError, SettingsError, explain
from dao_flows.makers.machine.masking import remember_uri
from dao_flows.makers.stages.declaration import CPU, Category, Route
from dao_flows.model.files.file_names import file_name
from dao_flows.model.files.user_folders import CHECKPOINTS, LIBRARIES, folder_of
from dao_flows.store.collections import DATABASE, JOBS

from .flows import Planned
from .project import PRIVATE
from .routes import CATEGORIES, TYPICAL, Queue, Routes, defaults, function_of, queue_keys, stage_of

SCHEDULERS: dict[Queue, str] = {"slurm": "slurm", "none": "shell"}
QUEUE_COLLECTION = "remote_jobs"  # of jobflow-remote: beside the results, not among them


def project_document(
    name: str,
    uri: str,
    work_dir: str,
    *,
    queue: Queue = "slurm",
    queues: dict[Category, str | None] | None = None,
    database: str = DATABASE,
    environment: str | None = None,
    host: str | None = None,
    user: str | None = None,
) -> dict[str, Any]:
    """A project of jobflow-remote. work_dir: where jobs run on the workers' machine; it needs no way to the database.

    queues: queue of each route; environment: folder of the programs there; host, user: of the login node, by ssh (None:
    the queue is here). Raises InputError for a queue system other than Slurm.
    """
    if queue not in SCHEDULERS:
        raise InputError(f"for jobflow-remote the queue system is {' or '.join(SCHEDULERS)}, not {queue!r}")
    remember_uri(uri)
    reached: dict[str, Any] = {"type": "local"}
    if host is not None:
        reached = {"type": "remote", "host": host, **({"user": user} if user else {})}
    store = {"type": "MongoStore", "database": database, "uri": uri}
    command = f"export PATH={shlex.quote(environment)}:$PATH" if environment else None
    own = {} if host else {name: str(found) for name in (CHECKPOINTS, LIBRARIES) if (found := folder_of(name))}
    workers, configs = {}, {}
    for category in CATEGORIES:
        route = defaults()[TYPICAL[category]]
        partition = (queues or {}).get(category)
        workers[category] = {
            **reached,
            "scheduler_type": SCHEDULERS[queue],
            "work_dir": f"{work_dir}/{category}",
            "resources": {**({"partition": partition} if partition else {}), **asked_of(route, queue)},
        }
        threads = 1 if category == "dft" else route.cores
        configs[category] = {
            "export": {"OMP_NUM_THREADS": threads, **own},
            **({"pre_run": command} if command else {}),
        }
    return {
        "name": name,
        "workers": workers,
        "exec_config": configs,
        "queue": {"store": {**store, "collection_name": QUEUE_COLLECTION}},
        "jobstore": {"docs_store": {**store, "collection_name": JOBS}},
    }


def write_project(document: dict[str, Any], folder: Path | None = None) -> Path:
    """Write a project for its owner alone where jobflow-remote looks (~/.jfremote).

    Raises InputError if one of this name is there.
    """
    place = folder or Path(os.environ.get("JFREMOTE_PROJECTS_FOLDER", Path.home() / ".jfremote"))
    path = place.expanduser() / f"{file_name(document['name'])}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w", encoding="utf-8") as stream:
            yaml.safe_dump(document, stream, sort_keys=False, allow_unicode=True)
    except FileExistsError:
        raise InputError(f"{path} is there already: choose another name, or remove it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {explain(error)}") from error
    return path


def asked_of(route: Route, queue: Queue) -> dict[str, Any]:
    """What a route asks for in the words of QToolKit's template."""
    if queue == "none":
        return {}
    asked = queue_keys(route, queue)
    asked["time"] = asked.pop("walltime")
    return asked


def apply_routes(flow: Any, routes: Routes, queue: Queue, defaults: dict[str, dict[str, Any]] | None = None) -> None:
    """Send every job of a flow, and those that verifications will start, to the worker of its route.

    defaults: resources of each worker, which a job's own replace as a whole and are therefore merged here.
    """

    def wanted(route: Route) -> dict[str, Any]:
        resources = {**(defaults or {}).get(route.category, {}), **asked_of(route, queue)}
        entries = {"worker": route.category, "exec_config": route.category, "resources": resources}
        return {"_set": {f"manager_config->{key}": value for key, value in entries.items()}}

    for job, _ in flow.iterflow():
        job.update_config(wanted(routes.get(stage_of(function_of(job)), CPU)), dynamic=False, dict_mod=True)
        if function_of(job) == "verify_candidates":
            maker = next(argument for argument in job.function_args if hasattr(argument, "preset"))
            for step in maker.preset().steps:
                job.update_config(wanted(routes["calculate"]), name_filter=f"{step} dao-", dict_mod=True)


def submit_remotely(planned: Sequence[Planned], project: str, routes: Routes) -> list[list[str]]:
    """Hand flows to a project of jobflow-remote; ids of each flow's jobs, by which `jf` knows them.

    Raises SettingsError if jobflow-remote is not installed or the project cannot be used.
    """
    try:
        from jobflow_remote import ConfigManager, submit_flow
    except ImportError:
        raise SettingsError("jobflow-remote is not installed: see docs/remote.md") from None
    try:
        found = ConfigManager().get_project(project)
        workers = {name: dict(worker.resources or {}) for name, worker in found.workers.items()}
        queue: Queue = "slurm" if found.workers["gpu"].scheduler_type == "slurm" else "none"
    except Exception as error:  # of every kind that a file written by hand may give
        raise SettingsError(f"the project {project!r} of jobflow-remote cannot be used: {what(error)}") from None
    submitted = []
    for each in planned:
        each.flow.update_metadata({"dao_flows": {"kind": each.kind, "key": each.key, "label": each.label}})
        apply_routes(each.flow, routes, queue, workers)
        submitted.append([str(job) for job in submit_flow(each.flow, worker="cpu", project=project)])
    return submitted
