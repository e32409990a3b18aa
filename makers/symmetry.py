"""The symmetry of a structure, and the known prototype that it realises."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from .schemas import Symmetry


def space_group(structure: Structure, symprec: float) -> tuple[Symmetry | None, Structure | None]:
    """Space group by spglib at a tolerance (Å), and the symmetrised conventional cell; None where it finds none."""
    try:
        analyzer = SpacegroupAnalyzer(structure, symprec=symprec)
        found = Symmetry(
            symprec=symprec, number=analyzer.get_space_group_number(), symbol=analyzer.get_space_group_symbol()
        )
        return found, analyzer.get_refined_structure()
    except (ValueError, TypeError):
        return None, None


@cache
def _library() -> dict[str, list[Any]]:
    """The AFLOW Library of Crystallographic Prototypes (pymatgen ships it) by anonymous formula."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY  # type: ignore[attr-defined]

    entries = defaultdict(list)
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        entries[entry["snl"].structure.composition.anonymized_formula].append(entry)
    return dict(entries)


@cache
def _matcher(anonymous_formula: str) -> Any:
    """A matcher for the prototypes of one anonymous formula."""
    import pandas as pd
    from pymatgen.analysis.prototypes.matcher import PrototypeDatabaseMatcher

    return PrototypeDatabaseMatcher(pd.DataFrame(_library()[anonymous_formula]))


def prototype(structure: Structure) -> str | None:
    """The known prototype that a structure realises, as 'A15 (A3B_cP8_223_c_a)', or None.

    Matches by geometry at any assignment of elements; of several, the first of the library. Source: Mehl et al.,
    Comput. Mater. Sci. 136, S1 (2017).
    """
    anonymous = structure.composition.anonymized_formula
    if anonymous not in _library():
        return None
    found = _matcher(anonymous).get_prototypes(structure)
    if not found:
        return None
    tags = found[0]["tags"]
    names = [str(tags[key]) for key in ("strukturbericht", "mineral") if str(tags[key]) not in ("", "None")]
    return f"{names[0]} ({tags['aflow']})" if names else str(tags["aflow"])
