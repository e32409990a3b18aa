"""Crystals beside their templates, from a file of crystals and files that tell which belongs to which.

A file of pairs (npz) names rows of the crystals' file, and how a crystal comes into its template's setting
(`pairing.Pair`), so that it stays small: target and library: rows; template_volume: Å³; setting: (3, 3); order: atoms,
−1 behind the last; shift: fractional.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from dao_flows.model.crystals import Crystal
from dao_flows.model.data.table import CrystalTable, NothingSelectedError

from .pairing import Pair


def read_pairs(data: Path, files: Sequence[Path], split: str, max_atoms: int | None = None) -> CrystalTable:
    """Crystals of a split in their templates' settings, the templates beside them, and each crystal once alone.

    data: the parquet file whose rows the pairs name. Raises NothingSelectedError where no crystal of the split is
    paired.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(data, columns=["numbers", "frac", "lattice", "split", "e_above_hull"])
    splits = table["split"].to_pylist()
    numbers, frac, lattice = (table[name].to_numpy() for name in ("numbers", "frac", "lattice"))
    energies = table["e_above_hull"].to_numpy().astype(np.float32)

    @cache
    def crystal(row: int) -> Crystal:
        return Crystal(
            np.asarray(numbers[row], int),
            np.asarray(frac[row], float).reshape(-1, 3),
            np.asarray(lattice[row], float).reshape(3, 3),
        )

    crystals: list[Crystal] = []
    starts: list[Crystal | None] = []
    rows: list[int] = []
    digest = hashlib.sha256(data.read_bytes())
    for file in files:
        digest.update(file.read_bytes())
        with np.load(file) as stored:
            pairs = {name: stored[name] for name in stored.files}
        for i, target in enumerate(pairs["target"].tolist()):
            if splits[target] != split or (max_atoms is not None and len(numbers[target]) > max_atoms):
                continue
            order = pairs["order"][i]
            setting = pairs["setting"][i].astype(float)
            moved = Pair(setting, order[order >= 0].astype(int), pairs["shift"][i].astype(float)).move(crystal(target))
            template = crystal(pairs["library"][i])
            scale = (pairs["template_volume"][i] / abs(np.linalg.det(template.lattice))) ** (1 / 3)
            crystals.append(moved)
            starts.append(Crystal(moved.numbers, template.frac, template.lattice * scale))
            rows.append(target)
    if not rows:
        raise NothingSelectedError(f"{', '.join(map(str, files))}: no crystal of {data} with split == {split!r}")
    alone = sorted(set(rows))
    crystals += [crystal(row) for row in alone]
    starts += [None] * len(alone)
    return CrystalTable(crystals, energies[[*rows, *alone]], digest.hexdigest(), starts=starts)
