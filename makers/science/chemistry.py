"""From what a user types to a composition, and from a composition to the cells that a checkpoint can fill.

A formula stands for its reduced formula: Z counts formula units of that. A formula typed non-reduced (Cr6Os2) says
more: without an explicit Z it means exactly this cell (Z = 2), for whoever writes Cr6Os2 wants 8 atoms.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal, Protocol

from pymatgen.core.composition import Composition, reduce_formula
from pymatgen.core.periodic_table import Element

from dao_flows.model.errors import DaoError

Z = int | Literal["auto"]
ISOTOPES = {"D": "H", "T": "H"}  # read as their element, everywhere: crystals here are of elements
SYMBOLS = {element.symbol for element in Element} | set(ISOTOPES)
HEAVIEST = 94  # plutonium
COMMON = {element.symbol for element in Element if element.Z <= HEAVIEST}
DOTS = "·•∙⋅・‧*＊"  # before the water of a hydrate
PART = re.compile(r"([1-9]\d*[/⁄][1-9]\d*|\d*\.\d*[1-9]|[1-9]\d*|)([A-Z(].*)")  # of a hydrate: how much, of what
SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
LISTED = 20  # bad compositions spelled out in one message


class CompositionError(DaoError):
    """A composition that cannot be used; `problems` says of each bad one, by its text, what is wrong."""

    def __init__(self, message: str, problems: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.problems = dict(problems or {})

    @classmethod
    def of_batch(cls, problems: Mapping[str, str], total: int) -> CompositionError:
        """One line for all bad compositions of a batch of `total`."""
        if total == 1:
            return cls(next(iter(problems.values())), problems)
        shown = "; ".join(list(problems.values())[:LISTED])
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        return cls(f"{len(problems)} of {total} compositions cannot be used: {shown}{more}", problems)


def element_of(symbol: str) -> Element:
    """The element of a symbol as it is written; D and T are hydrogen. Raises ValueError for what is none."""
    if symbol not in SYMBOLS:
        raise ValueError(f"{symbol[:20]!r} is no element")
    return Element(ISOTOPES.get(symbol, symbol))


@dataclass(frozen=True)
class Formula:
    """A reduced formula and how many units of it were written (Cr6Os2: Cr3Os, 2)."""

    name: str
    units: int
    atoms: int  # in one formula unit


def parse_composition(text: str) -> Composition:
    """A formula such as Cr3Os, Ca(OH)2 or Zr₄Rh₂O as a composition of whole atoms. D and T are hydrogen: D2O is H2O.

    Raises CompositionError for unknown elements, zero, negative or fractional amounts, and what is no formula at all.
    """
    formula = plain_text(text)
    if not formula:
        raise CompositionError("the formula is empty: write one such as Cr3Os")
    if (hint := _hint(formula)) is not None:
        raise CompositionError(f"{text!r}: {hint}")
    if re.search(r"[-−]\d", formula):
        raise CompositionError(f"{text!r}: amounts must be positive")
    unknown = [word for word in re.findall(r"[A-Z][a-z]*", formula) if word not in SYMBOLS]
    if unknown:
        raise CompositionError(f"{text!r}: unknown element {unknown[0]}")
    if re.search(r"(?<![\d.])0+(\.0*)?(?![\d.])", formula):
        raise CompositionError(f"{text!r}: an amount of zero; leave that element out")
    try:
        amounts = Composition(formula, strict=True).get_el_amt_dict()
        whole = {symbol: int(amount) for symbol, amount in amounts.items()}
    except (ValueError, TypeError, KeyError, OverflowError):
        raise CompositionError(f"{text!r} is not a chemical formula: write one such as Cr3Os") from None
    fractional = [symbol for symbol, amount in amounts.items() if amount != whole[symbol]]
    if fractional:
        raise CompositionError(f"{text!r}: fractional amount of {fractional[0]}; write whole numbers of atoms")
    plain: Counter[str] = Counter()
    for symbol, amount in whole.items():
        plain[ISOTOPES.get(symbol, symbol)] += amount
    return Composition(plain)


def plain_text(text: str) -> str:
    """A formula as it was meant: subscripts and full-width letters as plain ones, no spaces, no invisible marks."""
    even = unicodedata.normalize("NFKC", "".join(map(_even, text)))
    return "".join(c for c in even if not c.isspace() and unicodedata.category(c) != "Cf")


def _even(character: str) -> str:
    """One dot for all that stand before the water of a hydrate; superscripts stay, for they are charges."""
    return "·" if character in DOTS else f"^{character}" if character in SUPERSCRIPTS else character


def _hint(formula: str) -> str | None:
    """How what a chemist would write is to be written here, if that is what is wrong."""
    if found := re.fullmatch(r"(.*?)\((\w*-?[\w/]*-?\w*)\)", formula):
        inside = found.group(2)
        if re.match(r"[PIFCABR][\w/-]*\d", inside) and not _is_formula(inside):
            return f"write the formula alone, {found.group(1)}: space groups are found, not given"
        if inside in ("s", "l", "g", "aq", "cr", "am"):
            return f"write the formula alone, {found.group(1)}, without the state of matter"
    if (found := re.fullmatch(r"(.+?)\.(\d*\.?\d*(?:H2O|D2O))", formula)) and _is_formula(found.group(1)):
        formula = f"{found.group(1)}·{found.group(2)}"
    salt, *others = formula.split("·")
    parts = [found for other in others if (found := PART.fullmatch(other)) and _is_formula(found.group(2))]
    if parts and len(parts) == len(others) and _is_formula(salt):
        return f"write {_joined(salt, [part.groups() for part in parts])}: what follows a dot stands in brackets"
    if "^" in formula or re.search(r"[A-Za-z\d)\]](?:\d?[+]|[+]\d?|-)$", formula):
        return "write the formula without a charge"
    if re.fullmatch(r"[a-z\d()]+", formula) and re.search(r"[a-z]", formula):
        capitalised = _capitalised(formula)
        return capitalised and f"write elements with a capital letter, as in {capitalised}"
    return None


def _joined(salt: str, others: Sequence[tuple[str, ...]]) -> str:
    """The formula of a hydrate: CuSO4 and (5, H2O) are CuSO4(H2O)5; half a water are two salts with one."""
    amounts = [Fraction(a.replace("⁄", "/") or 1) for a, _ in others]
    units = math.lcm(*(amount.denominator for amount in amounts))
    written = salt if units == 1 else f"({salt}){units}"
    for amount, (_, other) in zip(amounts, others, strict=True):
        count = int(amount * units)
        written += f"({re.sub(r'[DT](?![a-z])', 'H', other)})" + (str(count) if count != 1 else "")
    return written


def _is_formula(text: str) -> bool:
    """Whether it is of known elements and whole amounts."""
    return re.fullmatch(r"(?:\(*[A-Z][a-z]?\d*\)*\d*)+", text) is not None and all(
        word in SYMBOLS for word in re.findall(r"[A-Z][a-z]?", text)
    )


def _capitalised(text: str) -> str | None:
    """A formula in small letters, read as the fewest elements: NaCl of nacl. None where no reading is of elements.

    Of elements that crystals are made of: (nh4) is no nihonium.
    """

    @cache
    def read(place: int) -> tuple[int, str] | None:
        if place == len(text):
            return 0, ""
        if not text[place].isalpha():
            rest = read(place + 1)
            return None if rest is None else (rest[0], text[place] + rest[1])
        found = []
        for length in (2, 1):
            symbol = text[place : place + length].capitalize()
            if symbol in COMMON and len(symbol) == length and (rest := read(place + length)) is not None:
                found.append((rest[0] + 1, symbol + rest[1]))
        return min(found, key=lambda each: each[0], default=None)

    best = read(0)
    return None if best is None else best[1]


def parse_batch(
    texts: str | Iterable[str] | Mapping[str, Composition], check: Callable[[Composition], None] = lambda _: None
) -> dict[str, Composition]:
    """Compositions by their text, each of which passes `check`; those that are parsed already are not parsed again.

    Raises one CompositionError for all bad ones, or if there is no text at all.
    """
    known = texts if isinstance(texts, Mapping) else {}
    batch = [texts] if isinstance(texts, str) else list(texts)
    if not batch:
        raise CompositionError("no composition given: write one such as Cr3Os")
    parsed, problems = {}, {}
    for text in batch:
        try:
            composition = known[text] if text in known else parse_composition(text)
            check(composition)
            parsed[text] = composition
        except CompositionError as error:
            problems[text] = str(error) if text in str(error) else f"{text!r}: {error}"
    if problems:
        raise CompositionError.of_batch(problems, len(batch))
    return parsed


def formula_of(composition: Composition) -> Formula:
    """The canonical reduced formula: amounts without a common divisor, in pymatgen's order of elements.

    Unlike pymatgen's `reduced_formula`, which keeps O2 or Li2O2, for the same ratio is always the same formula here.
    """
    amounts = {e.symbol: int(composition[e]) for e in sorted(composition.elements, key=lambda e: e.Z)}
    units = math.gcd(*amounts.values())  # sorted, for pymatgen leaves elements of equal electronegativity as they come
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pymatgen's, that He, Ne and Ar have no electronegativity
        name, _ = reduce_formula({symbol: amount // units for symbol, amount in amounts.items()})
    return Formula(name, units, sum(amounts.values()) // units)


def atomic_numbers(formula: str, z: int) -> list[int]:
    """Atomic numbers of the sites of a cell of z formula units, by element in ascending order."""
    amounts = Composition(formula).get_el_amt_dict()
    counts = sorted((Element(symbol).Z, int(amount) * z) for symbol, amount in amounts.items())
    return [number for number, count in counts for _ in range(count)]


def formula_units(composition: Composition, max_atoms: int, z: Z = "auto", auto_atoms: int | None = None) -> list[int]:
    """The Z (formula units of the reduced formula per cell) to generate, ascending.

    An explicit z is taken as it is. 'auto' means all Z whose cells have at most auto_atoms atoms (None: max_atoms), or
    one formula unit where that is larger, and for a composition that is not reduced the one Z that was written. Raises
    CompositionError if a cell would have more than max_atoms.
    """
    formula = formula_of(composition)
    if z != "auto":
        if z < 1:
            raise CompositionError(f"{formula.name}: Z must be at least 1, not {z}")
        wanted = [z]
    elif formula.units > 1:
        wanted = [formula.units]
    else:
        wanted = list(range(1, (auto_atoms or max_atoms) // formula.atoms + 1)) or [1]
    if wanted[-1] * formula.atoms > max_atoms:
        raise CompositionError(
            f"{formula.name}: {wanted[-1]} formula unit{'s' * (wanted[-1] > 1)} per cell need "
            f"{wanted[-1] * formula.atoms} atoms; at most {max_atoms} are allowed"
        )
    return wanted


class Covers(Protocol):
    """A checkpoint or a generator, by what it knows. elements: atomic numbers; max_atoms: of the largest cell."""

    @property
    def name(self) -> str:
        """As users call it."""

    @property
    def elements(self) -> Collection[int]:
        """Atomic numbers."""

    @property
    def max_atoms(self) -> int:
        """Of the largest cell."""


def check_coverage(composition: Composition, card: Covers, z: Z = "auto") -> None:
    """Raises CompositionError if the checkpoint has not seen an element, or cells of this size, in training."""
    formula, covered = formula_of(composition), set(card.elements)
    missing = sorted((e for e in composition.elements if e.Z not in covered), key=lambda e: e.Z)
    if missing:
        raise CompositionError(
            f"{formula.name}: {card.name} has not seen {', '.join(e.symbol for e in missing)}; "
            f"it covers {describe_elements(card.elements)}"
        )
    try:
        formula_units(composition, card.max_atoms, z)
    except CompositionError as error:
        hint = (
            f"; max_atoms (--max-atoms) {card.max_atoms} asks for none larger"
            if formula.atoms <= card.max_atoms
            else ""
        )
        covers = f"{card.name} covers cells of at most {card.max_atoms} atoms{hint}"
        raise CompositionError(f"{error}: {covers}") from None


def describe_elements(numbers: Iterable[int]) -> str:
    """Atomic numbers as symbols in ranges: 'H-Bi' or 'H, Li-F'."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ends = [[Element.from_Z(number).symbol for number in dict.fromkeys((run[0], run[-1]))] for run in runs]
    return ", ".join("-".join(pair) for pair in ends)


def deal(candidates: int, units: Sequence[int]) -> dict[int, int]:
    """Candidates dealt round-robin over the Z, smallest first: {Z: count}, counts of zero included."""
    return {z: len(range(place, candidates, len(units))) for place, z in enumerate(units)}


def formula_key(formula: str) -> int:
    """A number of 32 bits that names a formula's random streams."""
    return int.from_bytes(hashlib.sha256(formula.encode()).digest()[:4])
