"""Candidates from known crystals: which templates a formula gets, and what is told of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element

from dao_flows.makers.jobs.provenance import digest
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import Origin
from dao_flows.makers.science.chemistry import atomic_numbers, formula_of
from dao_flows.model.templates.index import LARGEST_ELEMENT

from .generator import TEMPLATES, Progress

if TYPE_CHECKING:
    from dao_flows.model.crystals import Crystal
    from dao_flows.model.runtime.batching import BatchLog
    from dao_flows.model.sampling.requests import Request
    from dao_flows.model.templates.library import Library
    from dao_flows.model.templates.search import Template

SHARE = 0.5  # of a formula's candidates, rounded up, that come from templates where nothing else is asked for
LOOKUP = ("templates", "known")  # parameters that say which candidates there are, and of each not what it is


class FromTemplate(NamedTuple):
    """A candidate from a known crystal: its Z, its structure (Å) and where it comes from."""

    z: int
    crystal: Crystal
    origin: Origin


def wanted(templates: int | None, candidates: int, share: float = SHARE) -> int:
    """How many of a formula's candidates may come from templates. None: this share of them."""
    return math.ceil(share * candidates) if templates is None else min(templates, candidates)


@dataclass(frozen=True)
class TemplateGenerator:
    """Known crystals of a library in a generator's place. known: of the very composition, too."""

    library: Library
    known: bool = True

    name: ClassVar[str] = TEMPLATES
    elements: ClassVar[range] = range(1, LARGEST_ELEMENT + 1)
    reproducible: ClassVar[bool] = True
    parameters: ClassVar[Mapping[str, Any]] = {"generator": TEMPLATES}  # the library is an input
    checkpoints: ClassVar[Mapping[str, str]] = {}
    names: ClassVar[Mapping[str, str]] = {}
    origin: ClassVar[Origin | None] = None  # each template has its own

    @property
    def sha256(self) -> str:
        """Of the library."""
        return self.library.sha256

    @property
    def covers(self) -> list[TemplateGenerator]:
        """Itself."""
        return [self]

    @property
    def max_atoms(self) -> int:
        """Of the library's largest cell."""
        return max(sum(multiplicities) for multiplicities in self.library.groups)

    def best(self, formula: str, units: Sequence[int], count: int) -> list[FromTemplate]:
        """The best `count` templates for cells of so many formula units, best first.

        They depend on nothing else. What was found is kept for a while: a plan asks several times.
        """
        return list(_looked_up(self.library, formula, tuple(units), count, self.known)) if units and count else []

    def sample(
        self, requests: Sequence[Request], seed: int, device: str, progress: Progress, log: BatchLog | None = None
    ) -> list[Crystal | None]:
        """Of each cell the templates in their order, by the number of the draw; nothing is random."""
        found: list[Crystal | None] = []
        for number, request in enumerate(requests, start=1):
            formula, z = _cell(request.numbers)
            index = request.key[-1]
            there = self.best(formula, [z], index + 1)
            found.append(there[index].crystal if index < len(there) else None)
            progress(number, len(requests))
        return found


def _cell(numbers: np.ndarray) -> tuple[str, int]:
    """The reduced formula and Z of a cell's atomic numbers."""
    formula = formula_of(Composition(Counter(_symbol(int(number)) for number in numbers)))
    return formula.name, formula.units


@lru_cache(maxsize=1024)
def _looked_up(
    library: Library, formula: str, units: tuple[int, ...], count: int, known: bool
) -> tuple[FromTemplate, ...]:
    from dao_flows.model.templates.search import find_templates

    cells = [np.array(atomic_numbers(formula, z)) for z in units]
    return tuple(_described(library, units, find_templates(library, cells, count, known=known)))


def _described(library: Library, units: Sequence[int], found: Sequence[tuple[int, Template]]) -> Iterator[FromTemplate]:
    seen: Counter[str] = Counter()
    for cell, template in found:
        z = units[cell]
        exchange = {_symbol(old): [*map(_symbol, new)] for old, new in sorted(template.exchange.items())}
        same = digest([z, template.row, exchange])
        crystal = library.crystal(template.place)
        elements, counts = np.unique(crystal.numbers, return_counts=True)
        origin = Origin(
            kind="known" if template.known else "template",
            library=library.sha256,
            library_name=library.name,
            row=template.row,
            material_id=library.material_id(template.place),
            source=library.source(template.place),
            formula=_formula(tuple(elements.tolist()), tuple(counts.tolist())),
            exchange=exchange,
            variant=seen[same],
            distance=template.distance,
            energy_above_hull=None if math.isnan(template.energy) else template.energy,
            weight=template.weight,
            copies=template.copies,
            cells=template.cells,
        )
        seen[same] += 1
        yield FromTemplate(z, template.crystal, origin)


@cache
def _symbol(number: int) -> str:
    return str(Element.from_Z(number).symbol)


@cache
def _formula(elements: tuple[int, ...], counts: tuple[int, ...]) -> str:
    return formula_of(Composition(dict(zip(map(_symbol, elements), counts, strict=True)))).name


def candidate_id(science: Science, formula: str, z: int, index: int) -> str:
    """An id that the same draw has in any batch and beside any templates: over all that decides it."""
    return "dao-" + digest([_apart(science), formula, z, index])[:12]


def template_id(science: Science, formula: str, z: int, origin: Origin) -> str:
    """An id that the same template has in any batch: over all that decides it."""
    told = [origin.library, origin.row, origin.exchange, origin.variant]
    return "dao-" + digest([_apart(science), formula, z, *told])[:12]


def _apart(science: Science) -> dict[str, object]:
    """A science without the batch, and without how many templates there are."""
    held = science.model_dump(exclude={"inputs"})
    held["parameters"] = {name: value for name, value in held["parameters"].items() if name not in LOOKUP}
    return held
