"""ABINIT's pseudopotentials on this machine, and the settings that follow from them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_flows.makers.models.checkpoints import ParameterError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

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


def fill(maker: Any, structure: Structure) -> dict[str, str]:
    """Give an atomate2 maker without pseudopotentials those of this machine, with a cut-off and spin that fit.

    Returns element -> sha256 of the file, empty if the maker has pseudopotentials of its own.
    """
    generator = maker.input_set_generator
    if generator.pseudos is not None:
        return {}
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
