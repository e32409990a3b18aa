"""Files of single structures: CIF and POSCAR, one or all of a folder."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from . import cif, poscar
from .raw import Raw, SourceError
from .tables import FileSource
from .text_files import BROKEN, COMPRESSED, plain_name, printable, read_text, said

POSCARS = ("POSCAR", "CONTCAR")
SUFFIXES = {".cif": "cif", ".poscar": "poscar", ".vasp": "poscar", ".contcar": "poscar"}
POTCARS = ("POTCAR", "POTCAR.spec")


def format_of(path: PurePath) -> str | None:
    """'cif' or 'poscar', by the file's name, compressed or not; None for another file."""
    name = PurePath(plain_name(path))
    if found := SUFFIXES.get(name.suffix.lower()):
        return found
    return "poscar" if name.name.upper().startswith(POSCARS) else None


@dataclass(frozen=True)
class _File:
    path: Path
    rows: int
    sha256: str


class StructureFiles(FileSource):
    """CIF and POSCAR files: one, or all below a folder in the order of their paths, whose names are the ids.

    A CIF of several data blocks gives a row for each; their names follow the id behind a #.
    """

    @cached_property
    def _found(self) -> tuple[list[Path], dict[str, int]]:
        """The files that are read, and how many others there are, by the end of their names."""
        if self.path.is_file():
            return [self.path], {}
        files, others = [], Counter[str]()
        for folder, inside, names in os.walk(self.path, onerror=_cannot_be_listed):
            others["links to folders"] += sum((Path(folder) / name).is_symlink() for name in inside)
            for name in names:
                path = Path(folder) / name
                if format_of(path) and (path.is_file() or path.is_symlink()):
                    files.append(path)
                else:
                    others[printable(path.suffix.lower() or path.name)] += 1
        if not files:
            raise SourceError(f"{printable(self.path)} is no dataset and holds no CIF or POSCAR files")
        return sorted(files), {name: count for name, count in sorted(others.items()) if count}

    @cached_property
    def _files(self) -> list[_File]:
        """Each file, with the number of its rows."""
        return [self._described(path) for path in self._found[0]]

    @cached_property
    def _ids(self) -> dict[Path, str]:
        """The path of each file without its suffix, or with it where two would have the same."""
        short = {path: _without_suffix(self._inside(path)) for path in self._found[0]}
        often = Counter(short.values())
        return {path: printable(self._inside(path) if often[name] > 1 else name) for path, name in short.items()}

    def identity(self) -> dict[str, Any]:
        """One sha256 over all files with their names; how many files there are, and how many are passed over."""
        whole = hashlib.sha256()
        for file in self._files:
            whole.update(f"{self._ids[file.path]} {file.sha256}\n".encode())
        others = self._found[1]
        return {
            "sha256": whole.hexdigest(),
            "files": len(self._files),
            **({"passed_over": others} if others else {}),
        }

    def total(self) -> int | None:
        """The number of data blocks and POSCARs."""
        return sum(file.rows for file in self._files)

    def read(self, start: int = 0) -> Iterator[Raw]:
        """One row a POSCAR and a data block of a CIF."""
        position = 0
        for file in self._files:
            if position + file.rows > start:
                for offset, raw in enumerate(self._rows(file.path, position)):
                    if position + offset >= start:
                        yield raw
            position += file.rows

    def _described(self, path: Path) -> _File:
        rows = 1
        try:
            content, text = hashlib.sha256(path.read_bytes()), read_text(path)
        except BROKEN as error:
            return _File(path, rows, hashlib.sha256(said(error).encode()).hexdigest())
        if format_of(path) == "cif":
            rows = len(cif.blocks(text)) or 1
        elif (symbols := self._potcar(path)) is not None and poscar.symbols_stated(text) != symbols:
            content.update(" ".join(symbols).encode())  # they decide what is read
        return _File(path, rows, content.hexdigest())

    def _rows(self, path: Path, first: int) -> Iterator[Raw]:
        identity = self._ids[path]
        values = {"material_id": identity}
        try:
            text = read_text(path)
        except BROKEN as error:
            reason = "it is a link to nothing" if path.is_symlink() and not path.exists() else _reason(error)
            yield Raw(first, values=values, fault=reason)
            return
        if format_of(path) == "poscar":
            yield self._poscar(path, text, first, values)
            return
        blocks = cif.blocks(text)
        named = Counter(block.name for block in blocks)
        crystals = sum(block.holds_atoms for block in blocks)
        for offset, block in enumerate(blocks):
            if len(blocks) > 1 and (crystals > 1 or not block.holds_atoms):
                label = block.name if named[block.name] == 1 and block.name else f"{block.name}-{offset}"
                values = {"material_id": f"{identity}#{label}"}
            else:
                values = {"material_id": identity}
            if block.holds_atoms:
                yield Raw(first + offset, "cif", block.text, values)
            else:
                yield Raw(first + offset, values=values, fault="the data block holds no atoms")
        if not blocks:
            yield Raw(first, values=values, fault="it holds no data block" if text.strip() else "the file is empty")

    def _poscar(self, path: Path, text: str, position: int, values: dict[str, Any]) -> Raw:
        """With the elements of a POTCAR that lies beside it, if it names none itself."""
        symbols = self._potcar(path)
        stated = poscar.symbols_stated(text)
        if symbols is not None and stated is None:
            text = poscar.with_symbols(text, symbols)
        elif symbols is not None and stated != symbols:
            told = f"it names {' '.join(stated or ())[:80]}, the POTCAR beside it {' '.join(symbols)[:80]}"
            return Raw(position, values=values, fault=told)
        return Raw(position, "poscar", text, values)

    def _potcar(self, path: Path) -> list[str] | None:
        """The elements of the POTCAR beside a POSCAR or CONTCAR; None where there is none that can be read."""
        if format_of(path) != "poscar" or not path.name.upper().startswith(POSCARS):
            return None
        for name in (*POTCARS, *(f"POTCAR{suffix}" for suffix in COMPRESSED)):
            if (beside := path.with_name(name)).is_file():
                try:
                    return poscar.potcar_symbols(read_text(beside)) or None
                except BROKEN:
                    return None
        return None

    def _inside(self, path: Path) -> Path:
        return path.relative_to(self.path) if path != self.path else Path(path.name)


def _without_suffix(path: Path) -> str:
    plain = path.with_name(plain_name(path))
    return (plain.with_suffix("") if plain.suffix.lower() in SUFFIXES else plain).as_posix()


def _cannot_be_listed(error: OSError) -> None:
    raise SourceError(f"the folder {printable(error.filename)} cannot be read: {error.strerror}") from error


def _reason(error: Exception) -> str:
    return f"it cannot be read: {getattr(error, 'strerror', None) or said(error)}"
