"""Trying what a project folder says: the database, the results' store, the programs and the queues."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from dao_flows.errors import UserError, explain
from dao_flows.makers.machine.masking import one_line
from dao_flows.makers.stages.declaration import Category
from dao_flows.settings import settings

from .launchpad import open_launchpad, prepare, require_fireworks
from .project import CONFIG, ENVIRONMENT, JOBFLOW, LAUNCH, LAUNCHPAD, PRIVATE, TYPES, adapter_file, program, worker_file
from .routes import CATEGORIES

ASK = {  # what tells of a queue
    "SLURM": ["sinfo", "--noheader", "--format=%P", "--partition"],
    "PBS": ["qstat", "-Q"],
    "LoadSharingFacility": ["bqueues"],
}
SECONDS = 30


class Finding(BaseModel):
    """What one check came to, in one line."""

    name: str
    ok: bool
    detail: str


def check_project(folder: Path) -> Iterator[Finding]:
    """Try everything that `dao-flows init` wrote, one after another; nothing of it is changed."""
    yield _files(folder)
    try:
        require_fireworks()
    except UserError as error:
        yield Finding(name="FireWorks", ok=False, detail=str(error))
        return
    yield _programs(folder)
    yield _launchpad(folder)
    yield _store(folder)
    for category in CATEGORIES:
        if (folder / adapter_file(category)).exists():
            yield _queue(folder, category)


def _files(folder: Path) -> Finding:
    """All there, and those with credentials for nobody else."""
    expected = [JOBFLOW, LAUNCHPAD, CONFIG, ENVIRONMENT, LAUNCH, *(worker_file(category) for category in CATEGORIES)]
    missing = [name for name in expected if not (folder / name).exists()]
    if missing:
        return Finding(name="files", ok=False, detail=f"{folder} lacks {', '.join(missing)}: run `dao-flows init` anew")
    seen = [name for name in (JOBFLOW, LAUNCHPAD) if (folder / name).stat().st_mode & 0o777 != PRIVATE]
    if seen:
        return Finding(name="files", ok=False, detail=f"others may read {', '.join(seen)}: chmod 600")
    return Finding(name="files", ok=True, detail=str(folder))


def _programs(folder: Path) -> Finding:
    wanted = ["rlaunch", "lpad", *(["qlaunch"] if (folder / adapter_file("cpu")).exists() else [])]
    missing = [name for name in wanted if not shutil.which(program(name))]
    if missing:
        return Finding(name="programs", ok=False, detail=f"{', '.join(missing)} not found: install FireWorks again")
    return Finding(name="programs", ok=True, detail=program("rlaunch"))


def _launchpad(folder: Path) -> Finding:
    """Connects, writes, reads what it wrote, and sets up the LaunchPad if it is empty."""
    try:
        pad = open_launchpad(folder / LAUNCHPAD, settings())
        probe = {"_id": f"check-{secrets.token_hex(8)}"}
        collection = pad.db["dao_flows_check"]
        collection.insert_one(probe)
        try:
            if collection.find_one(probe) != probe:
                return Finding(name="LaunchPad", ok=False, detail="the server does not return what was written")
        finally:
            collection.delete_one(probe)
        prepare(pad)
    except Exception as error:  # of every kind that a server that is not well may give
        return Finding(name="LaunchPad", ok=False, detail=explain(error) or one_line(error))
    jobs = pad.fireworks.count_documents({})
    return Finding(name="LaunchPad", ok=True, detail=f"database {pad.name}: written and read, {jobs:,} jobs")


def _store(folder: Path) -> Finding:
    """The store that jobs of this project will write to, which is indexed for them."""
    from dao_flows.store.stores import collection, describe, index, job_store

    before = os.environ.get("JOBFLOW_CONFIG_FILE")
    os.environ["JOBFLOW_CONFIG_FILE"] = str(folder / JOBFLOW)
    try:
        store = job_store()
        index(store)
        found = f"{describe(store)}: {store.count():,} jobs, {collection(store, 'candidates').count():,} candidates"
    except Exception as error:
        return Finding(name="results", ok=False, detail=explain(error) or one_line(error))
    finally:
        if before is None:
            del os.environ["JOBFLOW_CONFIG_FILE"]
        else:
            os.environ["JOBFLOW_CONFIG_FILE"] = before
    return Finding(name="results", ok=True, detail=found)


def _queue(folder: Path, category: Category) -> Finding:
    """The route's queue is there, and takes a job as this route's jobs are (Slurm alone can say so)."""
    from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter

    name = f"queue of {category}"
    content: dict[str, Any] = yaml.safe_load((folder / adapter_file(category)).read_text(encoding="utf-8"))
    kind, queue = content["_fw_q_type"], content.get("queue")
    submit = CommonAdapter.default_q_commands[kind]["submit_cmd"]
    if shutil.which(submit) is None:
        system = next(short for short, long in TYPES.items() if long == kind)
        return Finding(name=name, ok=False, detail=f"{submit} is not on the PATH: is {system} the queue system here?")
    try:
        if queue:
            asked = subprocess.run([*ASK[kind], queue], capture_output=True, text=True, timeout=SECONDS)
            if asked.returncode or not asked.stdout.strip():
                said = asked.stderr.strip().splitlines() or ["there is none of that name"]
                return Finding(name=name, ok=False, detail=f"queue {queue!r}: {said[0]}")
        if kind == "SLURM":
            script = CommonAdapter.from_dict(content).get_script_str(str(folder))
            command = ["sbatch", "--test-only"]
            tried = subprocess.run(command, input=script, capture_output=True, text=True, timeout=SECONDS)
            if tried.returncode:
                said = tried.stderr.strip().splitlines() or ["sbatch refuses a job of this route"]
                asks = ", ".join(f"{key} {content[key]}" for key in ("gres", "ntasks", "walltime") if content.get(key))
                return Finding(name=name, ok=False, detail=f"{queue or 'default queue'} ({asks}): {said[-1]}")
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(name=name, ok=False, detail=explain(error) or one_line(error))
    tried_too = ", takes such jobs" if kind == "SLURM" else ""
    return Finding(name=name, ok=True, detail=f"{queue or 'the default'}{tried_too}")
