"""Draw predicted beside reference structures: `python benchmarks/picture.py --help`.

Reads a parquet file of reference crystals (the benchmarks' columns), predicts each composition at the reference's cell
size, takes the candidate that was drawn most often, as `predict` ranks, and draws both with their match and RMSE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from match_rate import most_agreed
from matplotlib.axes import Axes
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from pymatgen.vis.structure_vtk import EL_COLORS

from dao_flows.model.checkpoint import load
from dao_flows.model.dao_p import predict_energy
from dao_flows.model.data import read_crystals
from dao_flows.model.library import find
from dao_flows.model.sample import Request, sample

VIEW = np.array([[0.94, 0.34, 0.0], [-0.13, 0.36, 0.92]])  # orthographic, seen from slightly above
DEPTH = np.array([0.31, -0.87, 0.38])


def draw(axes: Axes, structure: Structure, title: str) -> None:
    """Atoms of the conventional cell, those on its faces repeated, and the cell's edges."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    lattice = structure.lattice.matrix
    for a in corners:
        for b in corners:
            if (b - a).sum() == 1 and np.all(b >= a):
                axes.plot(*(VIEW @ (np.array([a, b]) @ lattice).T), color="0.6", lw=0.8, zorder=0)
    drawn = []
    for site in structure:
        for shift in corners:
            frac = np.mod(site.frac_coords + 1e-3, 1) - 1e-3 + shift
            if np.all(frac <= 1 + 2e-2):
                drawn.append((frac @ lattice, site.specie))
    for position, specie in sorted(drawn, key=lambda item: -float(DEPTH @ item[0])):
        colour = np.array(EL_COLORS["VESTA"][specie.symbol]) / 255
        circle = plt.Circle(tuple(VIEW @ position), 0.35 * float(specie.atomic_radius or 1.2), zorder=1)
        circle.set(facecolor=colour, edgecolor="0.2", linewidth=0.6)
        axes.add_patch(circle)
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.axis("off")
    axes.set_title(title, fontsize=8)


def standard(structure: Structure) -> Structure:
    """The conventional standard cell, so that both sides are drawn alike."""
    try:
        return SpacegroupAnalyzer(structure, symprec=0.1).get_conventional_standard_structure()
    except (TypeError, ValueError):
        return structure


def main() -> None:
    """Write the picture."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path)
    p.add_argument("formulas", nargs="+", help="reduced formulas that occur in the file")
    p.add_argument("--checkpoint", default="dao-g-flow")
    p.add_argument("--predictor", default="dao-p-flow")
    p.add_argument("--samples", type=int, default=20)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--quick", action="store_true", help="the first formula, 2 samples: to see that it runs")
    p.add_argument("--out", type=Path, default=Path("predicted.png"))
    args = p.parse_args()
    if args.quick:
        args.formulas, args.samples = args.formulas[:1], 2
    generator, predictor = load(find(args.checkpoint))[0], load(find(args.predictor))[0]
    table = read_crystals(args.data)
    references = [Structure(c.lattice, c.numbers.tolist(), c.frac) for c in table.crystals]
    names = [r.composition.reduced_formula for r in references]
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    figure, axes = plt.subplots(2, len(args.formulas), figsize=(1.9 * len(args.formulas), 4.4), squeeze=False)
    for column, formula in enumerate(args.formulas):
        row = names.index(formula)
        reference, numbers = references[row], table.crystals[row].numbers
        requests = [Request(numbers, (row, k)) for k in range(args.samples)]
        drawn = sample(generator, requests, args.seed)
        best = drawn[int(most_agreed(drawn, predict_energy(predictor, drawn)[None])[0])]
        predicted = Structure(best.lattice, best.numbers.tolist(), best.frac)
        distance = matcher.get_rms_dist(reference, predicted)
        verdict = f"match, RMSE {distance[0]:.3f}" if distance else "no match"
        draw(axes[0][column], standard(reference), f"{formula}\nreference")
        draw(axes[1][column], standard(predicted), f"predicted first of {args.samples}\n{verdict}")
        print(formula, verdict, flush=True)
    figure.tight_layout()
    figure.savefig(args.out, dpi=160)


if __name__ == "__main__":
    main()
