"""CIF: the data blocks of a file, and the structure of one that says all that is needed of it.

pymatgen's parser mends what it can. Here a block is taken only where nothing was mended that could change the crystal,
and where the atoms are those that the block itself states: `cif_statements` compares them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifParser

from dao_flows.makers.schemas import decoding
from dao_flows.makers.science.chemistry import element_of

from .cif_statements import check_counts, check_symmetry
from .refusal import RefusedError, unreadable

HEADING = re.compile(r"data_(\S*)", re.IGNORECASE)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(\(\d+\)?)?", re.ASCII)
TYPE = re.compile(r"([A-Za-z]{1,2})(\d*\.?\d*[+-]?|[+-]\d*\.?\d*)", re.ASCII)  # an element, maybe with its charge
LABEL = re.compile(r"[A-Za-z]+", re.ASCII)
CELL = tuple(
    f"_cell_{name}" for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
)
SITES = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
# what pymatgen says of a file that it read without changing the crystal
SYMMETRY_BY_NAME = "Spacegroup from "
HARMLESS = (
    "fractional coordinates rounded to ideal values",
    SYMMETRY_BY_NAME,
    "A 1-line symmetry op P1 CIF",
    "No _symmetry_equiv_pos_as_xyz type key found. Defaulting to P1",  # cif_statements judges that
    "electronegativity",  # of noble gases: nothing in the file
)


@dataclass(frozen=True)
class Block:
    """A data block: its name, its text with the heading, and whether it holds atoms."""

    name: str
    text: str

    @property
    def holds_atoms(self) -> bool:
        """Whether it has a list of atoms, or the cell of one."""
        lowered = self.text.lower()
        return "_atom_site_" in lowered or "_cell_length_" in lowered


def blocks(text: str) -> list[Block]:
    """The data blocks of a CIF in their order. Headings within text fields (between semicolons) are none."""
    found: list[tuple[str, list[str]]] = []
    within = False
    for line in text.split("\n"):
        if line.startswith(";"):
            within = not within
        elif not within and (heading := HEADING.match(line.lstrip())):
            found.append((heading[1], []))
        if found:
            found[-1][1].append(line)
    return [Block(name, "\n".join(lines)) for name, lines in found]


def read_cif(text: str) -> Structure:
    """The structure of the one crystal in a CIF. Raises RefusedError where there is none, several, or a guess."""
    crystals = [block for block in blocks(text) if block.holds_atoms]
    if len(crystals) != 1:
        raise unreadable(
            f"its CIF holds {len(crystals) or 'no'} crystals, not one" if text.strip() else "its CIF is empty"
        )
    return _read(crystals[0].text)


def _read(text: str) -> Structure:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parser = CifParser.from_str(decoding.unevaluated(text), check_cif=False)
        (found,) = parser.as_dict().values()
        stated = {str(name).lower(): value for name, value in found.items()}
        elements = _check_sites(stated)
        structure: Structure = parser.parse_structures(primitive=False, on_error="raise")[0]
    of_parser: list[str] = vars(parser)["warnings"]  # set where the class does not declare it
    said = [*of_parser, *(str(w.message) for w in caught if issubclass(w.category, UserWarning))]
    for warning in said:
        if not any(known in warning for known in HARMLESS):
            raise unreadable(f"its CIF is not clear: {' '.join(warning.split())[:150]}")
    if {site.specie.Z for site in structure if site.is_ordered} != {element.Z for element in elements}:
        raise unreadable("its CIF is read with other elements than it names")
    operations = parser.symmetry_operations or []
    confirmed = check_counts(stated, structure)
    named = any(SYMMETRY_BY_NAME in warning for warning in of_parser)
    check_symmetry(stated, structure, operations, confirmed, named)
    return structure


def _check_sites(stated: Mapping[str, Any]) -> set[Element]:
    """The elements of the listed atoms. Raises RefusedError for what is not known of cell or atoms."""
    for name in CELL:
        if not _is_number(stated.get(name)):
            raise unreadable(f"its {name} is not known: {str(stated.get(name))[:20]}")
    if str(stated.get("_cell_modulation_dimension", "0")).strip() not in ("0", ".", "?"):
        raise unreadable("it is modulated: its cell holds an average")
    if not all(isinstance(stated.get(name), list) and stated[name] for name in SITES):
        raise unreadable("it lists no fractional coordinates of atoms")
    for place, position in enumerate(zip(*(stated[name] for name in SITES), strict=True)):
        if not all(_is_number(value) for value in position):
            name = _column(stated, "_atom_site_label", place) or f"atom {place + 1}"
            raise unreadable(f"the position of {name} is not known: {' '.join(map(str, position))[:40]}")
    _check_occupancies(stated)
    return {_site_element(stated, place) for place in range(len(stated[SITES[0]]))}


def _check_occupancies(stated: Mapping[str, Any]) -> None:
    """Raises RefusedError for a site that is not wholly of one element."""
    for value in _all(stated, "_atom_site_occupancy"):
        if not _is_number(value):
            raise unreadable(f"an occupancy is not known: {value[:20]!r}")
        if abs(float(value.partition("(")[0]) - 1) > 1e-6:
            raise RefusedError("disordered", f"a site is occupied by {value}, not 1")
    if any(value not in (".", "?", "0", "") for value in _all(stated, "_atom_site_disorder_group")):
        raise RefusedError("disordered", "it has disordered groups of atoms")
    for name in ("_atom_site_attached_hydrogens", "_atom_site_number_hydrogens"):
        if any(value not in (".", "?", "0", "") for value in _all(stated, name)):
            raise unreadable("it counts hydrogens that are not in its list of atoms")
    flags = _all(stated, "_atom_site_calc_flag")
    if any(value.lower() == "dum" for value in flags):
        raise unreadable("it lists dummy sites among its atoms")


def _site_element(stated: Mapping[str, Any], place: int) -> Element:
    """By the type symbol, else by the letters of the label."""
    if (symbol := _column(stated, "_atom_site_type_symbol", place)) and symbol not in (".", "?"):
        matched = TYPE.fullmatch(symbol)
        letters = matched[1] if matched else symbol
    else:
        label = _column(stated, "_atom_site_label", place) or ""
        matched = LABEL.match(label)
        letters, symbol = matched[0] if matched else label, label
    try:
        return element_of(letters)
    except ValueError:
        raise unreadable(f"{symbol[:20]!r} in its list of atoms is no element") from None


def _column(stated: Mapping[str, Any], name: str, place: int) -> str | None:
    column = stated.get(name)
    return str(column[place]).strip() if isinstance(column, list) and place < len(column) else None


def _all(stated: Mapping[str, Any], name: str) -> Iterator[str]:
    column = stated.get(name)
    yield from (str(value).strip() for value in (column if isinstance(column, list) else []))


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and NUMBER.fullmatch(value.strip()) is not None
