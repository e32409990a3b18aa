"""Libraries of known crystals, as `dao-flows library` builds and checks them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dao_flows.errors import InputError
from dao_flows.makers.datasets import BuildConfig
from dao_flows.makers.datasets.build import Progress
from dao_flows.model.data.shards import read_manifest
from dao_flows.model.elements import symbols
from dao_flows.model.files import user_folders
from dao_flows.model.files.file_names import is_file_name
from dao_flows.model.files.places import INDEX_CARD
from dao_flows.model.templates.library import Library, build_index, verify_index
from dao_flows.model.templates.places import available, find, open_library

from .datasets import build_from_settings
from .datasets import verify as verify_dataset

__all__ = ["available", "build_library", "find", "licences", "open_library", "summary", "verify"]


def build_library(
    name: str,
    sources: Sequence[str],
    config: BuildConfig | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Library:
    """Build a library among the user's own from sources, as `build_dataset` takes them, and open it.

    It appears when it is whole; a killed build goes on when it is called again. Raises InputError for a name that
    cannot be a folder's, and what build_dataset raises; DataError if no crystal can be a template.
    """
    if not is_file_name(name):
        raise InputError(f"{name!r} cannot be the name of a library: letters, digits, - and _, and no slashes")
    user_folders.libraries().mkdir(parents=True, exist_ok=True)
    return build_in(user_folders.libraries() / name, sources, config or BuildConfig(), progress)


def build_in(folder: Path, sources: Sequence[str], config: BuildConfig, progress: Progress) -> Library:
    """build_library, in a folder of any place."""

    def complete(folder: Path) -> None:
        rows = read_manifest(folder).rows
        progress(0, rows, "the crystals for the index")
        build_index(folder)
        progress(rows, rows, "the crystals for the index")

    build_from_settings(folder, sources, config, progress, complete)
    if not (folder / INDEX_CARD).is_file():  # a dataset that was put there
        complete(folder)
    return open_library(folder)


def verify(reference: str | os.PathLike[str]) -> Library:
    """A library whose every byte was checked, and whose index was derived again. Raises DataError for what is wrong."""
    folder = find(reference)
    verify_dataset(folder)
    return verify_index(folder)


def summary(library: Library) -> dict[str, Any]:
    """What a library holds, in numbers. Volumes: Å³ an atom of each element that it has."""
    columns, names = library.columns, symbols()
    known = columns["energy"][~np.isnan(columns["energy"])]
    elements = [int(number) for number in np.unique(columns["numbers"])]
    crystals_of = np.bincount(columns["source"], minlength=len(library.sources)).tolist()
    return {
        "name": library.name,
        "folder": str(library.folder),
        "sha256": library.sha256,
        "crystals": len(library),
        "left_out": library.manifest.rows - len(library),
        "formulas": len(library.formulas),
        "groups": len(library.groups),
        "elements": len(elements),
        "energies_known": len(known),
        "highest_energy": round(float(known.max()), 6) if len(known) else None,
        "sources": dict(zip(library.sources, crystals_of, strict=True)),
        "licences": licences(library),
        "volumes": {names[number]: float(library.volumes[number]) for number in elements},
    }


def licences(library: Library) -> list[str]:
    """Under which a library's crystals may be used; 'not stated' where a source does not say."""
    return sorted({str(source.get("licence") or "not stated") for source in library.manifest.sources})
