"""Where long jobs keep what they have finished, so that the same job goes on there after a kill."""

from __future__ import annotations

from pathlib import Path

from dao_flows.makers.schemas.document import Science
from dao_flows.model.files.file_names import file_name
from dao_flows.model.files.places import data_folder, folder_of

from .provenance import science_hash

FOLDER_VARIABLE, DATA_VARIABLE = "DAO_FLOWS_RUN_DIR", "DAO_FLOWS_DATA_DIR"


def run_root() -> Path:
    """$DAO_FLOWS_RUN_DIR, or runs/ in the user's data folder ($DAO_FLOWS_DATA_DIR, or the system's place for data).

    On a cluster it is a folder that every node sees.
    """
    if (folder := folder_of(FOLDER_VARIABLE)) is not None:
        return folder
    return (folder_of(DATA_VARIABLE) or data_folder() / "dao_flows") / "runs"


def run_folder(science: Science, name: str) -> Path:
    """The folder of a job's work, named by the job and by all that decides its result. It need not exist."""
    return run_root() / f"{file_name(name)}-{science_hash(science)[:16]}"
