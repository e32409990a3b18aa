"""The index of a library: how its columns follow from a dataset, and how they lie in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_flows.model.crystals import Crystal
from dao_flows.model.data.shards import DataError, parts

from .fingerprints import NEIGHBOURS, fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ELEMENTS = 8  # of a crystal that can be a template
LARGEST_ELEMENT = 94  # beyond plutonium there is hardly a crystal to learn a volume from
MIN_VOLUME, USUAL_VOLUME = 4.0, 12.0  # Å³ an atom: a fit that gives less knows nothing of the element
VOLUME_DIGITS = 3  # what a fit gives on every machine
REBUILD = "build it again with `dao-flows library build`"
BATCH = 10_000  # rows of a dataset laid out together
PAIR = 1 << 16  # a row and an element as one number

# name: (type, rows, columns); n crystals and n + 1 ends, a atoms, c characters of ids, f numbers of
# fingerprints, g groups and g + 1 ends
COLUMNS: dict[str, tuple[Any, str, int | None]] = {
    "row": (np.int32, "n", None),
    "elements": (np.uint8, "n", MAX_ELEMENTS),
    "energy": (np.float32, "n", None),
    "source": (np.int32, "n", None),
    "lattice": (np.float32, "n", 9),
    "atom_ends": (np.int64, "n + 1", None),
    "numbers": (np.uint8, "a", None),
    "frac": (np.float32, "a", 3),
    "id_ends": (np.int64, "n + 1", None),
    "ids": (np.uint8, "c", None),
    "group_multiplicities": (np.int32, "g", MAX_ELEMENTS),
    "group_ends": (np.int64, "g + 1", None),
    "fingerprint_ends": (np.int64, "n + 1", None),
    "fingerprints": (np.float16, "f", None),
    "volumes": (np.float64, "v", None),
}
TYPES = {"U8": np.uint8, "F16": np.float16, "I32": np.int32, "I64": np.int64, "F32": np.float32, "F64": np.float64}

Columns = dict[str, np.ndarray]


def index_columns(folder: Path) -> tuple[Columns, list[str]]:
    """The index's columns as they follow from a dataset, and the names of sources.

    Raises DataError for a damaged dataset, or for one that holds no crystal to look up.
    """
    sources: dict[str, int] = {}
    pieces, first = [], 0
    for part in parts(folder)[0]:
        for rows in _batches(part):
            pieces.append(_laid_out(rows, first, sources, part))
            first += len(rows["ids"])
    if not any(len(piece["row"]) for piece in pieces):
        raise DataError(f"{folder} holds no crystal that can be a template")
    held = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    del pieces
    multiplicities = held["multiplicities"]
    order = np.lexsort(multiplicities.T[::-1])  # stable: within a group as in the dataset
    groups, counts = np.unique(multiplicities[order], axis=0, return_counts=True)
    atoms, characters = (_within(held[name], order) for name in ("sizes", "id_sizes"))
    columns = {
        **{name: held[name][order] for name in ("row", "elements", "energy", "source", "lattice")},
        "atom_ends": _ends(held["sizes"][order]),
        "numbers": held["numbers"][atoms],
        "frac": held["frac"][atoms],
        "id_ends": _ends(held["id_sizes"][order]),
        "ids": held["ids"][characters],
        "group_multiplicities": groups,
        "group_ends": _ends(counts),
    }
    columns["fingerprint_ends"], columns["fingerprints"] = _fingerprints(columns)
    columns["volumes"] = element_volumes(columns["numbers"], columns["atom_ends"], columns["lattice"])
    return columns, list(sources)


def _batches(part: Path) -> Iterator[dict[str, Any]]:
    """Columns of a parquet file, so many rows at a time: lists as their flat values and the length of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["numbers", "lattice", "frac", "e_above_hull", "material_id", "source"]
    try:
        with pq.ParquetFile(part) as file:
            for rows in file.iter_batches(BATCH, columns=names):
                found: dict[str, Any] = {
                    "ids": [(text or "").encode() for text in rows["material_id"].to_pylist()],
                    "source": [text or "" for text in rows["source"].to_pylist()],
                    "energy": rows["e_above_hull"].to_numpy(zero_copy_only=False).astype(np.float32),
                }
                for name in ("numbers", "lattice", "frac"):
                    found[name], found[f"{name}_sizes"] = _flat(rows[name])
                yield found
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{part} cannot be read: {error}") from error


def _flat(lists: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The values of lists, one after the other, and the length of each."""
    ends = lists.offsets.to_numpy()
    return lists.values.to_numpy(zero_copy_only=False)[ends[0] : ends[-1]], np.diff(ends)


def _laid_out(rows: Mapping[str, Any], first: int, sources: dict[str, int], part: Path) -> Columns:
    """The crystals of a batch that can be templates. first: number of its first row; sources: grows."""
    sizes, numbers = rows["numbers_sizes"], rows["numbers"]
    frac, lattice = (rows[name].astype(np.float32) for name in ("frac", "lattice"))
    whole = (rows["lattice_sizes"] == 9).all() and (rows["frac_sizes"] == 3 * sizes).all() and (sizes > 0).all()
    if not whole or not np.isfinite(frac).all() or not np.isfinite(lattice).all() or (numbers < 1).any():
        raise DataError(f"{part} holds a row that is no crystal: build the dataset again")
    owner = np.repeat(np.arange(len(sizes)), sizes)
    found, counts = np.unique(owner * PAIR + numbers, return_counts=True)
    order = np.lexsort((found, counts, found // PAIR))  # of each crystal, fewest first
    (of, element), count = np.divmod(found[order], PAIR), counts[order]
    width = np.bincount(of, minlength=len(sizes))
    slot = np.arange(len(of)) - _ends(width)[of]
    fits = (width <= MAX_ELEMENTS) & (np.maximum.reduceat(numbers, _ends(sizes)[:-1]) <= LARGEST_ELEMENT)
    elements, multiplicities = (np.zeros((len(sizes), MAX_ELEMENTS), kind) for kind in (np.uint8, np.int32))
    taken = fits[of]
    elements[of[taken], slot[taken]] = element[taken]
    multiplicities[of[taken], slot[taken]] = count[taken]
    ids = [text for text, kept in zip(rows["ids"], fits, strict=True) if kept]
    named = [text for text, kept in zip(rows["source"], fits, strict=True) if kept]
    return {
        "row": (first + np.flatnonzero(fits)).astype(np.int32),
        "elements": elements[fits],
        "multiplicities": multiplicities[fits],
        "energy": np.maximum(rows["energy"][fits], 0),  # NaN stays
        "source": np.array([sources.setdefault(text, len(sources)) for text in named], np.int32),
        "lattice": lattice.reshape(-1, 9)[fits],
        "sizes": sizes[fits],
        "numbers": numbers[fits[owner]].astype(np.uint8),
        "frac": frac.reshape(-1, 3)[fits[owner]],
        "id_sizes": np.array([len(text) for text in ids], np.int64),
        "ids": np.frombuffer(b"".join(ids), np.uint8),
    }


def _fingerprints(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Where each crystal's fingerprint begins, and all of them, flat."""
    counts = (columns["elements"] > 0).sum(1)
    ends = _ends(counts**2 * NEIGHBOURS)
    found = np.empty(ends[-1], np.float16)
    for place, (start, end) in enumerate(pairwise(columns["atom_ends"])):
        crystal = Crystal(
            columns["numbers"][start:end],
            columns["frac"][start:end].astype(float),
            columns["lattice"][place].astype(float).reshape(3, 3),
        )
        elements = columns["elements"][place, : counts[place]]
        found[ends[place] : ends[place + 1]] = fingerprint(crystal, elements).ravel()
    return ends, found


def _ends(lengths: np.ndarray) -> np.ndarray:
    """Where things of these lengths begin, one after the other, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _within(sizes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The places of the parts of things of these sizes, when the things come in this order."""
    begins, ends = _ends(sizes)[:-1][order], _ends(sizes[order])
    return np.repeat(begins - ends[:-1], sizes[order]) + np.arange(ends[-1])


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
    return np.asarray(found, np.float64).round(VOLUME_DIGITS)


def write_index(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write the columns as a safetensors file."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(column) for name, column in columns.items()}, path)
    path.chmod(0o644)  # safetensors makes it private; an index is as readable as its crystals
    with path.open("rb") as written:
        os.fsync(written.fileno())


def map_index(path: Path) -> Columns:
    """The columns of an index, mapped into memory: its header says where each lies. Raises DataError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("it has no header")
            header = json.loads(file.read(length))
        data = np.memmap(path, np.uint8, "r", offset=8 + length)
        columns = {}
        for name in COLUMNS:
            held = header[name]
            start, end = held["data_offsets"]
            if not 0 <= start <= end <= len(data):
                raise ValueError(f"{name} does not lie in it")
            columns[name] = data[start:end].view(TYPES[held["dtype"]]).reshape(held["shape"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}; {REBUILD}") from error
    if (wrong := _wrong(columns)) is not None:
        raise DataError(f"{path} is no index of crystals: {wrong} is wrong; {REBUILD}")
    return columns


def _wrong(columns: Columns) -> str | None:
    """The first column that is not what the others make of it; None if all are."""
    sizes = {"n": len(columns["row"]), "v": LARGEST_ELEMENT + 1, "g": len(columns["group_multiplicities"])}
    sizes |= {"a": len(columns["numbers"]), "c": len(columns["ids"]), "f": len(columns["fingerprints"])}
    sizes |= {"n + 1": sizes["n"] + 1, "g + 1": sizes["g"] + 1}
    for name, (kind, rows, width) in COLUMNS.items():
        shape = (sizes[rows],) if width is None else (sizes[rows], width)
        if columns[name].dtype != kind or columns[name].shape != shape:
            return name
    groups = columns["group_multiplicities"]
    if not sizes["n"] or (groups < 0).any() or (groups[:, 0] < 1).any():
        return "group_multiplicities"
    for name, last in (("atom_ends", "a"), ("id_ends", "c"), ("fingerprint_ends", "f"), ("group_ends", "n")):
        ends = columns[name]
        if ends[0] != 0 or ends[-1] != sizes[last] or (np.diff(ends) < 0).any():
            return name
    if (np.diff(columns["fingerprint_ends"]) != (columns["elements"] > 0).sum(1) ** 2 * NEIGHBOURS).any():
        return "fingerprint_ends"
    for name in ("elements", "numbers"):
        if (columns[name] > LARGEST_ELEMENT).any():
            return name
    return None if np.isfinite(columns["volumes"]).all() and (columns["volumes"] > 0).all() else "volumes"
