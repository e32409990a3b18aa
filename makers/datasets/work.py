"""What a build has done so far, in one sqlite file beside the shards: a killed build goes on from its last batch."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dao_flows.makers.science.duplicates import Reduced

TABLES = """
CREATE TABLE IF NOT EXISTS cells (
    id INTEGER PRIMARY KEY, formula TEXT, atoms INTEGER, held INTEGER, name TEXT,
    fingerprint BLOB, numbers BLOB, lattice BLOB, frac BLOB);
CREATE INDEX IF NOT EXISTS blocks ON cells (formula, atoms);
CREATE TABLE IF NOT EXISTS held_ids (id TEXT PRIMARY KEY, name TEXT);
CREATE TABLE IF NOT EXISTS pending (id INTEGER PRIMARY KEY, row TEXT);
CREATE TABLE IF NOT EXISTS state (only INTEGER PRIMARY KEY CHECK (only = 1), value TEXT);
"""


@dataclass
class State:
    """How far a build is.

    stage: number of the source in turn, the held-out ones first; position: where it goes on; rejects: bytes of the
    rejects file; shards: file, sha256, rows; counts: rows by split; tallies: of each stage, what became of its rows.
    """

    stage: int = 0
    position: int = 0
    rejects: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    tallies: list[dict[str, int]] = field(default_factory=list)


class Work:
    """The sqlite file. What a batch changed is there together, or not at all."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.executescript(TABLES)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes, or none."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def state(self) -> State:
        """As the last batch left it."""
        found = self._connection.execute("SELECT value FROM state").fetchone()
        return State(**json.loads(found[0])) if found else State()

    def save(self, state: State) -> None:
        """Within a transaction."""
        self._connection.execute("INSERT OR REPLACE INTO state VALUES (1, ?)", (json.dumps(asdict(state)),))

    def add_cell(self, formula: str, cell: Reduced, name: str, held: bool) -> None:
        """Remember a crystal for comparison."""
        s = cell.structure
        arrays = (np.array(s.atomic_numbers, np.int16), s.lattice.matrix, s.frac_coords)
        blobs = [cell.fingerprint.tobytes(), *(np.ascontiguousarray(array).tobytes() for array in arrays)]
        self._connection.execute(
            "INSERT INTO cells (formula, atoms, held, name, fingerprint, numbers, lattice, frac)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (formula, len(s), int(held), name, *blobs),
        )

    def fingerprints(self, formula: str, atoms: int, held: bool) -> tuple[np.ndarray, np.ndarray]:
        """(m,) ids and (m, k) fingerprints of the crystals of a block, oldest first."""
        found = self._connection.execute(
            "SELECT id, fingerprint FROM cells WHERE formula = ? AND atoms = ? AND held = ? ORDER BY id",
            (formula, atoms, int(held)),
        ).fetchall()
        ids = np.array([row[0] for row in found], dtype=np.int64)
        if not found:
            return ids, np.zeros((0, 0))
        return ids, np.stack([np.frombuffer(row[1]) for row in found])

    def cells(self, ids: Sequence[int]) -> Iterator[tuple[str, Reduced]]:
        """Names and cells of these ids, in their order."""
        for i in ids:
            name, fingerprint, numbers, lattice, frac = self._connection.execute(
                "SELECT name, fingerprint, numbers, lattice, frac FROM cells WHERE id = ?", (int(i),)
            ).fetchone()
            species = np.frombuffer(numbers, np.int16).tolist()
            matrix, sites = np.frombuffer(lattice).reshape(3, 3), np.frombuffer(frac).reshape(-1, 3)
            yield name, Reduced(Structure(Lattice(matrix), species, sites), np.frombuffer(fingerprint))

    def hold_id(self, material_id: str, name: str) -> None:
        """Remember a held-out id."""
        self._connection.execute("INSERT OR IGNORE INTO held_ids VALUES (?, ?)", (material_id, name))

    def held_id(self, material_id: str) -> str | None:
        """The held-out set that has this id."""
        found = self._connection.execute("SELECT name FROM held_ids WHERE id = ?", (material_id,)).fetchone()
        return None if found is None else str(found[0])

    def held_formula(self, formula: str) -> str | None:
        """A held-out crystal of this formula."""
        found = self._connection.execute(
            "SELECT name FROM cells WHERE formula = ? AND held = 1 LIMIT 1", (formula,)
        ).fetchone()
        return None if found is None else str(found[0])

    def push(self, row: dict[str, Any]) -> None:
        """Keep a row for the next shard."""
        self._connection.execute("INSERT INTO pending (row) VALUES (?)", (json.dumps(row),))

    def pending(self) -> int:
        """Rows that wait for a shard."""
        return int(self._connection.execute("SELECT count(*) FROM pending").fetchone()[0])

    def first(self, count: int) -> list[dict[str, Any]]:
        """The first rows that wait."""
        found = self._connection.execute("SELECT row FROM pending ORDER BY id LIMIT ?", (count,))
        return [json.loads(row[0]) for row in found]

    def drop(self, count: int) -> None:
        """Forget the first rows that wait."""
        self._connection.execute(
            "DELETE FROM pending WHERE id IN (SELECT id FROM pending ORDER BY id LIMIT ?)", (count,)
        )
