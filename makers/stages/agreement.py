"""Whether two documents agree: bit for bit, within a tolerance, or not; and where they first differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from itertools import zip_longest
from math import isnan
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel

from dao_flows.makers.jobs.renamed import current

Outcome = Literal["identical", "equal", "different"]
Quantity = Literal["position", "lattice", "energy", "force", "relative"]

NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
ENERGIES = (
    *("*energy_per_atom", "*energy_above_hull", "*.energy.value", "energy_before.*", "energy_after.*", "energy_fall.*"),
    *("*.judgement.value", "*.predicted_change", "*.force_field_before", "*.force_field_after", "*.mean_error.*"),
)
EXECUTION = ("provenance.execution.*", "provenance.content_hash", "provenance.files.*")
GONE = "(nothing)"


@dataclass(frozen=True)
class Tolerance:
    """How far figures may lie apart and count as equal: Å for positions and lattice vectors, eV/atom, eV/Å.

    relative: of every other figure, to the larger of the two.
    """

    position: float = 1e-3
    lattice: float = 1e-3
    energy: float = 1e-4
    force: float = 1e-3
    relative: float = 1e-4

    def told(self) -> str:
        """In one line, with units."""
        return (
            f"positions {self.position:g} Å, lattice {self.lattice:g} Å, energies {self.energy:g} eV/atom, "
            f"forces {self.force:g} eV/Å, other figures {self.relative:g} relative"
        )


NETWORK = Tolerance()
TRAINING = Tolerance(energy=1e-2, relative=1e-2)
CALCULATION = Tolerance(position=1e-2, lattice=1e-2, energy=1e-3, force=1e-2, relative=1e-2)


class Difference(BaseModel):
    """A place where two documents differ. path: dotted, list items by number."""

    path: str
    recorded: Any = None
    replayed: Any = None

    def line(self, one: str = "recorded", other: str = "replayed") -> str:
        """On one line. one, other: what is said of either value."""
        return f"{self.path}: {_short(self.recorded)} {one}, {_short(self.replayed)} {other}"


class Agreement(BaseModel):
    """first: the first difference; beyond: the first that no tolerance covers; largest: of each quantity."""

    outcome: Outcome
    first: Difference | None = None
    beyond: Difference | None = None
    largest: dict[str, float] = {}
    differences: int = 0


class Step(NamedTuple):
    """A difference, how large it is in which quantity; size None: no number can say."""

    difference: Difference
    quantity: Quantity
    size: float | None


@dataclass
class Terms:
    """What counts as a difference.

    ignored: paths (with * for anything) that do not. soft: hashes, whose difference is told, while the figures beside
    them decide. files: whether the hashes of files that a document names count. renamed: ids of another version of the
    code -> what they are in the recorded one.
    """

    tolerance: Tolerance = NETWORK
    ignored: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()
    files: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)


def agree(recorded: Any, replayed: Any, terms: Terms | None = None) -> Agreement:
    """Compare two stored documents, the execution of either left out."""
    terms = terms or Terms()
    execution = EXECUTION[:2] if terms.files else EXECUTION
    limits = asdict(terms.tolerance)
    found = Agreement(outcome="identical")
    for difference, quantity, size in _steps(recorded, replayed, ""):
        path = difference.path
        if path.endswith("@version") or _matches(path, (*execution, *terms.ignored)):
            continue
        if path.endswith("@module") and current(str(difference.recorded)) == current(str(difference.replayed)):
            continue
        renamed = terms.renamed.get(difference.replayed) if isinstance(difference.replayed, str) else None
        if renamed is not None and renamed == difference.recorded:
            continue
        found.differences += 1
        found.first = found.first or difference
        if size is not None:
            found.largest[quantity] = max(size, found.largest.get(quantity, 0.0))
        if _matches(path, terms.soft) or (size is not None and size <= limits[quantity]):
            continue
        found.beyond = found.beyond or difference
    if found.differences:
        found.outcome = "different" if found.beyond else "equal"
    return found


def exact(written: Any, held: Any) -> Agreement:
    """Compare two stored documents, all of them, without tolerance; versions of libraries that wrote them aside."""
    for difference, _, _ in _steps(written, held, ""):
        if not difference.path.endswith("@version"):
            return Agreement(outcome="different", first=difference, beyond=difference, differences=1)
    return Agreement(outcome="identical")


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _steps(one: Any, other: Any, path: str) -> Iterator[Step]:
    """Every difference, in the order of the recorded document."""
    if _is_structure(one) and _is_structure(other):
        yield from _structures(one, other, path)
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            inner = f"{path}.{key}" if path else str(key)
            if key not in one or key not in other:
                yield Step(_between(inner, one.get(key, GONE), other.get(key, GONE)), "relative", None)
            else:
                yield from _steps(one[key], other[key], inner)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        for number, (left, right) in enumerate(zip_longest(one, other, fillvalue=GONE)):
            yield from _steps(left, right, f"{path}.{number}")
    elif _is_number(one) and _is_number(other):
        if one != other and not (isnan(one) and isnan(other)):
            yield Step(_between(path, one, other), *_sized(path, one, other))
    elif isinstance(one, str) and isinstance(other, str):
        if one != other:
            yield Step(_between(path, one, other), "relative", _text_distance(one, other))
    elif one != other or type(one) is not type(other):
        yield Step(_between(path, one, other), "relative", None)


def _between(path: str, one: Any, other: Any) -> Difference:
    return Difference(path=path, recorded=one, replayed=other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sized(path: str, one: float, other: float) -> tuple[Quantity, float | None]:
    if isinstance(one, int) and isinstance(other, int):
        return "relative", None  # a count is right or wrong
    distance = abs(one - other)
    if not distance < float("inf"):
        return "relative", None
    if _matches(path, ENERGIES):
        return "energy", distance
    if ".forces." in f".{path}" or path.endswith("max_force"):
        return "force", distance
    return "relative", distance / max(abs(one), abs(other))


def _text_distance(one: str, other: str) -> float | None:
    """The largest relative distance of two texts' numbers, if they are all that differs: reasons quote figures."""
    if NUMBER.sub("#", one) != NUMBER.sub("#", other) or "." not in one:
        return None
    pairs = [(float(a), float(b)) for a, b in zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)]
    return max(abs(a - b) / max(abs(a), abs(b), 1.0) for a, b in pairs)


def _is_structure(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("@class") == "Structure" and "sites" in value


def _structures(one: Mapping[str, Any], other: Mapping[str, Any], path: str) -> Iterator[Step]:
    """Two structures: their first difference, sized by the largest distance (Å) of lattice vectors, then of atoms."""
    plain = [
        {k: v for k, v in each.items() if k not in ("lattice", "sites", "@class", "@version")}
        | {"sites": [{k: v for k, v in s.items() if k not in ("abc", "xyz")} for s in each["sites"]]}
        for each in (one, other)
    ]
    same_atoms = [_species(each) for each in (one, other)]
    if same_atoms[0] != same_atoms[1]:
        yield Step(_between(f"{path}.sites", *same_atoms), "position", None)
        return
    yield from _steps(plain[0], plain[1], path)
    cells = [np.array(each["lattice"]["matrix"], dtype=float) for each in (one, other)]
    atoms = [np.array([site["abc"] for site in each["sites"]], dtype=float) for each in (one, other)]
    same_cell, same_places = True, True
    if (first := _first(*cells)) is not None:
        same_cell = False
        size = float(np.linalg.norm(cells[0] - cells[1], axis=1).max())
        where = f"{path}.lattice.matrix.{first[0]}.{first[1]}"
        yield Step(_between(where, *(float(c[first]) for c in cells)), "lattice", size)
    if (first := _first(*atoms)) is not None:
        same_places = False
        apart = atoms[0] - atoms[1]
        size = float(np.linalg.norm((apart - np.round(apart)) @ cells[0], axis=1).max())
        where = f"{path}.sites.{first[0]}.abc.{first[1]}"
        yield Step(_between(where, *(float(a[first]) for a in atoms)), "position", size)
    if same_cell:  # lengths and angles follow from the vectors
        yield from _steps(one["lattice"], other["lattice"], f"{path}.lattice")
    if same_cell and same_places:
        places = [[site.get("xyz") for site in each["sites"]] for each in (one, other)]
        yield from _steps(places[0], places[1], f"{path}.sites.xyz")


def _species(structure: Mapping[str, Any]) -> list[Any]:
    return [site.get("label") for site in structure["sites"]]


def _first(one: np.ndarray, other: np.ndarray) -> tuple[int, ...] | None:
    places = np.argwhere(one != other)
    return tuple(int(i) for i in places[0]) if len(places) else None


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
