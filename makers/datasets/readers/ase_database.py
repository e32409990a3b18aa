"""ASE databases in a file. The file is only read, and so is what SQLite keeps beside it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dao_flows.model.data.shards import file_sha256

from .raw import Raw, SourceError
from .tables import FileSource
from .text_files import printable, said
from .xyz import arrays_of

BESIDE = ("-wal", "-journal")  # changes that SQLite has not put into the file yet


class AseSource(FileSource):
    """An ASE database in a file: its key-value pairs and `data` are the figures of a row."""

    def identity(self) -> dict[str, Any]:
        """The file's sha256, and that of changes that lie beside it."""
        _ = self._database
        beside = {f"sha256{file.name.removeprefix(self.path.name)}": file_sha256(file) for file in self._beside}
        return {**super().identity(), **beside}

    def total(self) -> int | None:
        """As the database says."""
        return int(self._database.count())

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Rows by their ids; position is the id. Raises SourceError for a damaged file."""
        rows = self._database.select(f"id>={start}", sort="id")
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # ase and sqlite raise all kinds
                raise SourceError(f"{printable(self.path)} is damaged: {said(error)}; get it again") from error
            if row is None:
                return
            yield self._raw(row)

    def _raw(self, row: Any) -> Raw:
        try:
            record = {**dict(row.data), **row.key_value_pairs}  # its own ids, 1, 2, …, name nothing elsewhere
        except Exception as error:
            return Raw(row.id, fault=said(error))
        values = self.options.values(record, self.properties)
        try:
            return Raw(row.id, "arrays", arrays_of(row.toatoms(add_additional_information=False)), values)
        except Exception as error:  # ase raises all kinds
            return Raw(row.id, values=values, fault=said(error))

    @property
    def _beside(self) -> list[Path]:
        found = [self.path.with_name(self.path.name + suffix) for suffix in BESIDE]
        return [path for path in found if path.is_file() and path.stat().st_size]

    @cached_property
    def _database(self) -> Any:
        """Open to be read. Raises SourceError for what is no ASE database."""
        from ase.db.sqlite import SQLite3Database

        path = self.path.absolute()
        if beside := self._beside:  # SQLite would write these into the file: it may do so in a copy
            folder = tempfile.TemporaryDirectory(prefix="dao-flows-")
            object.__setattr__(self, "_copy", folder)  # it goes away with this source
            for file in (path, *beside):
                shutil.copyfile(file, Path(folder.name) / file.name.replace(path.name, "copy.db"))
            path = Path(folder.name) / "copy.db"
        # without changes beside it, nothing else may be done to the file than to read it
        where = f"file:{quote(str(path).encode(errors='surrogateescape'))}" + ("" if beside else "?mode=ro&immutable=1")

        class ReadOnly(SQLite3Database):
            def _connect(self) -> sqlite3.Connection:
                return sqlite3.connect(where, uri=True, timeout=20)

        try:
            tables = _tables(where)
            if "systems" not in tables:
                raise ValueError("it has no table of systems")
            database = ReadOnly(str(path), create_indices=False)
            database.type = "db"
            database.count()
        except Exception as error:  # ase and sqlite raise all kinds
            raise SourceError(f"{printable(self.path)} is no ASE database: {said(error)}") from error
        return database


def _tables(where: str) -> set[str]:
    connection = sqlite3.connect(where, uri=True)
    try:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()
