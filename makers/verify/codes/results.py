"""What a calculation wrote, in one form for all codes: atomate2's documents each have their own names and units.

Energies in eV, forces in eV/Å, cut-offs in eV. Stresses in GPa, positive where the cell would shrink (the derivative
of the energy by strain over the volume, ASE's and ABINIT's sign; VASP's and atomate2's own documents have the other).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monty.json import jsanitize
from pymatgen.core.structure import Structure

from dao_flows.makers.schemas.verification import CustodianCorrection, Level, Matrix

KILOBAR = -0.1  # GPa, with the sign turned
LARGEST_TASK = 4_000_000  # characters; a store's document may have 16 MB


class UnconvergedError(RuntimeError):
    """A calculation that ran to its end without converging."""


@dataclass(frozen=True)
class Outcome:
    """What counts of a finished calculation."""

    structure: Structure
    energy: float
    forces: Matrix | None
    stress: Matrix | None
    converged: bool
    ionic_steps: int | None
    level: Level
    forcefield_name: str | None = None


def of_ase(task: Any, level: Level, forcefield_name: str | None = None) -> Outcome:
    """The outcome of a document of atomate2's ASE makers, force fields among them. level: at which it was computed."""
    single = (task.input.steps or 1) <= 1
    return Outcome(
        structure=bare(task.structure),
        energy=float(task.output.energy),
        forces=matrix(task.output.forces),
        stress=matrix(task.output.stress, KILOBAR),
        converged=single or bool(task.is_force_converged),
        ionic_steps=task.output.n_steps,
        level=level,
        forcefield_name=forcefield_name,
    )


def successful(task: Any) -> bool:
    """Whether a document of atomate2 says that its calculation converged."""
    return str(getattr(task.state, "value", task.state)) == "successful"


def task_dict(task: Any) -> dict[str, Any]:
    """A task document as plain data: without monty's class names, which would come back as objects of any version.

    Volumetric data, band structures and trajectories stay in the directory; so do the single steps of a calculation
    whose document would be too large.
    """
    plain = _plain(jsanitize(task, strict=True, enum_values=True))
    plain = {name: value for name, value in plain.items() if not name.endswith("objects")}
    if len(json.dumps(plain)) > LARGEST_TASK:
        plain.pop("calcs_reversed", None)
        (plain.get("output") or {}).pop("ionic_steps", None)
    return plain


def corrections(directory: Path) -> list[CustodianCorrection]:
    """What custodian did, from its own record in the directory; none where custodian did not run."""
    found = []
    for path in sorted(directory.glob("custodian.json*")):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for run in json.loads(text):
            for entry in run.get("corrections", []):
                actions = entry.get("actions")
                actions = actions if isinstance(actions, list) else [actions] if actions else []
                found.append(
                    CustodianCorrection(
                        errors=[str(error) for error in entry.get("errors") or []],
                        actions=[
                            action if isinstance(action, str) else json.dumps(_plain(jsanitize(action)))
                            for action in actions
                        ],
                    )
                )
    return found


def number(value: Any) -> float | None:
    """A plain number, None where there is none."""
    return None if value is None else float(value)


def matrix(values: Any, factor: float = 1.0) -> Matrix | None:
    """A plain matrix, None where there is none."""
    if values is None or not len(values):
        return None
    return [[float(value) * factor for value in row] for row in values]


def bare(structure: Structure) -> Structure:
    """Pymatgen's own, with magnetic moments where there are any, and nothing else of a code's."""
    moments = structure.site_properties.get("magmom")
    keep = (
        {"magmom": [float(m) for m in moments]} if moments and all(isinstance(m, int | float) for m in moments) else {}
    )
    return Structure(
        structure.lattice.matrix,
        [site.specie.symbol for site in structure],
        structure.frac_coords,
        site_properties=keep,
    )


def _plain(value: Any) -> Any:
    """Without monty's markers, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not str(key).startswith("@")}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def text(directory: Path, name: str) -> str:
    """A code's output, zipped or not; empty if there is none."""
    for path in (directory / name, directory / f"{name}.gz"):
        if path.exists():
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            return raw.decode(errors="replace")
    return ""
