"""What is on this machine of what a code needs: its program, packages, pseudopotentials; and the line that fixes it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from dao_flows.makers.models.checkpoints import ParameterError


@dataclass(frozen=True)
class Requirement:
    """One thing that a code needs. found: what is there, None if it is not; fix: what to do about it."""

    name: str
    found: str | None
    fix: str

    def demand(self) -> None:
        """Raises ParameterError, one line, if it is not there."""
        if self.found is None:
            raise ParameterError(f"{self.name} not found: {self.fix}")


@dataclass(frozen=True)
class Program:
    """A code's program. setting: atomate2's, of the line that calls it; default: that line where nothing else is set.

    fix: what to do where it is not found. tells_version: whether it has `--version`.
    """

    setting: str
    default: str
    fix: str
    tells_version: bool = True

    def command(self) -> str:
        """The line that atomate2 calls it by."""
        if find_spec("atomate2") is None:
            return os.environ.get(f"ATOMATE2_{self.setting}", self.default)
        from atomate2 import SETTINGS

        return str(getattr(SETTINGS, self.setting))

    def version(self) -> str | None:
        """That it tells of itself; None if it tells none, or is not there. Behind mpirun: of what mpirun calls."""
        if not self.tells_version:
            return None
        found = (shutil.which(word) for word in reversed(self._words()))
        path = next(filter(None, found), None)
        return None if path is None else _version(path)

    def found(self) -> str | None:
        """Its path, with its version."""
        words = self._words()
        path = shutil.which(words[0]) if words else None
        told = self.version() if path is not None else None
        return f"{path}, {told}" if told else path

    def _words(self) -> list[str]:
        return shlex.split(os.path.expandvars(self.command()))


@cache
def _version(path: str) -> str | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(?:version )?(\d+\.\d+(?:\.\d+)*)", said)
    return found.group(1) if found else None
