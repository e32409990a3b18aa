"""Candidates on their way through a screen: what is known of each, and what is said of those that do not pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from pymatgen.core.structure import Structure

from dao_flows.makers.schemas.prediction import (
    Cause,
    Energy,
    GeneratedCandidate,
    Judgement,
    RejectedCandidate,
    Relaxation,
)
from dao_flows.makers.science.chemistry import formula_key
from dao_flows.makers.science.structures import to_crystal
from dao_flows.makers.science.validity import Contacts

from .ranking import Distinct

if TYPE_CHECKING:
    from dao_flows.model.checkpoint.format import Card
    from dao_flows.model.crystals import Crystal
    from dao_flows.model.dao_p import DaoP
    from dao_flows.model.runtime.batching import BatchLog

NOT_FINITE = "the predicted energy is not finite"
KINDS = {"known": 0, "template": 1, "drawn": 2}  # of candidates that are one structure, the least stands for it


@dataclass(frozen=True)
class Passing:
    """A candidate on its way through the screen: its structure so far, and what is known of it.

    same: the candidates that are the same structure. judgement: of the force field, unjudged: why there is none.
    """

    candidate: GeneratedCandidate
    structure: Structure
    contacts: Contacts
    energy: Energy | None = None
    relaxation: Relaxation | None = None
    same: tuple[GeneratedCandidate, ...] = ()
    judgement: Judgement | None = None
    unjudged: str | None = None

    @property
    def value(self) -> float:
        """Predicted energy above hull, eV/atom."""
        assert self.energy is not None
        return self.energy.value


@dataclass(frozen=True)
class Pricing:
    """DAO-P's energies. log: is told which batches ran."""

    predictor: DaoP
    card: Card
    log: BatchLog

    def energy(self, value: float) -> Energy:
        """As documents have it; value in eV/atom."""
        return Energy(value=value, model=self.card.name, model_sha256=self.card.sha256)

    def energies(self, passing: Sequence[Passing], rejected: list[RejectedCandidate]) -> list[Passing]:
        """With the energies of their structures, those that have one."""
        from dao_flows.model.dao_p import predict_energy

        values = predict_energy(self.predictor, crystals_of(passing), slots=slots_of(passing), log=self.log).tolist()
        priced = []
        for p, value in zip(passing, values, strict=True):
            if isfinite(value):
                priced.append(replace(p, energy=self.energy(value)))
            else:
                rejected.append(rejection(p.candidate, "energy", NOT_FINITE))
        return priced


def crystals_of(passing: Sequence[Passing]) -> list[Crystal]:
    """Their structures, for the model floor."""
    return [to_crystal(p.structure) for p in passing]


def slots_of(passing: Sequence[Passing]) -> list[int]:
    """A number for each, the same in any batch (`dao_flows.model.runtime.batching`)."""
    return [formula_key(p.candidate.formula) + p.candidate.z + p.candidate.index for p in passing]


def moved_to(valid: Sequence[Passing], known: Mapping[str, Passing]) -> list[Passing]:
    """What is known of candidates, at the structures that were found valid."""
    return [replace(known[p.candidate.candidate_id], structure=p.structure, contacts=p.contacts) for p in valid]


def kind_of(candidate: GeneratedCandidate) -> str:
    """Where it comes from: drawn, template or known."""
    return "drawn" if candidate.origin is None else candidate.origin.kind


def weight_of(candidate: GeneratedCandidate) -> float:
    """Of a template, as a share of 1; 0 for drawings."""
    return 0.0 if candidate.origin is None else candidate.origin.weight or 0.0


def precedence(p: Passing) -> tuple[int, float, float, str]:
    """By which one of several candidates stands for their structure, the least first."""
    return KINDS[kind_of(p.candidate)], -weight_of(p.candidate), p.value, p.candidate.candidate_id


def distinct_of(p: Passing) -> Distinct:
    """What the ranking asks of it."""
    members = [p.candidate, *p.same]
    return Distinct(
        candidate_id=p.candidate.candidate_id,
        drawn=sum(kind_of(c) == "drawn" for c in members),
        templates=tuple(weight_of(c) for c in members if kind_of(c) != "drawn"),
        known=any(kind_of(c) == "known" for c in members),
        energy=p.value,
        judged=None if p.judgement is None else p.judgement.value,
    )


def rejection(
    candidate: GeneratedCandidate,
    cause: Cause,
    reason: str,
    energy: Energy | None = None,
    duplicate_of: str | None = None,
) -> RejectedCandidate:
    """A candidate that did not pass, and why."""
    return RejectedCandidate(
        candidate_id=candidate.candidate_id,
        formula=candidate.formula,
        z=candidate.z,
        cause=cause,
        reason=reason,
        energy=energy,
        duplicate_of=duplicate_of,
    )
