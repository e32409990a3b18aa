"""Datasets on disk: a folder of parquet shards and a manifest that names each of them by its sha256.

The shards' hashes and the columns give the dataset its identity; where its rows came from and how they were filtered
is told beside it. Rows are written as they come and in their order, so memory holds one shard at most, and the same
rows give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_flows.model.errors import DaoError
from dao_flows.model.files.file_names import is_file_name

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
FORMAT = 1
ROWS_PER_SHARD = 10_000
# what every crystal has; numeric properties may follow (band_gap, tc, …). Energies in eV/atom, lattice in Å, row-major
COLUMNS = {
    "material_id": "string",
    "source": "string",
    "reduced_formula": "string",
    "n_atoms": "int32",
    "numbers": "list<int16>",  # (n)
    "lattice": "list<float>",  # (9), rows are vectors
    "frac": "list<float>",  # (3n), in [0, 1)
    "formation_energy_per_atom": "double",
    "e_above_hull": "double",
    "e_above_hull_kind": "string",
    "split": "string",
}
PROPERTY = "double"
SPLITS = ("train", "val")  # what training reads: the first to learn from, the second to validate on


class DataError(DaoError):
    """The file or dataset cannot be used; the message says why."""


def file_sha256(*files: Path) -> str:
    """Hex digest of a file's bytes, or of those of several files one after the other, in flat memory."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


@dataclass(frozen=True)
class Shard:
    """One parquet file of a dataset."""

    file: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """What a dataset says of itself.

    columns: name → type, in order; counts: rows of each split; sources: one record each (name, location, licence, rows
    read and kept); filters: what was asked of a row; parent: sha256 of the dataset it was made from, with `made_by`
    the maker's parameters; sha256: the identity, over columns and shards alone.
    """

    name: str
    columns: dict[str, str]
    shards: tuple[Shard, ...]
    counts: dict[str, int]
    code_version: str
    sources: list[dict[str, Any]] = field(default_factory=list)
    filters: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    made_by: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def sha256(self) -> str:
        """The dataset's identity."""
        identity = {"columns": list(self.columns.items()), "shards": [shard.sha256 for shard in self.shards]}
        return hashlib.sha256(json.dumps(identity, separators=(",", ":")).encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Number of crystals."""
        return sum(shard.rows for shard in self.shards)

    def files(self) -> dict[str, str]:
        """sha256 of each file beside the manifest, by its name. Raises DataError for a name that is none."""
        rejects = self.made_by.get("rejects")
        named = {str(shard.file): shard.sha256 for shard in self.shards}
        if isinstance(rejects, dict):
            named[str(rejects.get("file"))] = str(rejects.get("sha256"))
        for name in named:
            if not is_file_name(name):
                raise DataError(f"the manifest names a file {name[:60]!r}, which is no name of a file beside it")
        return named


def columns(properties: Iterable[str] = ()) -> dict[str, str]:
    """The columns of a dataset with these numeric properties."""
    return COLUMNS | dict.fromkeys(properties, PROPERTY)


def arrow_schema(names: Mapping[str, str]) -> pa.Schema:
    """Arrow's schema of these columns. Raises DataError for a type that datasets do not have."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "list<int16>": pa.list_(pa.int16()),
        "list<float>": pa.list_(pa.float32()),
    }
    if unknown := sorted(set(names.values()) - set(types)):
        raise DataError(f"no column of a dataset has the type {', '.join(unknown)}")
    return pa.schema([(name, types[kind]) for name, kind in names.items()])


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Shard:
    """Write rows as one parquet file, whole or not at all. A key that a row lacks is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema(names))
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, compression="zstd")
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)
    return Shard(path.name, file_sha256(path), len(rows))


def join_shards(path: Path, pieces: Iterable[Path], names: Mapping[str, str]) -> Shard:
    """Write the rows of several parquet files, in order, as one, whole or not at all; memory holds one row group."""
    import pyarrow.parquet as pq

    partial = path.with_name(f".{path.name}.partial")
    rows = 0
    with pq.ParquetWriter(partial, arrow_schema(names), compression="zstd") as target:
        for piece in pieces:
            with pq.ParquetFile(piece) as source:
                for batch in source.iter_batches():
                    target.write_batch(batch)
                    rows += batch.num_rows
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)
    return Shard(path.name, file_sha256(path), rows)


def write_shards(
    folder: Path, rows: Iterable[Mapping[str, Any]], names: Mapping[str, str], rows_per_shard: int = ROWS_PER_SHARD
) -> tuple[tuple[Shard, ...], Counter[str]]:
    """Write rows as shards of a folder, holding one shard in memory; returns them and the rows of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[Shard] = []
    counts: Counter[str] = Counter()
    held: list[Mapping[str, Any]] = []

    def flush() -> None:
        shards.append(write_shard(folder / f"shard-{len(shards):05d}.parquet", held, names))
        held.clear()

    for row in rows:
        held.append(row)
        counts[row["split"]] += 1
        if len(held) == rows_per_shard:
            flush()
    if held:
        flush()
    return tuple(shards), counts


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a dataset's manifest, whole or not at all: it comes last, and makes a folder of shards a dataset."""
    partial = folder / f".{MANIFEST}.partial"
    text = json.dumps({"sha256": manifest.sha256, **asdict(manifest)}, indent=1, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """A dataset's manifest. Raises DataError if there is none, or none that this version can read."""
    try:
        fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        stated = fields.pop("sha256")
        manifest = Manifest(**(fields | {"shards": tuple(Shard(**shard) for shard in fields["shards"])}))
        records = (manifest.columns, manifest.counts, manifest.filters, manifest.made_by, *manifest.sources)
        if not all(isinstance(each, dict) for each in records) or not isinstance(manifest.rows, int):
            raise TypeError("a field is of another type")
        newer = manifest.format > FORMAT
    except FileNotFoundError as error:
        raise DataError(f"{folder} is no dataset: it has no {MANIFEST}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"the manifest of the dataset {folder} cannot be read: {error}") from error
    if newer:
        raise DataError(f"the dataset {folder} needs a newer version of dao_flows")
    if manifest.sha256 != stated:
        raise DataError(f"the manifest of the dataset {folder} was changed: its sha256 is not that of its shards")
    manifest.files()
    return manifest


def shard_path(folder: Path, shard: Shard) -> Path:
    """A shard's file, checked against its sha256. Raises DataError if it is missing or was changed."""
    path = folder / shard.file
    if not path.is_file():
        raise DataError(f"the dataset {folder} has lost {shard.file}: restore it, or build the dataset again")
    if (found := file_sha256(path)) != shard.sha256:
        raise DataError(
            f"{path} was changed: its sha256 is {found[:12]}…, the manifest says {shard.sha256[:12]}…; "
            "restore it, or build the dataset again"
        )
    return path


def parts(path: Path) -> tuple[list[Path], str]:
    """The parquet files of a dataset, or a single one, and the sha256 of the whole. Raises DataError for neither."""
    if path.is_dir():
        manifest = read_manifest(path)
        return [shard_path(path, shard) for shard in manifest.shards], manifest.sha256
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    return [path], file_sha256(path)


def lineage(path: Path) -> dict[str, Any]:
    """What a dataset's manifest tells of where it comes from, for a checkpoint's card; nothing of a single file."""
    if not path.is_dir():
        return {}
    manifest = read_manifest(path)
    told = {"name": manifest.name, "sources": manifest.sources, "filters": manifest.filters, "parent": manifest.parent}
    return told | {"made_by": manifest.made_by}


def read_rows(path: Path, batch: int = 1000) -> Iterator[dict[str, Any]]:
    """The rows of one parquet file as dictionaries, holding `batch` of them in memory."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as source:
        for part in source.iter_batches(batch):
            yield from part.to_pylist()


def dataset_rows(path: Path) -> Iterator[dict[str, Any]]:
    """All rows of a dataset, or of a single parquet file, in order; the shards are checked first."""
    for part in parts(path)[0]:
        yield from read_rows(part)
