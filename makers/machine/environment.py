"""Variables of the environment that name files and folders: in full, for what jobs and programs do elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.model.files import user_folders
from dao_flows.model.files.places import absolute, at_home, checkpoint_in_full, library_in_full

FOLDERS = (
    *(user_folders.RUNS, user_folders.DATA, user_folders.CHECKPOINTS, user_folders.LIBRARIES),
    *("DAO_FLOWS_ROUTES", user_folders.SYSTEM),
    *("DAO_FLOWS_ABINIT_PSEUDOS", "CP2K_DATA_DIR", "PMG_CP2K_DATA_DIR", "PMG_VASP_PSP_DIR", "ABIPY_PSREPOS_ROOT"),
    *("JOBFLOW_CONFIG_FILE", "FW_CONFIG_FILE", "ATOMATE2_CONFIG_FILE", "PMG_CONFIG_FILE", "JFREMOTE_PROJECTS_FOLDER"),
)
NAMED = {  # by name, path or sha256
    "DAO_FLOWS_CHECKPOINT": checkpoint_in_full,
    "DAO_FLOWS_PREDICTOR": checkpoint_in_full,
    "DAO_FLOWS_LIBRARY": library_in_full,
}
PATHS = ("PATH", "PYTHONPATH", "ASE_CONFIG_PATH")  # lists


@contextmanager
def environment_in_full() -> Iterator[None]:
    """Within, variables of the environment that name files and folders do so in full, for jobs and programs too.

    Raises PlaceError.
    """
    before = {name: os.environ.get(name) for name in (*FOLDERS, *NAMED, *PATHS)}
    for name, value in before.items():
        if not value:
            continue
        if name in PATHS:
            os.environ[name] = os.pathsep.join(each and str(Path(each).absolute()) for each in value.split(os.pathsep))
        else:
            os.environ[name] = NAMED.get(name, absolute)(value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value


def check_environment() -> None:
    """Raises ParameterError for a folder that is not named in full: a job does not run where it was named."""
    for name in FOLDERS:
        if (value := os.environ.get(name)) and not at_home(value).is_absolute():
            raise ParameterError(f"{name} is {value!r}: name it in full, for a job does not run where it was submitted")
