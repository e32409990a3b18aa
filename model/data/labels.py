"""A teacher's energies, forces and stresses of crystals, its energies on the scale of energies above hull.

A labelled dataset (makers/label.py) has the teacher's energies on a scale of its own, which differs from the hull's by
a constant for each formula: that of its crystals whose energy above hull is known, too.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .shards import DataError, parts
from .table import CrystalTable, NothingSelectedError, read_crystals

HIGHEST = 2.0  # eV/atom above hull: what lies higher counts as lying there, and its slopes are not learned
STEEPEST = 20.0  # eV/Å: nor those of a crystal with a larger force
GPA = 160.21766  # of 1 eV/Å³
FIGURES = ("energy_per_atom", "reduced_formula", "e_above_hull", "forces", "stress")


def read_labels(paths: Sequence[Path], split: str | None = None, max_atoms: int | None = None) -> CrystalTable:
    """The frames of labelled datasets: energies above hull by the teacher (eV/atom), forces and stresses.

    split, max_atoms: those of one split, and up to a size, alone. Slopes are NaN beyond HIGHEST and STEEPEST. Left out
    are frames of formulas without a known energy above hull, for nothing says where their zero lies. Raises DataError
    for a dataset without labels, and one in which no formula's zero is known; NothingSelectedError where no frame is
    left.
    """
    found = [_read(path, split, max_atoms) for path in paths]
    tables = [table for table in found if len(table)]
    if not tables:
        raise NothingSelectedError("--labels hold no crystal of this split and size whose energy has a zero")
    return CrystalTable(
        [crystal for table in tables for crystal in table.crystals],
        np.concatenate([table.energy for table in tables]),
        hashlib.sha256("".join(table.sha256 for table in found).encode()).hexdigest(),
        forces=[forces for table in tables for forces in table.forces or ()],
        stresses=np.concatenate([table.stresses for table in tables if table.stresses is not None]),
    )


def _read(path: Path, split: str | None, max_atoms: int | None) -> CrystalTable:
    files, sha256 = parts(path)
    energies, formulas, above, forces, stresses = (_column(path, files, name) for name in FIGURES)
    zeros: dict[str, list[float]] = defaultdict(list)
    for formula, energy, known in zip(formulas, energies, above, strict=True):
        if energy is not None and known is not None:
            zeros[formula].append(energy - known)
    if not zeros:
        raise DataError(f"{path} has no crystal with a known energy above hull: nothing says where its zeros lie")
    zero = {formula: float(np.median(values)) for formula, values in zeros.items()}
    own = (
        range(len(energies))
        if split is None
        else [i for i, of in enumerate(_column(path, files, "split")) if of == split]
    )
    try:
        table = read_crystals(path, split)
    except NothingSelectedError:
        return CrystalTable([], np.zeros(0, dtype=np.float32), sha256)
    kept, taught, pulls, cells = [], [], [], []
    for place, row in enumerate(own):
        crystal, energy = table.crystals[place], energies[row]
        if (max_atoms is not None and len(crystal) > max_atoms) or None in (energy, forces[row], stresses[row]):
            continue
        if not np.isfinite(energy := energy - zero.get(formulas[row], np.nan)):
            continue
        pull, cell = np.reshape(forces[row], (-1, 3)), np.reshape(stresses[row], (3, 3)) / GPA
        if energy > HIGHEST or np.abs(pull).max() > STEEPEST:
            pull, cell = np.full_like(pull, np.nan), np.full_like(cell, np.nan)
        kept.append(crystal)
        taught.append(min(energy, HIGHEST))
        pulls.append(pull)
        cells.append(cell)
    stress = np.array(cells, dtype=np.float32).reshape(-1, 3, 3)
    return CrystalTable(kept, np.array(taught, dtype=np.float32), table.sha256, forces=pulls, stresses=stress)


def _column(path: Path, files: Sequence[Path], name: str) -> list[Any]:
    import pyarrow.parquet as pq

    values: list[Any] = []
    for file in files:
        if name not in pq.read_schema(file).names:
            raise DataError(f"{path} is no labelled dataset: it has no column {name}")
        values += pq.read_table(file, columns=[name])[name].to_pylist()
    return values
