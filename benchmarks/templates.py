#!/usr/bin/env python3
"""Known crystals as templates of others: which, with which exchange of elements, and how their atoms pair.

    python benchmarks/templates.py find CRYSTALS.parquet TEMPLATES.npz [--ids DATASET] [--max-atoms 20]
    python benchmarks/templates.py pair CRYSTALS.parquet TEMPLATES.npz PAIRS.npz [--split val] [--ranks 0 4]

The library is the training split within 0.08 eV/atom of the hull, or without an energy. A template of a row has its
multiplicities a cell and another reduced formula; its elements are exchanged at the least distance, its cell is scaled
by volumes of elements. Templates are ordered by that distance and their energy above hull.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Element
from scipy.optimize import nnls

from dao_flows.model.crystals import Crystal
from dao_flows.model.templates.pairing import pair

MAX_ENERGY = 0.08  # eV/atom above hull of what may be a template
UNKNOWN_ENERGY = 0.05  # eV/atom, for the order, where the source gives none
ENERGY_WEIGHT = 4.0  # of an eV/atom, in units of the distance of elements
MAX_ELEMENTS = 7
LARGEST_ELEMENT = 94


def element_distances() -> np.ndarray:
    """(95, 95), how unlike two elements are.

    By Mendeleev number, electronegativity, radius, group and row, each in units of its standard deviation.
    """

    def features(z: int) -> list[float]:
        e = Element.from_Z(z)
        x = e.X if np.isfinite(e.X) else 1.5
        return [e.mendeleev_no or 50, x, float(e.atomic_radius or 1.5), e.group or 3, e.row or 5]

    table = np.array([features(z) for z in range(1, LARGEST_ELEMENT + 1)])
    table /= table.std(0)
    distances = np.zeros((LARGEST_ELEMENT + 1, LARGEST_ELEMENT + 1))
    distances[1:, 1:] = np.linalg.norm(table[:, None] - table[None], axis=-1)
    return distances


@dataclass(frozen=True)
class Composition:
    """Elements by their number of atoms a cell, fewest first; their reduced formula as a key."""

    elements: np.ndarray
    multiplicities: tuple[int, ...]

    @classmethod
    def of(cls, numbers: np.ndarray) -> Composition:
        """What a cell of these atoms holds."""
        elements, counts = np.unique(numbers, return_counts=True)
        order = np.argsort(counts, kind="stable")
        return cls(elements[order], tuple(int(n) for n in counts[order]))


def exchanges(multiplicities: tuple[int, ...]) -> np.ndarray:
    """All orders of the elements that leave the multiplicities as they are: (orders, elements)."""
    groups = [[i for i, m in enumerate(multiplicities) if m == n] for n in sorted(set(multiplicities))]
    return np.array([sum(each, ()) for each in product(*(permutations(g) for g in groups))])


class Library:
    """Crystals that may be templates, grouped by multiplicities, and volumes of elements."""

    def __init__(self, rows: pd.DataFrame, within: np.ndarray) -> None:
        self.compositions = [Composition.of(np.asarray(z)) for z in rows.numbers]
        self.formulas = rows.reduced_formula.to_numpy()
        self.energy = rows.e_above_hull.fillna(UNKNOWN_ENERGY).clip(lower=0).to_numpy()
        self.distances = element_distances()
        self.volumes = self._volumes(rows.iloc[within])
        groups = defaultdict(list)
        for row in within:
            groups[self.compositions[row].multiplicities].append(row)
        self.groups = {key: np.array(members) for key, members in groups.items()}

    @staticmethod
    def _volumes(rows: pd.DataFrame) -> np.ndarray:
        """(95,) Å³ an atom of each element, by non-negative least squares."""
        shares = np.zeros((len(rows), LARGEST_ELEMENT + 1))
        for i, numbers in enumerate(rows.numbers):
            np.add.at(shares[i], np.asarray(numbers), 1 / len(numbers))
        cells = np.stack(rows.lattice.to_numpy()).reshape(-1, 3, 3).astype(float)
        volumes, _ = nnls(shares, np.abs(np.linalg.det(cells)) / rows.n_atoms.to_numpy())
        volumes[volumes < 4] = 12
        return volumes

    def nearest(self, row: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Templates of a row: library rows (m,), their elements and those that take their place (m, elements)."""
        asked = self.compositions[row]
        members = self.groups.get(asked.multiplicities, np.zeros(0, int))
        members = members[self.formulas[members] != self.formulas[row]]
        if not len(members):
            return members, *(np.zeros((0, len(asked.elements)), int),) * 2
        old = np.stack([self.compositions[m].elements for m in members])
        orders = exchanges(asked.multiplicities)
        new = asked.elements[orders]
        weights = np.array(asked.multiplicities) / sum(asked.multiplicities)
        cost = sum(w * self.distances[new[:, i][:, None], old[:, i][None]] for i, w in enumerate(weights))
        best = cost.argmin(0)
        total = cost[best, np.arange(len(members))] + ENERGY_WEIGHT * self.energy[members]
        first = np.argsort(total, kind="stable")[:count]
        return members[first], old[first], new[best[first]]


def find(args: argparse.Namespace) -> None:
    """Templates of the training rows and of the validation rows, as arrays."""
    rows = pd.read_parquet(args.crystals)
    allowed = np.ones(len(rows), bool)
    if args.ids:
        allowed = rows.material_id.isin(
            pd.concat(
                pd.read_parquet(part, columns=["material_id"]) for part in sorted(args.ids.glob("*.parquet"))
            ).material_id
        ).to_numpy()
    near = (rows.e_above_hull.isna() | (rows.e_above_hull <= MAX_ENERGY)).to_numpy()
    small = (rows.n_atoms <= args.max_atoms).to_numpy()
    train = np.flatnonzero(allowed & near & small & (rows.split == "train").to_numpy())
    library = Library(rows, train)
    asked = np.concatenate([np.flatnonzero(allowed & small & (rows.split == "val").to_numpy()), train])
    targets, ranks, found, olds, news = [], [], [], [], []
    for row in asked:
        members, old, new = library.nearest(row, args.templates)
        fill = ((0, 0), (0, MAX_ELEMENTS - old.shape[1]))
        targets.append(np.full(len(members), row))
        ranks.append(np.arange(len(members)))
        found.append(members)
        olds.append(np.pad(old, fill))
        news.append(np.pad(new, fill))
    np.savez_compressed(
        args.templates_file,
        target=np.concatenate(targets).astype(np.int32),
        rank=np.concatenate(ranks).astype(np.int8),
        library=np.concatenate(found).astype(np.int32),
        old=np.concatenate(olds).astype(np.uint8),
        new=np.concatenate(news).astype(np.uint8),
        volumes=library.volumes.astype(np.float32),
    )


def read_row(rows: pd.DataFrame, row: int) -> Crystal:
    """A row of the file."""
    each = rows.iloc[row]
    frac = np.reshape(each.frac, (-1, 3)).astype(float)
    return Crystal(np.asarray(each.numbers, int), frac, np.reshape(each.lattice, (3, 3)).astype(float))


def decorated(crystal: Crystal, old: np.ndarray, new: np.ndarray, volumes: np.ndarray) -> Crystal:
    """A template with its elements exchanged and its cell scaled to what its new elements need."""
    become = np.zeros(LARGEST_ELEMENT + 1, int)
    become[old] = new
    numbers = become[crystal.numbers]
    scale = (volumes[numbers].sum() / volumes[crystal.numbers].sum()) ** (1 / 3)
    return Crystal(numbers, crystal.frac, crystal.lattice * scale)


def pairs(args: argparse.Namespace) -> None:
    """Pair crystals with their templates, one rank after the other, until all are done or the time is up."""
    rows = pd.read_parquet(args.crystals)
    templates = np.load(args.templates_file)
    target, rank, library = templates["target"], templates["rank"], templates["library"]
    old, new, volumes = templates["old"], templates["new"], templates["volumes"]
    here = (rows.split.to_numpy() == args.split)[target]
    chosen = np.flatnonzero(here & (rank >= args.ranks[0]) & (rank < args.ranks[1]))
    chosen = chosen[np.lexsort((target[chosen], rank[chosen]))]
    if args.sample:
        chosen = chosen[np.random.default_rng(0).permutation(len(chosen))[: args.sample]]
    began, done, template_volumes = time.monotonic(), [], []
    for k in chosen:
        if time.monotonic() - began > args.seconds:
            break
        template = decorated(read_row(rows, library[k]), old[k], new[k], volumes)
        template_volumes.append(abs(np.linalg.det(template.lattice)))
        done.append(pair(template, read_row(rows, target[k])))
    chosen = chosen[: len(done)]
    size = max(len(p.order) for p in done)
    temporary = args.pairs_file.with_suffix(".tmp.npz")
    np.savez_compressed(
        temporary,
        target=target[chosen],
        rank=rank[chosen],
        library=library[chosen],
        template_volume=np.array(template_volumes, np.float32),
        setting=np.stack([p.setting for p in done]).astype(np.int8),
        order=np.stack([np.pad(p.order, (0, size - len(p.order)), constant_values=-1) for p in done]).astype(np.int8),
        shift=np.stack([p.shift for p in done]).astype(np.float32),
        rms=np.array([p.rms for p in done], np.float32),
        strain=np.array([p.strain for p in done], np.float32),
    )
    temporary.replace(args.pairs_file)
    took = time.monotonic() - began
    print(f"{len(done)} pairs in {took:.0f} s, {1e3 * took / len(done):.2f} ms a pair", file=sys.stderr)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("find", find), ("pair", pairs)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("crystals", type=Path)
        command.add_argument("templates_file", type=Path)
        if name == "find":
            command.add_argument("--ids", type=Path, help="a dataset: only rows whose material_id it holds")
            command.add_argument("--max-atoms", type=int, default=20)
            command.add_argument("--templates", type=int, default=20)
        else:
            command.add_argument("pairs_file", type=Path)
            command.add_argument("--split", default="train")
            command.add_argument("--ranks", type=int, nargs=2, default=(0, 4))
            command.add_argument("--sample", type=int)
            command.add_argument("--seconds", type=float, default=1e9)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
