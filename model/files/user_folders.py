"""The user's own folders: the variable of the environment that names each, and where it lies where none does.

The data folder holds the embedded store, what crates brought, and runs; checkpoints and libraries have variables of
their own. All of them raise PlaceError for a name that no document can keep.
"""

from __future__ import annotations

import os
from pathlib import Path

from .places import absolute

DATA, RUNS = "DAO_FLOWS_DATA_DIR", "DAO_FLOWS_RUN_DIR"
CHECKPOINTS, LIBRARIES = "DAO_FLOWS_CHECKPOINT_DIR", "DAO_FLOWS_LIBRARY_DIR"
SYSTEM = "XDG_DATA_HOME"
STORE, DATASETS, FILES = "store", "datasets", "files"  # in the data folder: the embedded store, and what crates brought


def folder_of(variable: str) -> Path | None:
    """The folder that an environment variable names, in full; None where it is not set or empty."""
    named = os.environ.get(variable)
    return Path(absolute(named)) if named else None


def default_folder() -> Path:
    """dao_flows/ in the system's place for a user's data: $XDG_DATA_HOME, or ~/.local/share."""
    return (folder_of(SYSTEM) or Path(absolute("~/.local/share"))) / "dao_flows"


def runs() -> Path:
    """Of the work of long jobs: $DAO_FLOWS_RUN_DIR, or runs/ in the data folder; on a cluster every node sees it."""
    return folder_of(RUNS) or (folder_of(DATA) or default_folder()) / "runs"


def references() -> Path:
    """Of reference sets that were fetched, beside the runs."""
    return runs() / "references"


def checkpoints() -> Path:
    """Of the user's own checkpoints: $DAO_FLOWS_CHECKPOINT_DIR, or checkpoints/ in the system's place."""
    return folder_of(CHECKPOINTS) or default_folder() / "checkpoints"


def libraries() -> Path:
    """Of the user's own libraries of crystals: $DAO_FLOWS_LIBRARY_DIR, or libraries/ in the system's place."""
    return folder_of(LIBRARIES) or default_folder() / "libraries"
