"""Training data from raw crystals: every cell Niggli-reduced, all else as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from .errors import InputError


def prepare(source: Path, target: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Write a parquet file whose cells are Niggli-reduced, and return its number of rows.

    source: columns numbers (n), lattice (9, rows are vectors, Å), frac (3·n); others are kept. The order of atoms and
    of rows stays. The same input gives the same bytes. Raises InputError for a file that cannot be read, and for a
    cell that cannot be reduced (naming its row).
    """
    try:
        table = pd.read_parquet(source)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {source}: {error}") from error
    if missing := {"numbers", "frac", "lattice"} - set(table.columns):
        raise InputError(f"{source} has no column {', '.join(sorted(missing))}")
    lattices, coordinates = [], []
    for row in range(len(table)):
        numbers, lattice, frac = (table[column].iloc[row] for column in ("numbers", "lattice", "frac"))
        try:
            species = [Element.from_Z(int(z)) for z in numbers]
            raw = Structure(np.reshape(lattice, (3, 3)), species, np.reshape(frac, (-1, 3)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reduced = raw.get_reduced_structure("niggli")
        except ValueError as error:
            raise InputError(f"{source}, row {row}: the cell cannot be reduced: {error}") from error
        lattices.append(reduced.lattice.matrix.astype(np.float32).ravel())
        coordinates.append((reduced.frac_coords % 1).astype(np.float32).ravel())
        if row % 100 == 0:
            progress(row, len(table))
    partial = target.with_name(f".{target.name}.partial")
    table["lattice"], table["frac"] = pd.Series(lattices, table.index), pd.Series(coordinates, table.index)
    table.to_parquet(partial, compression="zstd")
    partial.replace(target)
    progress(len(table), len(table))
    return len(table)
