"""Libraries: known crystals, laid out so that those of like composition are found at once.

A library is a dataset (shards, a manifest and its sha256, see `dataset`) with an index beside it. The index holds the
dataset's crystals once more, ordered by their multiplicities, each column one after the other in a file that is mapped
into memory: a lookup reads the rows of one group and nothing else. It follows from the dataset alone; the dataset's
sha256 is the library's identity.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd, isqrt
from pathlib import Path
from typing import Any

import numpy as np

from dao_flows.model.crystals import Crystal
from dao_flows.model.data.shards import DataError, file_sha256, read_manifest
from dao_flows.model.elements import symbols
from dao_flows.model.files.places import INDEX_CARD

from .fingerprints import NEIGHBOURS
from .index import REBUILD, index_columns, map_index, write_index

INDEX = "index.safetensors"
FORMAT = 1

Formula = tuple[tuple[int, int], ...]  # atomic number and count of each element, ascending


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

    @property
    def formula(self) -> Formula:
        """The reduced formula."""
        divisor = gcd(*self.multiplicities)
        pairs = zip(self.elements.tolist(), self.multiplicities, strict=True)
        return tuple(sorted((number, count // divisor) for number, count in pairs))


def written(formula: Formula) -> str:
    """A reduced formula as text, by atomic number: O2Ti for TiO2."""
    names = symbols()
    return "".join(f"{names[number]}{count if count > 1 else ''}" for number, count in formula)


class Library:
    """An opened library: columns of the index, mapped into memory. Raises DataError for one that cannot be used.

    manifest: of the dataset, with its name and sha256. volumes: (95,) Å³ an atom of each
    element, by non-negative least squares over the library.
    """

    def __init__(self, folder: Path) -> None:
        manifest, card = read_manifest(folder), read_card(folder)
        if card["library"] != manifest.sha256:
            raise DataError(f"the index of the library {folder} is not that of its crystals: {REBUILD}")
        path = folder / INDEX
        if not path.is_file() or file_sha256(path) != card["sha256"]:
            raise DataError(f"{path} is missing or was changed: restore it, or {REBUILD}")
        self.folder, self.manifest, self.name, self.sha256 = folder, manifest, manifest.name, manifest.sha256
        self.sources: list[str] = card["sources"]
        self.columns = map_index(path)
        for name, limit in (("source", len(self.sources)), ("row", manifest.rows)):
            if self.columns[name].min() < 0 or self.columns[name].max() >= limit:
                raise DataError(f"{path} does not fit what lies beside it ({name}): {REBUILD}")
        self.volumes = np.array(self.columns["volumes"])
        self._groups = {
            tuple(int(n) for n in key if n): (int(start), int(end))
            for key, start, end in zip(
                self.columns["group_multiplicities"],
                self.columns["group_ends"][:-1],
                self.columns["group_ends"][1:],
                strict=True,
            )
        }

    def __len__(self) -> int:
        return len(self.columns["row"])

    @property
    def groups(self) -> Mapping[tuple[int, ...], tuple[int, int]]:
        """First place and the place after the last of each group, by multiplicities a cell."""
        return self._groups

    def elements(self, start: int, end: int, count: int) -> np.ndarray:
        """(end − start, count) elements of the crystals at these places of a group of so many elements."""
        return np.array(self.columns["elements"][start:end, :count])

    def energies(self, start: int, end: int) -> np.ndarray:
        """(end − start,) energies above hull, eV/atom; NaN where the source gives none."""
        return np.array(self.columns["energy"][start:end])

    def row(self, place: int) -> int:
        """The crystal's row in the dataset, from 0."""
        return int(self.columns["row"][place])

    def crystal(self, place: int) -> Crystal:
        """The crystal at a place (Å)."""
        start, end = (int(x) for x in self.columns["atom_ends"][place : place + 2])
        return Crystal(
            self.columns["numbers"][start:end].astype(int),
            self.columns["frac"][start:end].astype(float),
            self.columns["lattice"][place].astype(float).reshape(3, 3),
        )

    def fingerprint(self, place: int) -> np.ndarray:
        """(e, e, 6) of the crystal at a place, in the order of its elements, see `fingerprints`."""
        start, end = (int(x) for x in self.columns["fingerprint_ends"][place : place + 2])
        count = isqrt((end - start) // NEIGHBOURS)
        return self.columns["fingerprints"][start:end].astype(np.float32).reshape(count, count, NEIGHBOURS)

    def material_id(self, place: int) -> str:
        """The crystal's id at its source."""
        start, end = (int(x) for x in self.columns["id_ends"][place : place + 2])
        return bytes(self.columns["ids"][start:end]).decode("utf-8", "replace")

    def source(self, place: int) -> str:
        """The name of the crystal's source, as the dataset has it."""
        return self.sources[int(self.columns["source"][place])]

    def licence(self, place: int) -> str | None:
        """Under which the crystal may be used; None where its source does not say."""
        stated = {str(source.get("name")): source.get("licence") for source in self.manifest.sources}
        if (name := self.source(place)) in stated:
            return stated[name]
        return next(iter(stated.values())) if len(set(stated.values())) == 1 else None

    @cached_property
    def formulas(self) -> set[Formula]:
        """All reduced formulas."""
        return {
            Cell(elements, multiplicities).formula
            for multiplicities, (start, end) in self._groups.items()
            for elements in np.unique(self.elements(start, end, len(multiplicities)), axis=0)
        }


def read_card(folder: Path) -> dict[str, Any]:
    """What stands beside the index: format, the dataset's sha256, the index's, names of sources. Raises DataError."""
    path = folder / INDEX_CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        newer = card["format"] > FORMAT
        fields: dict[str, Any] = {name: str(card[name]) for name in ("library", "sha256")}
        fields["sources"] = [str(name) for name in card["sources"]]
    except FileNotFoundError:
        raise DataError(f"{folder} is no library: it has no {INDEX_CARD}") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}; {REBUILD}") from error
    if newer:
        raise DataError(f"the library {folder} needs a newer version of dao_flows")
    return fields


def refuse_held_out(library: Library, cells: Iterable[np.ndarray]) -> None:
    """Raises DataError, naming the first formulas, if the library holds any of what a benchmark asks for.

    cells: (n,) atomic numbers of each that is asked for.
    """
    held = {formula for numbers in cells if (formula := Cell.of(numbers).formula) in library.formulas}
    if held:
        first = ", ".join(map(written, sorted(held)[:5]))
        raise DataError(
            f"the library {library.name} holds {len(held)} of the formulas that are measured on ({first}): take one "
            "without them, as `dao-flows library build … --held-out FILE --held-out-formulas` makes it"
        )


def build_index(folder: Path) -> int:
    """Lay the crystals of a dataset out beside it, whole or not at all; returns how many can be templates.

    Crystals with more than 8 elements, or with one beyond plutonium, are left out. Raises DataError for a damaged
    dataset, or for one that holds no crystal to look up.
    """
    manifest = read_manifest(folder)
    columns, sources = index_columns(folder)
    partial = folder / f".{INDEX}.partial"
    write_index(partial, columns)
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


def verify_index(folder: Path) -> Library:
    """The library in a folder, once its index was derived again. Raises DataError if that gave another."""
    library = Library(folder)
    columns, sources = index_columns(folder)
    differ = [name for name, column in columns.items() if column.tobytes() != library.columns[name].tobytes()]
    if differ or sources != library.sources:
        raise DataError(f"the index of the library {folder} does not follow from its crystals: {REBUILD}")
    return library
