"""What of each code is on this machine: the program, its pseudopotentials, its settings; and the line that fixes it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dao_flows.makers.jobs.provenance import installed_version
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.force_field import package_version

from . import abinit, cp2k
from .backends import INSTALL, Backend

COMMANDS = {"abinit": ("ABINIT_CMD", "abinit"), "cp2k": ("CP2K_CMD", "cp2k.psmp"), "vasp": ("VASP_CMD", "vasp_std")}
FIXES = {
    "abinit": "apt install abinit, or load your site's module; another command: ATOMATE2_ABINIT_CMD",
    "cp2k": "apt install cp2k, or load your site's module; another command: ATOMATE2_CP2K_CMD",
    "vasp": "VASP is licensed: put your vasp_std on the PATH, or set ATOMATE2_VASP_CMD='srun vasp_std'",
}
POTCARS = "`pmg config -p YOUR_POTCARS FOLDER`, then `pmg config --add PMG_VASP_PSP_DIR FOLDER`"


@dataclass(frozen=True)
class Requirement:
    """One thing that a code needs. found: what is there, None if it is not; fix: what to do about it."""

    name: str
    found: str | None
    fix: str


def requirements(code: str) -> Iterator[Requirement]:
    """All that a code needs, whatever the elements: 'abinit', 'cp2k', 'vasp' or 'forcefield'."""
    if code == "forcefield":
        yield Requirement("forcefield: atomate2", installed_version("atomate2"), INSTALL[code])
        yield Requirement("forcefield: CHGNet", installed_version("chgnet"), INSTALL[code])
        return
    yield Requirement(code, _program(code), FIXES[code])
    yield Requirement(f"{code}: atomate2", installed_version("atomate2"), INSTALL[code])
    if code == "abinit":
        yield Requirement("abinit: abipy", installed_version("abipy"), INSTALL[code])
        yield _abinit_pseudos()
    elif code == "cp2k":
        yield Requirement("cp2k: custodian", installed_version("custodian"), INSTALL[code])
        yield _cp2k_data()
    elif code == "vasp":
        yield Requirement("vasp: custodian", installed_version("custodian"), INSTALL[code])
        yield Requirement("vasp: POTCARs", _potcars(), POTCARS)


def check(backend: Backend, elements: Collection[str]) -> None:
    """Raises ParameterError, one line, for the first thing that the backend lacks here for these elements.

    Call it where the jobs are to run. Makers of the user's with pseudopotentials of their own are taken at their word.
    """
    if backend.code == "forcefield":
        _check_force_field(backend)
        return
    for requirement in requirements(backend.code):
        pseudos = requirement.name.endswith(("pseudopotentials", "data"))
        if requirement.found is None and not (pseudos and not _presets_pseudos(backend)):
            raise ParameterError(f"{requirement.name} not found: {requirement.fix}")
    if not _presets_pseudos(backend):
        return
    if backend.code == "abinit":
        abinit.choose(elements)
    elif backend.code == "cp2k":
        for maker in backend.steps.values():
            generator: Any = getattr(maker, "input_set_generator", None)
            wanted = generator.user_input_settings["basis_and_potential"]
            cp2k.basis_and_potential(elements, wanted["basis_type"], wanted["potential"])


def _check_force_field(backend: Backend) -> None:
    """Raises ParameterError if the package of a force field is not installed."""
    from atomate2.forcefields.utils import MLFF

    for maker in backend.steps.values():
        meta = getattr(maker, "calculator_meta", None)  # of a class of the user's own, nothing is known
        if isinstance(meta, MLFF):
            package_version(meta.value)


def command(code: str) -> str:
    """The line that atomate2 calls a code by: its own setting, or its default."""
    setting, default = COMMANDS[code]
    if find_spec("atomate2") is None:
        return os.environ.get(f"ATOMATE2_{setting}", default)
    from atomate2 import SETTINGS

    return str(getattr(SETTINGS, setting))


@cache
def program_version(code: str) -> str | None:
    """The version that a code tells of itself; None if it tells none, as VASP, or is not there."""
    if code not in ("abinit", "cp2k"):
        return None
    for word in reversed(shlex.split(os.path.expandvars(command(code)))):
        if (path := shutil.which(word)) is not None:
            break
    else:
        return None
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(?:version )?(\d+\.\d+(?:\.\d+)*)", said)
    return found.group(1) if found else None


def _program(code: str) -> str | None:
    """The path of a code's program, with its version."""
    words = shlex.split(os.path.expandvars(command(code)))
    path = shutil.which(words[0]) if words else None
    if path is None:
        return None
    told = program_version(code)
    return f"{path}, {told}" if told else path


def _presets_pseudos(backend: Backend) -> bool:
    """Whether any step takes what the machine has."""
    generators = [getattr(maker, "input_set_generator", None) for maker in backend.steps.values()]
    if backend.code == "abinit":
        return any(getattr(generator, "pseudos", "") is None for generator in generators)
    if backend.code == "cp2k":
        settings = [getattr(generator, "user_input_settings", {}) for generator in generators]
        return all("basis_type" in s.get("basis_and_potential", {}) for s in settings)
    return False


def _abinit_pseudos() -> Requirement:
    fix = f"apt install abinit-data, or set {abinit.FOLDER_VARIABLE} to a folder of El.psp8 or El.xml files"
    try:
        found = [f"{table.name} ({len(table.files)} elements)" for table in abinit.tables()]
    except ParameterError as error:
        return Requirement("abinit: pseudopotentials", None, str(error))
    return Requirement("abinit: pseudopotentials", ", ".join(found) or None, fix)


def _cp2k_data() -> Requirement:
    try:
        return Requirement("cp2k: data", str(cp2k.data_folder()), "")
    except ParameterError as error:
        return Requirement("cp2k: data", None, str(error))


def _potcars() -> str | None:
    from pymatgen.core import SETTINGS

    folder = SETTINGS.get("PMG_VASP_PSP_DIR")
    return str(folder) if folder and Path(str(folder)).expanduser().is_dir() else None
