"""Auditing a store: how long a provenance graph takes, by the number of its nodes.

A small flow of every stage (tests/dao_flows/audit_flow.py: dataset, trainings, relaxation, generation, screening,
verification, comparison) is made for real, and its documents are copied with ids of their own until the graph has the
nodes asked for. In an embedded store, and on the server that DAO_FLOWS_TEST_MONGO_URI names, in a database of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

FLOW = Path(__file__).parent.parent / "tests" / "dao_flows" / "audit_flow.py"
URI_VARIABLE = "DAO_FLOWS_TEST_MONGO_URI"
NODES, QUICK = 10_000, 500
AT_ONCE = 500  # documents written
IDS = re.compile(
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{64}|(?:dao|ver)-[0-9a-f]{12}|\d{8}-\d{6}-[0-9a-f]{6}"
)


def make_flow(folder: Path) -> None:
    """The flow's store, in the folder; a process of its own."""
    environment = {
        **os.environ,
        "DAO_FLOWS_DATA_DIR": str(folder / "data"),
        "DAO_FLOWS_CHECKPOINT_DIR": str(folder / "checkpoints"),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", str(FLOW), str(folder / "flow")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the flow failed: {done.stderr[-2000:]}")


def renamed(text: str, copy: int) -> str:
    """The text with other ids of the same form; the same id becomes the same one everywhere."""

    def other(found: re.Match[str]) -> str:
        ident = found.group()
        digits = hashlib.sha256(f"{copy} {ident}".encode()).hexdigest()
        if ident[:4] in ("dao-", "ver-"):
            return ident[:4] + digits[:12]
        if len(ident) == 36:
            return str(uuid.UUID(digits[:32]))
        return digits if len(ident) == 64 else ident[:16] + digits[:6]

    return IDS.sub(other, text)


def parts(store: JobStore) -> dict[str, tuple[Any, Any]]:
    """The collections of a store with their keys."""
    from dao_flows.store.collections import KEYS
    from dao_flows.store.stores import collection

    return {"jobs": (store.docs_store, ["uuid", "index"])} | {n: (collection(store, n), k) for n, k in KEYS.items()}


def fill(store: JobStore, source: JobStore, copies: int) -> int:
    """Copies of all documents of another store; returns how many were written."""
    from bson import json_util

    written = 0
    for name, (target, key) in parts(store).items():
        texts = [json_util.dumps({k: v for k, v in d.items() if k != "_id"}) for d in parts(source)[name][0].query()]
        held = []
        for copy in range(copies):
            for text in texts:
                document = json_util.loads(renamed(text, copy))
                names = [key] if isinstance(key, str) else key
                held.append({"_id": "-".join(str(document[each]) for each in names), **document})
            if len(held) >= AT_ONCE or copy == copies - 1:
                if held:
                    target.update(held, key=key)
                written, held = written + len(held), []
    return written


@contextmanager
def timed(what: str, times: dict[str, tuple[float, float]]) -> Iterator[None]:
    """Seconds by the clock and of this process's CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    times[what] = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {what:34} {times[what][0]:7.2f} s by the clock {times[what][1]:7.2f} s of CPU", flush=True)


def measure(store: JobStore) -> tuple[int, float, float]:
    """Nodes of the graph of a store, and seconds by the clock and of CPU of all of `audit graph` but its imports."""
    from dao_flows.audit.graph.build import assemble
    from dao_flows.audit.graph.collapse import collapse
    from dao_flows.audit.graph.documents import read
    from dao_flows.audit.graph.drawing import svg
    from dao_flows.audit.graph.identify import find
    from dao_flows.audit.graph.installed import cards

    times: dict[str, tuple[float, float]] = {}
    with timed("importing torch, reading cards", times):
        library = cards()
    with timed("reading the store", times):
        stored = read(store)
    with timed("putting the graph together", times):
        graph = assemble(stored, library)
    with timed("the lineage of one comparison", times):
        last = next(node for node in reversed(graph.nodes) if node[0] == "comparison")
        graph.around([find(graph, f"comparison:{last[1]}")])
    with timed("drawing all of it (SVG)", times):
        drawn = svg(collapse(graph), "all")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {len(graph.nodes):,} nodes, {len(graph.edges):,} edges; {len(drawn):,} bytes of SVG; {memory:.0f} MiB")
    wall, cpu = map(sum, zip(*list(times.values())[1:], strict=True))
    return len(graph.nodes), wall, cpu


def graph(nodes: int) -> None:
    """Time the graph on each store; the last line is the figure."""
    from jobflow.core.store import JobStore
    from maggma.stores import MongoStore

    from dao_flows.store.collections import JOBS
    from dao_flows.store.embedded import EmbeddedStore

    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["DAO_FLOWS_CHECKPOINT_DIR"] = str(folder / "checkpoints")
        make_flow(folder)
        source = JobStore(EmbeddedStore(JOBS, str(folder / "data" / "store")))
        source.connect()
        from dao_flows.audit.graph.from_store import build

        copies = -(-nodes // len(build(source).nodes))
        stores: dict[str, Callable[[], Any]] = {"embedded": lambda: EmbeddedStore(JOBS, str(folder / "large"))}
        if uri := os.environ.get(URI_VARIABLE):
            database = f"dao_flows_bench_{uuid.uuid4().hex[:8]}"
            stores["MongoDB"] = lambda: MongoStore.from_uri(uri, JOBS, database=database)
        for name, make in stores.items():
            store = JobStore(make())
            store.connect()
            try:
                documents = fill(store, source, copies)
                size = (
                    sum(f.stat().st_size for f in (folder / "large").rglob("*") if f.is_file())
                    if name == "embedded"
                    else 0
                )
                print(f"{name}: {documents:,} documents" + (f", {size / 1e6:.0f} MB" if size else ""), flush=True)
                count, wall, cpu = measure(store)
                figures.append(f"{name} {wall:.1f} s ({cpu:.1f} s of CPU) for {count:,} nodes")
            finally:
                if name == "MongoDB":
                    store.docs_store._coll.database.client.drop_database(database)
    print(f"graph: {'; '.join(figures)}")


def main() -> None:
    """Time what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["graph"])
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} nodes, to see that it works")
    options = parser.parse_args()
    graph(QUICK if options.quick else options.nodes)


if __name__ == "__main__":
    main()
