"""Tables of crystals: parquet and CSV with a CIF column or our own columns, and datasets."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dao_flows.model.data.shards import Manifest, file_sha256, read_manifest, read_rows, shard_path

from .raw import ALIASES, Options, Raw, SourceError
from .text_files import broken, clean, open_text, printable, reading, said

ARRAYS = ("numbers", "lattice", "frac")
BATCH = 200  # rows of a table held at a time


@dataclass(frozen=True)
class FileSource:
    """A source that is one file."""

    path: Path
    options: Options
    properties: Sequence[str]

    @property
    def location(self) -> str:
        """The path as it was given."""
        return printable(self.path)

    @property
    def name(self) -> str:
        """The file's own."""
        return self.options.name or printable(self.path.name.split(".")[0])

    @property
    def licence(self) -> str | None:
        """As stated."""
        return self.options.licence

    def identity(self) -> dict[str, Any]:
        """The file's sha256."""
        return {"sha256": file_sha256(self.path)}

    def total(self) -> int | None:
        """Not known."""
        return None


def crystal_of(record: Mapping[str, Any], position: int, values: dict[str, Any]) -> Raw:
    """A record with the column cif, or with numbers, lattice and frac, as a raw row."""
    if wrong := [name for name, value in values.items() if isinstance(value, str) and broken(value)]:
        return Raw(position, fault=f"its {wrong[0]} is no UTF-8 text")
    if record.get("cif"):
        return Raw(position, "cif", clean(str(record["cif"])), values)
    if all(record.get(name) is not None for name in ARRAYS):
        return Raw(position, "arrays", tuple(record[name] for name in ARRAYS), values)
    return Raw(position, values=values, fault="its cif is empty" if "cif" in record else "it has no crystal")


def check_columns(names: Sequence[str], path: Path, options: Options) -> None:
    """Raises SourceError for a table without crystals, or without a column that was named."""
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise SourceError(f"{printable(path)} has the column {twice[0]} twice")
    if "cif" not in names and not set(ARRAYS) <= set(names):
        raise SourceError(f"{printable(path)} has no column cif, and not all of numbers, lattice and frac")
    if absent := sorted(set(options.columns.values()) - set(names)):
        raise SourceError(f"{printable(path)} has no column {', '.join(absent)}; there are: {', '.join(names)}")


class ParquetSource(FileSource):
    """A parquet file with a column cif, or with numbers (n), lattice (9, Å) and frac (3·n)."""

    @cached_property
    def _names(self) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            names: list[str] = pq.read_schema(self.path).names
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"cannot read {printable(self.path)}: {said(error)}") from error
        check_columns(names, self.path, self.options)
        return names

    def identity(self) -> dict[str, Any]:
        """The file's sha256."""
        _ = self._names
        return super().identity()

    def total(self) -> int | None:
        """As the file's footer says."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            return int(file.metadata.num_rows)

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Rows in their order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        known = {*ARRAYS, "cif", *self.options.columns.values(), *self.properties}
        known |= {alias for names in ALIASES.values() for alias in names}
        wanted = [name for name in self._names if name in known]
        position = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for part in file.iter_batches(BATCH, columns=wanted):
                    if position + part.num_rows > start:
                        for offset, record in enumerate(part.to_pylist()):
                            if position + offset >= start:
                                values = self.options.values(record, self.properties)
                                yield crystal_of(record, position + offset, values)
                    position += part.num_rows
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise SourceError(f"{printable(self.path)} is damaged: {said(error)}; get it again") from error


class CsvSource(FileSource):
    """A CSV file (maybe compressed) with a column cif."""

    def identity(self) -> dict[str, Any]:
        """The file's sha256."""
        with reading(self.path), open_text(self.path) as stream:
            names = self._header(csv.reader(stream, strict=True))
        if "cif" not in names:
            raise SourceError(f"{printable(self.path)} has no column cif")
        check_columns(names, self.path, self.options)
        return super().identity()

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Rows in their order. Raises SourceError for a file that is damaged or cut short."""
        csv.field_size_limit(sys.maxsize)
        with reading(self.path), open_text(self.path) as stream:
            lines = csv.reader(stream, strict=True)
            names = self._header(lines)
            position = -1
            while (fields := self._next(lines)) is not None:
                if not fields:
                    continue
                position += 1
                if position < start:
                    continue
                record = dict(zip(names, fields, strict=False))
                values = self.options.values(record, self.properties)
                if len(fields) != len(names):
                    yield Raw(position, fault=f"it has {len(fields)} fields, the table {len(names)} columns")
                else:
                    yield crystal_of(record, position, values)

    def _header(self, lines: Iterator[list[str]]) -> list[str]:
        return [name.strip() for name in self._next(lines) or []]

    def _next(self, lines: Iterator[list[str]]) -> list[str] | None:
        try:
            return next(lines, None)
        except csv.Error as error:
            raise SourceError(
                f"{printable(self.path)} is damaged or incomplete: line {lines.line_num}: {error}"  # type: ignore[attr-defined]
            ) from error


class DatasetSource(FileSource):
    """A dataset of ours: its rows keep their source, and its licences come along."""

    @cached_property
    def _manifest(self) -> Manifest:
        return read_manifest(self.path)

    @property
    def name(self) -> str:
        """The dataset's own."""
        return self.options.name or self._manifest.name

    @property
    def licence(self) -> str | None:
        """As stated, else those of its sources."""
        inside = sorted({str(entry["licence"]) for entry in self._manifest.sources if entry.get("licence")})
        return self.options.licence or "; ".join(inside) or None

    def identity(self) -> dict[str, Any]:
        """The dataset's sha256."""
        if absent := sorted(set(self.options.columns.values()) - set(self._manifest.columns)):
            raise SourceError(f"the dataset {self.path} has no column {', '.join(absent)}")
        return {"sha256": self._manifest.sha256}

    def total(self) -> int | None:
        """As the manifest says."""
        return self._manifest.rows

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Rows in their order; shards are checked against the manifest. Raises DataError for a damaged one."""
        position = 0
        for shard in self._manifest.shards:
            if position + shard.rows > start:
                for offset, record in enumerate(read_rows(shard_path(self.path, shard), BATCH)):
                    if position + offset >= start:
                        yield crystal_of(record, position + offset, self.options.values(record, self.properties))
            position += shard.rows
