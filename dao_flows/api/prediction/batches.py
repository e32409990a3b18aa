"""Formulas in batches, each planned once: what one flow handles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pymatgen.core.composition import Composition

from dao_flows.makers.generators.plan import GenerationPlan
from dao_flows.makers.jobs.provenance import digest, science_hash
from dao_flows.makers.predict import PredictFlowMaker
from dao_flows.makers.science.chemistry import CompositionError, formula_of, parse_composition

from .inputs import Entry, Z, raise_problems


@dataclass(frozen=True)
class PlannedBatch:
    """Formulas that one flow handles.

    keys: the science hash that its screening document will have, or where bf16 is 'auto', both that it may have.
    """

    maker: PredictFlowMaker
    formulas: list[str]
    plan: GenerationPlan
    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        """One hash of all that decides the result."""
        return self.keys[0] if len(self.keys) == 1 else digest(self.keys)


def plan_batches(entries: Sequence[Entry], maker: PredictFlowMaker, batch_candidates: int) -> list[PlannedBatch]:
    """The formulas in batches of one Z setting each, all of them checked.

    What has the same reduced formula and Z shares a batch. Raises InputError for all bad formulas at once,
    ParameterError and CheckpointError.
    """
    problems: list[str] = []
    parsed: dict[str, Composition] = {}
    groups: dict[tuple[str, Z], list[Entry]] = {}
    for entry in entries:
        if entry.fault:
            problems.append(entry.problem(entry.fault))
            continue
        try:
            if entry.formula not in parsed:
                parsed[entry.formula] = parse_composition(entry.formula)
        except CompositionError as error:
            problems.append(entry.problem(str(error)))
            continue
        formula = formula_of(parsed[entry.formula]).name
        groups.setdefault((formula, entry.z or maker.generate.z), []).append(entry)
    size = max(1, batch_candidates // max(1, maker.generate.candidates))
    batches = []
    for z in dict.fromkeys(z for _, z in groups):
        of_z = replace(maker, generate=replace(maker.generate, z=z))
        members = [found for (_, its_z), found in groups.items() if its_z == z]
        for start in range(0, len(members), size):
            batch = [entry for found in members[start : start + size] for entry in found]
            plan, bad = _planned(of_z, {entry.formula: parsed[entry.formula] for entry in batch})
            problems += [entry.problem(bad[entry.formula]) for entry in batch if entry.formula in bad]
            if plan is not None and not problems:
                keys = tuple(science_hash(of_z.screen.science(science_hash(each))) for each in plan.sciences)
                formulas = list(dict.fromkeys(entry.formula for entry in batch))
                batches.append(PlannedBatch(of_z, formulas, plan, keys))
    raise_problems(problems, len(entries))
    return batches


def _planned(
    maker: PredictFlowMaker, parsed: Mapping[str, Composition]
) -> tuple[GenerationPlan | None, dict[str, str]]:
    """The plan for those that can be used, and what is wrong with the others, by their text."""
    bad: dict[str, str] = {}
    while good := {text: composition for text, composition in parsed.items() if text not in bad}:
        try:
            return maker.plan(good), bad
        except CompositionError as error:
            names = {text: formula_of(composition).name for text, composition in good.items()}
            found = {text: error.problems.get(text) or error.problems.get(name) for text, name in names.items()}
            named = {text: problem for text, problem in found.items() if problem}
            if not named:
                raise
            bad |= named
    return None, bad
