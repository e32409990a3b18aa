"""The codes that verify, a file each, and the one list of them.

A file declares one `Code` (`code`) under the name CODE, from what is on a machine (`installed`) and what calculations
wrote, in our units (`results`). To add a code: its file here and a line in BACKENDS, or, in a package of your own, an
entry point of the group `dao_flows.backends` for each backend, whose value is the `Code`. Codes are loaded when they
are asked for, and only from these two lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dao_flows.makers.models import plugins
from dao_flows.makers.models.checkpoints import ParameterError

if TYPE_CHECKING:
    from .code import Code

BACKENDS = {  # as `--backend` names them -> the file of the code
    "forcefield": "forcefield",
    "abinit": "abinit",
    "cp2k": "cp2k",
    "vasp": "vasp",
    "vasp-r2scan": "vasp",
}
GROUP = "dao_flows.backends"  # of entry points: the backends of installed packages
HELP = f"{', '.join(BACKENDS)}, forcefield:NAME for another than CHGNet, or a backend of an installed package."


def names() -> list[str]:
    """All backends, those of installed packages too. Nothing is loaded."""
    return list(dict.fromkeys([*BACKENDS, *plugins.names(GROUP)]))


def load(name: str) -> Code:
    """The code by its own name or that of one of its backends.

    Raises ParameterError if there is none, or an installed package has one that cannot be used.
    """
    if (file := BACKENDS.get(name)) is not None:
        code: Code = import_module(f"{__name__}.{file}").CODE
        return code
    if name not in plugins.names(GROUP):
        raise ParameterError(f"there is no backend {name!r}: take one of {', '.join(names())}, or forcefield:NAME")
    from .code import Code

    found = plugins.load(GROUP, name)
    if not isinstance(found, Code) or name not in found.presets:
        raise ParameterError(f"the backend {name!r} of an installed package is no Code with a preset of this name")
    return found


def every(first: str | None = None) -> Iterator[Code]:
    """Each code once, `first` before the others. Those of installed packages that cannot be loaded are passed over."""
    seen = []
    for name in [*([first] if first else []), *names()]:
        try:
            code = load(name)
        except ParameterError:
            continue
        if code.name not in seen:
            seen.append(code.name)
            yield code


def of_document(task: Any, first: str) -> Code:
    """The code that reads a document of atomate2; `first` is asked before the others. Raises TypeError if none does."""
    for code in every(first):
        if code.reads(task):
            return code
    known = ", ".join(code.name for code in every())
    raise TypeError(f"a {type(task).__name__} cannot be read: makers of {known} can be used")
