"""Which of a composition's distinct structures comes first: by how often it came, by DAO-P's energy, by a judge's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, log
from typing import Literal, get_args

Ranking = Literal["agreement", "energy", "judge", "both"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
OF_A_JUDGE = ("judge", "both")
SOFTNESS = 0.05  # eV/atom: a judge's energy that much lower counts as much as coming e times as often
TEMPLATE_SHARE = 0.7  # of agreement is the templates' where a composition has drawings, too
LEAST_AGREEMENT = 1e-4  # of what came, even with no weight


@dataclass(frozen=True)
class Distinct:
    """A structure among the distinct ones of its composition.

    candidate_id: settles what nothing else does. known: a library has this very crystal. drawn: how many of its
    candidates were drawn; templates: weights of those that are templates, shares of 1 among all of the composition.
    energy: DAO-P's, judged: the judge's (None: it has none), both in eV/atom.
    """

    candidate_id: str
    drawn: int
    templates: tuple[float, ...]
    known: bool
    energy: float
    judged: float | None = None


@dataclass(frozen=True)
class Made:
    """What a composition's structures came from: how many drawings, and whether templates, too."""

    drawings: int
    templates: bool = False

    @property
    def share_of_templates(self) -> float:
        """How much of agreement is theirs; the rest is the drawings'."""
        if not self.templates:
            return 0.0
        return TEMPLATE_SHARE if self.drawings else 1.0


def agreement(structure: Distinct, made: Made) -> float:
    """How much of what came is this structure, as a share of 1."""
    share = made.share_of_templates
    drawn = structure.drawn / made.drawings if made.drawings else 0.0
    return share * fsum(structure.templates) + (1 - share) * drawn


def order(structures: Sequence[Distinct], made: Made, rank_by: str, softness: float = SOFTNESS) -> list[int]:
    """Places of the structures of one composition, the best first.

    rank_by: 'agreement': what came most often, the lower energy between equals; 'energy': DAO-P's lowest; 'judge': the
    judge's lowest; 'both': the highest log(agreement) − judge's energy / softness (eV/atom). What the judge has no
    energy of comes after what it has, by agreement. Known crystals come first, unless energies alone decide.
    """

    def value(structure: Distinct) -> float:
        often = agreement(structure, made)
        match rank_by, structure.judged:
            case "energy", _:
                return structure.energy
            case "judge", float(judged):
                return judged
            case "both", float(judged):
                return judged / softness - log(max(often, LEAST_AGREEMENT))
            case _:
                return -often

    def key(place: int) -> tuple[bool, bool, float, float, str]:
        structure = structures[place]
        later = rank_by in ("agreement", "both") and not structure.known
        unjudged = rank_by in OF_A_JUDGE and structure.judged is None
        return later, unjudged, value(structure), structure.energy, structure.candidate_id

    return sorted(range(len(structures)), key=key)
