"""What the benchmarks of launching share: a project on a database of its own, and workers as `launch.sh` starts them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dao_flows.launch.launchpad import launchpad, prepare
from dao_flows.launch.project import Project, program, worker_file, write

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
            from dao_flows.launch.launchpad import open_launchpad
            from dao_flows.settings import settings

            pad = open_launchpad(folder / "my_launchpad.yaml", settings())
            prepare(pad)
            yield folder, launchpad()
        finally:
            if pad is not None:
                pad.connection.drop_database(pad.name)
            os.environ.clear()
            os.environ.update(before)


def worker(folder: Path, route: str, number: int, command: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """A worker of a route in a process of its own, called after its number.

    command: in place of FireWorks' rlaunch. It ends when there is nothing left for it.
    """
    described = yaml.safe_load((folder / worker_file(route)).read_text())  # type: ignore[arg-type]
    mine = folder / f"worker-{number}.yaml"
    mine.write_text(yaml.safe_dump({**described, "name": f"worker-{number}"}))
    place = folder / "launches" / str(number)
    place.mkdir(exist_ok=True)
    start = list(command) or [program("rlaunch"), "--loglvl", "WARNING"]
    files = ["-l", str(folder / "my_launchpad.yaml"), "-w", str(mine)]
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


def measured_on() -> dict[str, Any]:
    """What a reader must know of the machine: cores, load, versions."""
    import platform
    from importlib.metadata import version

    names = ("fireworks", "jobflow", "maggma", "pymongo")
    return {
        "command": shlex.join(["python", *(Path(word).name if word.startswith("/") else word for word in sys.argv)]),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
    }


def copy_flow(pad: LaunchPad, flow: int, count: int, states: Sequence[str] = ("COMPLETED",)) -> None:
    """Put copies of a flow that ran on the LaunchPad, each with ids of its own, as if each had been submitted and run.

    states: of the last jobs of the copies, in turn; what is not COMPLETED has no later job.
    """
    workflow = pad.workflows.find_one({"nodes": flow}, {"_id": 0})
    nodes = sorted(workflow["nodes"])
    jobs = [pad.fireworks.find_one({"fw_id": node}, {"_id": 0}) for node in nodes]
    launches = [pad.launches.find_one({"launch_id": job["launches"][-1]}, {"_id": 0}) for job in jobs]
    counter = pad.fw_id_assigner.find_one_and_update(
        {}, {"$inc": {"next_fw_id": count * len(nodes), "next_launch_id": count * len(nodes)}}
    )
    for start in range(0, count, CHUNK):
        rows: dict[str, list[dict[str, Any]]] = {"workflows": [], "fireworks": [], "launches": []}
        for number in range(start, min(start + CHUNK, count)):
            shift = counter["next_fw_id"] + number * len(nodes) - nodes[0]
            ids = {str(node): node + shift for node in nodes}
            state = states[number % len(states)]
            last = {"state": state, "launches": jobs[-1]["launches"]} if state not in ("READY", "WAITING") else {}
            for job, launch in zip(jobs, launches, strict=True):
                at = counter["next_launch_id"] + number * len(nodes) + len(rows["launches"]) % len(nodes)
                mine = {**job, "fw_id": ids[str(job["fw_id"])], "launches": [at]}
                if job is jobs[-1]:
                    mine["state"] = state
                    mine["launches"] = [at] if last else []
                rows["fireworks"].append(mine)
                history = launch["state_history"]
                if job is jobs[-1] and state == "RUNNING":
                    history = [entry for entry in history if entry["state"] != "COMPLETED"]
                rows["launches"].append(
                    {
                        **launch,
                        "launch_id": at,
                        "fw_id": mine["fw_id"],
                        "state": mine["state"],
                        "state_history": history,
                    }
                )
            key = secrets.token_hex(32)
            about = {**workflow["metadata"]["dao_flows"], "key": key, "submission": f"{key}-1"}
            rows["workflows"].append(
                {
                    **workflow,
                    "nodes": list(ids.values()),
                    "links": {str(ids[a]): [ids[str(b)] for b in bs] for a, bs in workflow["links"].items()},
                    "parent_links": {
                        str(ids[a]): [ids[str(b)] for b in bs] for a, bs in workflow["parent_links"].items()
                    },
                    "fw_states": {str(ids[a]): s for a, s in workflow["fw_states"].items()}
                    | {str(ids[str(nodes[-1])]): state},
                    "state": state if state in ("COMPLETED", "FIZZLED") else "RUNNING",
                    "metadata": {**workflow["metadata"], "dao_flows": about},
                }
            )
        for name, documents in rows.items():
            pad.db[name].insert_many(documents)
