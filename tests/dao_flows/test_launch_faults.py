"""What goes wrong on a cluster: nothing is lost and nothing done twice, with counts. See docs/hpc.md."""

import contextlib
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from jobflow import Flow

from dao_flows.launch.flows import Planned
from dao_flows.launch.launchpad import launchpad
from dao_flows.launch.project import worker
from dao_flows.launch.routes import defaults
from dao_flows.launch.submit import submit
from dao_flows.makers.stages.declaration import CPU
from dao_flows.store import stores

MONGO_URI = os.environ.get("DAO_FLOWS_TEST_MONGO_URI", "mongodb://127.0.0.1:27017")
CATIONS = (
    "Li",
    "Na",
    "K",
    "Rb",
    "Be",
    "Mg",
    "Ca",
    "Sr",
    "Ba",
    "Zn",
    "Cd",
    "Sc",
    "Y",
    "Ti",
    "Zr",
    "Fe",
    "Co",
    "Ni",
    "Cu",
    "Ag",
)
ANIONS = ("N", "P", "As", "O", "S", "Se", "F", "Cl", "Br", "I")
FORMULAS = [cation + anion for cation, anion in itertools.product(CATIONS, ANIONS)]  # 200
QUICK = ("-n", "1", "--z", "1", "--steps", "2", "--route", "screen.category=cpu")


def wait_until(condition, seconds=120, every=0.1):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)


def counts():
    """Jobs, launches and results, and how often jobs' bodies were begun and ended (the log of attempts)."""
    pad, store = launchpad(), stores.job_store()
    documents = list(store.query({}, properties=["uuid", "index", "name"]))
    runs = stores.collection(store, "runs")
    begun = Counter(record["job_uuid"] for record in runs.query({"event": "job-start"}, properties=["job_uuid"]))
    return {
        "jobs": dict(Counter(job["state"] for job in pad.fireworks.find({}, {"state": 1}))),
        "launches": dict(Counter(launch["state"] for launch in pad.launches.find({}, {"state": 1}))),
        "reruns": sum(bool(job["archived_launches"]) for job in pad.fireworks.find({}, {"archived_launches": 1})),
        "results": dict(Counter(document["name"] for document in documents)),
        "distinct": len({(document["uuid"], document["index"]) for document in documents}),
        "begun": len(begun),
        "begun twice": sum(count > 1 for count in begun.values()),
        "ended": runs.count({"event": "job-end", "outcome": "finished"}),
    }


def each_once(jobs, **left):
    """What `counts` is when so many generate jobs ran, each exactly once, and `left` are not for these workers."""
    return {
        "jobs": {"COMPLETED": jobs, **left},
        "launches": {"COMPLETED": jobs},
        "reruns": 0,
        "results": {"generate": jobs},
        "distinct": jobs,
        "begun": jobs,
        "begun twice": 0,
        "ended": jobs,
    }


class Proxy:
    """A TCP server before another, which can be away (connections are cut and refused) or lose one answer in twenty."""

    def __init__(self, uri):
        parts = urlsplit(uri)
        self.target = parts.hostname, parts.port or 27017
        self.open, self.lock = set(), threading.Lock()
        self.cuts = 0
        self.losing = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    @property
    def uri(self):
        return f"mongodb://{self.address[0]}:{self.address[1]}/?directConnection=true"

    def away(self):
        with self.lock:
            listener, self.listener = self.listener, None
            connections, self.open = self.open, set()
        shut(listener)
        self.cuts += len(connections)
        for connection in connections:
            shut(connection)

    def back(self):
        self.listener = socket.create_server(self.address)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                near = listener.accept()[0]
                far = socket.create_connection(self.target)
            except OSError:
                return
            with self.lock:
                if self.listener is not listener:
                    shut(near)
                    shut(far)
                    return
                self.open |= {near, far}
            for pair in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source, sink, answers):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and self.losing and self.losing.random() < 0.05:
                    self.cuts += 1
                    break
                sink.sendall(data)
        with self.lock:
            self.open -= {source, sink}
        shut(source)
        shut(sink)


def shut(connection):
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def test_four_workers_run_each_of_two_hundred_jobs_once(project, monkeypatch, work, finish, submitted):
    monkeypatch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "1")
    flows = submitted("predict", *FORMULAS, *QUICK)
    assert len({flow["key"] for flow in flows}) == 200
    finish(*(work(project, "gpu") for _ in range(4)), seconds=400)
    assert counts() == each_once(200, READY=200)


def test_workers_wait_for_a_database_that_is_away_for_twenty_seconds(
    set_up, monkeypatch, work, finish, submitted, call
):
    proxy = Proxy(MONGO_URI)
    project = set_up(uri=proxy.uri)
    monkeypatch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "1")
    submitted("predict", *FORMULAS[:40], *QUICK)
    workers = [work(project, "gpu") for _ in range(3)]
    waiting = work(project, "dft", "--nlaunches", "infinite")  # has nothing to do, and asks again every second
    done = launchpad().fireworks.count_documents
    wait_until(lambda: done({"state": "COMPLETED"}) >= 10)
    running = done({"state": "RUNNING"})
    proxy.away()
    time.sleep(20)
    code, _, err = call("status")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert [worker.poll() for worker in (*workers, waiting)] == [None] * 4
    proxy.back()
    finish(*workers, seconds=240)
    assert counts() == each_once(40, READY=40)
    assert waiting.poll() is None

    def said():
        return [(project / "launches" / f"worker-{number}.log").read_text() for number in range(4)]

    # some say so, others wait within the driver; the one with nothing to do may still be in a pause of its own
    assert "the database does not answer" in "".join(said())
    wait_until(lambda: all(("does not answer" in text) == ("answers again after" in text) for text in said()))
    assert "Traceback" not in "".join(said())
    assert running > 0
    assert proxy.cuts > 0


def test_a_claim_whose_answer_is_lost_takes_no_second_job(set_up):
    """As workers claim and finish jobs, over connections that break after the server has done what was asked."""
    proxy = Proxy(MONGO_URI)
    set_up()
    jobs = launchpad().db["claimed"]
    jobs.insert_many([{"number": number, "state": "READY"} for number in range(200)])
    workers = [subprocess.Popen([sys.executable, "-c", CLAIM, proxy.uri, jobs.database.name], stdout=-1) for _ in "abc"]
    wait_until(lambda: jobs.count_documents({"state": "DONE"}) > 10)
    proxy.losing = random.Random(0)
    taken = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
    assert proxy.cuts > 20
    assert sorted(itertools.chain(*taken)) == list(range(200))  # each once, whoever took it
    assert [jobs.count_documents({"state": state}) for state in ("READY", "RESERVED", "DONE")] == [0, 0, 200]


CLAIM = """
import json, sys
from dao_flows.launch.patience import be_patient
be_patient(60)
from pymongo import MongoClient
uri, database = sys.argv[1:]
jobs, taken = MongoClient(uri)[database].claimed, []
while found := jobs.find_one_and_update({"state": "READY"}, {"$set": {"state": "RESERVED"}}, sort=[("number", 1)]):
    taken.append(found["number"])
    jobs.find_one_and_replace({"number": found["number"]}, {"number": found["number"], "state": "DONE"})
print(json.dumps(taken))
"""


def test_a_job_that_was_claimed_and_not_begun_is_found(project, work, finish, submitted, call):
    """Its worker was killed in the moment between, or the queue's own job is gone."""
    flow, other = submitted("predict", "NaCl", *QUICK)[0], submitted("predict", "KCl", *QUICK)[0]
    pad = launchpad()
    assert pad._get_a_fw_to_run({"spec._category": "gpu"}).fw_id == flow["jobs"][0]  # and then the worker is gone
    assert call("rerun", "--all")[1] == "nothing failed, was lost or cancelled\n"  # it may just be about to begin
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    pad.fireworks.update_one({"fw_id": flow["jobs"][0]}, {"$set": {"updated_on": long_ago}})
    assert call("rerun", "--all")[1] == f"again: jobs {flow['jobs'][0]}\n"
    finish(work(project, "gpu"))
    assert counts()["results"] == {"generate": 2}
    assert counts()["begun twice"] == 0
    assert other["jobs"] != flow["jobs"]


def test_a_flow_goes_on_whose_worker_was_killed_between_reporting_and_telling_it(
    project, work, finish, submitted, call
):
    flow = submitted("predict", "NaCl", *QUICK)[0]
    finish(work(project, "gpu"))
    pad = launchpad()
    generate, screen = flow["jobs"]  # as they stand when the launch is written as done, and nothing else
    pad.fireworks.update_one({"fw_id": generate}, {"$set": {"state": "RUNNING"}})
    pad.fireworks.update_one({"fw_id": screen}, {"$set": {"state": "WAITING"}})
    states = {f"fw_states.{generate}": "RUNNING", f"fw_states.{screen}": "WAITING"}
    pad.workflows.update_one({}, {"$set": {"state": "RUNNING", **states}})
    assert call("rerun", "--all")[0] == 0
    finish(work(project, "cpu"))
    assert counts() == {
        "jobs": {"COMPLETED": 2},
        "launches": {"COMPLETED": 2},
        "reruns": 0,
        "results": {"generate": 1, "screen": 1},
        "distinct": 2,
        "begun": 2,
        "begun twice": 0,
        "ended": 2,
    }


def test_a_worker_that_is_ended_says_so_of_its_job(project, work, finish, submitted, call, bodies):
    pad = launchpad()
    (flow,) = submit(
        [Planned("predict", "a" * 64, "lingers", Flow([bodies.linger(str(project / "marker"), 300)]))],
        launchpad(),
        defaults(),
        "none",
    ).flows
    submit(
        [Planned("predict", "c" * 64, "is next", Flow([bodies.linger(str(project / "other"), 0)]))],
        launchpad(),
        defaults(),
        "none",
    )
    worker = work(project, "cpu")
    wait_until(lambda: (project / "marker").exists())
    worker.terminate()
    assert worker.wait(60) == 128 + signal.SIGTERM
    assert pad.fireworks.count_documents({"state": "READY"}) == 1  # the other job is left to other workers
    (failure,) = json.loads(call("status", "--json")[1])["failures"]
    assert failure["lines"][-1].endswith("the worker was ended (SIGTERM), as a queue does when the wall time is over")
    assert "more wall time" in failure["advice"]
    assert call("rerun", str(flow.flow))[1] == f"again: jobs {flow.flow}\n"
    finish(work(project, "cpu"))
    assert counts()["results"] == {"linger": 2}
    assert pad.fireworks.count_documents({"state": "COMPLETED"}) == 2


@pytest.fixture
def full(project):
    """A launch directory of its own small file system, and a file that fills it."""
    place = project / "launches" / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    filling = place / "filling"
    try:
        with filling.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        yield place, filling
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_worker_on_a_full_disk_takes_no_job(project, full, work, finish, submitted):
    place, filling = full
    submitted("predict", "NaCl", *QUICK)
    worker = work(project, "gpu", place=place)
    assert worker.wait(60) == 1
    said = (project / "launches" / "worker-0.log").read_text().strip().splitlines()
    assert re.match(r"dao-flows: no job is taken: .*No space left on device", said[-1])
    assert "Traceback" not in "".join(said)
    assert counts() == each_once(0, READY=1, WAITING=1) | {
        "jobs": {"READY": 1, "WAITING": 1},
        "launches": {},
        "results": {},
    }
    filling.unlink()
    finish(work(project, "gpu", place=place))
    finish(work(project, "cpu"))
    assert counts()["results"] == {"generate": 1, "screen": 1}
    assert counts()["reruns"] == 0


def test_a_full_disk_fails_a_reserved_job_with_one_clear_line(project, full, submitted, call):
    """What qlaunch's jobs do, which are there for one job alone."""
    place, filling = full
    flow = submitted("predict", "NaCl", *QUICK)[0]
    first = str(flow["jobs"][0])
    files = ["-l", str(project / "my_launchpad.yaml"), "-w", str(project / "fworker_gpu.yaml")]
    command = [*worker("rlaunch"), *files, "singleshot", "--fw_id", first]
    subprocess.run(command, cwd=place, capture_output=True, check=True, timeout=120)
    (failure,) = json.loads(call("status", first, "--json")[1])["failures"]
    assert "No space left on device" in failure["lines"][-1]
    assert failure["advice"] == "no space is left in its directory: free some, then `dao-flows rerun`"
    assert str(place) in failure["directory"]
    assert counts()["results"] == {}
    filling.unlink()
    assert call("rerun", first)[0] == 0
    subprocess.run(command, cwd=place, capture_output=True, check=True, timeout=120)
    found = counts()
    assert (found["results"], found["jobs"], found["reruns"]) == ({"generate": 1}, {"COMPLETED": 1, "READY": 1}, 1)


def test_a_document_over_16_mb_is_refused_and_leaves_nothing(project, work, finish, submitted, call, bodies):
    code, _, err = call("submit", "predict", "NaCl", "-n", "3000")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "too many for one job" in err
    assert launchpad().workflows.count_documents({}) == 0
    submit([Planned("predict", "b" * 64, "is bulky", Flow([bodies.bulk(17_000_000)]))], launchpad(), defaults(), "none")
    finish(work(project, "cpu"))
    (failure,) = json.loads(call("status", "--json")[1])["failures"]
    assert failure["advice"].startswith("what it would store is larger than the 16 MB that MongoDB takes")
    shown = call("status")[1]
    assert failure["advice"] in shown
    assert len(shown) < 3000
    assert stores.job_store().count() == 0


def test_the_same_flow_submitted_twice_runs_once(project, work, finish, submitted, start):
    command = ("submit", "predict", "NaCl", *QUICK, "--json")
    ended = [each.communicate(timeout=120) for each in [start(*command) for _ in range(4)]]
    assert [err for out, err in ended if not out] == []
    found = [json.loads(out)["flows"][0] for out, _ in ended]
    assert sorted(flow["new"] for flow in found) == [False, False, False, True]
    assert len({flow["flow"] for flow in found}) == 1
    assert launchpad().workflows.count_documents({}) == 1
    finish(work(project, "gpu"))
    finish(work(project, "cpu"))
    assert submitted(*command[1:-1])[0] == {**found[0], "state": "COMPLETED", "new": False}
    again = submitted(*command[1:-1], "--again")[0]
    assert again["new"] is True
    assert again["key"] == found[0]["key"]
    finish(work(project, "gpu"))
    finish(work(project, "cpu"))
    assert counts()["results"] == {"generate": 2, "screen": 2}  # forced: it is computed and stored twice
    assert counts()["begun twice"] == 0


def test_whoever_submits_second_within_a_moment_is_shown_the_first(project, submitted, monkeypatch):
    (first,) = submitted("predict", "NaCl", *QUICK)
    looks = iter([[]])  # as a look sees it that comes just before the other's submission
    module = importlib.import_module("dao_flows.launch.submit")  # the package has a function of this name
    look = module._earlier
    monkeypatch.setattr(module, "_earlier", lambda key, pad: [] if next(looks, None) is not None else look(key, pad))
    assert submitted("predict", "NaCl", *QUICK) == [{**first, "new": False}]
    assert launchpad().workflows.count_documents({}) == 1


def slurm(*command):
    """The answer of a command of Slurm's; nothing where there is none that runs."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()


with_slurm = pytest.mark.skipif(
    not {"gpu", "cpu"} <= set(slurm("sinfo", "--noheader", "--format=%R").split()),
    reason="no Slurm with partitions gpu and cpu runs here",
)
SLURM = ("--queue", "slurm", "--gpu-queue", "gpu", "--dft-queue", "cpu", "--cpu-queue", "cpu")


def to_queue(project, route):
    """Hand one job to Slurm, as launch.sh does, and return the queue's id of it."""
    files = ["-l", str(project / "my_launchpad.yaml"), "-w", str(project / f"fworker_{route}.yaml")]
    place = project / "launches" / f"{route}-{time.monotonic_ns()}"
    place.mkdir()
    command = [*worker("qlaunch"), "-r", *files, "-q", str(project / f"qadapter_{route}.yaml"), "singleshot"]
    subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=120)
    latest = launchpad().launches.find_one(
        {"state_history.reservation_id": {"$exists": True}}, sort=[("launch_id", -1)]
    )
    return str(next(entry["reservation_id"] for entry in latest["state_history"] if "reservation_id" in entry))


@with_slurm
def test_a_job_over_its_wall_time_is_found_at_once_and_run_again_once(set_up, call, bodies):
    project = set_up(*SLURM)
    routes = {**defaults(), "linger": CPU.model_copy(update={"walltime": "00:01:00"})}
    job = bodies.linger(str(project / "marker"), 900)
    flow = submit([Planned("predict", "d" * 64, "lingers", Flow([job]))], launchpad(), routes, "slurm").flows[0].flow
    to_queue(project, "cpu")
    fizzled = {"fw_id": flow, "state": "FIZZLED"}
    wait_until(lambda: launchpad().fireworks.count_documents(fizzled), seconds=300, every=2)
    (failure,) = json.loads(call("status", "--json")[1])["failures"]
    assert "the worker was ended (SIGTERM)" in failure["lines"][-1]
    assert "more wall time" in failure["advice"]
    assert counts()["results"] == {}
    assert call("rerun", str(flow))[1] == f"again: jobs {flow}\n"
    to_queue(project, "cpu")
    wait_until(lambda: launchpad().fireworks.count_documents({"state": "COMPLETED"}), seconds=120, every=1)
    found = counts()
    assert (found["results"], found["reruns"], found["launches"]) == ({"linger": 1}, 1, {"FIZZLED": 1, "COMPLETED": 1})


@with_slurm
@pytest.mark.skipif("DAO_FLOWS_TEST_SLURM_DRAIN" not in os.environ, reason="this Slurm is not ours to drain")
def test_jobs_wait_for_a_drained_node_and_a_place_in_the_queue_that_is_lost_is_found(set_up, call, submitted):
    project = set_up(*SLURM)
    node = slurm("sinfo", "--noheader", "--format=%n").split()[0]
    first, second = submitted("predict", "NaCl", *QUICK)[0], submitted("predict", "KCl", *QUICK)[0]
    slurm("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        jobs = [to_queue(project, "gpu") for _ in range(2)]
        time.sleep(5)
        assert [slurm("squeue", "--noheader", "--format=%t", "--jobs", job) for job in jobs] == ["PD", "PD"]
        (generate, screen) = json.loads(call("status", "--json")[1])["stages"]
        assert (generate["states"], screen["states"]) == ({"RESERVED": 2}, {"WAITING": 2})
        assert call("rerun", "--all")[1] == "nothing failed, was lost or cancelled\n"
        slurm("scancel", jobs[1])
        wait_until(lambda: jobs[1] not in slurm("squeue", "--noheader", "--format=%A").split())
        assert call("rerun", "--all")[1] == f"again: jobs {max(first['jobs'][0], second['jobs'][0])}\n"
        to_queue(project, "gpu")
    finally:
        slurm("scontrol", "update", f"nodename={node}", "state=resume")
    done = launchpad().fireworks.count_documents
    wait_until(lambda: done({"state": "COMPLETED"}) == 2, seconds=180, every=1)
    found = counts()
    assert (found["results"], found["begun"], found["begun twice"]) == ({"generate": 2}, 2, 0)


BODIES = '''
import time
from pathlib import Path
from jobflow import job

@job
def linger(marker, seconds):
    """Takes long the first time."""
    if not Path(marker).exists():
        Path(marker).touch()
        time.sleep(seconds)
    return Path(marker).name

@job
def bulk(size):
    return "x" * size
'''


@pytest.fixture
def bodies(tmp_path, monkeypatch):
    """Jobs for trying faults, which workers can import."""
    (tmp_path / "bodies").mkdir()
    (tmp_path / "bodies" / "dao_flows_test_bodies.py").write_text(BODIES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "bodies"))
    monkeypatch.syspath_prepend(tmp_path / "bodies")
    found = importlib.import_module("dao_flows_test_bodies")
    yield found
    del sys.modules["dao_flows_test_bodies"]
