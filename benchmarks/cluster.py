"""What the benchmarks of launching share: a project on a database of its own, workers as `launch.sh` starts them."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dao_flows.launch.launchpad import launchpad, open_launchpad, prepare
from dao_flows.launch.progress import status
from dao_flows.launch.project import Project, write
from dao_flows.launch.project import worker as launcher
from dao_flows.launch.routes import CATEGORIES
from dao_flows.makers.stages.declaration import Category
from dao_flows.settings import settings

if TYPE_CHECKING:
    from fireworks import LaunchPad

HERE = Path(__file__).resolve().parent
URI_VARIABLE = "DAO_FLOWS_MONGO_URI"
CHUNK = 500  # flows written at once


class ClusterError(ValueError):
    """The database, or a worker, does not do what is needed."""


@contextlib.contextmanager
def project(uri: str | None) -> Iterator[tuple[Path, LaunchPad]]:
    """A project folder in whose environment this process is, and its LaunchPad. Both are gone afterwards."""
    if not uri:
        raise ClusterError(f"no MongoDB is given: set {URI_VARIABLE}, or --mongo-uri")
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="dao-flows-benchmark-") as name:
        folder = Path(name) / "project"
        write(Project(folder, uri, database=f"dao_flows_benchmark_{secrets.token_hex(4)}"))
        for line in (folder / "env.sh").read_text().splitlines():
            if (found := re.match(r"export (\w+)=(.*)", line)) and found[1] != "PATH":
                os.environ[found[1]] = shlex.split(found[2])[0]
        os.environ["PYTHONPATH"] = str(HERE)  # for benchmarks' own makers
        os.environ["DAO_FLOWS_DATA_DIR"] = str(folder / "data")
        (folder / "launches").mkdir()
        pad = None
        try:
            pad = open_launchpad(folder / "my_launchpad.yaml", settings())
            prepare(pad)
            yield folder, launchpad()
        finally:
            if pad is not None:
                pad.connection.drop_database(pad.name)
            os.environ.clear()
            os.environ.update(before)


def worker(
    folder: Path, number: int, command: Sequence[str] = (), routes: Sequence[Category] = CATEGORIES
) -> subprocess.Popen[bytes]:
    """A worker of all routes in a process of its own, called after its number.

    command: in place of what launch.sh starts. It ends when there is nothing left for it.
    """
    mine = folder / f"worker-{number}.yaml"
    mine.write_text(yaml.safe_dump({"name": f"worker-{number}", "category": list(routes), "query": "{}"}))
    place = folder / "launches" / str(number)
    place.mkdir(exist_ok=True)
    files = ["-l", str(folder / "my_launchpad.yaml"), "-w", str(mine), "--loglvl", "WARNING"]
    start = list(command) or launcher("rlaunch")
    with (folder / f"worker-{number}.log").open("wb") as log:
        return subprocess.Popen(
            [*start, *files, "rapidfire", "--sleep", "1"], cwd=place, stdout=log, stderr=subprocess.STDOUT
        )


def finish(folder: Path, workers: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait for workers. Raises ClusterError with the end of its log for one that fails."""
    try:
        for number, process in enumerate(workers):
            if process.wait(seconds):
                said = (folder / f"worker-{number}.log").read_text(errors="replace")
                raise ClusterError(f"a worker failed: {said[-2000:]}")
    finally:
        for process in workers:
            if process.poll() is None:
                process.kill()
                process.wait()


def save(result: dict[str, Any], out: Path | None) -> None:
    """Write what was measured so far, and how busy the machine is now."""
    result["load_after"] = round(os.getloadavg()[0], 1)
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")


def all_done(pad: LaunchPad) -> None:
    """Raises ClusterError, with the end of a traceback, if a job is not COMPLETED."""
    bad = pad.fireworks.count_documents({"state": {"$ne": "COMPLETED"}})
    if bad:
        failures = status(pad, failures=1).failures
        said = "; ".join(failures[0].lines) if failures else "none failed"
        raise ClusterError(f"{bad} jobs did not finish: {said}")


def measured_on() -> dict[str, Any]:
    """What a reader must know of the machine: cores, load, versions."""
    names = ("fireworks", "jobflow", "maggma", "pymongo")
    return {
        "command": shlex.join(["python", *(Path(word).name if word.startswith("/") else word for word in sys.argv)]),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
    }


def copy_flow(pad: LaunchPad, flow: int, count: int, states: Sequence[str] = ("COMPLETED",)) -> None:
    """Put copies of a chain of jobs that ran on the LaunchPad, each with ids of its own, as if it had been submitted.

    states: of the last job of each copy, in turn.
    """
    workflow = pad.workflows.find_one({"nodes": flow}, {"_id": 0})
    nodes = sorted(workflow["nodes"])
    jobs = [pad.fireworks.find_one({"fw_id": node}, {"_id": 0}) for node in nodes]
    launches = [pad.launches.find_one({"launch_id": job["launches"][-1]}, {"_id": 0}) for job in jobs]
    total = count * len(nodes)
    free = pad.fw_id_assigner.find_one_and_update({}, {"$inc": {"next_fw_id": total, "next_launch_id": total}})
    for begin in range(0, count, CHUNK):
        rows: dict[str, list[dict[str, Any]]] = {"workflows": [], "fireworks": [], "launches": []}
        for number in range(begin, min(begin + CHUNK, count)):
            ids = {str(node): free["next_fw_id"] + number * len(nodes) + n for n, node in enumerate(nodes)}
            held = dict.fromkeys((str(i) for i in ids.values()), "COMPLETED")
            held[str(ids[str(nodes[-1])])] = last = states[number % len(states)]
            for place, (job, launch) in enumerate(zip(jobs, launches, strict=True)):
                fw_id, at = ids[str(nodes[place])], free["next_launch_id"] + number * len(nodes) + place
                state, ran = held[str(fw_id)], held[str(fw_id)] not in ("READY", "WAITING")
                rows["fireworks"].append({**job, "fw_id": fw_id, "state": state, "launches": [at] if ran else []})
                if ran:
                    rows["launches"].append({**launch, "launch_id": at, "fw_id": fw_id, "state": state})
            key = secrets.token_hex(32)
            about = {**workflow["metadata"]["dao_flows"], "key": key, "submission": f"{key}-1"}
            changed = {
                "nodes": list(ids.values()),
                "fw_states": held,
                "state": last if last in ("COMPLETED", "FIZZLED") else "RUNNING",
                "metadata": {**workflow["metadata"], "dao_flows": about},
            }
            for name in ("links", "parent_links"):
                changed[name] = {str(ids[one]): [ids[str(o)] for o in others] for one, others in workflow[name].items()}
            rows["workflows"].append({**workflow, **changed})
        for name, documents in rows.items():
            pad.db[name].insert_many(documents)
