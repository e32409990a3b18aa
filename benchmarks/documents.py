"""Documents and bytes that a prediction leaves in the database, by stage; and against plain atomate2 jobs.

Everything runs for real, through FireWorks, on a database of its own on the server, which is dropped. The comparison:
as many structures through our batched jobs (generation and screening; verification by CHGNet) and through atomate2's
force-field makers, one job a structure; overhead is all of a worker's time outside the body of the jobs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
import yaml
from cluster import URI_VARIABLE, all_done, measured_on, project, save
from compositions import spread
from launching import clear, watch

from dao_flows.api.prediction.inputs import Entry
from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.launch.flows import Planned, predict_flows, verify_flows
from dao_flows.launch.routes import read_routes
from dao_flows.launch.submit import submit
from dao_flows.makers.verify import VerifyMaker
from dao_flows.settings import settings
from dao_flows.store.candidates import CandidateBuilder
from dao_flows.store.stores import collection, job_store
from dao_flows.store.verifications import VerificationBuilder

if TYPE_CHECKING:
    from fireworks import LaunchPad
    from pymatgen.core.structure import Structure

CANDIDATES = (1, 20, 200)  # a composition
BATCH = 200  # candidates in one job
STEPS = 40
COMPARED = 20  # structures
QUICK = {"candidates": (1, 4), "batch": 4, "steps": 2, "compared": 2}
LAUNCHPAD = ("fireworks", "launches", "workflows")
RESULTS = ("jobs", "candidates", "verifications", "runs")
MODULES = ("torch", "dao_flows.makers.predict", "dao_flows.makers.verify")


def held(pad: LaunchPad) -> dict[str, dict[str, float]]:
    """Documents and bytes (BSON) of each collection, results by kind of document."""
    found: dict[str, dict[str, float]] = {}
    for name in (*LAUNCHPAD, *RESULTS, "data"):
        for document in pad.db[name].find():
            output = document.get("output") if name == "jobs" else None
            kind = f"{name}: {output['@class']}" if isinstance(output, dict) and "@class" in output else name
            entry = found.setdefault(kind, {"documents": 0, "bytes": 0})
            entry["documents"] += 1
            entry["bytes"] += len(bson.encode(document))
    return found


def run(folder: Path, pad: LaunchPad, planned: Sequence[Planned], modules: Sequence[str] = MODULES) -> dict[str, Any]:
    """Submit flows, have one worker run them, lay the results out, and look at what there is then."""
    clear(pad)
    for name in ("candidates", "verifications", "data"):
        pad.db[name].delete_many({})
    submit(planned, pad, read_routes(None), "none")
    worked = watch(folder, modules)
    all_done(pad)
    jobs = job_store()
    CandidateBuilder(jobs, collection(jobs, "candidates")).build()
    VerificationBuilder(jobs, collection(jobs, "verifications")).build()
    return summary(pad, worked)


def summary(pad: LaunchPad, worked: dict[str, Any]) -> dict[str, Any]:
    """Jobs, what they left, and the worker's time inside and outside of their bodies, s."""
    seconds: dict[str, float] = worked["seconds"]
    return {
        "jobs": worked["jobs"],
        "job_seconds": seconds.get("job", 0.0),
        "overhead_seconds": sum(seconds.values()) - seconds.get("job", 0.0),
        "collections": held(pad),
    }


def predictions(steps: int, per_formula: int, batch: int, formulas: Sequence[str]) -> list[Planned]:
    """Flows as `dao-flows submit predict` makes them."""
    config = settings().model_copy(update={"batch_candidates": batch})
    return predict_flows(
        [Entry(f) for f in formulas], config, PredictionRequest(n=per_formula, steps=steps, templates=0)
    )


def per_candidate(folder: Path, pad: LaunchPad, args: argparse.Namespace) -> list[dict[str, Any]]:
    """For each number of candidates a composition, one full batch."""
    results = []
    for number in args.candidates:
        formulas = spread(max(1, args.batch // number))
        found = run(folder, pad, predictions(args.steps, number, args.batch, formulas))
        drawn = number * len(formulas)
        kept = pad.db["candidates"].count_documents({})
        sites = [c["n_atoms"] for c in pad.db["candidates"].find({}, {"n_atoms": 1})]
        stored = {name: sum(part(found, kind)[1] for kind in kinds) for name, kinds in GROUPS.items()}
        documents = sum(each["documents"] for each in found["collections"].values())
        results.append(
            {
                "candidates_a_composition": number,
                "compositions": len(formulas),
                "drawn": drawn,
                "kept": kept,
                "mean_atoms": sum(sites) / len(sites) if sites else None,
                "documents_a_candidate": documents / drawn,
                "bytes_a_candidate": {name: size / drawn for name, size in stored.items()},
                **found,
            }
        )
        total = sum(stored.values())
        print(
            f"{number} candidates of each of {len(formulas)} compositions: {documents / drawn:.2f} documents and "
            f"{total / drawn / 1e3:.2f} kB each ({', '.join(f'{k} {v / drawn / 1e3:.2f}' for k, v in stored.items())})"
        )
    return results


GROUPS: dict[str, tuple[str, ...]] = {
    "LaunchPad": LAUNCHPAD,
    "generation": ("jobs: GenerationDoc",),
    "screening": ("jobs: ScreeningDoc",),
    "candidates": ("candidates",),
    "runs": ("runs",),
}


def part(found: dict[str, Any], name: str) -> tuple[int, int]:
    """Documents and bytes of one kind."""
    entry = found["collections"].get(name, {"documents": 0, "bytes": 0})
    return int(entry["documents"]), int(entry["bytes"])


def total(found: dict[str, Any]) -> tuple[int, int]:
    """Documents and bytes in all."""
    entries = found["collections"].values()
    return int(sum(e["documents"] for e in entries)), int(sum(e["bytes"] for e in entries))


def atomate2_jobs(folder: Path, pad: LaunchPad, structures: Sequence[Structure], maker: Any) -> dict[str, Any]:
    """One job of atomate2 a structure, one flow each, as its documentation shows."""
    from jobflow.core.flow import Flow
    from jobflow.managers.fireworks import flow_to_workflow

    clear(pad)
    for name in ("candidates", "verifications", "data"):
        pad.db[name].delete_many({})
    for structure in structures:
        flow = Flow([maker.make(structure)])
        flow.update_config({"manager_config": {"_category": "cpu"}})
        pad.add_wf(flow_to_workflow(flow))
    worked = watch(folder, ["atomate2.forcefields.jobs", "chgnet.model", "torch"])
    all_done(pad)
    return summary(pad, worked)


def compare(folder: Path, pad: LaunchPad, args: argparse.Namespace) -> dict[str, Any]:
    """The same structures through ours and through atomate2's makers."""
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker

    number = args.compared
    formulas = spread(max(1, number // 5))  # five candidates or more of each: some do not pass
    ours = run(folder, pad, predictions(args.steps, 10, BATCH, formulas))
    candidates = collection(job_store(), "candidates")
    ids = sorted(candidates.distinct("candidate_id"))[:number]
    structures = [structure_of(candidates, each) for each in ids]
    verification = verify_flows(ids, candidates, VerifyMaker(backend="forcefield"))
    drawn = 10 * len(formulas)
    rows = {"generation and screening": {"structures": drawn, **ours}}
    with_data(folder)
    rows["verification by CHGNet"] = {
        "structures": len(ids),
        **run(folder, pad, verification, [*MODULES, "chgnet.model", "atomate2.forcefields.jobs"]),
    }
    for label, maker in (("relaxation", ForceFieldRelaxMaker), ("static", ForceFieldStaticMaker)):
        found = atomate2_jobs(folder, pad, structures, maker(force_field_name="CHGNet"))
        rows[f"atomate2, CHGNet {label}"] = {"structures": len(ids), **found}
    for name, row in rows.items():
        documents, size = total(row)
        row |= {
            "jobs_a_structure": row["jobs"] / row["structures"],
            "documents_a_structure": documents / row["structures"],
            "bytes_a_structure": size / row["structures"],
            "overhead_ms_a_structure": 1e3 * row["overhead_seconds"] / row["structures"],
        }
        print(
            f"{name}: {row['jobs_a_structure']:.2f} jobs, {row['documents_a_structure']:.2f} documents, "
            f"{row['bytes_a_structure'] / 1e3:.1f} kB, {row['overhead_ms_a_structure']:.0f} ms of overhead a structure"
        )
    return rows


def structure_of(candidates: Any, candidate_id: str) -> Structure:
    """The structure of a stored candidate."""
    from dao_flows.store.candidates import find

    return find(candidates, candidate_id).structure


def with_data(folder: Path) -> None:
    """A store for atomate2's larger objects beside that of the documents, as its documentation has it."""
    path = folder / "jobflow.yaml"
    content = yaml.safe_load(path.read_text())
    docs = content["JOB_STORE"]["docs_store"]
    content["JOB_STORE"]["additional_stores"] = {"data": {**docs, "collection_name": "data"}}
    path.write_text(yaml.safe_dump(content))


def main() -> int:
    """The last line is the figure; exit code 2 for what cannot be measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--mongo-uri", default=os.environ.get(URI_VARIABLE), help=f"default: ${URI_VARIABLE}")
    p.add_argument("--candidates", type=int, nargs="+", default=list(CANDIDATES), help="a composition")
    p.add_argument("--batch", type=int, default=BATCH, help="candidates in one job")
    p.add_argument("--steps", type=int, default=STEPS, help="of the sampler")
    p.add_argument("--compared", type=int, default=COMPARED, help="structures in the comparison with atomate2")
    p.add_argument("--only", choices=("documents", "comparison"))
    p.add_argument("--quick", action="store_true", help="two steps, few candidates: to see that it runs")
    p.add_argument("--out", type=Path, help="JSON file for the figures")
    args = p.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    parts: dict[str, Callable[..., Any]] = {"documents": per_candidate, "comparison": compare}
    result: dict[str, Any] = {**measured_on(), "steps": args.steps, "batch": args.batch}
    try:
        with project(args.mongo_uri) as (folder, pad):
            for name, measure in parts.items():
                if args.only in (None, name):
                    result[name] = measure(folder, pad, args)
                    save(result, args.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if "comparison" in result:
        rows = result["comparison"]
        ours, theirs = (rows[name]["overhead_ms_a_structure"] for name in (*rows,)[:3:2])
        print(f"{theirs / ours:.1f}× less overhead a structure in batches than in one job each (n = {args.compared})")
    else:
        size = sum(result["documents"][-1]["bytes_a_candidate"].values())
        print(f"{size / 1e3:.2f} kB a candidate at {args.candidates[-1]} candidates a composition")
    return 0


if __name__ == "__main__":
    sys.exit(main())
