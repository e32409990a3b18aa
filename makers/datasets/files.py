"""Files of structures: extended XYZ, ASE databases, folders of CIF and POSCAR."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .raw import Raw, SourceError
from .tables import FileSource

if TYPE_CHECKING:
    from ase import Atoms

POSCARS = ("POSCAR", "CONTCAR")
SUFFIXES = {".cif": "cif", ".poscar": "poscar", ".vasp": "poscar"}


def format_of(path: Path) -> str | None:
    """'cif' or 'poscar', by the file's name; None for another file."""
    if path.name.split(".")[0].split("_")[0].upper() in POSCARS:
        return "poscar"
    return SUFFIXES.get(path.suffix.lower())


def arrays_of(atoms: Atoms) -> tuple[Any, Any, Any]:
    """Numbers, lattice (Å) and fractional coordinates. Raises ValueError for what is no ordered crystal."""
    if not atoms.pbc.all():
        raise ValueError("it is not periodic in three directions")
    if atoms.info.get("occupancy"):
        raise ValueError("sites are partially occupied")
    if not atoms.cell.rank == 3:
        raise ValueError("the cell has no volume")
    lattice = np.asarray(atoms.cell.array)
    return atoms.numbers.tolist(), lattice.tolist(), (atoms.positions @ np.linalg.inv(lattice)).tolist()


class XyzSource(FileSource):
    """Extended XYZ with Lattice; what stands in the comment line as key=value are the figures of a row.

    The format's `energy` is a total energy, not one above hull, and is left alone.
    """

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Frames in their order. A frame that cannot be read is named; without a count of atoms the file ends there."""
        with self.path.open(encoding="utf-8", errors="replace") as stream:
            position = -1
            for line in stream:
                if not line.strip():
                    continue
                position += 1
                if not line.strip().isdigit():
                    said = f"{line.strip()[:40]!r} is no number of atoms: the file is not read from here on"
                    yield Raw(position, fault=said)
                    return
                frame = [line, *islice(stream, int(line) + 1)]
                if position < start:
                    continue
                if len(frame) < int(line) + 2:
                    yield Raw(position, fault=f"the file ends before its {int(line)} atoms do")
                    return
                yield self._frame("".join(frame), position)

    def _frame(self, text: str, position: int) -> Raw:
        from ase.io import read

        try:
            atoms: Any = read(io.StringIO(text), format="extxyz")
            values = self.options.values({**atoms.info}, self.properties)
        except Exception as error:  # ase raises all kinds
            return Raw(position, fault=f"not extended XYZ: {' '.join(str(error).split())[:160]}")
        try:
            return Raw(position, "arrays", arrays_of(atoms), values)
        except ValueError as error:
            return Raw(position, values=values, fault=str(error))


class AseSource(FileSource):
    """An ASE database in a file: its key-value pairs and `data` are the figures of a row."""

    def identity(self) -> dict[str, Any]:
        """The file's sha256."""
        self._connect()
        return super().identity()

    def total(self) -> int | None:
        """As the database says."""
        return int(self._connect().count())

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Rows by their ids; position is the id."""
        database = self._connect()
        for row in database.select(f"id>={start}", sort="id"):
            record = {**dict(row.data), **row.key_value_pairs}  # its own ids, 1, 2, …, name nothing elsewhere
            values = self.options.values(record, self.properties)
            try:
                yield Raw(row.id, "arrays", arrays_of(row.toatoms(add_additional_information=False)), values)
            except Exception as error:  # ase raises all kinds
                yield Raw(row.id, values=values, fault=str(error)[:200])

    def _connect(self) -> Any:
        from ase.db import connect

        try:
            database = connect(  # type: ignore[no-untyped-call]
                self.path, type="db", append=True
            )
            database.count()
        except Exception as error:
            raise SourceError(f"{self.path} is no ASE database: {' '.join(str(error).split())}") from error
        return database


class StructureFiles(FileSource):
    """CIF and POSCAR files: one, or all below a folder in the order of their paths, whose names are the ids."""

    @cached_property
    def _files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        files = sorted(file for file in self.path.rglob("*") if file.is_file() and format_of(file))
        if not files:
            raise SourceError(f"{self.path} is no dataset and holds no CIF or POSCAR files")
        return files

    def identity(self) -> dict[str, Any]:
        """One sha256 over all files with their names."""
        whole = hashlib.sha256()
        for file in self._files:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            whole.update(f"{self._id(file)} {content}\n".encode())
        return {"sha256": whole.hexdigest(), "files": len(self._files)}

    def total(self) -> int | None:
        """The number of files."""
        return len(self._files)

    def read(self, start: int = 0) -> Iterator[Raw]:
        """One row a file."""
        for position, file in enumerate(self._files[start:], start):
            values = {"material_id": self._id(file)}
            kind = format_of(file)
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                yield Raw(position, values=values, fault=error.strerror or "it cannot be read")
                continue
            yield Raw(position, "cif" if kind == "cif" else "poscar", text, values)

    def _id(self, file: Path) -> str:
        inside = file.relative_to(self.path) if file != self.path else Path(file.name)
        return inside.with_suffix("").as_posix() if inside.suffix.lower() in SUFFIXES else inside.as_posix()
