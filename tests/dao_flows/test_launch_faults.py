"""What goes wrong on a cluster: nothing is lost and nothing done twice, with counts. See docs/hpc.md."""

import contextlib
import itertools
import os
import socket
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest

from dao_flows import stores
from dao_flows.launch.launchpad import launchpad

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
    """A TCP server before another, which can be away: connections are cut and refused."""

    def __init__(self, uri):
        parts = urlsplit(uri)
        self.target = parts.hostname, parts.port or 27017
        self.open, self.lock = set(), threading.Lock()
        self.cuts = 0
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
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
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
    said = [(project / "launches" / f"worker-{number}.log").read_text() for number in range(4)]
    assert "the database does not answer" in "".join(said)  # some say so, others wait within the driver
    assert all(("does not answer" in text) == ("answers again after" in text) for text in said)
    assert "Traceback" not in "".join(said)
    assert running > 0
    assert proxy.cuts > 0
