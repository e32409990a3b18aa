"""Training crystals: read from parquet, held on the device as padded tensors bucketed by size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dao_flows.model.crystals import Crystal, Crystals
from dao_flows.model.elements import MAX_ATOMIC_NUMBER
from dao_flows.model.runtime.random import stream

from .shards import DataError, parts

BUCKET_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 52, 64)
MIN_VOLUME = 1e-3  # Å³


Judge = Callable[[list[Crystal]], np.ndarray]  # energies above hull, eV/atom


class NothingSelectedError(DataError):
    """The file holds no crystal of the split and size that were asked for."""


@dataclass(frozen=True)
class CrystalTable:
    """Crystals, their energies above hull (eV/atom) and the sha256 of the dataset or file they came from.

    target: another property, to be learned instead of the energy, in its own units. NaN where a value is unknown.
    starts: templates that paths to the crystals begin from, atom beside atom; None where a crystal has none. forces,
    stresses: by a teacher (`data.labels`), of each crystal (n, 3), eV/Å, and (3, 3), eV/Å³.
    """

    crystals: list[Crystal]
    energy: np.ndarray
    sha256: str
    target: np.ndarray | None = None
    starts: list[Crystal | None] | None = None
    forces: list[np.ndarray] | None = None
    stresses: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """(len,) what is to be learned: the target, or else the energy."""
        return self.energy if self.target is None else self.target

    def elements(self) -> list[int]:
        """Sorted atomic numbers that occur."""
        return sorted({int(z) for c in self.crystals for z in np.unique(c.numbers)})

    def labelled(self) -> CrystalTable:
        """The crystals whose label is known. Raises NothingSelectedError if there are fewer than two."""
        rows = np.flatnonzero(~np.isnan(self.labels))
        if len(rows) < 2:
            if self.target is not None:
                raise NothingSelectedError(
                    "a property is learned from crystals whose value is known: its column holds none"
                )
            raise NothingSelectedError("DAO-P learns from crystals with an energy: the column e_above_hull holds none")
        target = None if self.target is None else self.target[rows]
        return CrystalTable([self.crystals[i] for i in rows], self.energy[rows], self.sha256, target)

    def __len__(self) -> int:
        return len(self.crystals)


def read_crystals(
    path: Path,
    split: str | None = None,
    max_atoms: int | None = None,
    max_energy: float | None = None,
    target: str | None = None,
    judge: Judge | None = None,
) -> CrystalTable:
    """Crystals of a dataset (a folder) or a parquet file; if asked, those of one split and within the bounds alone.

    Columns: numbers, frac (3·n, row-major), lattice (9, rows are vectors, Å); e_above_hull (eV/atom) and split may be
    missing; a crystal without an energy is within max_energy if the judge says so, and without a judge it is not.
    target: a column of numbers to learn instead of the energy. Needs pyarrow. Raises DataError for a missing column, a
    row that is no crystal or a damaged dataset, NothingSelectedError for an empty selection.
    """
    crystals: list[Crystal] = []
    energy: list[float] = []
    values: list[float] = []
    files, sha256 = parts(path)
    for file in files:
        for crystal, above, value in _rows(file, split, target):
            if max_atoms is not None and len(crystal) > max_atoms:
                continue
            crystals.append(crystal)
            energy.append(above)
            values.append(value)
    if max_energy is not None:
        kept = _within(max_energy, crystals, energy, judge)
        crystals, energy, values = [crystals[i] for i in kept], [energy[i] for i in kept], [values[i] for i in kept]
    if not crystals:
        limits = {
            f"split == {split!r}": split,
            f"at most {max_atoms} atoms": max_atoms,
            f"at most {max_energy} eV/atom above hull": max_energy,
        }
        wanted = " and ".join(text for text, limit in limits.items() if limit is not None)
        raise NothingSelectedError(f"{path} has no crystal" + (f" with {wanted}" if wanted else ""))
    learned = None if target is None else np.asarray(values, dtype=np.float32)
    return CrystalTable(crystals, np.asarray(energy, dtype=np.float32), sha256, learned)


def _within(bound: float, crystals: list[Crystal], energy: list[float], judge: Judge | None) -> list[int]:
    """Which of the crystals are within the bound (eV/atom), those without an energy by the judge's, if there is one."""
    known = np.asarray(energy)
    if judge is not None:
        unknown = np.flatnonzero(np.isnan(known))
        known[unknown] = judge([crystals[i] for i in unknown])
    return np.flatnonzero(known <= bound).tolist()


def _rows(path: Path, split: str | None, target: str | None) -> Iterator[tuple[Crystal, float, float]]:
    """Crystals, energies (eV/atom) and values of the target of one parquet file; NaN where unknown."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if missing := {"numbers", "frac", "lattice"} - set(table.column_names):
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}")
    if split is not None and "split" not in table.column_names:
        raise DataError(f"{path} has no column split, so {split!r} cannot be selected")
    if target is not None and target not in table.column_names:
        raise DataError(f"{path} has no column {target}; there are: {', '.join(table.column_names)}")
    columns = {name: table[name].to_pylist() for name in ("numbers", "frac", "lattice")}
    splits = table["split"].to_pylist() if split is not None else None
    energies, values = (
        _numbers(table[name], name, path)
        if name is not None and name in table.column_names
        else [np.nan] * table.num_rows
        for name in ("e_above_hull", target)
    )
    for row in range(table.num_rows):
        if splits is not None and splits[row] != split:
            continue
        try:
            crystal = _crystal(*(columns[name][row] for name in ("numbers", "frac", "lattice")))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, row {row} (the first is 0): {error}") from error
        yield crystal, energies[row], values[row]


def _numbers(column: Any, name: str, path: Path) -> list[float]:
    """An arrow column of numbers as a list, NaN for null."""
    import pyarrow as pa

    try:
        numbers = column.cast(pa.float64()).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path}: {name} does not hold numbers: {error}") from error
    return [np.nan if number is None else number for number in numbers]


def _crystal(numbers: list[int], frac: list[float], lattice: list[float]) -> Crystal:
    """One row as a crystal. Raises ValueError or TypeError for what is none."""
    z = np.asarray(numbers)
    if z.ndim != 1 or not len(z) or z.dtype.kind not in "iu" or not 1 <= z.min() <= z.max() <= MAX_ATOMIC_NUMBER:
        raise ValueError(f"numbers are to be atomic numbers from 1 to {MAX_ATOMIC_NUMBER}, at least one")
    x, cell = np.asarray(frac, dtype=float), np.asarray(lattice, dtype=float)
    if x.shape != (3 * len(z),) or not np.isfinite(x).all():
        raise ValueError(f"frac is to hold {3 * len(z)} finite numbers, three for each atom")
    if cell.shape != (9,) or not np.isfinite(cell).all() or abs(np.linalg.det(cell.reshape(3, 3))) < MIN_VOLUME:
        raise ValueError("lattice is to hold nine finite numbers, the rows of a cell with a volume (Å)")
    return Crystal(z, x.reshape(-1, 3), cell.reshape(3, 3))


@dataclass(frozen=True)
class _Bucket:
    crystals: Crystals
    labels: Tensor
    templates: Crystals | None = None
    known: Tensor | None = None  # which crystals have a template
    forces: Tensor | None = None
    stresses: Tensor | None = None


class BucketedBatches:
    """Shuffled batches of like-sized crystals; epoch e of seed s is always the same sequence."""

    def __init__(self, table: CrystalTable, batch_size: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.batch_size, self.seed = batch_size, seed
        self.buckets: list[_Bucket] = []
        sizes = np.asarray([len(c) for c in table.crystals])
        bucket = np.searchsorted(BUCKET_SIZES, sizes)
        for b in np.unique(bucket):
            rows = np.flatnonzero(bucket == b)
            crystals = Crystals.collate([table.crystals[i] for i in rows]).to(device)
            labels = torch.from_numpy(table.labels[rows]).to(device)
            if table.starts is None:
                forces, stresses = _slopes(table, rows, crystals)
                self.buckets.append(_Bucket(crystals, labels, forces=forces, stresses=stresses))
                continue
            starts = [table.starts[i] for i in rows]
            templates = Crystals.collate([start or table.crystals[i] for start, i in zip(starts, rows, strict=True)])
            known = torch.tensor([start is not None for start in starts], device=device)
            self.buckets.append(_Bucket(crystals, labels, templates.to(device), known))
        self.steps_per_epoch = sum(-(-len(b.crystals) // batch_size) for b in self.buckets)

    def epoch(self, epoch: int) -> list[tuple[int, Tensor]]:
        """(bucket, row indices) of each batch in order."""
        generator = stream(self.seed, 0, epoch)
        batches = []
        for index, bucket in enumerate(self.buckets):
            order = torch.randperm(len(bucket.crystals), generator=generator).to(bucket.labels.device)
            batches += [(index, rows) for rows in torch.split(order, self.batch_size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def slopes(self, bucket: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Forces (B, N, 3), 0 on padding, and stresses (B, 3, 3) of one batch of a table that has them."""
        source = self.buckets[bucket]
        assert source.forces is not None and source.stresses is not None
        rows = rows.to(source.labels.device)
        return source.forces[rows], source.stresses[rows]

    def like(self, bucket: int, count: int) -> Crystals:
        """So many crystals of a bucket, for their shapes."""
        c = self.buckets[bucket].crystals
        return Crystals(c.numbers[:count], c.frac[:count], c.lattice[:count])

    def take(self, bucket: int, rows: Tensor) -> tuple[Crystals, Tensor]:
        """The crystals (Å) and labels (E_hull in eV/atom, or the target) of one batch."""
        source, rows = self.buckets[bucket], rows.to(self.buckets[bucket].labels.device)
        c = source.crystals
        return Crystals(c.numbers[rows], c.frac[rows], c.lattice[rows]), source.labels[rows]


def _slopes(table: CrystalTable, rows: np.ndarray, crystals: Crystals) -> tuple[Tensor | None, Tensor | None]:
    """Forces and stresses of a bucket, padded like its crystals; None where the table has none."""
    if table.forces is None or table.stresses is None:
        return None, None
    forces = np.zeros(crystals.frac.shape, dtype=np.float32)
    for place, row in enumerate(rows):
        forces[place, : len(table.forces[row])] = table.forces[row]
    return torch.from_numpy(forces).to(crystals.frac), torch.from_numpy(table.stresses[rows]).to(crystals.frac)
