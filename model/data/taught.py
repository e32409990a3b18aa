"""Energies of wrong crystals by a teacher, such as a force field, on the scale of energies above hull.

A labelled dataset (makers/label.py) has the teacher's energies on a scale of its own, which differs from the hull's by
a constant for each formula: that of its crystals whose energy above hull is known, too.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .shards import DataError, parts
from .table import CrystalTable, NothingSelectedError, read_crystals

HIGHEST = 2.0  # eV/atom above hull: what lies higher counts as lying there
ENERGY, FORMULA, ABOVE, SPLIT = "energy_per_atom", "reduced_formula", "e_above_hull", "split"


def read_taught(path: Path, split: str | None = None, max_atoms: int | None = None) -> CrystalTable:
    """The frames of a labelled dataset with the teacher's energies above hull (eV/atom), at most HIGHEST.

    split, max_atoms: those of one split, and up to a size, alone. Frames of formulas without a known energy above hull
    are left out: nothing says where their zero lies. Raises DataError for a dataset without labels, and one in which no
    formula's zero is known; NothingSelectedError for an empty selection.
    """
    energies, names, above = _column(path, ENERGY), _column(path, FORMULA), _column(path, ABOVE)
    zeros: dict[str, list[float]] = defaultdict(list)
    for name, energy, known in zip(names, energies, above, strict=True):
        if energy is not None and known is not None:
            zeros[name].append(energy - known)
    if not zeros:
        raise DataError(f"{path} has no crystal with a known energy above hull: nothing says where its zeros lie")
    zero = {name: float(np.median(values)) for name, values in zeros.items()}
    taught = np.array([np.nan if e is None else e - zero.get(n, np.nan) for n, e in zip(names, energies, strict=True)])
    if split is not None:
        taught = taught[np.array([own == split for own in _column(path, SPLIT)])]
    table = read_crystals(path, split)
    small = np.array([max_atoms is None or len(crystal) <= max_atoms for crystal in table.crystals])
    rows = np.flatnonzero(np.isfinite(taught) & small)
    if not len(rows):
        raise NothingSelectedError(f"{path} has no labelled crystal of this split and size")
    energy = np.minimum(taught[rows], HIGHEST).astype(np.float32)
    return CrystalTable([table.crystals[i] for i in rows], energy, table.sha256, taught=np.ones(len(rows), dtype=bool))


def _column(path: Path, name: str) -> list[Any]:
    import pyarrow.parquet as pq

    values: list[Any] = []
    for file in parts(path)[0]:
        if name not in pq.read_schema(file).names:
            raise DataError(f"{path} is no labelled dataset: it has no column {name}")
        values += pq.read_table(file, columns=[name])[name].to_pylist()
    return values


def with_taught(table: CrystalTable, lessons: Sequence[CrystalTable]) -> CrystalTable:
    """Examples, and behind them what teachers say of other crystals."""
    everything = [replace(table, taught=np.zeros(len(table), dtype=bool)), *lessons]
    return CrystalTable(
        [crystal for each in everything for crystal in each.crystals],
        np.concatenate([each.energy for each in everything]),
        hashlib.sha256("".join(each.sha256 for each in everything).encode()).hexdigest(),
        taught=np.concatenate([each.taught for each in everything if each.taught is not None]),
    )
