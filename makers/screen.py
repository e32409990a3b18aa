"""ScreenMaker: which generated candidates are worth keeping, and which come first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from math import isfinite
from typing import Any, ClassVar

from jobflow.core.maker import Maker
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure

from dao_flows.makers.schemas.document import JudgeCost, Science
from dao_flows.version import __version__

from .jobs.progress import report
from .jobs.provenance import execution_record, installed_version, provenance
from .jobs.reuse import reusable
from .jobs.stage import stage
from .machine.parallel import parallel_map
from .machine.places import CHECKPOINT, Places
from .models.checkpoints import ParameterError, card, load_model, pick_device
from .models.energy_model import energy_model
from .schemas.prediction import (
    CompositionPlan,
    GeneratedCandidate,
    GenerationDoc,
    RejectedCandidate,
    Relaxation,
    ScreenedCandidate,
    ScreeningDoc,
    Symmetry,
    Validity,
)
from .science.chemistry import CompositionError, check_coverage
from .science.duplicates import Tolerance, find_duplicates
from .science.structures import to_structure
from .science.symmetry import LOOSE, TIGHT, prototype, space_group
from .science.validity import NEUTRALITY, Rules, charge_neutral, contact_fault, contacts, volume_fault
from .screening.judge import check as check_judge
from .screening.judge import judged
from .screening.passing import (
    NOT_FINITE,
    Passing,
    Pricing,
    crystals_of,
    distinct_of,
    kind_of,
    moved_to,
    precedence,
    rejection,
    slots_of,
)
from .screening.ranking import SOFTNESS, Made, order


@dataclass
class ScreenMaker(Maker):
    """Checks, ranks and deduplicates a generation document in one job, and says of each rejected candidate why.

    predictor: DAO-P by name, path or sha256. relax: relax in its energy first (relax_iterations L-BFGS steps); the
    generated structure stays beside the relaxed one. Valid means that every distance is at least min_distance (Å) and
    min_distance_ratio of the sum of the covalent radii, and that the volume per atom (Å³) lies between the two bounds;
    among 4,000 crystals within 0.08 eV/atom of the hull the smallest ratio was 0.603, the volumes were 6 to 117 Å³.
    Charge neutrality (SMACT) is a flag, and a filter with require_neutral. Space groups are found at symprec_tight and
    symprec_loose (Å). ltol, stol and angle_tol are StructureMatcher's, for duplicates. top_k: best of each composition
    to keep; None: all. prototypes: name the known prototype that a structure realises.

    judge: a force field as atomate2.forcefields calls it (CHGNet ships with the extra `forcefields`), which gives each
    distinct structure its energy, the lowest of its candidates as they are or, of one of them, after at most
    judge_steps steps of relaxation; None: none. rank_by:
    'agreement', first what came most often, and the lower energy between equals; 'energy', the lowest by DAO-P;
    'judge', the lowest by the judge; 'both', by how often it came and the judge's energy, where softness (eV/atom) less
    counts as much as coming e times as often.
    """

    PLACES: ClassVar[Places] = {"predictor": CHECKPOINT}

    name: str = "screen"
    predictor: str = "dao-p-flow"
    relax: bool = False
    relax_iterations: int = 20
    min_distance_ratio: float = Rules.distance_ratio
    min_distance: float = Rules.distance
    min_volume_per_atom: float = Rules.min_volume
    max_volume_per_atom: float = Rules.max_volume
    require_neutral: bool = False
    symprec_tight: float = TIGHT
    symprec_loose: float = LOOSE
    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0
    rank_by: str = "agreement"
    judge: str | None = None
    judge_steps: int = 0
    softness: float = SOFTNESS
    top_k: int | None = None
    prototypes: bool = True
    device: str = "auto"

    @stage(output_schema=ScreeningDoc)
    def make(self, generation: GenerationDoc) -> ScreeningDoc:
        """Screen the candidates of a generation document.

        Raises CompositionError for what the predictor does not cover, ParameterError and CheckpointError.
        """
        from dao_flows.model.runtime.batching import BatchLog

        started, device = datetime.now(UTC), pick_device(self.device)
        self.check(generation.compositions)
        science = self.science(generation.provenance.science_hash)
        if (found := reusable(ScreeningDoc, science)) is not None:
            return found
        rejected = [
            RejectedCandidate(
                **failed.model_dump(exclude={"index", "reason"}), cause="generation", reason=failed.reason
            )
            for failed in generation.failed
        ]
        valid = self._valid([(c, c.structure) for c in generation.candidates], rejected)
        report(1, 4, "screen")
        log = BatchLog()
        predictor, predictor_card = load_model(self.predictor, "dao-p", device)
        pricing = Pricing(predictor, predictor_card, log)
        priced = pricing.energies(valid, rejected) if not self.relax else self._relaxed(valid, pricing, rejected)
        report(2, 4, "screen")
        distinct, cost = self._judged(self._distinct(priced, rejected), device, pricing, rejected)
        ranked = self._ranked(distinct, rejected, generation)
        report(3, 4, "screen")
        accepted = self._described(ranked, rejected)
        report(4, 4, "screen")
        execution = execution_record(started, device, {"predictor": predictor_card.name}, log)
        execution.judge = cost
        return ScreeningDoc(
            accepted=accepted,
            rejected=rejected,
            generation=generation.provenance,
            provenance=provenance(science, execution),
        )

    def check(self, plan: Sequence[CompositionPlan]) -> None:
        """Raises CompositionError for all that the predictor does not cover, ParameterError for a bad setting.

        A judge that is not installed is a bad setting, too.
        """
        for setting in ("min_distance_ratio", "min_distance", "min_volume_per_atom"):
            if getattr(self, setting) < 0:
                raise ParameterError(f"{setting} must not be negative")
        for setting in ("symprec_tight", "symprec_loose", "ltol", "stol", "angle_tol", "relax_iterations"):
            if getattr(self, setting) <= 0:
                raise ParameterError(f"{setting} must be above 0, not {getattr(self, setting)}")
        if self.max_volume_per_atom <= self.min_volume_per_atom:
            raise ParameterError("max_volume_per_atom must be above min_volume_per_atom")
        check_judge(self.judge, self.judge_steps, self.rank_by, self.softness)
        if self.top_k is not None and self.top_k < 1:
            raise ParameterError(f"top_k must be at least 1, not {self.top_k}")
        found = card(self.predictor, "dao-p")
        problems = {}
        for entry in plan:
            largest = max((cells.z for cells in entry.cells if cells.total), default=1)
            try:
                check_coverage(Composition(entry.formula), found, largest)
            except CompositionError as error:
                problems[entry.formula] = str(error)
        if problems:
            raise CompositionError.of_batch(problems, len(plan))

    def science(self, generation: str) -> Science:
        """All that decides the result, known before the run; generation: science hash of the generation document."""
        names = ["min_distance_ratio", "min_distance", "min_volume_per_atom", "max_volume_per_atom"]
        names += ["symprec_tight", "symprec_loose", "ltol", "stol", "angle_tol"]
        parameters: dict[str, Any] = {name: float(getattr(self, name)) for name in names}
        if self.judge is not None:
            judge = energy_model(self.judge)
            parameters |= {
                "judge": judge.name,
                "judge_steps": self.judge_steps,
                "judge_version": judge.version,
                "atomate2": installed_version("atomate2"),
            }
        if self.rank_by == "both":
            parameters["softness"] = float(self.softness)
        return Science(
            maker=type(self).__name__,
            parameters={
                **parameters,
                "relax_iterations": self.relax_iterations if self.relax else 0,
                "require_neutral": self.require_neutral,
                "neutrality": NEUTRALITY,
                "rank_by": self.rank_by,
                "top_k": self.top_k,
                "prototypes": self.prototypes,
            },
            inputs={"generation": generation},
            checkpoints={"predictor": card(self.predictor, "dao-p").sha256},
            code_version=__version__,
        )

    def _valid(
        self,
        candidates: Sequence[tuple[GeneratedCandidate, Structure]],
        rejected: list[RejectedCandidate],
        when: str = "",
    ) -> list[Passing]:
        """Those of valid geometry (and charges, if asked for), with their closest contacts."""
        rules = Rules(self.min_distance_ratio, self.min_distance, self.min_volume_per_atom, self.max_volume_per_atom)
        passing = []
        for candidate, structure in candidates:
            fault, found = volume_fault(structure, rules), None
            if fault is None:
                found = contacts(structure)
                fault = contact_fault(found, rules)
            if fault is not None or found is None:
                rejected.append(rejection(candidate, "geometry", f"{when}{fault}"))
            elif self.require_neutral and not charge_neutral(candidate.formula):
                rejected.append(rejection(candidate, "charge", _charge_reason(candidate.formula)))
            else:
                passing.append(Passing(candidate, structure, found))
        return passing

    def _relaxed(
        self, passing: Sequence[Passing], pricing: Pricing, rejected: list[RejectedCandidate]
    ) -> list[Passing]:
        """Relaxed in DAO-P's energy, those that are valid still."""
        from dao_flows.model.relax import RelaxConfig, relax

        settings = RelaxConfig(iterations=self.relax_iterations)
        results = relax(pricing.predictor, crystals_of(passing), settings, slots=slots_of(passing), log=pricing.log)
        moved, priced = [], {}
        for p, result in zip(passing, results, strict=True):
            if not (isfinite(result.energy_before) and isfinite(result.energy_after)):
                rejected.append(rejection(p.candidate, "energy", NOT_FINITE))
                continue
            relaxation = Relaxation(
                iterations=result.iterations,
                converged=result.converged,
                energy_before=pricing.energy(result.energy_before),
            )
            moved.append((p.candidate, to_structure(result.crystal)))
            priced[p.candidate.candidate_id] = replace(
                p, energy=pricing.energy(result.energy_after), relaxation=relaxation
            )
        return moved_to(self._valid(moved, rejected, when="after relaxation: "), priced)

    def _judged(
        self,
        distinct: Sequence[Passing],
        device: str,
        pricing: Pricing,
        rejected: list[RejectedCandidate],
    ) -> tuple[list[Passing], JudgeCost | None]:
        """With the judge's energies, if there is one. What it relaxes is checked, priced and compared once more."""
        if self.judge is None:
            return list(distinct), None
        alike = [[p.structure, *self._as_drawn(p)] for p in distinct]
        found, cost = judged(alike, self.judge, self.judge_steps, device)
        passing = [
            replace(p, structure=each.structure, judgement=each.judgement, unjudged=each.why)
            for p, each in zip(distinct, found, strict=True)
        ]
        if not self.judge_steps:
            return passing, cost
        moved = [(p.candidate, p.structure) for p in passing]
        held = {p.candidate.candidate_id: p for p in passing}
        still = moved_to(self._valid(moved, rejected, when="after relaxation: "), held)
        return self._distinct(pricing.energies(still, rejected), rejected), cost

    def _as_drawn(self, passing: Passing) -> list[Structure]:
        """The duplicates of a structure where nothing is relaxed: one of them may be nearer to its minimum."""
        return [] if self.relax or self.judge_steps else [candidate.structure for candidate in passing.same]

    def _distinct(self, priced: Sequence[Passing], rejected: list[RejectedCandidate]) -> list[Passing]:
        """One of each structure, with those that are the same: the known crystal or the best template, else the lowest.

        Ascending in that order.
        """
        ordered = sorted(priced, key=precedence)
        same = find_duplicates(
            [p.structure for p in ordered],
            [p.candidate.formula for p in ordered],
            Tolerance(self.ltol, self.stol, self.angle_tol),
        )
        members: dict[int, list[GeneratedCandidate]] = {
            i: list(ordered[i].same) for i, kept in enumerate(same) if kept is None
        }
        for p, kept in zip(ordered, same, strict=True):
            if kept is None:
                continue
            original = ordered[kept]
            members[kept] += [p.candidate, *p.same]
            higher = p.value - original.value
            rejected.append(
                rejection(
                    p.candidate,
                    "duplicate",
                    f"same structure as {original.candidate.candidate_id}, which is predicted "
                    f"{abs(higher):.4f} eV/atom {'lower' if higher >= 0 else 'higher'}",
                    energy=p.energy,
                    duplicate_of=original.candidate.candidate_id,
                )
            )
        return [replace(ordered[index], same=tuple(same)) for index, same in members.items()]

    def _ranked(
        self, distinct: Sequence[Passing], rejected: list[RejectedCandidate], generation: GenerationDoc
    ) -> list[tuple[int, Passing]]:
        """With ranks within each composition, the best top_k only; compositions in the plan's order."""
        kinds = Counter((c.formula, kind_of(c)) for c in generation.candidates)
        by_formula: dict[str, list[Passing]] = defaultdict(list)
        for p in distinct:
            by_formula[p.candidate.formula].append(p)
        ranked = []
        for formula in (entry.formula for entry in generation.compositions):
            members = by_formula[formula]
            made = Made(kinds[formula, "drawn"], bool(kinds[formula, "template"] or kinds[formula, "known"]))
            places = order([distinct_of(p) for p in members], made, self.rank_by, self.softness)
            for rank, p in enumerate((members[place] for place in places), start=1):
                if self.top_k is None or rank <= self.top_k:
                    ranked.append((rank, p))
                    continue
                reason = f"rank {rank} of {len(members)} for {formula}; the best {self.top_k} are kept"
                rejected.append(rejection(p.candidate, "rank", reason, energy=p.energy))
        return ranked

    def _described(
        self, ranked: Sequence[tuple[int, Passing]], rejected: list[RejectedCandidate]
    ) -> list[ScreenedCandidate]:
        """Symmetry and prototype of those that passed, as documents."""
        look = partial(_look, tight=self.symprec_tight, loose=self.symprec_loose, prototypes=self.prototypes)
        accepted = []
        for (rank, p), seen in zip(ranked, parallel_map(look, [p.structure for _, p in ranked]), strict=True):
            tight, loose, refined, known = seen
            assert p.energy is not None
            accepted.append(
                ScreenedCandidate(
                    candidate_id=p.candidate.candidate_id,
                    formula=p.candidate.formula,
                    z=p.candidate.z,
                    rank=rank,
                    structure=p.structure,
                    generated_structure=p.candidate.structure if self.relax or self.judge_steps else None,
                    refined_structure=refined,
                    energy=p.energy,
                    relaxation=p.relaxation,
                    validity=Validity(
                        shortest_distance=p.contacts.distance,
                        shortest_pair=p.contacts.pair,
                        distance_ratio=p.contacts.ratio,
                        volume_per_atom=p.structure.volume / len(p.structure),
                        charge_neutral=charge_neutral(p.candidate.formula),
                    ),
                    symmetry_tight=tight,
                    symmetry_loose=loose,
                    prototype=known,
                    duplicates=[c.candidate_id for c in p.same],
                    origin=p.candidate.origin,
                    judgement=p.judgement,
                    unjudged=p.unjudged,
                )
            )
        return accepted


def _look(
    structure: Structure, tight: float, loose: float, prototypes: bool
) -> tuple[Symmetry | None, Symmetry | None, Structure | None, str | None]:
    """Space groups at both tolerances, the refined cell, the prototype."""
    strict, _ = space_group(structure, tight)
    lenient, refined = space_group(structure, loose)
    return strict, lenient, refined, prototype(structure) if prototypes else None


def _charge_reason(formula: str) -> str:
    if charge_neutral(formula) is None:
        return f"SMACT knows no oxidation states for an element of {formula}"
    return f"no combination of oxidation states makes {formula} neutral (SMACT)"
