"""From a raw row to a row of a dataset, or the reason why not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from dao_flows.makers.schemas import decoding
from dao_flows.makers.science.chemistry import element_of
from dao_flows.makers.science.duplicates import Reduced, reduced_cell
from dao_flows.model.elements import MAX_ATOMIC_NUMBER

from .config import BuildConfig
from .readers.cif import read_cif
from .readers.poscar import read_poscar
from .readers.raw import Raw, text
from .readers.refusal import RefusedError, Rejected, unreadable

MIN_VOLUME = 1e-3  # Å³
FLAT = 1e-6  # of the volume that right angles would give
FARTHEST = 1e6  # cells: beyond, little is left of the digits behind the point
LONGEST = 200  # characters of an error's text


@dataclass(frozen=True)
class Clean:
    """A row of the dataset, and the cell in which crystals are compared (None: they are not)."""

    row: dict[str, Any]
    cell: Reduced | None

    @property
    def formula(self) -> str:
        """Its reduced formula."""
        return str(self.row["reduced_formula"])


def clean(raw: Raw, config: BuildConfig, compare: bool) -> Clean | Rejected:
    """A row of a dataset: the Niggli cell, atoms in their order, coordinates in [0, 1).

    compare: reduce the crystal for comparison too. Whatever is wrong with a row becomes a Rejected.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = read_structure(raw)
            return _cleaned(structure, raw.values, config, compare)
    except RefusedError as refused:
        return refused.rejected
    except Exception as error:  # pymatgen's and spglib's readers raise all kinds, and one row never ends a build
        said = " ".join(str(error).split())[:LONGEST] or type(error).__name__
        return Rejected("unreadable", said)


def clean_held_out(raw: Raw) -> Clean | Rejected:
    """A held-out crystal for comparison: of any size and energy."""
    return clean(raw, BuildConfig(max_atoms=1_000_000, min_distance=0), compare=True)


def read_structure(raw: Raw) -> Structure:
    """An ordered, periodic structure of neutral elements. Raises RefusedError, and what the readers raise."""
    if raw.fault is not None:
        raise unreadable(raw.fault)
    if raw.kind in ("arrays", "sites"):
        species, cell, coordinates = raw.crystal
        lattice = np.asarray(cell, dtype=float).reshape(3, 3)
        sites = np.asarray(coordinates, dtype=float).reshape(-1, 3)
        if len(species) != len(sites) or not len(sites):
            raise unreadable(f"{len(species)} atoms and coordinates of {len(sites)}")
        if not (np.isfinite(lattice).all() and np.isfinite(sites).all()):
            raise unreadable("a lattice or coordinate is not finite")
        if abs(np.linalg.det(lattice)) < MIN_VOLUME:
            raise unreadable("the cell has no volume")
        elements = [element_of(s) if isinstance(s, str) else Element.from_Z(_whole(s)) for s in species]
        return Structure(Lattice(lattice), elements, sites, coords_are_cartesian=raw.kind == "sites")
    if raw.kind == "structure":
        structure = decoding.structure(raw.crystal)
    else:
        structure = (read_cif if raw.kind == "cif" else read_poscar)(str(raw.crystal))
    if not structure.is_ordered:
        raise RefusedError("disordered", "sites are partially occupied")
    if not all(structure.lattice.pbc):
        raise unreadable("it is not periodic in three directions")
    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        raise unreadable("a lattice or coordinate is not finite")
    plain = [Element.from_Z(site.specie.Z) for site in structure]  # without oxidation states and labels
    return Structure(structure.lattice, plain, structure.frac_coords)


def _whole(number: Any) -> int:
    if isinstance(number, bool) or int(number) != number:
        raise unreadable(f"{number} is no atomic number")
    return int(number)


def _cleaned(structure: Structure, values: Mapping[str, Any], config: BuildConfig, compare: bool) -> Clean:
    heaviest = max(structure.atomic_numbers)
    if heaviest > MAX_ATOMIC_NUMBER:
        raise unreadable(f"{Element.from_Z(heaviest).symbol}: elements beyond Z = {MAX_ATOMIC_NUMBER}")
    if structure.volume < MIN_VOLUME or structure.volume < FLAT * math.prod(structure.lattice.abc):
        raise unreadable("the cell has no volume")
    if np.abs(structure.frac_coords).max() > FARTHEST:
        raise unreadable("an atom is so many cells away that its place in one is not known")
    if config.primitive:
        structure = structure.get_primitive_structure()
    if not config.min_atoms <= len(structure) <= config.max_atoms:
        bounds = f"{config.min_atoms} to {config.max_atoms}"
        raise RefusedError("atoms", f"{len(structure)} atoms in the cell, not {bounds}")
    figures = {name: _figure(values, name) for name in ("e_above_hull", "formation_energy_per_atom")}
    _check_energy(figures["e_above_hull"], config)
    reduced = structure.get_reduced_structure("niggli")
    if config.min_distance and len(reduced.get_neighbor_list(config.min_distance)[0]):
        raise RefusedError("distance", f"two atoms are within {config.min_distance:g} Å")
    frac = (reduced.frac_coords % 1).astype(np.float32)
    frac[frac >= 1] = 0  # a coordinate just below 1 rounds to it
    row = {
        "material_id": None,
        "source": text(values, "source"),
        "reduced_formula": reduced.composition.reduced_formula,
        "n_atoms": len(reduced),
        "numbers": list(reduced.atomic_numbers),
        "lattice": reduced.lattice.matrix.astype(np.float32).ravel().tolist(),
        "frac": frac.ravel().tolist(),
        **figures,
        "e_above_hull_kind": text(values, "e_above_hull_kind"),
        "split": text(values, "split"),
        **{name: _figure(values, name) for name in config.properties},
    }
    return Clean(row, reduced_cell(reduced) if compare else None)


def _figure(values: Mapping[str, Any], name: str) -> float | None:
    """A number, or None where there is none. Raises RefusedError for text."""
    value = values.get(name)
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan", "none", "null")):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise unreadable(f"{name} is no number: {str(value)[:40]!r}") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise unreadable(f"{name} is infinite")
    return number


def _check_energy(energy: float | None, config: BuildConfig) -> None:
    if not config.windowed or (energy is None and config.keep_unlabelled):
        return
    if energy is None:
        raise RefusedError("energy", "its energy above hull is not known")
    if config.min_energy is not None and energy < config.min_energy:
        raise RefusedError("energy", f"{energy:g} eV/atom above hull is below {config.min_energy:g}")
    if config.max_energy is not None and energy > config.max_energy:
        raise RefusedError("energy", f"{energy:g} eV/atom above hull is above {config.max_energy:g}")
