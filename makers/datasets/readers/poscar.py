"""POSCAR files as VASP reads them, and nothing guessed: elements that a file does not name are not made up."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from dao_flows.makers.science.chemistry import element_of

from .refusal import unreadable

# VASP looks at the first letter alone; a word that only begins like one of these may mean the opposite (Crystal)
MODES = {"direct": "direct", "cartesian": "cartesian", "kartesian": "cartesian"}
HEAD = 5  # comment, scale and three vectors
TITLE = re.compile(r"^\s*TITEL\s*=\s*\S+\s+([A-Z][a-z]?)(?:[_.\s]|$)", re.MULTILINE)


def potcar_symbols(text: str) -> list[str]:
    """The elements of a POTCAR, in order."""
    return TITLE.findall(text)


def symbols_stated(text: str) -> list[str] | None:
    """The elements that a POSCAR names above its counts, None if it has none there (VASP 4)."""
    return _above_counts([_content(line) for line in text.splitlines()])[0] or None


def with_symbols(text: str, symbols: Sequence[str]) -> str:
    """A POSCAR of VASP 4 with a line of symbols."""
    lines = text.splitlines()
    return "\n".join([*lines[:HEAD], " ".join(symbols), *lines[HEAD:]])


def read_poscar(text: str) -> Structure:
    """The structure of a POSCAR or CONTCAR; velocities behind it are passed over.

    Raises RefusedError where the file does not say what stands where.
    """
    lines = [_content(line) for line in text.splitlines()]
    if len(lines) <= HEAD + 1:
        raise unreadable("the POSCAR ends early")
    matrix = _numbers(lines[2:HEAD], "a vector of its cell")
    scale = _scale(lines[1], matrix)
    symbols, counts, place = _elements(lines)
    selective = lines[place].strip()[:1].lower() == "s" if place < len(lines) else False
    place += selective
    mode = lines[place].strip() if place < len(lines) else ""
    kind = _mode(mode)
    if kind is None:
        raise unreadable(f"{mode[:40]!r} stands where Direct or Cartesian is expected")
    atoms = lines[place + 1 : place + 1 + sum(counts)]
    if len(atoms) < sum(counts) or not all(line.strip() for line in atoms):
        raise unreadable(f"it counts {sum(counts)} atoms and has coordinates of fewer")
    _nothing_more(lines[place + 1 + len(atoms) :])
    named = _labels(atoms, 6 if selective else 3)
    if symbols is None:
        if named is None:
            raise unreadable("the POSCAR does not name its elements (VASP 4): add a line of symbols above the counts")
        species = named
    else:
        species = [symbol for symbol, count in zip(symbols, counts, strict=True) for _ in range(count)]
        if named is not None and [element_of(n) for n in named] != [element_of(s) for s in species]:
            raise unreadable("the symbols behind its coordinates are not those above its counts")
    elements = [_element(symbol) for symbol in species]
    sites = _numbers(atoms, "a coordinate")
    cartesian = kind == "cartesian"
    return Structure(
        Lattice(matrix * scale), elements, sites * scale if cartesian else sites, coords_are_cartesian=cartesian
    )


def _elements(lines: Sequence[str]) -> tuple[list[str] | None, list[int], int]:
    """Symbols (None: VASP 4), counts, and the number of the line behind them. Long lists are wrapped into lines."""
    symbols, place = _above_counts(lines)
    counts: list[int] = []
    while place < len(lines) and (words := lines[place].split()) and _are_counts(words):
        counts += [int(word) for word in words]
        place += 1
        if not symbols or len(counts) >= len(symbols):
            break
    if not counts:
        raise unreadable("the POSCAR has no counts of atoms")
    if symbols and len(symbols) != len(counts):
        raise unreadable(f"it names {len(symbols)} elements and counts {len(counts)}")
    if not sum(counts):
        raise unreadable("it has no atoms")
    return symbols or None, counts, place


def _above_counts(lines: Sequence[str]) -> tuple[list[str], int]:
    """The symbols, none in a file of VASP 4, and the number of the line of counts."""
    place, symbols = HEAD, list[str]()
    while place < len(lines) and (words := lines[place].split()) and not _are_counts(words):
        symbols += [_symbol(word) for word in words]
        place += 1
    return symbols, place


def _content(line: str) -> str:
    """A line without comments."""
    return line.split("#")[0].split("!")[0]


def _mode(line: str) -> str | None:
    """What the coordinates are: direct or cartesian, written out or cut short; None for another word."""
    word = line.split()[0].lower() if line else ""
    return next((kind for name, kind in MODES.items() if word and name.startswith(word)), None)


def _labels(atoms: Sequence[str], behind: int) -> list[str] | None:
    """The symbols behind the coordinates, if each atom has just one there."""
    words = [line.split() for line in atoms]
    if all(len(line) == behind + 1 and _valid(line[behind]) for line in words):
        return [line[behind] for line in words]
    return None


def _nothing_more(rest: Sequence[str]) -> None:
    """Raises RefusedError if more atoms follow than were counted: velocities come behind an empty line."""
    following = rest[0].split() if rest else []
    if len(following) >= 3 and all(_is_number(word) for word in following[:3]):
        raise unreadable("it has more coordinates than it counts atoms")


def _scale(line: str, matrix: np.ndarray) -> float:
    """The factor of all lengths. A negative number is the volume (Å³)."""
    words = line.split()
    if len(words) != 1 or not _is_number(words[0]) or not float(words[0]):
        raise unreadable(f"its scale is no number: {line.strip()[:40]!r}")
    stated, volume = float(words[0]), abs(np.linalg.det(matrix))
    if stated < 0 and not volume:
        raise unreadable("the cell has no volume")
    return float(stated if stated > 0 else (-stated / volume) ** (1 / 3))


def _numbers(lines: Sequence[str], what: str) -> np.ndarray:
    found = [line.split()[:3] for line in lines]
    if wrong := [words for words in found if len(words) < 3 or not all(_is_number(word) for word in words)]:
        raise unreadable(f"{what} is not three numbers: {' '.join(wrong[0])[:40]!r}")
    return np.array(found, dtype=float)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word, re.ASCII) is not None


def _are_counts(words: Sequence[str]) -> bool:
    return all(word.isascii() and word.isdecimal() for word in words)


def _symbol(word: str) -> str:
    """Mg of Mg_pv/f474ac0d, as VASP 6 writes it."""
    return word.split("/")[0].split("_")[0]


def _valid(word: str) -> bool:
    try:
        element_of(word)
    except ValueError:
        return False
    return True


def _element(symbol: str) -> Element:
    try:
        return element_of(symbol)
    except ValueError as error:
        raise unreadable(str(error)) from None
