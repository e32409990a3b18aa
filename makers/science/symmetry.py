"""The symmetry of a structure, and the known prototype that it realises."""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections import defaultdict
from functools import cache
from importlib.resources import files

from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from dao_flows.makers.schemas import decoding
from dao_flows.makers.schemas.prediction import Symmetry

from .duplicates import Tolerance, lattices_fit
from .structures import compact, primitive_niggli

os.environ.setdefault("SPGLIB_WARNING", "OFF")  # its C code would write to stderr what a caller is told anyway

TIGHT, LOOSE = 0.01, 0.1  # symprec, Å: what is exact, and what relaxation might make so


def space_group(structure: Structure, symprec: float) -> tuple[Symmetry | None, Structure | None]:
    """Space group by spglib at a tolerance (Å), and the symmetrised conventional cell; None where it finds none."""
    try:
        analyzer = SpacegroupAnalyzer(compact(structure), symprec=symprec)
        found = Symmetry(
            symprec=symprec, number=analyzer.get_space_group_number(), symbol=analyzer.get_space_group_symbol()
        )
        return found, analyzer.get_refined_structure()
    except (ValueError, TypeError):
        return None, None


LATEX = {"$\\mu$": "μ", "\\'{c}": "ć", "\\'": "'"}  # all that there is in the library's names


def _plain(name: str) -> str:
    """A name without LaTeX."""
    for latex, text in LATEX.items():
        name = name.replace(latex, text)
    return name


@cache
def prototypes() -> dict[str, list[tuple[str, Structure]]]:
    """Labels and cells of the AFLOW Library of Crystallographic Prototypes, by anonymous formula.

    pymatgen ships it; its own loader takes seconds to parse the references that come with each prototype.
    """
    path = files("pymatgen.analysis") / "prototypes" / "aflow_prototypes.json.gz"
    if not path.is_file():
        warnings.warn("this version of pymatgen ships no prototypes: none will be named", stacklevel=2)
        return {}
    entries = defaultdict(list)
    for entry in json.loads(gzip.decompress(path.read_bytes())):
        structure, tags = decoding.structure(entry["snl"]), entry["tags"]
        names = [_plain(str(tags[key])) for key in ("strukturbericht", "mineral") if str(tags[key]) not in ("", "None")]
        label = f"{names[0]} ({tags['aflow']})" if names else str(tags["aflow"])
        entries[structure.composition.anonymized_formula].append((label, structure))
    return dict(entries)


@cache
def prototypes_of(anonymous_formula: str) -> list[tuple[str, Structure]]:
    """Labels and primitive cells of the prototypes of one anonymous formula."""
    return [(label, primitive_niggli(structure)) for label, structure in prototypes().get(anonymous_formula, [])]


def prototype(structure: Structure) -> str | None:
    """The known prototype that a structure realises, as 'A15 (A3B_cP8_223_c_a)', or None.

    Matches by geometry at any assignment of elements, by StructureMatcher with its default tolerances; where several
    match, the tolerances shrink until one is left. Source: Mehl et al., Comput. Mater. Sci. 136, S1 (2017).
    """
    cell = primitive_niggli(structure)
    # cells of another number of atoms never match; sorting them out here spares the matcher's copies of both
    found = [e for e in prototypes_of(structure.composition.anonymized_formula) if len(e[1]) == len(cell)]
    tolerance = 1.0
    while found:
        limits = Tolerance(ltol=0.2 * tolerance, stol=0.3 * tolerance, angle_tol=5 * tolerance)
        matcher = StructureMatcher(ltol=limits.ltol, stol=limits.stol, angle_tol=limits.angle_tol)
        closer = [
            e
            for e in found
            if lattices_fit(e[1].lattice, cell.lattice, limits)
            and matcher.fit_anonymous(e[1], cell, skip_structure_reduction=True)
        ]
        if tolerance < 1 and not closer:
            break
        found, tolerance = closer, tolerance * 0.8
        if len(found) == 1 or tolerance < 0.05:
            break
    return found[0][0] if found else None


def symmetrised_primitive(structure: Structure, symprec: float) -> Structure:
    """The primitive cell with the symmetry that spglib finds at a tolerance (Å) made exact.

    The primitive cell as it is, where spglib finds no symmetry, or would merge atoms to find it.
    """
    reduced = compact(structure)
    try:
        cell = SpacegroupAnalyzer(reduced, symprec=symprec).get_primitive_standard_structure()
    except (ValueError, TypeError):
        cell = None
    if (
        cell is None
        or cell.composition.reduced_formula != structure.composition.reduced_formula
        or len(cell) > len(reduced)
    ):
        cell = reduced.get_primitive_structure()
    return Structure(cell.lattice, [site.specie.symbol for site in cell], cell.frac_coords)
