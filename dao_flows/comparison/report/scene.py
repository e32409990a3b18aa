"""A crystal as plotly traces in three dimensions: atoms, bonds and the cell."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError
from pymatgen.vis.structure_vtk import EL_COLORS

from dao_flows.makers.science.acceptance import radius

BOND = 1.2  # bonded: closer than this times the sum of covalent radii
EDGE = 0.02  # fractional: an atom so near to a face is drawn on the opposite one too
SIZE = 12.0  # pixels of an atom whose covalent radius is 1 Å
DIGITS = 3
LOOSE = 0.1  # Å
MOST_ATOMS = 100

Trace = dict[str, Any]


def in_one_setting(predicted: Structure, verified: Structure) -> tuple[Structure, Structure]:
    """Both as they can be seen side by side: the conventional cell, and where they match, the same choice of it."""
    first, second = _conventional(predicted), _conventional(verified)
    matcher = StructureMatcher(0.3, 0.5, 10, primitive_cell=False, attempt_supercell=True)  # the match rate's
    alike = None
    if len(first) % len(verified) == 0:
        with suppress(ValueError):
            alike = matcher.get_s2_like_s1(first, verified)  # type: ignore[no-untyped-call]
    return _upright(first), _upright(alike or second)


def _conventional(structure: Structure) -> Structure:
    """The conventional cell at the screening's loose tolerance, unless it grows too large to be looked at."""
    try:
        found = SpacegroupAnalyzer(structure, symprec=LOOSE).get_conventional_standard_structure()
    except (SymmetryUndeterminedError, ValueError, TypeError):
        return structure
    return found if len(found) <= MOST_ATOMS else structure


def _upright(structure: Structure) -> Structure:
    """The same crystal with a along x and b in the plane of x and y."""
    lattice = Lattice.from_parameters(*structure.lattice.parameters, vesta=True)
    return Structure(lattice, structure.species, structure.frac_coords)


def scene(structure: Structure) -> list[Trace]:
    """Traces of one unit cell, with the atoms on its faces and edges drawn on all of them. Lengths in Å."""
    symbols, places = _drawn_atoms(structure)
    elements = sorted(set(symbols))
    atoms: list[Trace] = []
    for symbol in elements:
        own = places[[s == symbol for s in symbols]]
        atoms.append(
            {
                "type": "scatter3d",
                "mode": "markers",
                "name": symbol,
                **_columns(own),
                "marker": {
                    "size": SIZE * radius(Element(symbol).Z) ** 0.5,
                    "color": colour(symbol),
                    "line": {"color": "rgba(60,60,60,0.7)", "width": 1},
                },
                "hovertemplate": f"{symbol} %{{x:.2f}}, %{{y:.2f}}, %{{z:.2f}} Å<extra></extra>",
            }
        )
    bonds = {"width": 6, "color": "rgba(128,128,128,0.8)"}
    cell = {"width": 2, "color": "rgba(128,128,128,0.9)"}
    return [_lines(_cell_edges(structure), cell), _lines(_bonds(symbols, places), bonds), *atoms]


@cache
def colour(symbol: str) -> str:
    """VESTA's colour of an element, grey for those it has none for."""
    found = EL_COLORS["VESTA"].get(symbol)
    return f"rgb({','.join(str(part) for part in found)})" if found else "rgb(150,150,150)"


def _drawn_atoms(structure: Structure) -> tuple[list[str], np.ndarray]:
    """Symbols and (m, 3) places of the atoms in the cell and on its boundary."""
    symbols: list[str] = []
    places: list[np.ndarray] = []
    for site in structure:
        frac = np.asarray(site.frac_coords) % 1
        frac[frac > 1 - EDGE] -= 1
        images = [(0, 1) if abs(x) < EDGE else (0,) for x in frac]
        for image in product(*images):
            symbols.append(site.specie.symbol)
            places.append(structure.lattice.get_cartesian_coords(frac + image))
    return symbols, np.array(places).reshape(-1, 3)


def _bonds(symbols: list[str], places: np.ndarray) -> list[np.ndarray]:
    radii = np.array([radius(Element(symbol).Z) for symbol in symbols])
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    near = (distance < BOND * (radii[:, None] + radii)) & (distance > 0.1)
    return [np.stack([places[i], places[j]]) for i, j in zip(*np.nonzero(np.triu(near)), strict=True)]


def _cell_edges(structure: Structure) -> list[np.ndarray]:
    corners = [np.array(corner) for corner in product((0, 1), repeat=3)]
    pairs = [(a, b) for a in corners for b in corners if (b - a).min() >= 0 and (b - a).sum() == 1]
    return [structure.lattice.get_cartesian_coords(np.stack(pair)) for pair in pairs]


def _lines(segments: list[np.ndarray], line: dict[str, Any]) -> Trace:
    gap = [None]
    columns = [
        [value for segment in segments for value in [*np.round(segment[:, axis], DIGITS).tolist(), *gap]]
        for axis in range(3)
    ]
    shared = {"type": "scatter3d", "mode": "lines", "showlegend": False, "hoverinfo": "skip", "line": line}
    return {**shared, **dict(zip("xyz", columns, strict=True))}


def _columns(places: np.ndarray) -> dict[str, list[float]]:
    return {axis: np.round(places[:, k], DIGITS).tolist() for k, axis in enumerate("xyz")}
