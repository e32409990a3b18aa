"""Draw predicted beside reference structures: `python benchmarks/picture.py --help`.

Reads a parquet file of reference crystals (the benchmarks' columns), predicts each composition at the reference's cell
size, as `predict` does by default, and draws the first candidate with its origin and RMSE.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from pymatgen.vis.structure_vtk import EL_COLORS

from dao_flows import predict
from dao_flows.makers.schemas.prediction import told_origin
from dao_flows.model.data.table import read_crystals

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
    p.add_argument("--samples", type=int, default=20)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--quick", action="store_true", help="the first formula, 2 samples: to see that it runs")
    p.add_argument("--out", type=Path, default=Path("predicted.png"))
    args = p.parse_args()
    if args.quick:
        args.formulas, args.samples = args.formulas[:1], 2
    references = [Structure(c.lattice, c.numbers.tolist(), c.frac) for c in read_crystals(args.data).crystals]
    names = [r.composition.reduced_formula for r in references]
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    figure, axes = plt.subplots(2, len(args.formulas), figsize=(1.9 * len(args.formulas), 4.4), squeeze=False)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DAO_FLOWS_DATA_DIR"] = folder
        for column, formula in enumerate(args.formulas):
            reference = references[names.index(formula)]
            units = round(reference.composition.get_reduced_composition_and_factor()[1])
            first = next(predict(formula, n=args.samples, z=units, seed=args.seed).candidates())
            distance = matcher.get_rms_dist(reference, first.structure)
            verdict = f"match, RMSE {distance[0]:.3f}" if distance else "no match"
            draw(axes[0][column], standard(reference), f"{formula}\nreference")
            draw(axes[1][column], standard(first.structure), f"{verdict}\n{told_origin(first.origin)}")
            print(formula, verdict, told_origin(first.origin), flush=True)
    figure.tight_layout()
    figure.savefig(args.out, dpi=160)


if __name__ == "__main__":
    main()
