"""Match rate and RMSE of a DAO-G checkpoint on a test file: `python benchmarks/match_rate.py --help`.

The protocol is that of makers/science/match_rate.py. With --out the samples are kept as soon as they are drawn, and the
same command measures them again without drawing anew. --draw-only ends there and needs no pymatgen: draw on one
machine, measure on another.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from dao_flows.model.checkpoint.format import CheckpointError, config_of, load, verify
from dao_flows.model.checkpoint.library import find
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.data.shards import DataError
from dao_flows.model.data.table import CrystalTable, read_crystals
from dao_flows.model.sampling.names import SamplerName
from dao_flows.model.sampling.registry import STEPS
from dao_flows.model.sampling.sample import Guidance, Request, SamplerConfig, SamplingError, sample
from dao_flows.version import __version__

GPU_BATCH_ATOMS = 16384
SAMPLER = ("sampler", "steps", "churn", "bf16", "predictor", "guidance")


class BenchmarkError(ValueError):
    """What was asked for cannot be measured; the message says why."""


def known_crystals(known: list[Crystal], references: list[Crystal], samples: int, seed: int) -> list[Crystal]:
    """The ceiling: for each sample one of the known crystals of the composition, all equally likely.

    That is what a perfect model of a dataset does with a composition that the dataset has several structures of; its
    match rate falls short of 100 % because a composition does not say which of them is asked for.
    """
    by_composition: dict[bytes, list[Crystal]] = {}
    for crystal in known:
        by_composition.setdefault(np.sort(crystal.numbers).tobytes(), []).append(crystal)
    rng = np.random.default_rng(seed)
    alike = [by_composition[np.sort(reference.numbers).tobytes()] for reference in references]
    return [each[rng.integers(len(each))] for each in alike for _ in range(samples)]


def progress_bar() -> Progress:
    """A bar with the time left and gone, on stderr: stdout is for the figure."""
    return Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True))


def load_predictor(name: str, device: str = "cpu") -> DaoP:
    """Raises CheckpointError for one that is no DAO-P."""
    predictor = load(find(name), device)[0]
    if not isinstance(predictor, DaoP):
        raise CheckpointError(f"{name} is no dao-p checkpoint; guidance and ranks follow DAO-P's energy")
    return predictor


def generate(args: argparse.Namespace, references: list[Crystal], rows: np.ndarray) -> list[Crystal]:
    """Draw k samples of each reference's composition, one reference after the other."""
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, card = load(find(args.checkpoint), device)
    if not isinstance(model, DaoG):
        raise CheckpointError(f"{card.name} is a {card.kind} checkpoint; crystals are drawn from DAO-G")
    predictor = load_predictor(args.predictor, device) if args.predictor else None
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
            SamplerConfig(args.steps, args.sampler, churn=args.churn, bf16=args.bf16),
            predictor=predictor,
            guidance=Guidance(args.guidance, args.guidance) if predictor else None,
            **({} if device == "cpu" else {"max_batch_atoms": GPU_BATCH_ATOMS}),
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
    if args.baseline == "known":
        known = read_crystals(args.data, None, args.max_atoms).crystals
        drawn = known_crystals(known, references, args.samples, args.seed)
    else:
        drawn = generate(args, references, rows)
    seconds = round(time.monotonic() - started, 1)
    if kept:
        write_samples(kept, drawn, {"identity": identity, "seconds": seconds})
    return drawn, seconds


def measure(args: argparse.Namespace) -> dict[str, Any] | None:
    """Sample, match, and gather the figures; none with --draw-only."""
    table = read_crystals(args.data, args.split, args.max_atoms)
    rows = chosen_rows(table, args.limit)
    references = [table.crystals[i] for i in rows]
    card = None if args.baseline else verify(find(args.checkpoint))
    if card and args.steps is None:
        args.steps = STEPS[config_of(card.architecture).objective]
    identity = {
        "checkpoint": card and card.sha256,
        "baseline": args.baseline,
        "data": table.sha256,
        **{name: getattr(args, name) for name in ("split", "max_atoms", "limit", "samples", "seed")},
        **({} if args.baseline else {name: getattr(args, name) for name in SAMPLER}),
        "version": __version__,
    }
    drawn, seconds = draw(args, references, rows, identity)
    if args.draw_only:
        print(f"{len(drawn)} samples in {seconds} s")
        return None
    from dao_flows.makers.science.match_rate import figures, match

    started = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task("matching", total=len(drawn))
        matching = match(references, drawn, lambda done, total: bar.update(task, completed=done, total=total))
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "checkpoint_sha256": identity["checkpoint"],
        "baseline": args.baseline,
        "data": {"file": args.data.name, "sha256": table.sha256, "split": args.split},
        "max_atoms": args.max_atoms,
        "n": len(rows),
        "samples": args.samples,
        **{name: identity.get(name) for name in SAMPLER},
        "seed": args.seed,
        "sampling_s": seconds,
        "matching_s": round(time.monotonic() - started, 1),
        "not_compared": matching.not_compared,
        "valid_share": float(matching.valid.mean()),
        "all": matching.all.model_dump(),
        "valid_only": matching.valid_only.model_dump(),
    }
    if args.rank:
        energies = predict_energy(load_predictor(args.rank), drawn).reshape(matching.rms.shape)
        first = {"energy": energies.argmin(1), "agreement": most_agreed(drawn, energies)}
        result["first_ranked"] = {"predictor": args.rank} | {
            name: figures(np.take_along_axis(matching.rms, chosen[:, None], axis=1)).model_dump()
            for name, chosen in first.items()
        }
    return result


def most_agreed(drawn: list[Crystal], energies: np.ndarray) -> np.ndarray:
    """(n,) of each row's k samples the one that most others duplicate, as `ScreenMaker(rank_by='agreement')` ranks.

    energies: (n, k), in the order of the samples; of duplicates, and between equals, the lowest comes first.
    """
    from dao_flows.makers.science.duplicates import Tolerance, find_duplicates
    from dao_flows.makers.science.structures import to_structure

    rows, samples = energies.shape
    ranked = np.argsort(energies, axis=1, kind="stable")
    finite = [
        (row, int(k))
        for row in range(rows)
        for k in ranked[row]
        if np.isfinite(drawn[row * samples + k].frac).all() and np.isfinite(drawn[row * samples + k].lattice).all()
    ]
    structures = [to_structure(drawn[row * samples + k]) for row, k in finite]
    same = find_duplicates(structures, [str(row) for row, _ in finite], Tolerance())
    often = np.zeros((rows, samples))
    for (row, k), kept in zip(finite, same, strict=True):
        often[row, k if kept is None else finite[kept][1]] += 1
    best = np.take_along_axis(often, ranked, axis=1).argmax(1)  # the first of the largest
    return np.take_along_axis(ranked, best[:, None], axis=1)[:, 0]


def chosen_rows(table: CrystalTable, limit: int | None) -> np.ndarray:
    """A random subset of the rows, ascending, always the same."""
    return np.sort(np.random.default_rng(0).permutation(len(table))[:limit])


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
    p.add_argument("--checkpoint", default="dao-g-flow")
    p.add_argument(
        "--baseline",
        choices=["known"],
        help="measure the file's own crystals of a composition, drawn evenly, instead of a checkpoint",
    )
    p.add_argument("--split", help="rows of this split alone")
    p.add_argument("--limit", type=positive, help="a random subset of this many rows (always the same)")
    p.add_argument("--max-atoms", type=positive)
    p.add_argument("--samples", type=positive, default=1)
    p.add_argument("--sampler", choices=get_args(SamplerName), default="renoising")
    p.add_argument("--steps", type=positive, help="otherwise the default of the checkpoint's objective")
    p.add_argument("--churn", type=float, default=0.0)
    p.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    p.add_argument("--predictor", help="DAO-P whose energy guides; without it, no guidance")
    p.add_argument("--guidance", type=float, default=20.0, help="its strength, for coordinates and lattice")
    p.add_argument("--rank", help="measure the first of the samples, too: by this DAO-P's energy, and by agreement")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=positive, default=2)
    p.add_argument("--quick", action="store_true", help="20 rows, 20 steps: to see that it runs")
    p.add_argument("--out", type=Path, help="write OUT.json, the figures, and OUT.npz, the samples")
    p.add_argument("--draw-only", action="store_true", help="write OUT.npz and measure nothing")
    args = p.parse_args()
    if args.draw_only and not args.out:
        p.error("--draw-only needs --out")
    if args.quick:
        args.limit, args.steps = 20, 20
    if not args.predictor:
        args.guidance = None
    if args.out and args.out.suffix == ".json":
        args.out = args.out.with_suffix("")
    try:
        if (result := measure(args)) is None:
            return 0
        if args.out:
            args.out.with_name(f"{args.out.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    except (BenchmarkError, DataError, CheckpointError, SamplingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    every, valid = result["all"], result["valid_only"]
    low, high = (100 * share for share in every["match_rate_95"])
    rmse = "–" if every["rmse"] is None else "{:.4f} [{:.4f}, {:.4f}]".format(every["rmse"], *every["rmse_95"])
    if args.rank:
        for name in ("energy", "agreement"):
            first = result["first_ranked"][name]
            low_1, high_1 = (100 * share for share in first["match_rate_95"])
            print(f"first by {name}: match rate {100 * first['match_rate']:.1f} % [{low_1:.1f}, {high_1:.1f}]")
    print(
        f"match rate {100 * every['match_rate']:.1f} % [{low:.1f}, {high:.1f}], RMSE {rmse} "
        f"(n = {result['n']}, k = {args.samples}; with validity filter {100 * valid['match_rate']:.1f} %)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
