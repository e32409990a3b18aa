"""From what a user writes to a source: a path, `mp:`, `optimade:…` or `store:`, with options behind a ?."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from maggma.core import Store

from dao_flows.model.data.shards import COLUMNS, MANIFEST

from .databases.materials_project import RANGES, TEXT, MaterialsProject
from .databases.optimade import OptimadeSource
from .databases.task_documents import TaskDocuments, current_store
from .readers.ase_database import AseSource
from .readers.raw import Options, Source, SourceError
from .readers.structure_files import StructureFiles, format_of
from .readers.tables import CsvSource, DatasetSource, ParquetSource
from .readers.text_files import plain_name, printable
from .readers.xyz import XyzSource

OWN = {"mp": (*TEXT, *RANGES), "optimade": ("filter",), "store": ("job",), "file": ()}
COMMON = ("name", "licence", "split")


def open_source(text: str, properties: Sequence[str] = (), store: Store | None = None) -> Source:
    """The source that a text names. store: what `store:` reads; None: the store of the running job.

    Raises SourceError for what names none.
    """
    if not text.strip():
        raise SourceError("a source is empty: give a path, mp:, optimade:PROVIDER or store:")
    whole, kind = text.strip(), text.partition(":")[0]
    place, _, query = (whole, "", "") if Path(whole).exists() else whole.partition("?")
    if kind not in OWN or kind == "file":
        kind = "file"
    options = read_options(query, properties, OWN[kind], place)
    rest = place.partition(":")[2]
    if kind != "file" and place.partition(":")[1] != ":":
        raise SourceError(f"{place} names no source: did you mean {place}: ?")
    if kind == "mp":
        if rest:
            raise SourceError(f"mp: takes a query, as in mp:?chemsys={rest}")
        return MaterialsProject(options, properties)
    if kind == "optimade":
        if not rest:
            raise SourceError("optimade: is followed by a provider or a base URL, as in optimade:cod?filter=…")
        parts = urlsplit(rest)
        if parts.username or parts.password:
            raise SourceError("a source must not hold credentials: they would be stored with the dataset")
        return OptimadeSource(rest, options, properties)
    if kind == "store":
        if rest:
            raise SourceError("store: is your jobflow store; a job's name is given as in store:?job=static")
        return TaskDocuments(store if store is not None else current_store(), options, properties)
    return _file(Path(place).expanduser(), options, properties)


def read_options(query: str, properties: Sequence[str], own: Sequence[str], place: str) -> Options:
    """What stands behind the ?. Raises SourceError for an option that the source does not have."""
    pairs = parse_qsl(query, keep_blank_values=True)
    columns = [*(c for c in COLUMNS if c not in ("numbers", "lattice", "frac", "n_atoms", *COMMON)), *properties]
    given = dict(pairs)
    if len(given) < len(pairs):
        raise SourceError(f"{place}: an option is given twice")
    if unknown := [name for name in given if name not in (*own, *COMMON, *columns)]:
        there = ", ".join([*own, *COMMON, *columns])
        raise SourceError(f"{place} has no option {unknown[0]}; there are: {there}")
    return Options(
        **{name: given[name] for name in COMMON if given.get(name)},
        columns={name: given[name] for name in columns if name in given and name not in own},
        own={name: given[name] for name in own if name in given},
    )


def _file(path: Path, options: Options, properties: Sequence[str]) -> Source:
    name = plain_name(path).lower()
    if path.is_dir():
        kind = DatasetSource if (path / MANIFEST).is_file() else StructureFiles
        return kind(path, options, properties)
    if not path.is_file():
        raise SourceError(
            f"there is no file or folder {printable(path)}; other sources begin with mp:, optimade: or store:"
        )
    for suffixes, reader, packed in (
        ((".parquet",), ParquetSource, False),
        ((".csv",), CsvSource, True),
        ((".xyz", ".extxyz"), XyzSource, True),
        ((".db",), AseSource, False),
    ):
        if name.endswith(suffixes) and (packed or name == path.name.lower()):
            found: Source = reader(path, options, properties)
            return found
    if format_of(path):
        return StructureFiles(path, options, properties)
    raise SourceError(f"{printable(path)} is of no kind that can be read: .parquet, .csv, .extxyz, .db, .cif or POSCAR")
