"""MAE and ranking of DAO-P's energy above hull on held-out rows: `python benchmarks/energy.py --help`.

Errors are given apart for energies from the source's own hull (dft) and from a hull over Materials Project energies
(approx, a lower bound), beside those of a model that always says the training mean. Ranking is what a search needs of
DAO-P: Spearman's rank correlation over all held-out rows, and within polymorphs, the rows of one formula. Few formulas
have two held-out rows, so a held-out row is also compared with the training rows of its formula; as DAO-P has seen
those, the two figures stand apart, and two training rows are never compared. Perturbed copies of held-out crystals near
the hull, atoms displaced at random by more and more, ought to rise in energy with the displacement.
Intervals are 95 % bootstrap intervals, over rows or, for polymorphs, over formulas.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dao_flows.model.checkpoint.format import CheckpointError, load
from dao_flows.model.checkpoint.library import find
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_p import DaoP, predict_energy
from dao_flows.model.data.shards import dataset_rows, parts

RESAMPLES = 2000
ENOUGH_TO_RESAMPLE = 10
DISPLACEMENTS = (0.0, 0.03, 0.06, 0.12, 0.25, 0.5)  # Å along each axis, standard deviation
NEAR_HULL = 0.08  # eV/atom; crystals that are perturbed lie below
COLUMNS = {"numbers", "frac", "lattice", "e_above_hull", "reduced_formula"}


class BenchmarkError(ValueError):
    """What was asked for cannot be measured; the message says why."""


def with_interval(value: Callable[[np.ndarray], float], n: int) -> dict[str, Any]:
    """value(indices) over all n items, with its bootstrap interval, or None where n is too small for one."""
    if n < ENOUGH_TO_RESAMPLE:
        return {"value": value(np.arange(n)), "interval_95": None}
    rng = np.random.default_rng(0)
    drawn = [value(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    return {"value": value(np.arange(n)), "interval_95": [float(q) for q in np.nanpercentile(drawn, [2.5, 97.5])]}


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; NaN where one side does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(pd.Series(a).corr(pd.Series(b), method="spearman"))


def errors(rows: pd.DataFrame, constant: float) -> dict[str, Any]:
    """MAE in eV/atom of the predictions and of the constant, and Spearman over the rows."""
    truth, predicted = rows.e_above_hull.to_numpy(), rows.predicted.to_numpy()
    return {
        "rows": len(rows),
        "mae_ev_per_atom": with_interval(lambda i: float(np.abs(predicted - truth)[i].mean()), len(rows)),
        "mae_of_training_mean_ev_per_atom": float(np.abs(constant - truth).mean()),
        "median_error_ev_per_atom": float(np.median(np.abs(predicted - truth))),
        "spearman": with_interval(lambda i: spearman(truth[i], predicted[i]), len(rows)),
    }


def in_order(formulas: list[pd.DataFrame], pairs: list[np.ndarray]) -> dict[str, Any]:
    """Share of pairs that DAO-P orders as the reference does, equal energies left out.

    formulas: the rows of one formula each; pairs: (n, n) bool for each, True above the diagonal where a pair counts.
    """
    right, count = [], []
    rows = used = 0
    for group, counted in zip(formulas, pairs, strict=True):
        truth, predicted = (column[:, None] - column for column in group[["e_above_hull", "predicted"]].to_numpy().T)
        counted = np.triu(counted, 1) & (truth != 0)
        if counted.any():
            right.append(int((np.sign(truth) == np.sign(predicted))[counted].sum()))
            count.append(int(counted.sum()))
            rows += int((counted | counted.T).any(1).sum())
            used += 1
    if not used:
        return {"formulas": 0}
    rights, counts = np.array(right), np.array(count)
    share = with_interval(lambda i: float(rights[i].sum() / counts[i].sum()), used)
    return {"formulas": used, "rows": rows, "pairs": int(counts.sum()), "in_order": share}


def polymorphs(rows: pd.DataFrame, split: str) -> dict[str, Any]:
    """Ranking within formulas: among held-out rows, and of a held-out row against a row that DAO-P was trained on.

    spearman: the mean over the formulas whose held-out rows have at least two different energies.
    """
    formulas = [group for _, group in rows.groupby("reduced_formula")]
    held = [(group.split == split).to_numpy() for group in formulas]
    among = in_order(formulas, [h[:, None] & h for h in held])
    kept = [g[h] for g, h in zip(formulas, held, strict=True) if h.sum() >= 2]
    rhos = np.array([spearman(g.e_above_hull.to_numpy(), g.predicted.to_numpy()) for g in kept])
    rhos = rhos[np.isfinite(rhos)]
    if len(rhos):
        among["spearman"] = with_interval(lambda i: float(rhos[i].mean()), len(rhos))
    return {"held_out": among, "against_training_rows": in_order(formulas, [h[:, None] ^ h for h in held])}


def perturbed(model: DaoP, crystals: list[Crystal]) -> dict[str, Any]:
    """Mean over crystals of Spearman's correlation of DAO-P's energy with the displacement of its copies' atoms.

    rise_ev_per_atom: mean energy of the copies of each displacement above that of the crystals themselves.
    """
    rng = np.random.default_rng(0)
    copies = [
        Crystal(c.numbers, (c.frac + d * rng.normal(size=c.frac.shape) @ np.linalg.inv(c.lattice)) % 1, c.lattice)
        for c in crystals
        for d in DISPLACEMENTS
    ]
    energies = np.asarray(predict_energy(model, copies)).reshape(len(crystals), len(DISPLACEMENTS))
    rhos = np.array([spearman(np.array(DISPLACEMENTS), row) for row in energies])
    rise = (energies - energies[:, :1]).mean(0)
    return {
        "crystals": len(crystals),
        "displacements_angstrom": list(DISPLACEMENTS),
        "rise_ev_per_atom": [float(value) for value in rise],
        "spearman": with_interval(lambda i: float(rhos[i].mean()), len(rhos)),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Predict every row that the checkpoint covers, and gather the figures."""
    import torch

    torch.set_num_threads(args.threads)
    model, card = load(find(args.checkpoint), "cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(model, DaoP):
        raise CheckpointError(f"{card.name} is a {card.kind} checkpoint; the energy is DAO-P's")
    try:
        rows = pd.DataFrame(dataset_rows(args.data))
    except (ValueError, OSError) as error:
        raise BenchmarkError(f"cannot read {args.data}: {str(error).splitlines()[0]}") from error
    if missing := COLUMNS - set(rows):
        raise BenchmarkError(f"{args.data} has no column {', '.join(sorted(missing))}")
    if "split" not in rows:
        rows["split"] = args.split
    rows = rows[rows.e_above_hull.notna()]
    limit, covered = args.max_atoms or card.max_atoms, set(card.elements)
    fits = (rows.numbers.map(len) <= limit) & rows.numbers.map(lambda numbers: set(numbers) <= covered)
    held = rows.split == args.split
    left_out = int((held & ~fits).sum())
    # beside the held-out rows, only those of the same formulas are looked at
    rows = rows[fits & (held | rows.reduced_formula.isin(rows[held & fits].reduced_formula))].reset_index(drop=True)
    if args.limit:
        chosen = rows[rows.split == args.split].sample(frac=1, random_state=0).index[: args.limit]
        rows = rows[(rows.split != args.split) | rows.index.isin(chosen)].reset_index(drop=True)
    held = rows.split == args.split
    if not held.any():
        raise BenchmarkError(
            f"{args.data} has no row with a known energy of split {args.split!r} that {card.name} covers"
        )
    crystals = [
        Crystal(np.array(r.numbers), np.reshape(r.frac, (-1, 3)), np.reshape(r.lattice, (3, 3)))
        for r in rows.itertuples()
    ]
    rows["predicted"] = predict_energy(model, crystals)
    mean = model.config.energy_mean
    near = [
        crystal
        for crystal, is_held, energy in zip(crystals, held, rows.e_above_hull, strict=True)
        if is_held and energy < NEAR_HULL and len(crystal) > 1
    ]
    kinds = sorted(set(rows.e_above_hull_kind[held].dropna())) if "e_above_hull_kind" in rows else []
    return {
        "command": shlex.join(["python", *sys.argv]),
        "checkpoint_sha256": card.sha256,
        "data": {"file": args.data.name, "sha256": parts(args.data)[1], "split": args.split},
        "max_atoms": limit,
        "left_out_as_not_covered": left_out,
        "all": errors(rows[held], mean),
        "by_kind": {kind: errors(rows[held & (rows.e_above_hull_kind == kind)], mean) for kind in kinds},
        "polymorphs": polymorphs(rows, args.split),
        "perturbed": perturbed(model, near) if near else {"crystals": 0},
    }


def main() -> int:
    """The last line is the figure; exit code 2 for what cannot be measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path, help="parquet file as prepared for training (Niggli cells)")
    p.add_argument("--checkpoint", default="dao-p-flow")
    p.add_argument("--split", default="val", help="the held-out rows")
    p.add_argument("--max-atoms", type=int, help="largest cell (default: the checkpoint's)")
    p.add_argument("--limit", type=int, help="a random subset of this many held-out rows (always the same)")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--quick", action="store_true", help="50 rows: to see that it runs")
    p.add_argument("--out", type=Path, help="JSON file for the figures")
    args = p.parse_args()
    if not args.data.exists():
        p.error(f"there is no dataset or file {args.data}")
    if args.quick:
        args.limit = 50
    try:
        result = measure(args)
    except (BenchmarkError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")

    def said(figure: dict[str, Any]) -> str:
        interval = figure["interval_95"]
        return f"{figure['value']:.4f}" + (" [{:.4f}, {:.4f}]".format(*interval) if interval else "")

    for kind, figures in result["by_kind"].items():
        mae, mean = said(figures["mae_ev_per_atom"]), figures["mae_of_training_mean_ev_per_atom"]
        print(f"{kind}: MAE {mae} eV/atom (n = {figures['rows']}; training mean: {mean:.4f})")
    if (copies := result["perturbed"])["crystals"]:
        rises = ", ".join(
            f"{d:g} Å {rise:+.3f}"
            for d, rise in zip(copies["displacements_angstrom"], copies["rise_ev_per_atom"], strict=True)
        )
        print(
            f"perturbed copies of {copies['crystals']} crystals: mean Spearman {said(copies['spearman'])}, rise "
            f"in eV/atom: {rises}"
        )
    every = result["all"]
    for which, ranked in result["polymorphs"].items():
        of = f"polymorphs, {which.replace('_', ' ')}:"
        if not ranked["formulas"]:
            print(of, "none")
            continue
        spearman_said = f", mean Spearman {said(ranked['spearman'])}" if "spearman" in ranked else ""
        print(
            of,
            f"{said(ranked['in_order'])} of {ranked['pairs']} pairs in order "
            f"({ranked['rows']} rows of {ranked['formulas']} formulas){spearman_said}",
        )
    print(
        f"MAE {said(every['mae_ev_per_atom'])} eV/atom, Spearman {said(every['spearman'])} "
        f"(n = {every['rows']}; training mean: {every['mae_of_training_mean_ev_per_atom']:.4f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
