"""ABINIT: PBE with the pseudopotentials of this machine, and the settings that follow from them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import Ha
from jobflow.core.maker import Maker
from pymatgen.core.structure import Structure

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.verification import Level

from .code import Code, Preset, Steps
from .installed import Program, Requirement
from .results import Outcome, bare, matrix, successful, text

DENSITY = 64  # k-points per Å⁻³ of the reciprocal cell: the Materials Project's for PBE
FOLDER_VARIABLE = "DAO_FLOWS_ABINIT_PSEUDOS"
SHARED = Path("/usr/share/abinit/psp")  # Debian's abinit-data
TABLES = ("Pseudodojo_nc_sr_04_pbe_standard_psp8", "Pseudodojo_paw_pbe_standard")
REPOSITORY = ("ONCVPSP-PBE-SR-PDv0.4", "standard")  # atomate2's default, of abipy's `abips.py install`
SUFFIXES = (".psp8", ".xml", ".upf")
# Published "normal" cut-offs of PseudoDojo's ONCVPSP-PBE-PDv0.4, standard table, Ha: for files without their .djrepo.
# As and Ga in abinit-data are variants without d electrons in the valence, for which these are more than enough.
ECUT = {"H": 36, "N": 42, "O": 42, "Al": 20, "Si": 18, "Ca": 34, "Zn": 42, "Ga": 40, "As": 42, "Se": 43, "In": 35}
ECUT_UNKNOWN = 48  # Ha; above the published value of nearly all elements
PAW_FINE_GRID = 2.0  # pawecutdg over ecut
# 3d elements with a moment of their own; the rare earths are not covered by any table above
MAGNETIC = frozenset({"V", "Cr", "Mn", "Fe", "Co", "Ni"})


def steps(ecut: float | None = None, density: int = DENSITY) -> dict[str, Maker]:
    """PBE: cell and atoms relaxed together, then static. ecut: Ha (None: what the pseudopotentials recommend).

    The relaxation may leave the cell that its plane waves were chosen for (dilatmx); the static calculation, in the
    plane waves of the final cell, has the energy that counts.
    """
    from atomate2.abinit.jobs.core import RelaxMaker, StaticMaker
    from atomate2.abinit.sets.core import StaticSetGenerator

    def common() -> dict[str, Any]:
        return {
            "pseudos": None,  # found where the job runs
            "factory_kwargs": {"smearing": "marzari4: 0.1 eV"} | ({} if ecut is None else {"ecut": ecut}),
            "user_kpoints_settings": {"reciprocal_density": density},
        }

    relax: Any = RelaxMaker.full_relaxation(user_abinit_settings={"dilatmx": 1.1, "chkdilatmx": 0}, **common())
    return {"relax": relax, "static": StaticMaker(input_set_generator=StaticSetGenerator(**common()))}


@dataclass(frozen=True)
class Table:
    """Pseudopotentials of one making, which may stand in one calculation. files: element -> file."""

    name: str
    files: dict[str, Path]


def tables() -> Iterator[Table]:
    """The tables found, the user's own first: $DAO_FLOWS_ABINIT_PSEUDOS, abipy's table, abinit-data's two."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        yield table(Path(folder).expanduser())
        return
    repository = _repository()
    if repository is not None:
        yield repository
    for name in TABLES:
        if (SHARED / name).is_dir():
            yield table(SHARED / name)


def table(folder: Path) -> Table:
    """The files of a folder by element: Si.psp8 before Si-sp.psp8, psp8 before XML. Raises ParameterError."""
    if not folder.is_dir():
        raise ParameterError(f"{FOLDER_VARIABLE}: {folder} is not a folder")
    files: dict[str, Path] = {}
    for path in sorted(
        folder.iterdir(), key=lambda p: (SUFFIXES.index(p.suffix) if p.suffix in SUFFIXES else 9, p.stem)
    ):
        element = re.match(r"[A-Z][a-z]?(?![a-z])", path.name)
        if path.suffix in SUFFIXES and element:
            files.setdefault(element.group(), path)
    kind = {path.suffix for path in files.values()}
    if len(kind) > 1:  # norm-conserving and PAW do not mix in one calculation
        files = {element: path for element, path in files.items() if path.suffix == min(kind, key=SUFFIXES.index)}
    return Table(folder.name, files)


def choose(elements: Collection[str]) -> Table:
    """The first table that has all elements. Raises ParameterError that names what is missing."""
    found = list(tables())
    for candidate in found:
        if set(elements) <= set(candidate.files):
            return candidate
    own = f"put PBE files (El.psp8 or El.xml) in a folder and set {FOLDER_VARIABLE} to it"
    fix = f"{own}, or `abips.py install {REPOSITORY[0]}`"
    if not found:
        raise ParameterError(f"ABINIT has no pseudopotentials here: apt install abinit-data, or {fix}")
    missing = "; ".join(f"{', '.join(sorted(set(elements) - set(t.files)))} in {t.name}" for t in found)
    wanted = ", ".join(sorted(elements))
    raise ParameterError(f"no table of ABINIT pseudopotentials has all of {wanted} (missing: {missing}): {fix}")


def pseudopotentials() -> Requirement:
    """The tables on this machine."""
    fix = f"apt install abinit-data, or set {FOLDER_VARIABLE} to a folder of El.psp8 or El.xml files"
    name = "abinit: pseudopotentials"
    try:
        found = [f"{table.name} ({len(table.files)} elements)" for table in tables()]
    except ParameterError as error:
        return Requirement(name, None, str(error))
    return Requirement(name, ", ".join(found) or None, fix)


def check(steps: Steps, elements: Collection[str]) -> None:
    """Raises ParameterError if a maker takes this machine's pseudopotentials, and an element has none."""
    if any(_takes_pseudos(maker) for maker in steps.values()):
        pseudopotentials().demand()
        choose(elements)


def fill(maker: Any, structure: Structure) -> dict[str, str]:
    """Give an atomate2 maker without pseudopotentials those of this machine, with a cut-off and spin that fit.

    Returns element -> sha256 of the file, empty if the maker has pseudopotentials of its own.
    """
    if not _takes_pseudos(maker):
        return {}
    generator = maker.input_set_generator
    elements = sorted({element.symbol for element in structure.composition.elements})
    files = choose(elements).files
    generator.pseudos = [str(files[element]) for element in elements]
    settings = generator.factory_kwargs
    if settings.get("ecut") is None:
        settings["ecut"] = max(ecut(element, files[element]) for element in elements)
    if files[elements[0]].suffix == ".xml":
        settings.setdefault("pawecutdg", PAW_FINE_GRID * settings["ecut"])
    settings.setdefault("spin_mode", "polarized" if MAGNETIC & set(elements) else "unpolarized")
    return {element: hashlib.sha256(files[element].read_bytes()).hexdigest() for element in elements}


def ecut(element: str, path: Path) -> float:
    """The cut-off that the makers of a pseudopotential recommend, Ha."""
    from pymatgen.io.abinit.pseudos import Pseudo

    if path.suffix == ".xml":
        with path.open(errors="replace") as lines:
            for _, line in zip(range(50), lines, strict=False):
                if found := re.search(r"<pw_ecut.*medium=\"([\d.]+)\"", line):
                    return float(found.group(1))
    elif path.with_suffix(".djrepo").exists():
        pseudo: Any = Pseudo.from_file(str(path))
        if told := pseudo.hint_for_accuracy("normal").ecut:
            return float(told)
    return float(ECUT.get(element, ECUT_UNKNOWN))


def _takes_pseudos(maker: Any) -> bool:
    return getattr(getattr(maker, "input_set_generator", None), "pseudos", "") is None


def _repository() -> Table | None:
    """The table that abipy has installed, if any. Its root is looked at first: abipy takes seconds to import."""
    root = os.environ.get("ABIPY_PSREPOS_ROOT") or "~/.abinit/pseudos"
    if not Path(root).expanduser().is_dir():
        return None
    try:
        from abipy.flowtk.psrepos import get_repo_from_name

        repository = get_repo_from_name(REPOSITORY[0])
        if not repository.is_installed():
            return None
        pseudos = repository.get_pseudos(REPOSITORY[1])
    except (ImportError, KeyError, OSError, ValueError):
        return None
    return Table(f"{REPOSITORY[0]}:{REPOSITORY[1]}", {pseudo.symbol: Path(pseudo.filepath) for pseudo in pseudos})


def read(task: Any, directory: Path) -> Outcome:
    """The figures of atomate2's AbinitTaskDoc."""
    used, pseudos = task.input.abinit_input, task.input.abinit_input.pseudos
    level = Level(
        code="abinit",
        code_version=task.calcs_reversed[-1].abinit_version,
        functional=task.input.xc,
        pseudopotentials={pseudo.symbol: _name(pseudo) for pseudo in pseudos},
        cutoff=float(used["ecut"]) * Ha,
        kpoints=_grid(used),
        spin_polarised=int(used.get("nsppol", 1)) == 2 or int(used.get("nspden", 1)) > 1,
    )
    return Outcome(
        structure=bare(task.structure),
        energy=float(task.output.energy),
        forces=matrix(task.output.forces),
        stress=matrix(task.output.stress),
        converged=successful(task),
        ionic_steps=_steps(directory),
        level=level,
    )


def complaint(directory: Path) -> str | None:
    """What ABINIT itself says went wrong, from its log."""
    ended = False
    for name in ("run.log", "__ABI_MPIABORTFILE__"):
        log = text(directory, name)
        blocks = re.findall(r"^--- !(?:ERROR|BUG)\n(.*?)^\.\.\.", log, re.MULTILINE | re.DOTALL)
        if blocks and (said := re.search(r"message: \|?(.*)", blocks[-1], re.DOTALL)):
            return " ".join(said.group(1).split())
        if name == "run.log" and log and "Calculation completed" not in log:
            ended = True
    return "ABINIT ended in the middle of its work, or was killed" if ended else None


def is_dft(output: Mapping[str, Any]) -> bool:
    """atomate2's AbinitTaskDoc."""
    return {"abinit_objects", "event_report"} <= set(output)


def _name(pseudo: Any) -> str:
    """A file's name and its table's: the name alone, Si.psp8, is the same in many tables."""
    path = Path(pseudo.filepath)
    return f"{path.parent.name}/{path.name}"


def _grid(used: Mapping[str, Any]) -> list[int] | None:
    if (divisions := used.get("ngkpt")) is not None:
        return [int(n) for n in divisions]
    lattice = used.get("kptrlatt")
    return None if lattice is None else [int(n) for n in np.abs(np.diag(np.reshape(lattice, (3, 3))))]


def _steps(directory: Path) -> int | None:
    from netCDF4 import Dataset

    history = directory / "outdata" / "out_HIST.nc"
    if not history.exists():
        return None
    with Dataset(history) as opened:
        return len(opened.dimensions["time"])


CODE = Code(
    name="abinit",
    presets={"abinit": Preset(steps)},
    document="atomate2.abinit.schemas.task.AbinitTaskDoc",
    read=read,
    install="pip install 'dao-flows[dft]'",
    packages=("atomate2", "abipy"),
    program=Program(
        setting="ABINIT_CMD",
        default="abinit",
        fix="apt install abinit, or load your site's module; another command: ATOMATE2_ABINIT_CMD",
    ),
    supplies=pseudopotentials,
    check=check,
    fill=fill,
    complaint=complaint,
    is_dft=is_dft,
)
