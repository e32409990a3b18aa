"""Match rate and RMSE of a DAO-G checkpoint on a test file: `python benchmarks/match_rate.py --help`.

The protocol of the field (Nature Communications 2026, 10.1038/s41467-026-72362-3): StructureMatcher(stol=0.5,
angle_tol=10, ltol=0.3); a composition counts as matched when any of its k samples matches its reference; RMSE is the
mean of the best sample of each matched one; the denominator is the whole set. Both with and without the validity filter
of the published scripts (SMACT charge neutrality, distances above 0.5 Å, volume above 0.1 Å³), which turns a sample
away. With --out the samples are kept as soon as they are drawn, and the same command measures them again without
drawing anew.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
import warnings
import zipfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from smact.screening import smact_validity

from dao_flows import __version__
from dao_flows.model.checkpoint import CheckpointError, load, verify
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_g import DaoG
from dao_flows.model.data import read_crystals
from dao_flows.model.dataset import DataError
from dao_flows.model.elements import read_elements
from dao_flows.model.library import find
from dao_flows.model.sample import Request, SamplerConfig, SamplingError, sample

SECONDS_A_PAIR = 30
MATCHER = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)


class BenchmarkError(ValueError):
    """What was asked for cannot be measured; the message says why."""


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


class Outcome(NamedTuple):
    """Of one sample: RMSE or NaN; whether its geometry is valid; why it could not be compared, if so."""

    rms: float
    valid: bool
    failure: str | None = None


def compare(pair: tuple[Crystal, Crystal]) -> Outcome:
    """Match one sample with its reference. pair: (reference, sample)."""
    warnings.simplefilter("ignore")
    reference, sampled = pair
    if not (np.isfinite(sampled.frac).all() and np.isfinite(sampled.lattice).all()):
        return Outcome(np.nan, False, "not finite")
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(SECONDS_A_PAIR)
    try:
        predicted = structure(sampled)
        # a 0.1 Å³ or needle-like cell has thousands of neighbours in any radius: such cells match nothing
        if predicted.volume < 0.1 or max(predicted.lattice.abc) > 100 or min(predicted.lattice.angles) < 5:
            return Outcome(np.nan, False, "degenerate cell")
        distances = predicted.distance_matrix + np.diag(np.full(len(predicted), np.inf))
        valid = bool(distances.min() > 0.5 and min(predicted.lattice.abc) > 0.5)
        found = MATCHER.get_rms_dist(structure(reference), predicted)  # type: ignore[no-untyped-call]
        return Outcome(float(found[0]) if found else np.nan, valid)
    except PairTimeoutError:
        return Outcome(np.nan, False, "timed out")
    except (ValueError, np.linalg.LinAlgError):
        return Outcome(np.nan, False, "matcher failed")
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


def progress_bar() -> Progress:
    """A bar with the time left and gone, on stderr: stdout is for the figure."""
    return Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True))


def generate(args: argparse.Namespace, references: list[Crystal], rows: np.ndarray) -> list[Crystal]:
    """Draw k samples of each reference's composition, one reference after the other."""
    torch.set_num_threads(args.threads)
    model, card = load(find(args.checkpoint), "cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(model, DaoG):
        raise CheckpointError(f"{card.name} is a {card.kind} checkpoint; crystals are drawn from DAO-G")
    requests = [
        Request(reference.numbers, (int(row), k))
        for row, reference in zip(rows, references, strict=True)
        for k in range(args.samples)
    ]
    with progress_bar() as bar:
        task = bar.add_task("sampling", total=None)
        return sample(
            model,
            requests,
            args.seed,
            SamplerConfig(args.steps, args.corrector),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def write_samples(path: Path, crystals: list[Crystal], about: dict[str, Any]) -> None:
    """Crystals one after the other, with what they were drawn from, in one file; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            about=np.array(json.dumps(about)),
            sizes=np.array([len(c) for c in crystals]),
            numbers=np.concatenate([c.numbers for c in crystals]),
            frac=np.concatenate([c.frac for c in crystals]),
            lattice=np.stack([c.lattice for c in crystals]),
        )
    partial.replace(path)


def read_samples(path: Path) -> tuple[list[Crystal], dict[str, Any]]:
    """What write_samples wrote. Raises BenchmarkError for another file."""
    try:
        with np.load(path) as file:
            ends = np.cumsum(file["sizes"])[:-1]
            parts = zip(np.split(file["numbers"], ends), np.split(file["frac"], ends), file["lattice"], strict=True)
            return [Crystal(*part) for part in parts], json.loads(str(file["about"]))
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        raise BenchmarkError(f"{path} holds no samples ({error}): give another --out") from error


def draw(
    args: argparse.Namespace, references: list[Crystal], rows: np.ndarray, identity: dict[str, Any]
) -> tuple[list[Crystal], float]:
    """The samples, and the seconds that drawing them took; those kept beside --out if they are of the same identity."""
    kept = args.out and args.out.with_name(f"{args.out.name}.npz")
    if kept and kept.exists():
        drawn, about = read_samples(kept)
        differing = [key for key, value in identity.items() if about["identity"].get(key) != value]
        if differing:
            raise BenchmarkError(f"{kept} holds samples that differ in {' and '.join(differing)}: give another --out")
        return drawn, float(about["seconds"])
    started = time.monotonic()
    drawn = random_crystals(references, args.samples, args.seed) if args.baseline else generate(args, references, rows)
    seconds = round(time.monotonic() - started, 1)
    if kept:
        write_samples(kept, drawn, {"identity": identity, "seconds": seconds})
    return drawn, seconds


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Sample, match, and gather the figures."""
    table = read_crystals(args.data, args.split, args.max_atoms)
    rows = np.sort(np.random.default_rng(0).permutation(len(table))[: args.limit])
    references = [table.crystals[i] for i in rows]
    identity = {
        "checkpoint": None if args.baseline else verify(find(args.checkpoint)).sha256,
        "baseline": args.baseline,
        "data": table.sha256,
        **{name: getattr(args, name) for name in ("split", "max_atoms", "limit", "samples", "seed")},
        **({} if args.baseline else {"steps": args.steps, "corrector": args.corrector}),
        "version": __version__,
    }
    drawn, seconds = draw(args, references, rows, identity)
    started = time.monotonic()
    pairs = [(r, drawn[i * args.samples + k]) for i, r in enumerate(references) for k in range(args.samples)]
    with ProcessPoolExecutor(args.workers, mp_context=get_context("forkserver")) as pool, progress_bar() as bar:
        matched = pool.map(compare, pairs, chunksize=4)
        outcomes = list(bar.track(matched, total=len(pairs), description="matching"))
    rms = np.array([o.rms for o in outcomes]).reshape(len(rows), args.samples)
    geometry = np.array([o.valid for o in outcomes]).reshape(len(rows), args.samples)
    formulas = [structure(r).composition.formula for r in references]
    charge = {formula: neutral(formula) for formula in set(formulas)}
    valid = geometry & np.array([charge[f] for f in formulas])[:, None]
    return {
        "command": shlex.join(["python", *sys.argv]),
        "checkpoint_sha256": identity["checkpoint"],
        "baseline": args.baseline,
        "data": {"file": args.data.name, "sha256": table.sha256, "split": args.split},
        "max_atoms": args.max_atoms,
        "n": len(rows),
        "samples": args.samples,
        "steps": identity.get("steps"),
        "corrector": identity.get("corrector"),
        "seed": args.seed,
        "sampling_s": seconds,
        "matching_s": round(time.monotonic() - started, 1),
        "not_compared": dict(Counter(o.failure for o in outcomes if o.failure)),
        "valid_share": float(valid.mean()),
        "all": figures(rms),
        "valid_only": figures(np.where(valid, rms, np.nan)),
    }


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be positive, not {number}")
    return number


def main() -> int:
    """The last line is the figure; exit code 2 for what cannot be measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path)
    p.add_argument("--checkpoint", default="dao-g-base")
    p.add_argument("--baseline", choices=["random"], help="measure random structures instead of a checkpoint")
    p.add_argument("--split", help="rows of this split alone")
    p.add_argument("--limit", type=positive, help="a random subset of this many rows (always the same)")
    p.add_argument("--max-atoms", type=positive)
    p.add_argument("--samples", type=positive, default=1)
    p.add_argument("--steps", type=positive, default=100)
    p.add_argument("--corrector", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=positive, default=2)
    p.add_argument("--workers", type=positive, help="processes that match (default: all cores)")
    p.add_argument("--quick", action="store_true", help="20 rows, 20 steps: to see that it runs")
    p.add_argument("--out", type=Path, help="write OUT.json, the figures, and OUT.npz, the samples")
    args = p.parse_args()
    if args.quick:
        args.limit, args.steps = 20, 20
    if args.out and args.out.suffix == ".json":
        args.out = args.out.with_suffix("")
    try:
        result = measure(args)
        if args.out:
            args.out.with_name(f"{args.out.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    except (BenchmarkError, DataError, CheckpointError, SamplingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
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
