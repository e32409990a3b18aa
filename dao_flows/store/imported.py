"""Where imports put what documents name by its sha256: datasets and single files, in the user's data folder."""

from __future__ import annotations

from pathlib import Path

from dao_flows.model.data.shards import DataError, read_manifest
from dao_flows.model.files import user_folders
from dao_flows.settings import Settings, settings


def datasets_folder(config: Settings | None = None) -> Path:
    """The folder of imported datasets, each in one that is named by its sha256."""
    return (config or settings()).data_dir / user_folders.DATASETS


def files_folder(config: Settings | None = None) -> Path:
    """The folder of imported files, each named by its sha256, with the suffix that it had."""
    return (config or settings()).data_dir / user_folders.FILES


def dataset(sha256: str, config: Settings | None = None) -> Path | None:
    """The folder of an imported dataset, unverified; None if it was not imported."""
    folder = datasets_folder(config) / sha256
    return folder if sha256 and folder.is_dir() else None


def file(sha256: str, config: Settings | None = None) -> Path | None:
    """An imported file of this sha256, or one of an imported dataset, unverified; None if there is none."""
    if len(sha256) != 64:
        return None
    found = next(iter(sorted(files_folder(config).glob(f"{sha256}*"))), None)
    return found or _of_datasets(config).get(sha256)


def _of_datasets(config: Settings | None) -> dict[str, Path]:
    """The files of all imported datasets by their sha256, as the manifests say."""
    found: dict[str, Path] = {}
    for folder in sorted(datasets_folder(config).glob("[0-9a-f]*")):
        try:
            manifest = read_manifest(folder)
        except DataError:
            continue
        found |= {sha256: folder / name for name, sha256 in manifest.files().items()}
    return {sha256: path for sha256, path in found.items() if path.is_file()}
