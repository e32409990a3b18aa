"""From sources to a dataset: rows stream through cleaning and matching into shards; memory holds one batch."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from maggma.core import Store

from dao_flows.makers.jobs.provenance import digest
from dao_flows.makers.machine.parallel import parallel_map
from dao_flows.model.data.shards import (
    MANIFEST,
    Manifest,
    Shard,
    columns,
    file_sha256,
    read_manifest,
    write_manifest,
    write_shard,
)
from dao_flows.version import __version__

from .cleaning import Clean, clean, clean_held_out
from .config import BuildConfig
from .matching import settle_batch
from .readers.raw import Raw, Source, SourceError
from .readers.refusal import Rejected
from .sources import open_source
from .work import Work

REJECTS, WORK, LOCK, REQUEST = "rejects.jsonl", "work.sqlite", "lock", "request"
BATCH = 512  # rows read, cleaned and settled together; what they give does not depend on it

Progress = Callable[[int, int | None, str], None]


def build_dataset(
    out: str | Path,
    sources: Sequence[str],
    config: BuildConfig | None = None,
    progress: Progress = lambda done, total, what: None,
    store: Store | None = None,
    complete: Callable[[Path], object] = lambda folder: None,
) -> Manifest:
    """Build a dataset in the folder `out` from sources, in their order, and return its manifest.

    sources: paths, `mp:`, `optimade:…`, `store:`, with options behind a ? (see docs/datasets.md); store: what `store:`
    reads, by default the store of the running job. The folder appears when it is whole; with the shards lies
    rejects.jsonl, one line for each row that is not in the dataset: source, position, id, cause, reason. The same
    sources and settings give the same bytes. A killed build goes on after its last batch when it is called again, and
    a finished one is returned as it is. progress: rows done, rows in all (None: not known), name of the source.
    complete: called with the folder once its manifest is there, to add files before it appears.

    Raises SourceError for a source that cannot be used, for a folder that holds something else, and if no row is left;
    DataError for a damaged dataset.
    """
    config = config or BuildConfig()
    target = Path(out).expanduser()
    if not sources:
        raise SourceError("a dataset is built from sources: give at least one")
    stages = [_Stage(open_source(text, (), store), held=True) for text in config.held_out]
    stages += [_Stage(open_source(text, config.properties, store), held=False) for text in sources]
    asked = _asked(stages, config)
    if target.exists():
        return _built_already(target, asked["request"])
    staging = target.parent / f".{target.name}.building"
    with _alone(staging, target):
        build = _Build(staging, target, stages, config, asked)
        # a manifest is there if the build was killed just before the end
        manifest = read_manifest(staging) if (staging / MANIFEST).exists() else build.run(progress)
        complete(staging)
        for name in (WORK, f"{WORK}-journal", LOCK, REQUEST):
            (staging / name).unlink(missing_ok=True)
        staging.rename(target)
        _sync(target.parent)
    return manifest


@dataclass(frozen=True)
class _Stage:
    """A source in turn."""

    source: Source
    held: bool


def _asked(stages: Sequence[_Stage], config: BuildConfig) -> dict[str, Any]:
    """What decides the result: the settings, the sources and their contents; `request` is the hash of it."""
    described = [
        {
            "name": stage.source.name,
            "location": stage.source.location,
            **({"held_out": True} if stage.held else {}),
            **stage.source.identity(),
            "options": _options(stage.source),
        }
        for stage in stages
    ]
    settings = config.model_dump(mode="json", exclude={"held_out"})
    return {
        "settings": settings,
        "stages": described,
        "request": digest([settings, [_content(d) for d in described], __version__]),
    }


def _content(described: dict[str, Any]) -> dict[str, Any]:
    """What of a source decides the result: not where it lies, nor what lies beside it."""
    return {name: value for name, value in described.items() if name != "passed_over"} | {"location": None}


def _options(source: Source) -> dict[str, Any]:
    options = getattr(source, "options", None)
    if options is None:
        return {}
    given = {"licence": options.licence, "split": options.split, **options.columns, **options.own}
    return {name: value for name, value in given.items() if value}


def _built_already(target: Path, request: str) -> Manifest:
    if not (target / MANIFEST).is_file():
        raise SourceError(f"{target} exists and is no dataset: choose another folder")
    manifest = read_manifest(target)
    if manifest.made_by.get("request") != request:
        raise SourceError(f"{target} holds a dataset of other sources or settings: choose another folder, or remove it")
    return manifest


class _Build:
    """One build in its staging folder."""

    def __init__(
        self, staging: Path, target: Path, stages: Sequence[_Stage], config: BuildConfig, asked: dict[str, Any]
    ) -> None:
        self.folder, self.target, self.stages, self.config, self.asked = staging, target, stages, config, asked
        self.names = columns(config.properties)
        request = staging / REQUEST
        if not self._begun(request):
            for path in staging.iterdir():
                if path.name != LOCK:
                    path.unlink()
            request.write_text(asked["request"])
        self.compared = not config.keep_duplicates or any(stage.held for stage in stages)

    def _begun(self, request: Path) -> bool:
        """Whether what lies in the staging folder was begun for the same sources and settings."""
        if request.exists():
            return bool(request.read_text() == self.asked["request"])
        if (self.folder / MANIFEST).exists():  # killed between the manifest and the end
            return bool(read_manifest(self.folder).made_by.get("request") == self.asked["request"])
        return False

    def run(self, progress: Progress) -> Manifest:
        """Read what is not read yet, and write the manifest."""
        self.work = Work(self.folder / WORK)
        try:
            state = self.state = self.work.state()
            totals = [stage.source.total() for stage in self.stages]
            self.total = sum(t for t in totals if t is not None) if None not in totals else None
            with (self.folder / REJECTS).open("ab") as self.rejects:
                self.rejects.truncate(state.rejects)
                self.rejects.seek(state.rejects)
                while state.stage < len(self.stages):
                    self._read(self.stages[state.stage], progress)
                    state.stage, state.position = state.stage + 1, 0
                with self.work.transaction():
                    self._flush(rest=True)
                    self.work.save(state)
        finally:
            self.work.close()
        return self._finish()

    def _read(self, stage: _Stage, progress: Progress) -> None:
        """One source, batch by batch."""
        state = self.state
        if len(state.tallies) == state.stage:
            state.tallies.append({})
        rows = stage.source.read(state.position)
        while batch := list(islice(rows, BATCH)):
            function = clean_held_out if stage.held else partial(clean, config=self.config, compare=self.compared)
            cleaned: list[Clean | Rejected] = parallel_map(function, batch)
            with self.work.transaction():
                tally = Counter(state.tallies[state.stage])
                tally["read"] += len(batch)
                (self._hold if stage.held else self._keep)(stage.source, batch, cleaned, tally)
                state.tallies[state.stage] = dict(tally)
                state.position = batch[-1].position + 1
                self._flush()
                self.rejects.flush()
                os.fsync(self.rejects.fileno())
                state.rejects = self.rejects.tell()
                self.work.save(state)
            progress(sum(t["read"] for t in state.tallies), self.total, stage.source.name)

    def _hold(
        self, source: Source, batch: Sequence[Raw], cleaned: Sequence[Clean | Rejected], tally: Counter[str]
    ) -> None:
        """Remember held-out crystals."""
        for raw, found in zip(batch, cleaned, strict=True):
            if raw.material_id is not None:
                self.work.hold_id(raw.material_id, source.name)
            if isinstance(found, Rejected):
                self._reject(source, raw, found, tally)
                continue
            tally["kept"] += 1
            assert found.cell is not None
            name = f"{_id(raw, source)} of {source.name}"
            self.work.add_cell(found.formula, found.cell, name, held=True)

    def _keep(
        self, source: Source, batch: Sequence[Raw], cleaned: Sequence[Clean | Rejected], tally: Counter[str]
    ) -> None:
        """Put the rows that stay into the queue for shards, and name the others."""
        results = [self._held_out(raw, found) for raw, found in zip(batch, cleaned, strict=True)]
        for raw, found in zip(batch, results, strict=True):
            if isinstance(found, Clean):
                found.row["material_id"] = _id(raw, source)
                found.row["source"] = str(found.row["source"] or source.name)
        if self.compared:
            open_ = [(place, found) for place, found in enumerate(results) if isinstance(found, Clean)]
            for place, rejected in settle_batch(open_, self.work, self.config).items():
                results[place] = rejected
        for raw, found in zip(batch, results, strict=True):
            if isinstance(found, Rejected):
                self._reject(source, raw, found, tally)
                continue
            row = found.row
            row["split"] = self._split(source, row)
            tally["kept"] += 1
            tally["with energy"] += row["e_above_hull"] is not None
            self.state.counts[row["split"]] = self.state.counts.get(row["split"], 0) + 1
            self.work.push(row)
            if found.cell is not None and not self.config.keep_duplicates:
                self.work.add_cell(found.formula, found.cell, row["material_id"], held=False)

    def _held_out(self, raw: Raw, found: Clean | Rejected) -> Clean | Rejected:
        """Rejected if its id or, if asked, its formula is held out."""
        if isinstance(found, Rejected):
            return found
        if raw.material_id is not None and (name := self.work.held_id(raw.material_id)) is not None:
            return Rejected("held out", f"{name} has its id")
        if self.config.held_out_formulas and (name := self.work.held_formula(found.formula)) is not None:
            return Rejected("held out", f"{name} has its formula")
        return found

    def _split(self, source: Source, row: dict[str, Any]) -> str:
        """As the source says, else by its formula: polymorphs stay together."""
        stated = getattr(source, "options", None) and source.options.split  # type: ignore[attr-defined]
        if given := stated or row["split"]:
            return str(given)
        share = int.from_bytes(hashlib.sha256(row["reduced_formula"].encode()).digest()[:8]) / 2**64
        return "val" if share < self.config.val_share else "train"

    def _reject(self, source: Source, raw: Raw, rejected: Rejected, tally: Counter[str]) -> None:
        tally[rejected.cause] += 1
        line = {
            "source": source.name,
            "position": raw.position,
            "id": raw.material_id,
            "cause": rejected.cause,
            "reason": rejected.reason,
        }
        if self.stages[self.state.stage].held:
            line["of"] = "held-out set"
        self.rejects.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace"))

    def _flush(self, rest: bool = False) -> None:
        """Write full shards, and at the end the rest."""
        size = self.config.rows_per_shard
        while (waiting := self.work.pending()) >= size or (rest and waiting):
            path = self.folder / f"shard-{len(self.state.shards):05d}.parquet"
            shard = write_shard(path, self.work.first(size), self.names)
            self.work.drop(size)
            self.state.shards.append({"file": shard.file, "sha256": shard.sha256, "rows": shard.rows})

    def _finish(self) -> Manifest:
        """The manifest, once all is written."""
        state, described = self.state, self.asked["stages"]
        records = []
        for stage, entry, tally in zip(self.stages, described, state.tallies, strict=True):
            causes = {cause: n for cause, n in sorted(tally.items()) if cause not in ("read", "kept", "with energy")}
            record = {**entry, "rows": tally.get("read", 0), "kept": tally.get("kept", 0), "rejected": causes}
            if not stage.held:
                record["with_energy"] = tally.get("with energy", 0)
                record["licence"] = stage.source.licence or self.config.licence
            records.append(record)
        if not state.shards:
            causes = Counter[str]()
            for record in records:
                if not record.get("held_out"):
                    causes.update(record["rejected"])
            told = ", ".join(f"{n} {cause}" for cause, n in causes.most_common()) or "the sources have none"
            raise SourceError(f"no row is left for {self.target}: {told}; see {self.folder / REJECTS}")
        rejects = self.folder / REJECTS
        manifest = Manifest(
            name=self.config.name or self.target.name,
            columns=self.names,
            shards=tuple(Shard(**shard) for shard in state.shards),
            counts=dict(sorted(state.counts.items())),
            code_version=__version__,
            sources=[record for record in records if not record.get("held_out")],
            filters={**self.asked["settings"], "held_out": [record for record in records if record.get("held_out")]},
            made_by={
                "maker": "build_dataset",
                "request": self.asked["request"],
                "rejects": {
                    "file": REJECTS,
                    "sha256": file_sha256(rejects),
                    "rows": sum(sum(record["rejected"].values()) for record in records),
                },
            },
        )
        write_manifest(self.folder, manifest)
        return manifest


def _id(raw: Raw, source: Source) -> str:
    return raw.material_id or f"{source.name}-{raw.position}"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(staging: Path, target: Path) -> Iterator[None]:
    """Hold the staging folder's lock. Raises SourceError while another process builds there."""
    staging.mkdir(parents=True, exist_ok=True)
    with (staging / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceError(f"another process is building {target}: wait for it, or choose another folder") from None
        yield
