"""CP2K: PBE with GTH potentials under custodian; basis sets and potentials are read from its own data folder."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ase.units import Ha
from jobflow.core.maker import Maker
from pymatgen.core.structure import Structure

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.verification import Level, Matrix

from .code import Code, Preset, Steps
from .installed import Program, Requirement
from .results import Outcome, bare, matrix, text

DENSITY = 20  # k-points per Å⁻³ of the reciprocal cell. No symmetry but inversion is used: 32 for diamond, not 172
FOLDER_VARIABLE = "CP2K_DATA_DIR"  # CP2K's own
SHARED = Path("/usr/share/cp2k")  # Debian's cp2k-data
BASIS_FILE, POTENTIAL_FILE = "BASIS_MOLOPT", "GTH_POTENTIALS"
BOX = r"^ \*\s*(\\___/|O/\||/\| \||/ \\|\|)?"  # the drawing in its messages


def steps(basis: str = "DZVP-MOLOPT-SR-GTH", cutoff: float = 400, density: int = DENSITY) -> dict[str, Maker]:
    """PBE with GTH potentials under custodian: cell and atoms optimised together, then static. cutoff: Ry."""
    from atomate2.cp2k.jobs.core import CellOptMaker, StaticMaker
    from atomate2.cp2k.run import _DEFAULT_HANDLERS
    from atomate2.cp2k.sets.core import CellOptSetGenerator, StaticSetGenerator

    def settings() -> dict[str, Any]:
        names = {"basis_type": basis, "potential": "GTH-PBE"}  # looked up where the job runs
        return {
            "user_input_settings": {"basis_and_potential": names, "xc_functionals": "PBE", "cutoff": cutoff},
            "user_kpoints_settings": {"reciprocal_density": density},
        }

    def run() -> dict[str, Any]:
        # UnconvergedRelaxationErrorHandler raises KeyError on a cell optimisation that reaches its last step
        kept = [
            handler for handler in _DEFAULT_HANDLERS if type(handler).__name__ != "UnconvergedRelaxationErrorHandler"
        ]
        return {"handlers": kept}

    return {
        "relax": CellOptMaker(input_set_generator=CellOptSetGenerator(**settings()), run_cp2k_kwargs=run()),
        "static": StaticMaker(input_set_generator=StaticSetGenerator(**settings()), run_cp2k_kwargs=run()),
    }


def data_folder() -> Path:
    """The folder with the files of basis sets and potentials. Raises ParameterError."""
    folder = Path(os.environ.get(FOLDER_VARIABLE) or SHARED).expanduser()
    for name in (BASIS_FILE, POTENTIAL_FILE):
        if not (folder / name).is_file():
            raise ParameterError(
                f"CP2K's {name} is not in {folder}: apt install cp2k-data, or set {FOLDER_VARIABLE} to its data folder"
            )
    return folder


def basis_and_potential(elements: Collection[str], basis: str, potential: str) -> dict[str, dict[str, Any]]:
    """Objects of pymatgen for each element, as atomate2's input sets take them. Raises ParameterError."""
    folder = data_folder()
    found: dict[str, dict[str, Any]] = {}
    missing = []
    for element in sorted(elements):
        one, other = _entry(folder / BASIS_FILE, element, basis), _entry(folder / POTENTIAL_FILE, element, potential)
        missing += [f"no {name} for {element}" for name, text in ((basis, one), (potential, other)) if not text]
        if one and other:
            found[element] = _parsed(one, other) | {"aux_basis": None}
    if missing:
        raise ParameterError(f"CP2K's {folder} has {', '.join(missing)}: name others with makers of your own")
    return found


def data() -> Requirement:
    """The data folder on this machine."""
    try:
        return Requirement("cp2k: data", str(data_folder()), "")
    except ParameterError as error:
        return Requirement("cp2k: data", None, str(error))


def check(steps: Steps, elements: Collection[str]) -> None:
    """Raises ParameterError if all makers take this machine's basis sets and potentials, and an element has none."""
    named = [_settings(maker).get("basis_and_potential", {}) for maker in steps.values()]
    if all("basis_type" in each for each in named):
        data().demand()
        for each in named:
            basis_and_potential(elements, each["basis_type"], each["potential"])


def fill(maker: Any, structure: Structure) -> dict[str, str]:
    """Resolve a preset's names of basis and potential, and its density of k-points, for one structure.

    A Monkhorst-Pack grid is written whatever the density gives, CP2K's k-points being one of those or none. Returns
    nothing: the basis sets and potentials stand in the maker's settings.
    """
    from pymatgen.io.vasp.inputs import Kpoints

    generator: Any = getattr(maker, "input_set_generator", None)
    if not hasattr(generator, "user_input_settings"):
        return {}
    wanted = generator.user_input_settings.get("basis_and_potential", {})
    if set(wanted) == {"basis_type", "potential"}:
        elements = {element.symbol for element in structure.composition.elements}
        explicit = basis_and_potential(elements, wanted["basis_type"], wanted["potential"])
        generator.user_input_settings = generator.user_input_settings | {"basis_and_potential": explicit}
    density = generator.user_kpoints_settings
    if isinstance(density, dict) and set(density) == {"reciprocal_density"}:
        grid = Kpoints.automatic_density_by_vol(structure, density["reciprocal_density"]).kpts[0]
        generator.user_kpoints_settings = Kpoints.monkhorst_automatic(tuple(grid))
    return {}


def _parsed(basis: str, potential: str) -> dict[str, Any]:
    from pymatgen.io.cp2k.inputs import GaussianTypeOrbitalBasisSet, GthPotential

    objects = {"basis": GaussianTypeOrbitalBasisSet.from_str(basis), "potential": GthPotential.from_str(potential)}
    objects["basis"].filename, objects["potential"].filename = BASIS_FILE, POTENTIAL_FILE
    return objects


def _entry(path: Path, element: str, name: str) -> str | None:
    """The lines of one entry of a CP2K data file, by any of its names."""
    return next((text for (symbol, names), text in _entries(path) if symbol == element and name in names), None)


@lru_cache(maxsize=4)
def _entries(path: Path) -> list[tuple[tuple[str, frozenset[str]], str]]:
    from pymatgen.io.cp2k.utils import chunk

    heads = ((text, text.split("\n")[0].split()) for text in chunk(path.read_text()))
    return [((words[0], frozenset(words[1:])), text) for text, words in heads]


def read(task: Any, directory: Path) -> Outcome:
    """The figures of atomate2's TaskDocument of CP2K, and of the output beside it."""
    last = task.calcs_reversed[0]
    said = text(directory, "cp2k.out")
    kinds = task.input.atomic_kind_info.atomic_kinds
    grid = re.search(r"SCHEME\s+MONKHORST-PACK\s+(\d+)\s+(\d+)\s+(\d+)", text(directory, "cp2k.inp"))
    cutoff = re.search(r"QS\| Density cutoff \[a\.u\.\]:\s+([\d.]+)", said)
    level = Level(
        code="cp2k",
        code_version=str(last.cp2k_version),
        functional=_functional(said),
        pseudopotentials={kind.element: f"{kind.potential} with {kind.basis}" for kind in kinds.values()},
        cutoff=float(cutoff.group(1)) * Ha if cutoff else None,
        kpoints=[int(n) for n in grid.groups()] if grid else [1, 1, 1],
        spin_polarised="UKS" in said and bool(re.search(r"DFT\| Spin unrestricted", said)),
    )
    converged = said.rfind("SCF run converged") > said.rfind("SCF run NOT converged")
    if last.task_type is not None and re.search(r"GLOBAL\| Run type\s+(CELL_OPT|GEO_OPT)", said):
        converged &= "GEOMETRY OPTIMIZATION COMPLETED" in said
    steps = last.output.ionic_steps
    return Outcome(
        structure=bare(task.structure),
        energy=float(task.output.energy),
        forces=matrix(task.output.forces),
        stress=_stress(said),
        converged=converged,
        ionic_steps=len(steps) if steps else None,
        level=level,
    )


def complaint(directory: Path) -> str | None:
    """What CP2K itself says went wrong, from its output."""
    if said := re.search(r"^ \*\s*\[ABORT\].*\n((?:^ \*.*\n)+)", text(directory, "cp2k.out"), re.MULTILINE):
        lines = (re.sub(BOX, "", line).rstrip("* ") for line in said.group(1).splitlines())
        return " ".join(" ".join(lines).split())
    return None


def is_dft(output: Mapping[str, Any]) -> bool:
    """atomate2's CP2K document of a calculation with a functional: CP2K has force fields, too."""
    inputs = output.get("input")
    return "cp2k_objects" in output and isinstance(inputs, Mapping) and bool(inputs.get("xc"))


def _settings(maker: Any) -> dict[str, Any]:
    found: dict[str, Any] = getattr(getattr(maker, "input_set_generator", None), "user_input_settings", {})
    return found


def _stress(said: str) -> Matrix | None:
    """The last one of its output, GPa there with the pressure's sign; the parsed documents mix GPa and bar."""
    rows = r"".join(rf"STRESS\|\s+{axis}\s+(\S+)\s+(\S+)\s+(\S+)\n\s*" for axis in "xyz")
    found = re.findall(r"Analytical stress tensor \[GPa\]\n.*\n\s*" + rows, said)
    return [[-float(value) for value in found[-1][row : row + 3]] for row in (0, 3, 6)] if found else None


def _functional(said: str) -> str:
    """As CP2K names it in its output: 'PBE'."""
    found = re.findall(r"FUNCTIONAL\| ([A-Z0-9_]+):", said)
    return "+".join(dict.fromkeys(found)) or "unknown"


CODE = Code(
    name="cp2k",
    presets={"cp2k": Preset(steps)},
    document="atomate2.cp2k.schemas.task.TaskDocument",
    read=read,
    install="pip install 'dao-flows[dft]'",
    packages=("atomate2", "custodian"),
    program=Program(
        setting="CP2K_CMD",
        default="cp2k.psmp",
        fix="apt install cp2k, or load your site's module; another command: ATOMATE2_CP2K_CMD",
    ),
    supplies=data,
    check=check,
    fill=fill,
    complaint=complaint,
    is_dft=is_dft,
)
