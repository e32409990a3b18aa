"""Libraries: known crystals, laid out so that those of like composition are found at once.

A library is a dataset (shards, a manifest and its sha256, see `dataset`) with an index beside it. The index holds the
dataset's crystals once more, ordered by their multiplicities, each column one after the other in a file that is mapped
into memory: a lookup reads the rows of one group and nothing else. It follows from the dataset alone; the dataset's
sha256 is the library's identity.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..crystals import Crystal
from ..dataset import DataError, dataset_rows, file_sha256, read_manifest
from .fingerprints import fingerprint

INDEX = "index.safetensors"
INDEX_CARD = "index.json"
FORMAT = 1
MAX_ELEMENTS = 8  # of a crystal that can be a template
LARGEST_ELEMENT = 94  # beyond plutonium there is hardly a crystal to learn a volume from
MIN_VOLUME, USUAL_VOLUME = 4.0, 12.0  # Å³ an atom: a fit that gives less knows nothing of the element
REBUILD = "build it again with `dao-flows library build`"


@dataclass(frozen=True)
class Cell:
    """Elements of a cell by their number of atoms, fewest first, and by atomic number where it is the same.

    elements: (e,) atomic numbers; multiplicities: atoms of each.
    """

    elements: np.ndarray
    multiplicities: tuple[int, ...]

    @classmethod
    def of(cls, numbers: np.ndarray) -> Cell:
        """What a cell of these atoms, (n,) atomic numbers, holds."""
        elements, counts = np.unique(numbers, return_counts=True)
        order = np.argsort(counts, kind="stable")
        return cls(elements[order], tuple(int(n) for n in counts[order]))

    @property
    def numbers(self) -> np.ndarray:
        """(n,) atomic numbers, element after element."""
        return np.repeat(self.elements, self.multiplicities)


class Library:
    """An opened library: columns of the index, mapped into memory. Raises DataError for one that cannot be used.

    name, sha256: of the dataset. volumes: (95,) Å³ an atom of each element, by non-negative least squares over the
    library.
    """

    def __init__(self, folder: Path) -> None:
        manifest, card = read_manifest(folder), read_card(folder)
        if card["library"] != manifest.sha256:
            raise DataError(f"the index of the library {folder} is not that of its crystals: {REBUILD}")
        path = folder / INDEX
        if not path.is_file() or file_sha256(path) != card["sha256"]:
            raise DataError(f"{path} is missing or was changed: restore it, or {REBUILD}")
        self.folder, self.name, self.sha256 = folder, manifest.name, manifest.sha256
        self.sources: list[str] = card["sources"]
        self._columns = _map(path)
        self.volumes = np.array(self._columns["volumes"])
        self._groups = {
            tuple(int(n) for n in key if n): (int(start), int(end))
            for key, start, end in zip(
                self._columns["group_multiplicities"],
                self._columns["group_ends"][:-1],
                self._columns["group_ends"][1:],
                strict=True,
            )
        }

    def __len__(self) -> int:
        return len(self._columns["row"])

    @property
    def groups(self) -> Mapping[tuple[int, ...], tuple[int, int]]:
        """First place and the place after the last of each group, by multiplicities a cell."""
        return self._groups

    def elements(self, start: int, end: int, count: int) -> np.ndarray:
        """(end − start, count) elements of the crystals at these places of a group of so many elements."""
        return np.array(self._columns["elements"][start:end, :count])

    def energies(self, start: int, end: int) -> np.ndarray:
        """(end − start,) energies above hull, eV/atom; NaN where the source gives none."""
        return np.array(self._columns["energy"][start:end])

    def row(self, place: int) -> int:
        """The crystal's row in the dataset, from 0."""
        return int(self._columns["row"][place])

    def crystal(self, place: int) -> Crystal:
        """The crystal at a place (Å)."""
        start, end = (int(x) for x in self._columns["atom_ends"][place : place + 2])
        return Crystal(
            self._columns["numbers"][start:end].astype(int),
            self._columns["frac"][start:end].astype(float),
            self._columns["lattice"][place].astype(float).reshape(3, 3),
        )

    def fingerprint(self, place: int) -> np.ndarray:
        """(e, e, 6) of the crystal at a place, in the order of its elements."""
        crystal = self.crystal(place)
        return fingerprint(crystal, Cell.of(crystal.numbers).elements)

    def material_id(self, place: int) -> str:
        """The crystal's id at its source."""
        start, end = (int(x) for x in self._columns["id_ends"][place : place + 2])
        return bytes(self._columns["ids"][start:end]).decode("utf-8", "replace")

    def source(self, place: int) -> str:
        """The name of the crystal's source, as the dataset has it."""
        return self.sources[int(self._columns["source"][place])]

    @cached_property
    def formulas(self) -> set[tuple[tuple[int, int], ...]]:
        """All reduced formulas, as pairs of atomic number and count, ascending."""
        found = set()
        for multiplicities, (start, end) in self._groups.items():
            divisor = int(np.gcd.reduce(multiplicities))
            for elements in self.elements(start, end, len(multiplicities)):
                pairs = zip(elements.tolist(), (m // divisor for m in multiplicities), strict=True)
                found.add(tuple(sorted(pairs)))
        return found


def read_card(folder: Path) -> dict[str, Any]:
    """What stands beside the index: format, the dataset's sha256, the index's, names of sources. Raises DataError."""
    path = folder / INDEX_CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if card["format"] > FORMAT:
            raise DataError(f"the library {folder} needs a newer version of dao_flows")
        return {"library": str(card["library"]), "sha256": str(card["sha256"]), "sources": list(card["sources"])}
    except FileNotFoundError:
        raise DataError(f"{folder} is no library: it has no {INDEX_CARD}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error}; {REBUILD}") from error


def build_index(folder: Path) -> int:
    """Lay the crystals of a dataset out beside it, whole or not at all; returns how many can be templates.

    Crystals with more than 8 elements, or with one beyond plutonium, are left out. Raises DataError for a damaged
    dataset, or for one that holds no crystal to look up.
    """
    manifest = read_manifest(folder)
    columns, sources = _columns(dataset_rows(folder))
    if not len(columns["row"]):
        raise DataError(f"{folder} holds no crystal that can be a template")
    partial = folder / f".{INDEX}.partial"
    _save(partial, columns)
    partial.replace(folder / INDEX)
    card = {
        "format": FORMAT,
        "library": manifest.sha256,
        "sha256": file_sha256(folder / INDEX),
        "sources": sources,
    }
    partial = folder / f".{INDEX_CARD}.partial"
    partial.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / INDEX_CARD)
    return len(columns["row"])


def _columns(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The index's columns, and the names of sources."""
    sources: dict[str, int] = {}
    crystals, cells, numbers_of_row, energies, ids, source = [], [], [], [], [], []
    for row, each in enumerate(rows):
        numbers = np.asarray(each["numbers"], dtype=np.uint8)
        cell = Cell.of(numbers)
        if len(cell.elements) > MAX_ELEMENTS or int(numbers.max()) > LARGEST_ELEMENT:
            continue
        lattice, frac = (np.asarray(each[name], dtype=np.float32) for name in ("lattice", "frac"))
        crystals.append((numbers, frac.reshape(-1, 3), lattice))
        cells.append(cell)
        numbers_of_row.append(row)
        energy = each.get("e_above_hull")
        energies.append(np.nan if energy is None else max(float(energy), 0.0))
        ids.append(str(each["material_id"] or "").encode())
        source.append(sources.setdefault(str(each["source"] or ""), len(sources)))
    order = sorted(range(len(cells)), key=lambda i: (cells[i].multiplicities, i))
    groups = Counter(cells[i].multiplicities for i in order)
    elements = np.zeros((len(cells), MAX_ELEMENTS), np.uint8)
    for place, i in enumerate(order):
        elements[place, : len(cells[i].elements)] = cells[i].elements
    keys = np.zeros((len(groups), MAX_ELEMENTS), np.int32)
    for place, key in enumerate(groups):
        keys[place, : len(key)] = key
    columns: dict[str, np.ndarray] = {
        "row": np.array([numbers_of_row[i] for i in order], np.int32),
        "elements": elements,
        "energy": np.array([energies[i] for i in order], np.float32),
        "source": np.array([source[i] for i in order], np.int16),
        "lattice": np.array([crystals[i][2] for i in order], np.float32),
        "atom_ends": _ends(len(crystals[i][0]) for i in order),
        "numbers": np.concatenate([crystals[i][0] for i in order]) if order else np.zeros(0, np.uint8),
        "frac": np.concatenate([crystals[i][1] for i in order]) if order else np.zeros((0, 3), np.float32),
        "id_ends": _ends(len(ids[i]) for i in order),
        "ids": np.frombuffer(b"".join(ids[i] for i in order), np.uint8),
        "group_multiplicities": keys,
        "group_ends": _ends(groups.values()),
    }
    columns["volumes"] = element_volumes(columns["numbers"], columns["atom_ends"], columns["lattice"])
    return columns, list(sources)


def _ends(lengths: Iterable[int]) -> np.ndarray:
    """Where things of these lengths begin, one after the other, and where the last ends."""
    return np.cumsum([0, *lengths], dtype=np.int64)


def element_volumes(numbers: np.ndarray, atom_ends: np.ndarray, lattices: np.ndarray) -> np.ndarray:
    """(95,) Å³ an atom of each element: non-negative least squares of the crystals' volumes an atom."""
    from scipy.optimize import nnls  # type: ignore[attr-defined]

    width = LARGEST_ELEMENT + 1
    normal, right = np.zeros((width, width)), np.zeros(width)
    volumes = np.abs(np.linalg.det(lattices.reshape(-1, 3, 3).astype(float)))
    for start in range(0, len(volumes), 100_000):  # the normal equations, a part at a time: 10⁶ rows do not fit
        ends = atom_ends[start : start + 100_001]
        owner = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        shares = np.zeros((len(ends) - 1, width))
        np.add.at(shares, (owner, numbers[ends[0] : ends[-1]]), 1.0)
        shares /= np.diff(ends)[:, None]
        normal += shares.T @ shares
        right += shares.T @ (volumes[start : start + 100_000] / np.diff(ends))
    # |A x − b|² is |Lᵀ x − y|² but for a constant, where A ᵀA = L Lᵀ and L y = Aᵀb
    root = np.linalg.cholesky(normal + 1e-9 * np.eye(width))
    found, _ = nnls(root.T, np.linalg.solve(root, right))
    found[found < MIN_VOLUME] = USUAL_VOLUME
    return np.asarray(found, np.float64)


def _save(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(column) for name, column in columns.items()}, path)
    with path.open("rb") as written:
        os.fsync(written.fileno())


TYPES = {"U8": np.uint8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F32": np.float32, "F64": np.float64}


def _map(path: Path) -> dict[str, np.ndarray]:
    """The columns of a safetensors file, mapped: its header says where each lies. Raises DataError."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        data = np.memmap(path, np.uint8, "r", offset=8 + size)
        return {
            name: data[slice(*held["data_offsets"])].view(TYPES[held["dtype"]]).reshape(held["shape"])
            for name, held in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}; {REBUILD}") from error
