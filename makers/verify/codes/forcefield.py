"""A force field of atomate2 in DFT's place: the cheap rehearsal."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from jobflow.core.maker import Maker

from dao_flows.makers.jobs.provenance import installed_version
from dao_flows.makers.models.atomate import CHGNET, INSTALL, known_name, package_version
from dao_flows.makers.schemas.verification import Level

from .code import Code, Preset, Steps
from .installed import Requirement
from .results import Outcome, of_ase


def steps(name: str = CHGNET) -> dict[str, Maker]:
    """Relaxed, then static. name: as atomate2 calls the force field."""
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker

    known = known_name(name)
    return {
        "relax": ForceFieldRelaxMaker(force_field_name=known),
        "static": ForceFieldStaticMaker(force_field_name=known),
    }


def option(name: str) -> str:
    """A force field's name as atomate2 has it; '' for the one that is taken where none is named."""
    known = known_name(name)
    return "" if known == CHGNET else known


def chgnet() -> Requirement:
    """The package of the force field that is taken where none is named."""
    return Requirement("forcefield: CHGNet", installed_version("chgnet"), INSTALL)


def check(steps: Steps, elements: Collection[str]) -> None:
    """Raises ParameterError if the package of a force field is not installed."""
    from atomate2.forcefields.utils import MLFF

    for maker in steps.values():
        meta = getattr(maker, "calculator_meta", None)  # of a class of the user's own, nothing is known
        if isinstance(meta, MLFF):
            package_version(meta.value)


def version(maker: Maker) -> str | None:
    """Of the package of an atomate2 force field; None for any other maker."""
    if (meta := getattr(maker, "calculator_meta", None)) is None:
        return None
    from atomate2.forcefields.utils import _get_pkg_version

    return str(_get_pkg_version(meta))


def read(task: Any, directory: Path) -> Outcome:
    """The figures of atomate2's ForceFieldTaskDocument."""
    from atomate2.forcefields.utils import MLFF

    name = str(task.forcefield_name).removeprefix("MLFF.")
    name = MLFF[name].value if name in MLFF.__members__ else name
    return of_ase(task, Level(code=name, code_version=task.forcefield_version, functional=name), forcefield_name=name)


CODE = Code(
    name="forcefield",
    presets={"forcefield": Preset(steps, option=option)},
    document="atomate2.forcefields.schemas.ForceFieldTaskDocument",
    read=read,
    install=INSTALL,
    supplies=chgnet,
    check=check,
    version=version,
)
