"""A judge of candidates: a force field whose energy says which of a composition's structures comes first.

DAO-P knows energies of crystals near their minima; a force field was trained on wrong structures, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from time import monotonic

from pymatgen.core.structure import Structure

from dao_flows.makers.jobs.progress import report
from dao_flows.makers.models.atomate import CHGNET
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.energy_model import energy_model
from dao_flows.makers.models.force_field import ForceField, ForceFieldError
from dao_flows.makers.schemas.document import JudgeCost
from dao_flows.makers.schemas.prediction import Judgement

from .ranking import OF_A_JUDGE, RANKINGS, Ranking

AUTO, NONE = "auto", "none"

opened = lru_cache(maxsize=1)(ForceField)  # once for all batches of a run


@dataclass(frozen=True)
class Judged:
    """A structure as it was judged, relaxed if that was asked for; why: there is no judgement."""

    structure: Structure
    judgement: Judgement | None
    why: str | None = None


def chosen(judge: str, rank_by: Ranking | None) -> tuple[str | None, Ranking]:
    """The judge and the ranking of a prediction, from what was asked for.

    judge: a force field's name; 'none'; or 'auto': CHGNet where it is installed and the ranking can use it. rank_by:
    None: 'both' with a judge, else 'agreement'. Imports nothing. Raises ParameterError for a ranking that needs a
    judge.
    """
    if judge == NONE:
        return None, rank_by or "agreement"
    if judge != AUTO:
        return judge, rank_by or "both"
    if rank_by in OF_A_JUDGE or (rank_by is None and find_spec("chgnet") and find_spec("atomate2")):
        return CHGNET, rank_by or "both"
    return None, rank_by or "agreement"


def check(judge: str | None, steps: int, rank_by: str, softness: float) -> None:
    """Raises ParameterError for settings that do not fit together, and a force field that cannot be used here."""
    if rank_by not in RANKINGS:
        raise ParameterError(f"rank_by must be one of {', '.join(RANKINGS)}, not {rank_by!r}")
    if rank_by in OF_A_JUDGE and judge is None:
        raise ParameterError(f"rank_by {rank_by!r} needs a judge: a force field such as {CHGNET}")
    if steps < 0 or (steps and judge is None):
        raise ParameterError(f"judge_steps must not be negative, and need a judge: a force field such as {CHGNET}")
    if not softness > 0:
        raise ParameterError(f"softness must be above 0, not {softness}")
    if judge is not None:
        _ = energy_model(judge).version


def judged(
    structures: Sequence[Sequence[Structure]], judge: str, steps: int, device: str
) -> tuple[list[Judged], JudgeCost]:
    """The lowest energy of each structure, as it is or after so many steps of relaxation, and what that took.

    structures: of each the candidates that are it; the first stands for it, and is what is relaxed. device: as torch
    names it. What the force field cannot compute stays as it is, and harms no other.
    """
    began, field = monotonic(), opened(judge, device)
    found, calls = [], 0
    for number, alike in enumerate(structures, start=1):
        best: Judged | None = None
        whys = []
        for structure in alike:
            try:
                taken, result = 0, structure
                if steps:
                    relaxed = field.relax(structure, steps)
                    result, energy, taken = relaxed.structure, relaxed.labels.energy, relaxed.steps
                else:
                    energy = field.energy(structure)
            except ForceFieldError as error:
                whys.append(str(error))
                continue
            calls += 1 + taken
            if best is None or best.judgement is None or energy < best.judgement.value:
                judgement = Judgement(value=energy, model=field.name, model_version=field.version, steps=taken)
                best = Judged(result if steps else alike[0], judgement)
        if best is not None and best.judgement is not None:
            best.judgement.lowest_of = len(alike) - len(whys)
        found.append(best or Judged(alike[0], None, whys[0]))
        report(number, len(structures), "judge")
    return found, JudgeCost(structures=len(structures), calls=calls, seconds=monotonic() - began)
