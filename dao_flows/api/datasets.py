"""Building datasets, as `dao-flows dataset build` does; the work is done on the makers' floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dao_flows.makers.datasets import BuildConfig, SourceError, build_dataset
from dao_flows.makers.datasets.build import Progress
from dao_flows.makers.datasets.config import build_config
from dao_flows.model.data.shards import DataError, Manifest, parts, read_manifest, read_rows

__all__ = ["BuildConfig", "Manifest", "SourceError", "build_config", "build_dataset", "build_from_settings", "verify"]


def build_from_settings(
    out: Path,
    sources: Sequence[str],
    config: BuildConfig,
    progress: Progress,
    complete: Callable[[Path], object] = lambda folder: None,
) -> Manifest:
    """build_dataset with the user's own store, connected only if a source is `store:`. Raises StoreError too."""
    store = None
    if any(text.strip().startswith("store:") for text in (*sources, *config.held_out)):
        from dao_flows.store.stores import job_store

        store = job_store()
    return build_dataset(out, sources, config, progress, store, complete)


def verify(folder: Path) -> Manifest:
    """The manifest of a dataset whose every byte and row was checked. Raises DataError for the first that is wrong."""
    manifest = read_manifest(folder)
    files, _ = parts(folder)
    for file, shard in zip(files, manifest.shards, strict=True):
        rows = sum(1 for _ in read_rows(file))
        if rows != shard.rows:
            raise DataError(f"{file} has {rows} rows, the manifest says {shard.rows}: build the dataset again")
    named = manifest.files()
    for name in named.keys() - {shard.file for shard in manifest.shards}:
        from dao_flows.model.data.shards import file_sha256

        path = folder / name
        if not path.is_file() or file_sha256(path) != named[name]:
            raise DataError(f"{path} is missing or was changed: restore it, or build the dataset again")
    return manifest
