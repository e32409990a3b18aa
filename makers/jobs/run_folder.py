"""Where long jobs keep what they have finished, so that the same job goes on there after a kill."""

from __future__ import annotations

from pathlib import Path

from dao_flows.makers.schemas.document import Science
from dao_flows.model.files import user_folders
from dao_flows.model.files.file_names import file_name

from .provenance import science_hash


def run_folder(science: Science, name: str) -> Path:
    """The folder of a job's work, named by the job and by all that decides its result. It need not exist."""
    return user_folders.runs() / f"{file_name(name)}-{science_hash(science)[:16]}"
