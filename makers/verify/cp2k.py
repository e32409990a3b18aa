"""CP2K's basis sets and potentials on this machine, read from its own data folder."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_flows.makers.models.checkpoints import ParameterError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FOLDER_VARIABLE = "CP2K_DATA_DIR"  # CP2K's own
SHARED = Path("/usr/share/cp2k")  # Debian's cp2k-data
BASIS_FILE, POTENTIAL_FILE = "BASIS_MOLOPT", "GTH_POTENTIALS"


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


def fill(maker: Any, structure: Structure) -> None:
    """Resolve a preset's names of basis and potential, and its density of k-points, for one structure.

    A Monkhorst-Pack grid is written whatever the density gives, CP2K's k-points being one of those or none.
    """
    from pymatgen.io.vasp.inputs import Kpoints

    generator = maker.input_set_generator
    wanted = generator.user_input_settings.get("basis_and_potential", {})
    if set(wanted) == {"basis_type", "potential"}:
        elements = {element.symbol for element in structure.composition.elements}
        explicit = basis_and_potential(elements, wanted["basis_type"], wanted["potential"])
        generator.user_input_settings = generator.user_input_settings | {"basis_and_potential": explicit}
    density = generator.user_kpoints_settings
    if isinstance(density, dict) and set(density) == {"reciprocal_density"}:
        grid = Kpoints.automatic_density_by_vol(structure, density["reciprocal_density"]).kpts[0]
        generator.user_kpoints_settings = Kpoints.monkhorst_automatic(tuple(grid))


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
