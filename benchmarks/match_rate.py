"""Match rate and RMSE of a DAO-G checkpoint on a test file: `python benchmarks/match_rate.py --help`.

The protocol of the field (Nature Communications 2026, 10.1038/s41467-026-72362-3): StructureMatcher(stol=0.5,
angle_tol=10, ltol=0.3); a composition counts as matched when any of its k samples matches its reference; RMSE is the
mean of the best sample of each matched one; the denominator is the whole set. Both with and without the validity filter
of the published scripts (SMACT charge neutrality, distances above 0.5 Å, volume above 0.1 Å³), which turns a sample
away.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Structure
from rich.progress import Progress
from smact.screening import smact_validity

from dao_flows.model.crystals import Crystal
from dao_flows.model.data import CrystalTable, read_parquet
from dao_flows.model.elements import read_elements

SECONDS_A_PAIR = 30
MATCHER = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)


class PairTimeoutError(Exception):
    """A pair took longer than SECONDS_A_PAIR."""


def _ring(*_: object) -> None:
    raise PairTimeoutError


def structure(crystal: Crystal) -> Structure:
    """A crystal of the model floor as pymatgen's."""
    return Structure(crystal.lattice, np.asarray(crystal.numbers).tolist(), crystal.frac)


def neutral(formula: str) -> bool:
    """Whether SMACT finds charge-neutral oxidation states; elements and alloys pass, as in the published scripts."""
    return bool(smact_validity(Composition(formula)))


def compare(pair: tuple[Crystal, Crystal]) -> tuple[float, bool, bool]:
    """(RMSE or NaN, geometrically valid, timed out) of one sample against its reference."""
    warnings.simplefilter("ignore")
    reference, sample = pair
    if not (np.isfinite(sample.frac).all() and np.isfinite(sample.lattice).all()):
        return np.nan, False, False
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(SECONDS_A_PAIR)
    try:
        predicted = structure(sample)
        # a 0.1 Å³ or needle-like cell has thousands of neighbours in any radius: such cells match nothing
        if predicted.volume < 0.1 or max(predicted.lattice.abc) > 100 or min(predicted.lattice.angles) < 5:
            return np.nan, False, False
        distances = predicted.distance_matrix + np.diag(np.full(len(predicted), np.inf))
        valid = bool(distances.min() > 0.5 and min(predicted.lattice.abc) > 0.5)
        found = MATCHER.get_rms_dist(structure(reference), predicted)
        return (float(found[0]) if found else np.nan), valid, False
    except PairTimeoutError:
        return np.nan, False, True
    except (ValueError, np.linalg.LinAlgError):
        return np.nan, False, False
    finally:
        signal.alarm(0)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, hits / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float((centre - half) / (1 + z * z / n)), float((centre + half) / (1 + z * z / n))


def figures(rms: np.ndarray) -> dict[str, Any]:
    """Match rate and RMSE, each with its 95 % interval. rms: (n, k), NaN where a sample does not match."""
    matched = ~np.isnan(rms).all(1)
    best = np.nanmin(rms[matched], axis=1) if matched.any() else np.array([])
    rng = np.random.default_rng(0)
    means = [rng.choice(best, len(best)).mean() for _ in range(1000)] if len(best) else []
    return {
        "match_rate": float(matched.mean()),
        "match_rate_95": wilson(int(matched.sum()), len(matched)),
        "rmse": float(best.mean()) if len(best) else None,
        "rmse_95": [float(np.percentile(means, q)) for q in (2.5, 97.5)] if len(best) else None,
        "rmse_median": float(np.median(best)) if len(best) else None,
    }


def random_crystals(references: list[Crystal], samples: int, seed: int) -> list[Crystal]:
    """The baseline: atoms anywhere in a cell of random shape and of the sum of the elements' atomic volumes.

    Atomic volumes are spheres of the Cordero covalent radius, packed at 0.4, which gives common densities.
    """
    radius = {int(row["number"]): float(row["covalent_radius_pm"] or 150) / 100 for row in read_elements()}
    rng = np.random.default_rng(seed)
    out = []
    for reference in references:
        volume = sum(4 / 3 * np.pi * radius[int(z)] ** 3 for z in reference.numbers) / 0.4
        for _ in range(samples):
            cell = np.eye(3) + rng.normal(0, 0.2, (3, 3))
            cell *= (volume / abs(np.linalg.det(cell))) ** (1 / 3)
            out.append(Crystal(reference.numbers, rng.random((len(reference), 3)), cell))
    return out


def generate(args: argparse.Namespace, table: CrystalTable, rows: np.ndarray) -> tuple[list[Crystal], str]:
    """Draw k samples of each row's composition, row by row, and the checkpoint's sha256."""
    import torch

    from dao_flows.model.checkpoint import load
    from dao_flows.model.library import find
    from dao_flows.model.sample import Request, SamplerConfig, sample

    torch.set_num_threads(args.threads)
    model, card = load(find(args.checkpoint), "cuda" if torch.cuda.is_available() else "cpu")
    requests = [Request(table.crystals[i].numbers, (int(i), k)) for i in rows for k in range(args.samples)]
    with Progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("sampling", total=None)
        drawn = sample(
            model,
            requests,
            args.seed,
            SamplerConfig(args.steps, args.corrector),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return drawn, card.sha256


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Sample, match, and gather the figures."""
    table = read_parquet(args.data, args.split, args.max_atoms)
    rows = np.sort(np.random.default_rng(0).permutation(len(table))[: args.limit])
    references = [table.crystals[i] for i in rows]
    started = time.monotonic()
    if args.baseline:
        drawn, sha256 = random_crystals(references, args.samples, args.seed), None
    else:
        drawn, sha256 = generate(args, table, rows)
    sampled = time.monotonic()
    pairs = [(r, drawn[i * args.samples + k]) for i, r in enumerate(references) for k in range(args.samples)]
    outcomes = []
    with (
        ProcessPoolExecutor(args.workers, mp_context=get_context("forkserver")) as pool,
        Progress(disable=not sys.stderr.isatty()) as bar,
    ):
        for outcome in bar.track(pool.map(compare, pairs, chunksize=8), total=len(pairs), description="matching"):
            outcomes.append(outcome)
    rms = np.array([o[0] for o in outcomes]).reshape(len(rows), args.samples)
    geometry = np.array([o[1] for o in outcomes]).reshape(len(rows), args.samples)
    formulas = [structure(r).composition.formula for r in references]
    charge = {formula: neutral(formula) for formula in set(formulas)}
    valid = geometry & np.array([charge[f] for f in formulas])[:, None]
    return {
        "command": shlex.join(["python", *sys.argv]),
        "checkpoint_sha256": sha256,
        "baseline": args.baseline,
        "data": {"file": args.data.name, "sha256": table.sha256, "split": args.split},
        "n": len(rows),
        "samples": args.samples,
        "steps": args.steps,
        "corrector": args.corrector,
        "seed": args.seed,
        "sampling_s": round(sampled - started, 1),
        "matching_s": round(time.monotonic() - sampled, 1),
        "timed_out": int(sum(o[2] for o in outcomes)),
        "all": figures(rms),
        "valid_only": figures(np.where(valid, rms, np.nan)),
    }


def main() -> int:
    """The last line is the figure."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path)
    p.add_argument("--checkpoint", default="dao-g-base")
    p.add_argument("--baseline", choices=["random"], help="measure random structures instead of a checkpoint")
    p.add_argument("--split", help="rows of this split alone")
    p.add_argument("--limit", type=int, help="a random subset of this many rows (always the same)")
    p.add_argument("--max-atoms", type=int)
    p.add_argument("--samples", type=int, default=1)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--corrector", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--workers", type=int, help="processes that match (default: all cores)")
    p.add_argument("--quick", action="store_true", help="20 rows, 20 steps: to see that it runs")
    p.add_argument("--out", type=Path, help="JSON file for the figures")
    args = p.parse_args()
    if args.quick:
        args.limit, args.steps = 20, 20
    result = measure(args)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    every, valid = result["all"], result["valid_only"]
    low, high = (100 * share for share in every["match_rate_95"])
    rmse = "–" if every["rmse"] is None else "{:.4f} [{:.4f}, {:.4f}]".format(every["rmse"], *every["rmse_95"])
    print(
        f"match rate {100 * every['match_rate']:.1f} % [{low:.1f}, {high:.1f}], RMSE {rmse} "
        f"(n = {result['n']}, k = {args.samples}; with validity filter {100 * valid['match_rate']:.1f} %)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
