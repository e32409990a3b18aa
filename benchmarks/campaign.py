"""A campaign: submitting thousands of compositions at once, and how long `status`, `build`, `list`, `cancel` then take.

The commands are run as users run them, each in a process of its own, on a database of its own that is dropped. Flows
that have run are copies of one that ran here, so that their documents are of the real kind and size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
from cluster import URI_VARIABLE, ClusterError, all_done, copy_flow, finish, measured_on, project, save, worker
from compositions import formulas, spread
from launching import clear

from dao_flows.api.prediction.inputs import Entry
from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.launch.flows import predict_flows
from dao_flows.launch.progress import status
from dao_flows.launch.project import program
from dao_flows.launch.routes import read_routes
from dao_flows.launch.submit import submit
from dao_flows.settings import settings

if TYPE_CHECKING:
    from fireworks import LaunchPad

COMPOSITIONS, CANDIDATES = 2000, (20, 200)
FLOWS = (500, 5_000, 25_000)  # of two jobs, in the database when `status` is asked
DELETED = 200
LAID_OUT = (100, 1_000)  # screening documents of 20 candidates each
QUICK: dict[str, Any] = {"compositions": 40, "candidates": (20,), "flows": (20,), "documents": (5,), "deleted": 5}
STATES = ("COMPLETED",) * 7 + ("FIZZLED", "RUNNING", "READY")
TIMES = 3
SECONDS = 1800.0


def call(*arguments: str) -> dict[str, Any]:
    """Run dao-flows with these arguments: seconds, and the largest memory of the process (MiB)."""
    script = (
        "import resource, sys; from dao_flows.cli import run; code = run(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise ClusterError(f"dao-flows {' '.join(arguments)}: {done.stderr[-2000:]}")
    return {"seconds": seconds, "memory_mib": int(done.stderr.split()[-1]) / 1024, "out": done.stdout}


def submissions(folder: Path, pad: LaunchPad, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Submit a file of formulas, submit it again, cancel one flow."""
    path = folder / "formulas.txt"
    path.write_text("\n".join(formulas(args.compositions)) + "\n")
    results = []
    for number in args.candidates:
        clear(pad)
        words = ("submit", "predict", "--input", str(path), "-n", str(number), "--json")
        first = call(*words)
        flows = json.loads(first.pop("out"))["flows"]
        again = call(*words)
        if any(flow["new"] for flow in json.loads(again.pop("out"))["flows"]):
            raise ClusterError("a flow was submitted twice")
        sizes = [len(bson.encode(job)) for job in pad.fireworks.find()]
        cancelled = call("cancel", str(flows[-1]["flow"]))
        found = {
            "compositions": args.compositions,
            "candidates_a_composition": number,
            "flows": len(flows),
            "jobs": len(sizes),
            "largest_spec_bytes": max(sizes),
            "specs_bytes": sum(sizes),
            "submit": first,
            "again": again,
            "cancel_one": {key: cancelled[key] for key in ("seconds", "memory_mib")},
        }
        results.append(found)
        print(
            f"{args.compositions} compositions of {number} candidates: {len(flows)} flows in {first['seconds']:.1f} s "
            f"({first['memory_mib']:.0f} MiB), again {again['seconds']:.1f} s; specs {max(sizes) / 1e3:.1f} kB at most"
        )
    return results


def a_flow_that_ran(folder: Path, pad: LaunchPad, candidates: int, steps: int) -> int:
    """A prediction that ran here: the id of its flow."""
    clear(pad)
    planned = predict_flows([Entry(spread(1)[0])], settings(), PredictionRequest(n=candidates, steps=steps))
    flow = submit(planned, pad, read_routes(None), "none").flows[0].flow
    finish(folder, [worker(folder, 0)], SECONDS)
    all_done(pad)
    return flow


def statuses(folder: Path, pad: LaunchPad, args: argparse.Namespace) -> list[dict[str, Any]]:
    """`status` of all flows and of one, with and without the indexes, in this process and as a command."""
    flow = a_flow_that_ran(folder, pad, 1, 2)
    results = []
    for number in args.flows:
        missing = number - pad.workflows.count_documents({})
        copy_flow(pad, flow, missing, STATES)
        found: dict[str, Any] = {"flows": number, "jobs": pad.fireworks.count_documents({})}
        one = str(pad.workflows.find_one({}, sort=[("_id", -1)])["nodes"][0])
        found["all_seconds"] = quickest(lambda: status(pad))
        found["one_seconds"] = quickest(lambda one=one: status(pad, one))
        found["command_seconds"] = call("status")["seconds"]
        found["command_one_seconds"] = call("status", one)["seconds"]
        results.append(found)
        print(
            f"status of {found['jobs']:,} jobs of {number:,} flows: {found['all_seconds']:.2f} s, of one flow "
            f"{1e3 * found['one_seconds']:.0f} ms; as commands {found['command_seconds']:.1f} and "
            f"{found['command_one_seconds']:.1f} s"
        )
    for name in ("fireworks", "workflows", "launches"):
        pad.db[name].drop_indexes()
    results[-1]["without_indexes"] = {
        "all_seconds": quickest(lambda: status(pad)),
        "one_seconds": quickest(lambda: status(pad, one)),
    }
    bare = results[-1]["without_indexes"]
    print(f"the same without indexes: {bare['all_seconds']:.2f} s, of one flow {1e3 * bare['one_seconds']:.0f} ms")
    from dao_flows.launch.launchpad import prepare

    prepare(pad)
    return results


def deletion(folder: Path, pad: LaunchPad, args: argparse.Namespace) -> dict[str, Any]:
    """FireWorks' own removal of flows that are done."""
    flow = a_flow_that_ran(folder, pad, 1, 2)
    copy_flow(pad, flow, 2 * args.deleted)
    query = json.dumps({"state": "COMPLETED", "nodes": {"$lt": flow + 2 * args.deleted}})
    command = [program("lpad"), "-l", str(folder / "my_launchpad.yaml"), "delete_wflows", "-q", query]
    begun = time.perf_counter()
    subprocess.run([*command, "--password", f"{datetime.now():%Y-%m-%d}"], check=True, capture_output=True)
    seconds = time.perf_counter() - begun
    left = pad.workflows.count_documents({})
    if left != args.deleted + 1 or pad.fireworks.count_documents({}) != 2 * left:
        raise ClusterError(f"{left} flows are left")
    found = {"flows": args.deleted, "seconds": seconds}
    print(f"lpad delete_wflows of {found['flows']} flows: {seconds:.1f} s")
    return found


def layouts(folder: Path, pad: LaunchPad, args: argparse.Namespace) -> list[dict[str, Any]]:
    """`build` of copies of a screening document, again with nothing new, and `list`."""
    for name in ("candidates", "verifications"):
        pad.db[name].delete_many({})
    a_flow_that_ran(folder, pad, 20, 20)
    document = pad.db["jobs"].find_one({"output.@class": "ScreeningDoc"}, {"_id": 0})
    kept = document["output"]["accepted"]
    results, made = [], 0
    for number in args.documents:
        rows = []
        for copy in range(made, number):
            output = json.loads(json.dumps(document["output"]))
            uuid = f"{copy:08d}-copy"
            output["provenance"]["execution"]["job_uuid"] = uuid
            for place, candidate in enumerate(output["accepted"]):
                candidate["candidate_id"] = f"dao-{copy:08d}{place:04d}"
            rows.append({**document, "uuid": uuid, "output": output})
        pad.db["jobs"].insert_many(rows)
        made = number
        built, idle, listed = call("build"), call("build"), call("list")
        found = {
            "documents": number,
            "candidates": pad.db["candidates"].count_documents({}),
            "new_candidates": len(rows) * len(kept),
            **{
                name: {key: each[key] for key in ("seconds", "memory_mib")}
                for name, each in (("build", built), ("build_nothing_new", idle), ("list", listed))
            },
        }
        told = pad.db.command("collStats", "candidates")
        found["on_disk"] = {key: int(told[key]) for key in ("size", "storageSize", "totalIndexSize")}
        results.append(found)
        print(
            f"build of {len(rows):,} documents ({found['new_candidates']:,} candidates): {built['seconds']:.1f} s "
            f"({built['memory_mib']:.0f} MiB), again {idle['seconds']:.1f} s; list {listed['seconds']:.1f} s"
        )
    return results


def quickest(measured: Any) -> float:
    """Of a few calls, s."""
    took = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        measured()
        took.append(time.perf_counter() - begun)
    return min(took)


PARTS = (("submit", submissions), ("build", layouts), ("status", statuses), ("delete", deletion))


def main(words: Sequence[str] | None = None) -> int:
    """The last line is the figure; exit code 2 for what cannot be measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--mongo-uri", default=os.environ.get(URI_VARIABLE), help=f"default: ${URI_VARIABLE}")
    p.add_argument("--compositions", type=int, default=COMPOSITIONS)
    p.add_argument("--candidates", type=int, nargs="+", default=list(CANDIDATES), help="a composition")
    p.add_argument("--flows", type=int, nargs="+", default=list(FLOWS), help="in the database when status is asked")
    p.add_argument("--documents", type=int, nargs="+", default=list(LAID_OUT), help="that build lays out")
    p.add_argument("--deleted", type=int, default=DELETED, help="flows that lpad deletes")
    p.add_argument("--only", choices=[name for name, _ in PARTS])
    p.add_argument("--quick", action="store_true", help="few of everything: to see that it runs")
    p.add_argument("--out", type=Path, help="JSON file for the figures")
    args = p.parse_args(words)
    if args.quick:
        vars(args).update(QUICK)
    result = measured_on()
    try:
        with project(args.mongo_uri) as (folder, pad):
            for name, measure in PARTS:
                if args.only in (None, name):
                    result[name] = measure(folder, pad, args)
                    save(result, args.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if "status" in result:
        last = result["status"][-1]
        print(f"status of {last['jobs']:,} jobs: {last['all_seconds']:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
