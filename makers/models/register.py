"""A trained checkpoint becomes one of the user's own, under a name."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from dao_flows.model.files import user_folders
from dao_flows.model.files.file_names import is_file_name

from .checkpoints import ParameterError


def check_name(name: str) -> str:
    """The name itself. Raises ParameterError for one that cannot be a checkpoint's."""
    if not is_file_name(name):
        raise ParameterError(f"{name!r} cannot be the name of a checkpoint: letters, digits, -, _ and . can, up to 100")
    return name


def register(source: Path, name: str) -> Path:
    """Copy a checkpoint into the user's library, whole or not at all, and return its folder there.

    Another checkpoint that has the name makes way: it stays in the library as NAME-<first digits of its sha256>, and
    documents that hold its sha256 find it. Raises CheckpointError for a damaged source.
    """
    from dao_flows.model.checkpoint.format import CheckpointError, read_card, verify, weight_files, write_card

    card, library = verify(source), user_folders.checkpoints()
    target = library / check_name(name)
    library.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=library))
    try:
        for weights in weight_files(source):
            shutil.copyfile(weights, staging / weights.name)
        write_card(staging, replace(card, name=name))
        staging.chmod(0o755)
        if target.exists():
            try:
                former = read_card(target).sha256
            except CheckpointError:
                former = "damaged"
            aside = library / f"{name}-{former[:8]}"
            if former == card.sha256 or aside.exists():
                shutil.rmtree(target)
            else:
                target.replace(aside)
        staging.replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target
