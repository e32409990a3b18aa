"""Generators beside each other: what became of the candidates that each one gave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pydantic import BaseModel, Field

from .estimates import Estimate, by_formula, mean_of, rmse_of, share
from .schemas import ComparisonDoc

SAME_ENERGY = 0.001  # eV/atom: closer together than DFT tells apart here, as two that relax into one structure
KNOWN, DAO_G = "known crystals", "DAO-G"


class GeneratorFigures(BaseModel):
    """Figures over the verified candidates of one generator, or over those from known crystals.

    lowest: compositions in which one of its candidates is the verified lowest, or within 1 meV/atom of it, of those in
    which it has a candidate and another generator has one, too. energy_above_hull: as verified, eV/atom.
    """

    generator: str
    comparisons: int
    compositions: int
    lowest: Estimate | None
    matches: Estimate = Field(description="structures that still match what was predicted")
    rmse: Estimate | None
    energy_above_hull: Estimate | None


def generator_of(document: ComparisonDoc) -> str:
    """What a candidate came from."""
    origin = document.origin
    if origin is None or origin.kind == "drawn":
        return (origin.generator if origin is not None else None) or DAO_G
    return KNOWN


def by_generator(docs: Sequence[ComparisonDoc]) -> list[GeneratorFigures]:
    """Figures of each, in the order of their names."""
    groups: dict[str, list[ComparisonDoc]] = defaultdict(list)
    for document in docs:
        groups[generator_of(document)].append(document)
    won: dict[str, list[bool]] = defaultdict(list)
    for group in by_formula(docs).values():
        lowest: dict[str, float] = {}
        for document in group:
            name, energy = generator_of(document), document.energy_per_atom
            lowest[name] = min(energy, lowest.get(name, energy))
        for name, energy in lowest.items() if len(lowest) > 1 else ():
            won[name].append(energy - min(lowest.values()) <= SAME_ENERGY)
    return [_figures(name, own, won[name]) for name, own in sorted(groups.items())]


def _figures(name: str, docs: Sequence[ComparisonDoc], won: Sequence[bool]) -> GeneratorFigures:
    hulls = [(doc.energy_above_hull, doc.formula) for doc in docs if doc.energy_above_hull is not None]
    return GeneratorFigures(
        generator=name,
        comparisons=len(docs),
        compositions=len({doc.formula for doc in docs}),
        lowest=share(won) if won else None,
        matches=share([doc.structure_change.matches for doc in docs]),
        rmse=rmse_of(docs),
        energy_above_hull=mean_of([above for above, _ in hulls], [formula for _, formula in hulls]) if hulls else None,
    )
