"""Speed of screening: `python benchmarks/screening.py --help`.

Candidates are drawn once, by dao-g-base in few steps and without guidance, for a mix of compositions, and kept in a
folder: a later run screens the same ones, and prints a digest of the results by which two versions can be compared.
Each batch is one ScreenMaker job through run_locally, so that serialising and the document count. Processor time is
that of this process and of its workers. Growth: 20, 200 and 2,000 candidates of one formula, in one job each.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
import compositions

from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.schemas.prediction import GenerationDoc, ScreeningDoc
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.screening.passing import Pricing

EACH, BATCH = 20, 50  # candidates of a composition, compositions of a job
STAGES: dict[str, tuple[type, str]] = {
    "validity": (ScreenMaker, "_valid"),
    "energy": (Pricing, "energies"),
    "dedup": (ScreenMaker, "_distinct"),
    "symmetry and prototypes": (ScreenMaker, "_described"),
}
GROWTH = (20, 200, 2000)
TICK = os.sysconf("SC_CLK_TCK")


def run(job: Any) -> Any:
    """What a job writes, through a store in memory."""
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    return run_locally(job, store=JobStore(MemoryStore()), log=False, ensure_success=True)[job.uuid][1].output


def drawn(path: Path, formulas: list[str], candidates: int, steps: int, max_atoms: int) -> GenerationDoc:
    """Candidates from a file, or drawn and written there."""
    if not path.exists():
        print(f"drawing {len(formulas)} × {candidates} for {path}", file=sys.stderr)
        settings = {"steps": steps, "candidates": candidates, "max_atoms": max_atoms, "templates": 0}
        maker = GenerateMaker(checkpoint="dao-g-base", predictor=None, **settings)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(gzip.compress(run(maker.make(formulas)).model_dump_json().encode()))
        part.replace(path)
    return GenerationDoc.model_validate_json(gzip.decompress(path.read_bytes()))


def batches(args: argparse.Namespace) -> Iterator[tuple[Path, list[str]]]:
    """Files and formulas of the jobs that come to the asked number of candidates."""
    if args.data is not None:
        from dao_flows.model.data.shards import dataset_rows

        known = list(dict.fromkeys(r["reduced_formula"] for r in dataset_rows(args.data) if len(r["numbers"]) <= 20))
        wanted = known[:: max(1, len(known) * EACH // args.candidates)][: args.candidates // EACH]
    else:
        wanted = compositions.spread(args.candidates // EACH)
    for start in range(0, len(wanted), BATCH):
        formulas = wanted[start : start + BATCH]
        name = hashlib.sha256(f"{formulas} {EACH} {args.steps}".encode()).hexdigest()[:12]
        yield args.folder / f"{name}.json.gz", formulas


def processes() -> list[Path]:
    """Folders of /proc of this process and its children."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return [Path("/proc/self"), *(Path("/proc", child) for child in children.split())]


def cpu_seconds() -> float:
    """Processor time of this process and of its workers so far."""
    fields = ((path / "stat").read_text().rpartition(")")[2].split() for path in processes())
    return sum(int(f[11]) + int(f[12]) for f in fields) / TICK


def peak_mib() -> float:
    """Peak memory of this process and of its workers, added up."""
    lines = (line for path in processes() for line in (path / "status").read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@contextmanager
def timed(took: dict[str, float]) -> Iterator[None]:
    """Seconds by stage of the screens within."""

    def clock(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                took[name] = took.get(name, 0.0) + time.perf_counter() - began

        return measured

    with ExitStack() as stack:
        for name, (kind, method) in STAGES.items():
            stack.enter_context(mock.patch.object(kind, method, clock(name, getattr(kind, method))))
        yield


def screened(documents: list[GenerationDoc], predictor: str) -> tuple[dict[str, Any], list[ScreeningDoc]]:
    """Figures of screening documents one after the other, and the results."""
    took: dict[str, float] = {}
    results = []
    began, used = time.perf_counter(), cpu_seconds()
    with timed(took):
        for document in documents:
            results.append(run(ScreenMaker(predictor=predictor, device="cpu").make(document)))
            print(f"{len(results)} of {len(documents)} jobs, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    seconds = time.perf_counter() - began
    took["everything else"] = seconds - sum(took.values())
    rejected = [r.cause for result in results for r in result.rejected]
    figures = {
        "candidates": sum(len(d.candidates) + len(d.failed) for d in documents),
        "accepted": sum(len(r.accepted) for r in results),
        "rejected": {cause: rejected.count(cause) for cause in sorted(set(rejected))},
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - used,
        "peak_mib": peak_mib(),
        "seconds_by_stage": took,
        "digest": digest(results),
    }
    return figures, results


def digest(results: list[ScreeningDoc]) -> str:
    """A hash of all that was found, every digit of it."""
    from monty.json import jsanitize

    found = [[jsanitize(r, strict=True) for r in (*result.accepted, *result.rejected)] for result in results]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def descriptions(results: list[ScreeningDoc], count: int) -> dict[str, Any]:
    """Milliseconds of processor time a structure for symmetry and for prototypes apart, in this process."""
    from dao_flows.makers.science.symmetry import prototype, space_group

    structures = [c.structure for r in results for c in r.accepted]
    structures = structures[:: max(1, len(structures) // count)][:count]
    parts: dict[str, Callable[[Any], Any]] = {
        "symmetry": lambda s: (space_group(s, 0.01), space_group(s, 0.1)),
        "prototypes": prototype,
    }
    found: dict[str, Any] = {"structures": len(structures)}
    for name, look in parts.items():
        for structure in structures[:1]:
            look(structure)  # loads the library
        began = time.process_time()
        for structure in structures:
            look(structure)
        found[name] = 1e3 * (time.process_time() - began) / max(1, len(structures))
    return found


def main() -> int:
    """The last line is the figure: seconds for so many candidates."""
    import torch

    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path, nargs="?", help="dataset or parquet file to take formulas from")
    p.add_argument("--folder", type=Path, help="keeps the drawn candidates here")
    p.add_argument("--candidates", type=int, default=10_000, help=f"{EACH} of each composition")
    p.add_argument("--predictor", default="dao-p-flow")
    p.add_argument("--steps", type=int, default=20, help="of the sampler that draws them")
    p.add_argument("--threads", type=int, default=2, help="of the network")
    p.add_argument("--formula", default="TiO2", help="of which 20, 200 and 2,000 candidates are screened")
    p.add_argument("--only", choices=("mix", "growth"), help="one of the two parts")
    p.add_argument("--quick", action="store_true", help="60 candidates, growth to 200: to see that it runs")
    p.add_argument("--out", type=Path, help="JSON file for the figures")
    args = p.parse_args()
    if args.candidates < EACH:
        p.error(f"--candidates must be at least {EACH}")
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"command": shlex.join(["python", *sys.argv]), "threads": args.threads}
    result["load_before"] = os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        args.folder = args.folder or Path(name)
        args.folder.mkdir(parents=True, exist_ok=True)
        if args.quick:
            args.candidates, args.steps = 60, 5
        if args.only != "growth":
            documents = [drawn(path, formulas, EACH, args.steps, 20) for path, formulas in batches(args)]
            result["mix"], screenings = screened(documents, args.predictor)
            result["ms_a_structure"] = descriptions(screenings, 20 if args.quick else 200)
        if args.only != "mix":
            result["growth"] = []
            for count in GROWTH[: 2 if args.quick else None]:
                path = args.folder / f"{args.formula}-{count}-{args.steps}.json.gz"
                document = drawn(path, [args.formula], count, args.steps, 12)
                result["growth"].append(screened([document], args.predictor)[0])
    result["load_after"] = os.getloadavg()
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    for figures in result.get("growth", ()):
        n, stages = figures["candidates"], figures["seconds_by_stage"]
        print(
            f"{n} of {args.formula}: {1e3 * figures['seconds'] / n:.1f} ms a candidate, of which "
            f"{1e3 * stages['dedup'] / n:.1f} dedup; {figures['rejected'].get('duplicate', 0)} duplicates; "
            f"digest {figures['digest']}"
        )
    if args.only == "growth":
        return 0
    figures = result["mix"]
    print(f"accepted {figures['accepted']}, rejected {figures['rejected']}; digest {figures['digest']}")
    print("seconds by stage:", ", ".join(f"{k} {v:.1f}" for k, v in figures["seconds_by_stage"].items()))
    apart = result["ms_a_structure"]
    print(f"ms of one core a structure: symmetry {apart['symmetry']:.1f}, prototypes {apart['prototypes']:.1f}")
    print(
        f"{figures['candidates']} candidates in {figures['seconds']:.0f} s: "
        f"{figures['candidates'] / figures['seconds']:.1f}/s (processor time {figures['cpu_seconds']:.0f} s, "
        f"peak memory {figures['peak_mib']:.0f} MiB, {args.threads} threads)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
