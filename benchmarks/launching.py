"""Overhead of a job on the LaunchPad with nothing to compute: by number of workers, and where it goes.

Jobs of `idle.IdleMaker` in flows of two, the second reading what the first stored, as screening reads a generation.
Workers are FireWorks' `rlaunch rapidfire` as launch.sh starts them. Counted from the moment when every worker has done
one job until nothing is left to claim, so that neither imports nor the last worker's wait count; the start of a process
stands apart. Writes to a database of its own on the server, which is dropped.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from cluster import URI_VARIABLE, ClusterError, finish, measured_on, project, save, worker
from idle import IdleMaker

from dao_flows.launch.launchpad import CLAIM
from dao_flows.makers.jobs import provenance

if TYPE_CHECKING:
    from fireworks import LaunchPad

JOBS, WORKERS = 1000, (1, 2, 4)
QUICK_JOBS, QUICK_WORKERS = 20, (1, 2)
PROFILED = 100  # jobs whose parts are timed, in each direction of the comparison
SPECS = (0, 100_000, 900_000)  # bytes that the specs of jobs carry beside the job
FLOWS = (2, 100, 400)  # jobs of one flow
STARTS = 5  # processes for one job each
QUEUED = (0, 1_000, 10_000, 50_000)  # READY jobs in the database when a claim is timed
CLAIMS = 15
ROUTE = "cpu"
PARTS = ("parts", "starts", "claims", "writes", "specs", "flows", "overhead")
STORED = (1_000, 10_000)
DOCUMENT = 20_000  # bytes
SECONDS = 1800.0


def submit(pad: LaunchPad, jobs: int, payload: int = 0, size: int = 2) -> None:
    """Flows of idle jobs, put on the LaunchPad as `dao-flows submit` does.

    payload: bytes in each spec; size: jobs of a flow, all after the first of which read what the first stored.
    """
    from jobflow.core.flow import Flow

    from dao_flows.launch.flows import Planned
    from dao_flows.launch.routes import read_routes
    from dao_flows.launch.submit import submit as put

    planned = []
    for number in range(0, jobs, size):
        first = IdleMaker().make(number)
        others = range(number + 1, min(number + size, jobs))
        chain = [first, *(IdleMaker().make(other, first.output) for other in others)]
        for job in chain:
            job.metadata["payload"] = "x" * (payload // 2)  # it goes into the job and beside it
        planned.append(Planned("predict", os.urandom(32).hex(), "idle", Flow(chain)))
    put(planned, pad, read_routes(None), "none")


def clear(pad: LaunchPad) -> None:
    """Empty the LaunchPad and the results, indexes kept."""
    for name in ("fireworks", "launches", "workflows", "jobs", "runs"):
        pad.db[name].delete_many({})


def spans(pad: LaunchPad) -> dict[str, list[tuple[datetime, datetime]]]:
    """When each worker's jobs began and ended, in order."""
    found = defaultdict(list)
    fields = {"fworker.name": 1, "state_history": 1, "state": 1}
    for launch in pad.launches.find({}, fields):
        if launch["state"] != "COMPLETED":
            raise ClusterError(f"a job is {launch['state']}")
        times = {entry["state"]: datetime.fromisoformat(entry["created_on"]) for entry in launch["state_history"]}
        found[launch["fworker"]["name"]].append((times["RUNNING"], times["COMPLETED"]))
    return {name: sorted(each) for name, each in found.items()}


def overhead(folder: Path, pad: LaunchPad, jobs: int, workers: int, payload: int = 0, size: int = 2) -> dict[str, Any]:
    """Run idle jobs: jobs per second of all workers in the steady part, and each worker's time a job."""
    clear(pad)
    submit(pad, jobs, payload, size)
    used = os.times()
    begun = time.perf_counter()
    finish(folder, [worker(folder, number, routes=[ROUTE]) for number in range(workers)], SECONDS)
    wall = time.perf_counter() - begun
    after = os.times()
    by_worker = spans(pad)
    done = sorted(end for each in by_worker.values() for _, end in each)
    if len(done) != jobs or pad.db["jobs"].count_documents({}) != jobs:
        raise ClusterError(f"{len(done)} of {jobs} jobs ran")
    start = max(each[0][1] for each in by_worker.values())  # every worker has its imports behind it
    stop = max(begun for each in by_worker.values() for begun, _ in each)  # the last claim
    counted = sum(start < end <= stop for end in done)
    seconds = (stop - start).total_seconds()
    processor = after.children_user + after.children_system - used.children_user - used.children_system
    return {
        "workers": workers,
        "jobs": jobs,
        "counted": counted,
        "jobs_per_second": counted / seconds,
        "ms_a_job": 1e3 * workers * seconds / counted,
        "wall_seconds": wall,
        "worker_cpu_ms_a_job": 1e3 * processor / jobs,  # imports included
    }


class Parts:
    """Time and commands to the server by the innermost part that is running; a part's own, without parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.commands: Counter[str] = Counter()
        self.stack, self.since = ["rest"], time.perf_counter()

    def lap(self) -> None:
        """Give the time since the last lap to the part that runs."""
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    def time(self, owner: Any, method: str, part: str) -> None:
        """Count all calls of a method towards a part."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():  # a sign of life during a long job
                return inner(*args, **kwargs)
            self.lap()
            self.stack.append(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self.lap()
                self.stack.pop()

        setattr(owner, method, timed)

    def reset(self) -> None:
        """Forget what was counted."""
        self.lap()
        self.seconds.clear()
        self.commands.clear()


def watched_worker(out: Path, modules: str, arguments: Sequence[str]) -> None:
    """A worker in this process, its parts timed and written to a file.

    modules: comma-separated, imported before, so that imports do not count.
    """
    from fireworks.core.launchpad import LaunchPad
    from fireworks.scripts import rlaunch_run
    from jobflow.core.job import Job
    from jobflow.core.store import JobStore
    from pymongo import monitoring

    from dao_flows.launch.worker import main as work
    from dao_flows.makers.jobs.attempts import Attempt

    for module in modules.split(","):
        importlib.import_module(module)
    parts, done = Parts(), 0

    class Listener(monitoring.CommandListener):
        def started(self, event: monitoring.CommandStartedEvent) -> None:
            parts.commands[parts.stack[-1]] += 1

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

        def failed(self, event: monitoring.CommandFailedEvent) -> None: ...

    monitoring.register(Listener())
    complete, rapidfire = LaunchPad.complete_launch, rlaunch_run.rapidfire

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        return complete(*args, **kwargs)

    def measured(*args: Any, **kwargs: Any) -> None:
        parts.reset()
        rapidfire(*args, **kwargs)
        parts.lap()

    LaunchPad.complete_launch, rlaunch_run.rapidfire = counted, measured
    for owner, method, part in (
        (LaunchPad, "run_exists", "look for a job"),
        (LaunchPad, "checkout_fw", "claim"),
        (LaunchPad, "_refresh_wf", "refresh the workflow"),
        (LaunchPad, "ping_launch", "signs of life"),
        (LaunchPad, "complete_launch", "report"),
        (Attempt, "__enter__", "log the attempt"),
        (Attempt, "__exit__", "log the attempt"),
        (Job, "run", "job"),
        (JobStore, "get_output", "read the parent's output"),
        (JobStore, "update", "store the document"),
    ):
        parts.time(owner, method, part)
    work(["rlaunch", *arguments])
    out.write_text(json.dumps({"jobs": done, "seconds": parts.seconds, "commands": parts.commands}))


def watch(folder: Path, modules: Sequence[str]) -> dict[str, Any]:
    """Have a watched worker run all that is there: its jobs, and seconds and commands of each part."""
    out = folder / "parts.json"
    command = [sys.executable, __file__, "--child", str(out), ",".join(modules)]
    finish(folder, [worker(folder, 0, command)], SECONDS)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def profile(folder: Path, pad: LaunchPad, jobs: int) -> dict[str, Any]:
    """Where one worker's time goes, ms and commands a job, the largest part first."""
    clear(pad)
    submit(pad, jobs)
    found = watch(folder, ["idle", "torch"])
    return {
        name: {"ms": 1e3 * seconds / jobs, "commands": found["commands"].get(name, 0) / jobs}
        for name, seconds in sorted(found["seconds"].items(), key=lambda item: -item[1])
    }


def starts(folder: Path, pad: LaunchPad, processes: int) -> dict[str, Any]:
    """What a process for one job takes beside the job, as a queue's job does (`rlaunch singleshot`), s."""
    from dao_flows.launch.project import worker as launcher

    clear(pad)
    submit(pad, processes)
    took = []
    for _ in range(processes):
        files = ["-l", str(folder / "my_launchpad.yaml"), "-w", str(folder / f"fworker_{ROUTE}.yaml")]
        begun = time.perf_counter()
        subprocess.run(
            [*launcher("rlaunch"), *files, "singleshot"], cwd=folder / "launches", check=True, capture_output=True
        )
        took.append(time.perf_counter() - begun)
    ran = [(end - begin).total_seconds() for each in spans(pad).values() for begin, end in each]
    return {"processes": processes, "seconds": median(took), "of_them_job": median(ran)}


def claims(pad: LaunchPad, waiting: int, others: int = 0, done: int = 0) -> dict[str, Any]:
    """Time of one claim, and of one look, among jobs in the database, with and without our index, ms.

    waiting: READY, of the worker's own route; others: READY, of another route; done: COMPLETED, of its own route.
    """
    from pymongo import DESCENDING

    clear(pad)
    submit(pad, 1)
    template = pad.fireworks.find_one({}, {"_id": 0})
    when = datetime.now(UTC)
    total = waiting + others + done
    for start in range(0, total, 1000):
        rows = []
        for number in range(start, min(start + 1000, total)):
            spec = {**template["spec"], "_category": "gpu" if waiting <= number < waiting + others else ROUTE}
            changed = {"fw_id": 1_000_000 + number, "created_on": (when + timedelta(milliseconds=number)).isoformat()}
            state = "READY" if number < waiting + others else "COMPLETED"
            rows.append({**template, **changed, "spec": spec, "state": state})
        pad.fireworks.insert_many(rows)
    wanted = {"spec._category": ROUTE, "state": "READY"}
    order = [("spec._priority", DESCENDING)]

    def look() -> None:
        pad.fireworks.find_one(wanted, {"fw_id": 1}, sort=order)

    def claim() -> None:
        pad.fireworks.find_one_and_update(wanted, {"$set": {"updated_on": when}}, sort=order)

    found: dict[str, Any] = {"ready": waiting, "ready_of_another_route": others, "completed": done}
    for label, indexed in (("without", False), ("with", True)):
        if indexed:
            pad.fireworks.create_index(CLAIM)
        elif CLAIM in [list(index["key"].items()) for index in pad.fireworks.list_indexes()]:
            pad.fireworks.drop_index(CLAIM)
        found[f"{label}_index"] = {"look_ms": timed(look, CLAIMS), "claim_ms": timed(claim, CLAIMS)}
    return found


def writes(pad: LaunchPad, stored: int) -> dict[str, Any]:
    """Time of storing one document among others, and of logging one attempt, with and without our indexes, ms."""
    from dao_flows.makers.jobs.attempts import append
    from dao_flows.store.collections import JOB_INDEXES
    from dao_flows.store.stores import collection, index, job_store

    clear(pad)
    store = job_store()
    runs = collection(store, "runs")
    for begin in range(0, stored, 1000):
        rows = [{"uuid": f"{n:036d}", "index": 1, "output": "x" * DOCUMENT} for n in range(begin, begin + 1000)]
        pad.db["jobs"].insert_many(rows[: stored - begin])
        pad.db["runs"].insert_many([{"record_id": f"{2 * n}", "content": "x" * 1000} for n in range(2 * len(rows))])
    pad.db["jobs"].drop_indexes()
    pad.db["runs"].drop_indexes()
    found: dict[str, Any] = {"stored": stored}
    for label in ("without", "with"):
        if label == "with":
            vars(runs).pop("_dao_flows_ready", None)
            index(store)
        number = iter(range(1_000_000, 2_000_000))
        found[f"{label}_index"] = {
            "store_ms": timed(lambda n=number: store.update({"uuid": str(next(n)), "index": 1, "output": "x"}), CLAIMS),
            "attempt_ms": timed(lambda n=number: append(runs, {"record_id": str(next(n))}), CLAIMS),
        }
    assert all(pad.db["jobs"].index_information().get("_".join(f"{f}_1" for f in fields)) for fields in JOB_INDEXES)
    return found


def timed(call: Callable[[], Any], times: int) -> float:
    """Median of calls, ms."""
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        took.append(1e3 * (time.perf_counter() - begun))
    return median(took)


def connections(folder: Path, pad: LaunchPad) -> int:
    """Connections to the server that one worker holds while it works."""
    clear(pad)
    submit(pad, 40)
    port = pad.connection.address[1]
    process = worker(folder, 0)
    most = 0
    while process.poll() is None:
        asked = subprocess.run(["ss", "-tnpH", f"dport = :{port}"], capture_output=True, text=True, check=False)
        most = max(most, sum(f"pid={process.pid}," in line for line in asked.stdout.splitlines()))
        time.sleep(0.5)
    finish(folder, [process], SECONDS)
    return most


def main() -> int:
    """The last line is the figure; exit code 2 for what cannot be measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--mongo-uri", default=os.environ.get(URI_VARIABLE), help=f"default: ${URI_VARIABLE}")
    p.add_argument("--jobs", type=int, default=JOBS)
    p.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    p.add_argument("--quick", action="store_true", help="20 jobs, one and two workers, no long queues")
    p.add_argument("--only", choices=PARTS)
    p.add_argument("--out", type=Path, help="JSON file for the figures")
    args = p.parse_args()
    queued = QUEUED
    if args.quick:
        args.jobs, args.workers, queued = QUICK_JOBS, list(QUICK_WORKERS), QUEUED[:2]
    result: dict[str, Any] = measured_on()
    chosen = {args.only} if args.only else set(PARTS)
    try:
        with project(args.mongo_uri) as (folder, pad):
            if "parts" in chosen:
                result["parts"] = profile(folder, pad, min(PROFILED, args.jobs))
                for name, part in result["parts"].items():
                    print(f"{name}: {part['ms']:.1f} ms, {part['commands']:.1f} commands")
            if "starts" in chosen:
                looked_up = provenance._installed.__wrapped__
                result["library_lookup"] = {
                    "each_time_ms": timed(looked_up, CLAIMS),
                    "once_ms": timed(provenance.library_versions, CLAIMS),
                }
                result["start"] = starts(folder, pad, 2 if args.quick else STARTS)
                result["connections_a_worker"] = connections(folder, pad)
                print(
                    f"a process for one job: {result['start']['seconds']:.1f} s, of them the job "
                    f"{result['start']['of_them_job']:.2f} s; {result['connections_a_worker']} connections"
                )
            if "claims" in chosen:
                found = [claims(pad, number) for number in queued]
                found += [claims(pad, 10, others=queued[-1]), claims(pad, 10, done=queued[-1])]
                result["claims"] = found
                for row in found:
                    times = ", ".join(f"{k} index {row[f'{k}_index']['claim_ms']:.1f} ms" for k in ("without", "with"))
                    others = f"{row['ready_of_another_route']:,} of another route, {row['completed']:,} done"
                    print(f"claim among {row['ready']:,} READY, {others}: {times}")
            if "writes" in chosen:
                result["writes"] = found = [writes(pad, number) for number in (STORED[:1] if args.quick else STORED)]
                for row in found:
                    times = ", ".join(f"{k} index {row[f'{k}_index']['store_ms']:.1f} ms" for k in ("without", "with"))
                    print(f"storing a document among {row['stored']:,}: {times}")
            if "specs" in chosen:
                result["specs"] = []
                for size in SPECS:
                    found = overhead(folder, pad, 6 if args.quick else 40, 1, size)
                    result["specs"].append({"bytes": size, **found})
                    print(f"specs of {size / 1e3:.0f} kB: {found['ms_a_job']:.0f} ms a job")
            if "flows" in chosen:
                result["flows"] = []
                for size in (2, 10) if args.quick else FLOWS:
                    for number in (1, 2) if args.quick else (1, 4):
                        found = overhead(folder, pad, max(20 if args.quick else 100, size), number, size=size)
                        result["flows"].append({"jobs_a_flow": size, **found})
                        print(f"flows of {size} jobs, {number} workers: {found['ms_a_job']:.0f} ms a job")
            if "overhead" in chosen:
                result["overhead"] = []
                for number in args.workers:
                    result["overhead"].append(found := overhead(folder, pad, args.jobs, number))
                    print(
                        f"{number} workers: {found['jobs_per_second']:.2f} jobs/s, {found['ms_a_job']:.0f} ms a job, "
                        f"{found['worker_cpu_ms_a_job']:.0f} ms of them of the worker's processor"
                    )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    save(result, args.out)
    if "overhead" in chosen:
        print(
            ", ".join(f"{each['ms_a_job']:.0f} ms" for each in result["overhead"])
            + f" a job with {', '.join(str(each['workers']) for each in result['overhead'])} workers ({args.jobs} jobs)"
        )
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        watched_worker(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
        sys.exit(0)
    sys.exit(main())
