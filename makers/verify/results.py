"""What a calculation wrote, in one form for all codes: atomate2's documents each have their own names and units.

Energies in eV, forces in eV/Å, cut-offs in eV. Stresses in GPa, positive where the cell would shrink (the derivative
of the energy by strain over the volume, ASE's and ABINIT's sign; VASP's and atomate2's own documents have the other).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import Ha
from monty.json import jsanitize
from pymatgen.core.structure import Structure

from dao_flows.makers.schemas.verification import CustodianCorrection, Level, Matrix

KILOBAR = -0.1  # GPa, with the sign turned
BOX = r"^ \*\s*(\\___/|O/\||/\| \||/ \\|\|)?"  # the drawing in CP2K's messages
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


def read(task: Any, directory: Path) -> Outcome:
    """The outcome of an atomate2 task document. directory: where it ran. Raises TypeError for an unknown document."""
    readers: dict[str, Callable[[Any, Path], Outcome]] = {
        "atomate2.abinit.schemas.task.AbinitTaskDoc": _abinit,
        "atomate2.cp2k.schemas.task.TaskDocument": _cp2k,
        "emmet.core.tasks.TaskDoc": _vasp,
        "atomate2.forcefields.schemas.ForceFieldTaskDocument": _forcefield,
    }
    for cls in type(task).__mro__:
        if (reader := readers.get(f"{cls.__module__}.{cls.__qualname__}")) is not None:
            return reader(task, directory)
    raise TypeError(
        f"a {type(task).__name__} cannot be read: makers of ABINIT, CP2K, VASP and force fields can be used"
    )


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


def complaint(directory: Path) -> str | None:
    """What ABINIT or CP2K itself says went wrong, in its own words, on one line; None if it says nothing."""
    ended = False
    for name in ("run.log", "__ABI_MPIABORTFILE__"):
        text = _text(directory, name)
        blocks = re.findall(r"^--- !(?:ERROR|BUG)\n(.*?)^\.\.\.", text, re.MULTILINE | re.DOTALL)
        if blocks and (said := re.search(r"message: \|?(.*)", blocks[-1], re.DOTALL)):
            return " ".join(said.group(1).split())
        if name == "run.log" and text and "Calculation completed" not in text:
            ended = True
    if said := re.search(r"^ \*\s*\[ABORT\].*\n((?:^ \*.*\n)+)", _text(directory, "cp2k.out"), re.MULTILINE):
        lines = (re.sub(BOX, "", line).rstrip("* ") for line in said.group(1).splitlines())
        return " ".join(" ".join(lines).split())
    return "ABINIT ended in the middle of its work, or was killed" if ended else None


def _abinit(task: Any, directory: Path) -> Outcome:
    used, pseudos = task.input.abinit_input, task.input.abinit_input.pseudos
    level = Level(
        code="abinit",
        code_version=task.calcs_reversed[-1].abinit_version,
        functional=task.input.xc,
        pseudopotentials={pseudo.symbol: _abinit_name(pseudo) for pseudo in pseudos},
        cutoff=float(used["ecut"]) * Ha,
        kpoints=_grid(used),
        spin_polarised=int(used.get("nsppol", 1)) == 2 or int(used.get("nspden", 1)) > 1,
    )
    return Outcome(
        structure=_clean(task.structure),
        energy=float(task.output.energy),
        forces=_matrix(task.output.forces),
        stress=_matrix(task.output.stress),
        converged=str(getattr(task.state, "value", task.state)) == "successful",
        ionic_steps=_abinit_steps(directory),
        level=level,
    )


def _abinit_name(pseudo: Any) -> str:
    """A file's name and its table's: the name alone, Si.psp8, is the same in many tables."""
    path = Path(pseudo.filepath)
    return f"{path.parent.name}/{path.name}"


def _grid(used: Mapping[str, Any]) -> list[int] | None:
    if (divisions := used.get("ngkpt")) is not None:
        return [int(n) for n in divisions]
    lattice = used.get("kptrlatt")
    return None if lattice is None else [int(n) for n in np.abs(np.diag(np.reshape(lattice, (3, 3))))]


def _abinit_steps(directory: Path) -> int | None:
    from netCDF4 import Dataset

    history = directory / "outdata" / "out_HIST.nc"
    if not history.exists():
        return None
    with Dataset(history) as opened:
        return len(opened.dimensions["time"])


def _cp2k(task: Any, directory: Path) -> Outcome:
    last = task.calcs_reversed[0]
    text = _text(directory, "cp2k.out")
    used = last.input.cp2k_input if isinstance(last.input.cp2k_input, dict) else last.input.cp2k_input.as_dict()
    kinds = task.input.atomic_kind_info.atomic_kinds
    grid = re.search(r"SCHEME\s+MONKHORST-PACK\s+(\d+)\s+(\d+)\s+(\d+)", _text(directory, "cp2k.inp"))
    cutoff = re.search(r"QS\| Density cutoff \[a\.u\.\]:\s+([\d.]+)", text)
    level = Level(
        code="cp2k",
        code_version=str(last.cp2k_version),
        functional=_cp2k_functional(text, used),
        pseudopotentials={kind.element: f"{kind.potential} with {kind.basis}" for kind in kinds.values()},
        cutoff=float(cutoff.group(1)) * Ha if cutoff else None,
        kpoints=[int(n) for n in grid.groups()] if grid else [1, 1, 1],
        spin_polarised="UKS" in text and bool(re.search(r"DFT\| Spin unrestricted", text)),
    )
    converged = text.rfind("SCF run converged") > text.rfind("SCF run NOT converged")
    if last.task_type is not None and re.search(r"GLOBAL\| Run type\s+(CELL_OPT|GEO_OPT)", text):
        converged &= "GEOMETRY OPTIMIZATION COMPLETED" in text
    steps = last.output.ionic_steps
    return Outcome(
        structure=_clean(task.structure),
        energy=float(task.output.energy),
        forces=_matrix(task.output.forces),
        stress=_cp2k_stress(text),
        converged=converged,
        ionic_steps=len(steps) if steps else None,
        level=level,
    )


def _cp2k_stress(text: str) -> Matrix | None:
    """The last one of its output, GPa there with the pressure's sign; the parsed documents mix GPa and bar."""
    rows = r"".join(rf"STRESS\|\s+{axis}\s+(\S+)\s+(\S+)\s+(\S+)\n\s*" for axis in "xyz")
    found = re.findall(r"Analytical stress tensor \[GPa\]\n.*\n\s*" + rows, text)
    return [[-float(value) for value in found[-1][row : row + 3]] for row in (0, 3, 6)] if found else None


def _cp2k_functional(text: str, used: dict[str, Any]) -> str:
    """As CP2K names it in its output: 'PBE'."""
    found = re.findall(r"FUNCTIONAL\| ([A-Z0-9_]+):", text)
    return "+".join(dict.fromkeys(found)) or "unknown"


def _vasp(task: Any, directory: Path) -> Outcome:
    last = task.calcs_reversed[0]
    incar = {key.upper(): value for key, value in (last.input.incar or {}).items()}
    parameters = {key.upper(): value for key, value in (last.input.parameters or {}).items()}
    names = last.input.potcar_spec or []
    symbols = [re.split(r"[_.\s]", spec.titel.split()[1])[0] for spec in names if spec.titel]
    grid = getattr(last.input.kpoints, "kpts", None)
    run_type = str(getattr(task.run_type, "value", task.run_type))
    level = Level(
        code="vasp",
        code_version=last.vasp_version,
        functional={"GGA": "PBE", "GGA+U": "PBE+U", "R2SCAN": "r2SCAN", "r2SCAN": "r2SCAN"}.get(run_type, run_type),
        pseudopotentials={symbol: spec.titel for symbol, spec in zip(symbols, names, strict=False)},
        hubbard_u={symbol: float(u) for symbol, u in (last.input.hubbards or {}).items() if u},
        cutoff=_number(incar.get("ENCUT", parameters.get("ENMAX"))),
        kpoints=[int(n) for n in grid[0]] if grid is not None and len(grid) == 1 else None,
        spin_polarised=int(incar.get("ISPIN", parameters.get("ISPIN", 1))) == 2,
    )
    steps = last.output.ionic_steps
    return Outcome(
        structure=_clean(task.structure or task.output.structure),
        energy=float(task.output.energy),
        forces=_matrix(task.output.forces),
        stress=_matrix(task.output.stress, KILOBAR),
        converged=str(getattr(task.state, "value", task.state)) == "successful",
        ionic_steps=len(steps) if steps else None,
        level=level,
    )


def _forcefield(task: Any, directory: Path) -> Outcome:
    from atomate2.forcefields.utils import MLFF

    name, single = str(task.forcefield_name).removeprefix("MLFF."), (task.input.steps or 1) <= 1
    name = MLFF[name].value if name in MLFF.__members__ else name
    return Outcome(
        structure=_clean(task.structure),
        energy=float(task.output.energy),
        forces=_matrix(task.output.forces),
        stress=_matrix(task.output.stress, KILOBAR),
        converged=single or bool(task.is_force_converged),
        ionic_steps=task.output.n_steps,
        level=Level(code=name, code_version=task.forcefield_version, functional=name),
        forcefield_name=name,
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _matrix(values: Any, factor: float = 1.0) -> Matrix | None:
    """A plain matrix, None where there is none."""
    if values is None or not len(values):
        return None
    return [[float(value) * factor for value in row] for row in values]


def _clean(structure: Structure) -> Structure:
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


def _text(directory: Path, name: str) -> str:
    """A code's output, zipped or not; empty if there is none."""
    for path in (directory / name, directory / f"{name}.gz"):
        if path.exists():
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            return raw.decode(errors="replace")
    return ""
