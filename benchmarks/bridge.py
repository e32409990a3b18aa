#!/usr/bin/env python3
"""What a bridge makes of templates: the lookup's answers beside the network's, row by row.

    python benchmarks/bridge.py CRYSTALS.parquet TEMPLATES.npz CHECKPOINT [--rows 400] [--templates 5] [--steps 5]

Rows of the split, with the templates that `templates.py find` found for them. Prints match rate and RMSE of the first
answer of the lookup and of the bridge, how many wrong templates it mends and how many right ones it breaks, any of the
first 5 and 20, and the first answer where the template that the network would change least comes first.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

sys.path.insert(0, str(Path(__file__).parent))
from templates import decorated, read_row

from dao_flows.model.checkpoint.format import load
from dao_flows.model.crystals import Crystal
from dao_flows.model.sampling.bridge import mend

MATCHER = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)


def rms(reference: Crystal, candidate: Crystal) -> float:
    """As published; NaN where the two do not match."""
    if abs(np.linalg.det(candidate.lattice)) < 0.1 or not np.isfinite(candidate.frac).all():
        return np.nan
    both = [Structure(c.lattice, c.numbers, c.frac) for c in (reference, candidate)]
    result = MATCHER.get_rms_dist(*both)
    return result[0] if result else np.nan


def told(name: str, first: np.ndarray) -> None:
    """Match rate of a row's first answer and its RMSE. first: NaN where it does not match."""
    hit = ~np.isnan(first)
    spread = 100 * 1.96 * np.sqrt(hit.mean() * (1 - hit.mean()) / len(hit))
    rate = f"{100 * hit.mean():5.1f} % ± {spread:.1f}"
    print(f"{name:30} {rate}  RMSE {np.nanmean(first):.4f}, median {np.nanmedian(first):.4f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crystals", type=Path)
    parser.add_argument("templates_file", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--templates", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--noise", type=float, default=1.0, help="of the noise around templates in training")
    parser.add_argument("--euler", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="where the lookup's own RMS stay, for other checkpoints")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = pd.read_parquet(args.crystals)
    stored = np.load(args.templates_file)
    target, rank = stored["target"], stored["rank"]
    asked = np.unique(target[(rows.split.to_numpy() == args.split)[target]])
    asked = np.sort(np.random.default_rng(5).permutation(asked)[: args.rows])
    place = {row: i for i, row in enumerate(asked.tolist())}
    chosen = np.flatnonzero(np.isin(target, asked) & (rank < args.templates))
    old, new, library, volumes = stored["old"], stored["new"], stored["library"], stored["volumes"]
    templates = [decorated(read_row(rows, library[k]), old[k], new[k], volumes) for k in chosen]
    references = [read_row(rows, row) for row in asked]
    shape = (len(asked), args.templates)
    at = [(place[int(target[k])], int(rank[k])) for k in chosen]

    lookup = np.full(shape, np.nan)
    if args.cache and args.cache.exists():
        lookup = np.load(args.cache)[:, : args.templates]
        assert lookup.shape == shape, "other rows are in the cache, or fewer templates"
    else:
        for (i, k), template in zip(at, templates, strict=True):
            lookup[i, k] = rms(references[i], template)
        if args.cache:
            np.save(args.cache, lookup)

    model, _ = load(args.checkpoint)
    began = time.monotonic()
    mended = mend(model, templates, args.seed, args.steps, renoise=not args.euler, noise_scale=args.noise)
    took = time.monotonic() - began
    bridge, change = np.full(shape, np.nan), np.full(shape, np.inf)
    for (i, k), each in zip(at, mended, strict=True):
        bridge[i, k] = rms(references[i], each.crystal)
        change[i, k] = np.hypot(each.way / 0.1, each.strain / 0.1)

    print(f"{len(asked)} rows of {args.split}, {len(templates)} templates, {took:.0f} s of the network")
    told("lookup, first", lookup[:, 0])
    told("bridge, first", bridge[:, 0])
    right, kept = ~np.isnan(lookup[:, 0]), ~np.isnan(bridge[:, 0])
    both = right & kept
    print(
        f"of {(~right).sum()} wrong it mends {(~right & kept).sum()}, "
        f"of {right.sum()} right it breaks {(right & ~kept).sum()}; "
        f"where both are right RMSE {lookup[both, 0].mean():.4f} -> {bridge[both, 0].mean():.4f}, "
        f"median {np.median(lookup[both, 0]):.4f} -> {np.median(bridge[both, 0]):.4f}"
    )
    least = change.argmin(1)
    every = np.arange(len(asked))
    told("lookup, least change first", lookup[every, least])
    told("bridge, least change first", bridge[every, least])
    for count in (5, 20):
        if count <= args.templates:
            told(f"lookup, any of {count}", best(lookup[:, :count]))
            told(f"bridge, any of {count}", best(bridge[:, :count]))
            told(f"both, any of {count}", best(np.concatenate([lookup[:, :count], bridge[:, :count]], 1)))


def best(table: np.ndarray) -> np.ndarray:
    """(rows,) the least of each row; NaN where it has none."""
    return np.where(np.isnan(table).all(1), np.nan, np.where(np.isnan(table), np.inf, table).min(1))


if __name__ == "__main__":
    main()
