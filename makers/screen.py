"""ScreenMaker: which generated candidates are worth keeping, and which come first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, ClassVar

from jobflow.core.maker import Maker
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure

from .. import __version__
from .checkpoints import SettingError, card, load_model, pick_device
from .chemistry import CompositionError, check_coverage
from .dedup import Tolerance, find_duplicates
from .generate import formula_key
from .parallel import parallel_map
from .places import CHECKPOINT, Places
from .progress import report
from .provenance import execution_record, provenance
from .reuse import reusable
from .schemas import (
    Cause,
    CompositionPlan,
    Energy,
    GeneratedCandidate,
    GenerationDoc,
    RejectedCandidate,
    Relaxation,
    Science,
    ScreenedCandidate,
    ScreeningDoc,
    Symmetry,
    Validity,
)
from .stage import stage
from .structures import to_crystal, to_structure
from .symmetry import prototype, space_group
from .validity import NEUTRALITY, Contacts, Rules, charge_neutral, contact_fault, contacts, volume_fault

if TYPE_CHECKING:
    from dao_flows.model.batching import BatchLog

RANKINGS = ("agreement", "energy")


@dataclass(frozen=True)
class Passing:
    """A candidate on its way through the screen: its structure so far, and what is known of it."""

    candidate: GeneratedCandidate
    structure: Structure
    contacts: Contacts
    energy: Energy | None = None
    relaxation: Relaxation | None = None

    @property
    def value(self) -> float:
        """Predicted energy above hull, eV/atom."""
        assert self.energy is not None
        return self.energy.value


@dataclass
class ScreenMaker(Maker):
    """Checks, ranks and deduplicates a generation document in one job, and says of each rejected candidate why.

    predictor: DAO-P by name, path or sha256. relax: relax in its energy first (relax_iterations L-BFGS steps); the
    generated structure stays beside the relaxed one. Valid means that every distance is at least min_distance (Å) and
    min_distance_ratio of the sum of the covalent radii, and that the volume per atom (Å³) lies between the two bounds;
    among 4,000 crystals within 0.08 eV/atom of the hull the smallest ratio was 0.603, the volumes were 6 to 117 Å³.
    Charge neutrality (SMACT) is a flag, and a filter with require_neutral. Space groups are found at symprec_tight and
    symprec_loose (Å). ltol, stol and angle_tol are StructureMatcher's, for duplicates. rank_by: 'agreement',
    first what was drawn most often, and the lower energy between equals, or 'energy', the lowest first. top_k: best of
    each composition to keep; None: all. prototypes: name the known prototype that a structure realises.
    """

    PLACES: ClassVar[Places] = {"predictor": CHECKPOINT}

    name: str = "screen"
    predictor: str = "dao-p-flow"
    relax: bool = False
    relax_iterations: int = 20
    min_distance_ratio: float = 0.6
    min_distance: float = 0.5
    min_volume_per_atom: float = 2.0
    max_volume_per_atom: float = 250.0
    require_neutral: bool = False
    symprec_tight: float = 0.01
    symprec_loose: float = 0.1
    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0
    rank_by: str = "agreement"
    top_k: int | None = None
    prototypes: bool = True
    device: str = "auto"

    @stage(output_schema=ScreeningDoc)
    def make(self, generation: GenerationDoc) -> ScreeningDoc:
        """Screen the candidates of a generation document.

        Raises CompositionError for what the predictor does not cover, SettingError and CheckpointError.
        """
        from dao_flows.model.batching import BatchLog

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
        priced, name = self._priced(valid, device, rejected, log)
        report(2, 4, "screen")
        ranked = self._ranked(self._distinct(priced, rejected), rejected, generation.compositions)
        report(3, 4, "screen")
        accepted = self._described(ranked, rejected)
        report(4, 4, "screen")
        return ScreeningDoc(
            accepted=accepted,
            rejected=rejected,
            generation=generation.provenance,
            provenance=provenance(science, execution_record(started, device, {"predictor": name}, log)),
        )

    def check(self, plan: Sequence[CompositionPlan]) -> None:
        """Raises CompositionError for all that the predictor does not cover, SettingError for a bad setting."""
        for setting in ("min_distance_ratio", "min_distance", "min_volume_per_atom"):
            if getattr(self, setting) < 0:
                raise SettingError(f"{setting} must not be negative")
        for setting in ("symprec_tight", "symprec_loose", "ltol", "stol", "angle_tol", "relax_iterations"):
            if getattr(self, setting) <= 0:
                raise SettingError(f"{setting} must be above 0, not {getattr(self, setting)}")
        if self.max_volume_per_atom <= self.min_volume_per_atom:
            raise SettingError("max_volume_per_atom must be above min_volume_per_atom")
        if self.rank_by not in RANKINGS:
            raise SettingError(f"rank_by must be {' or '.join(RANKINGS)}, not {self.rank_by!r}")
        if self.top_k is not None and self.top_k < 1:
            raise SettingError(f"top_k must be at least 1, not {self.top_k}")
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
        parameters = {name: float(getattr(self, name)) for name in names}
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
                rejected.append(_rejection(candidate, "geometry", f"{when}{fault}"))
            elif self.require_neutral and not charge_neutral(candidate.formula):
                rejected.append(_rejection(candidate, "charge", _charge_reason(candidate.formula)))
            else:
                passing.append(Passing(candidate, structure, found))
        return passing

    def _priced(
        self, passing: Sequence[Passing], device: str, rejected: list[RejectedCandidate], log: BatchLog
    ) -> tuple[list[Passing], str]:
        """With predicted energies, after relaxation if asked for; and the predictor's name."""
        from dao_flows.model.dao_p import predict_energy
        from dao_flows.model.relax import RelaxConfig, relax

        predictor, predictor_card = load_model(self.predictor, "dao-p", device)
        crystals = [to_crystal(p.structure) for p in passing]
        slots = [formula_key(p.candidate.formula) + p.candidate.z + p.candidate.index for p in passing]

        def energy(value: float) -> Energy:
            return Energy(value=value, model=predictor_card.name, model_sha256=predictor_card.sha256)

        priced: dict[str, Passing] = {}
        if self.relax and crystals:
            settings = RelaxConfig(iterations=self.relax_iterations)
            relaxed = relax(predictor, crystals, settings, slots=slots, log=log)
            moved = []
            for p, result in zip(passing, relaxed, strict=True):
                if not (isfinite(result.energy_before) and isfinite(result.energy_after)):
                    rejected.append(_rejection(p.candidate, "energy", "the predicted energy is not finite"))
                    continue
                relaxation = Relaxation(
                    iterations=result.iterations,
                    converged=result.converged,
                    energy_before=energy(result.energy_before),
                )
                moved.append((p.candidate, to_structure(result.crystal)))
                priced[p.candidate.candidate_id] = replace(p, energy=energy(result.energy_after), relaxation=relaxation)
            still = self._valid(moved, rejected, when="after relaxation: ")
            return [
                replace(priced[p.candidate.candidate_id], structure=p.structure, contacts=p.contacts) for p in still
            ], predictor_card.name
        values = predict_energy(predictor, crystals, slots=slots, log=log).tolist()
        for p, value in zip(passing, values, strict=True):
            if isfinite(value):
                priced[p.candidate.candidate_id] = replace(p, energy=energy(value))
            else:
                rejected.append(_rejection(p.candidate, "energy", "the predicted energy is not finite"))
        return list(priced.values()), predictor_card.name

    def _distinct(
        self, priced: Sequence[Passing], rejected: list[RejectedCandidate]
    ) -> list[tuple[Passing, list[str]]]:
        """The lowest in energy of each structure, with the ids of its duplicates; ascending in energy."""
        ordered = sorted(priced, key=lambda p: (p.value, p.candidate.candidate_id))
        same = find_duplicates(
            [p.structure for p in ordered],
            [p.candidate.formula for p in ordered],
            Tolerance(self.ltol, self.stol, self.angle_tol),
        )
        duplicates: dict[int, list[str]] = {index: [] for index, kept in enumerate(same) if kept is None}
        for p, kept in zip(ordered, same, strict=True):
            if kept is None:
                continue
            original = ordered[kept]
            duplicates[kept].append(p.candidate.candidate_id)
            rejected.append(
                _rejection(
                    p.candidate,
                    "duplicate",
                    f"same structure as {original.candidate.candidate_id}, which is predicted "
                    f"{p.value - original.value:.4f} eV/atom lower",
                    energy=p.energy,
                    duplicate_of=original.candidate.candidate_id,
                )
            )
        return [(ordered[index], ids) for index, ids in duplicates.items()]

    def _ranked(
        self,
        distinct: Sequence[tuple[Passing, list[str]]],
        rejected: list[RejectedCandidate],
        plan: Sequence[CompositionPlan],
    ) -> list[tuple[int, Passing, list[str]]]:
        """With ranks within each composition, the best top_k only; compositions in the plan's order."""
        by_formula: dict[str, list[tuple[Passing, list[str]]]] = defaultdict(list)
        for entry in distinct:
            by_formula[entry[0].candidate.formula].append(entry)
        ranked = []
        for formula in (entry.formula for entry in plan):
            members = by_formula[formula]
            if self.rank_by == "agreement":
                members = sorted(members, key=lambda entry: -len(entry[1]))  # stable: by energy between equals
            for rank, (p, ids) in enumerate(members, start=1):
                if self.top_k is None or rank <= self.top_k:
                    ranked.append((rank, p, ids))
                    continue
                reason = f"rank {rank} of {len(members)} for {formula}; the best {self.top_k} are kept"
                rejected.append(_rejection(p.candidate, "rank", reason, energy=p.energy))
        return ranked

    def _described(
        self, ranked: Sequence[tuple[int, Passing, list[str]]], rejected: list[RejectedCandidate]
    ) -> list[ScreenedCandidate]:
        """Symmetry and prototype of those that passed, as documents."""
        look = partial(_look, tight=self.symprec_tight, loose=self.symprec_loose, prototypes=self.prototypes)
        accepted = []
        for (rank, p, ids), seen in zip(ranked, parallel_map(look, [p.structure for _, p, _ in ranked]), strict=True):
            tight, loose, refined, known = seen
            assert p.energy is not None
            accepted.append(
                ScreenedCandidate(
                    candidate_id=p.candidate.candidate_id,
                    formula=p.candidate.formula,
                    z=p.candidate.z,
                    rank=rank,
                    structure=p.structure,
                    generated_structure=p.candidate.structure if self.relax else None,
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
                    duplicates=ids,
                    origin=p.candidate.origin,
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


def _rejection(
    candidate: GeneratedCandidate,
    cause: Cause,
    reason: str,
    energy: Energy | None = None,
    duplicate_of: str | None = None,
) -> RejectedCandidate:
    return RejectedCandidate(
        candidate_id=candidate.candidate_id,
        formula=candidate.formula,
        z=candidate.z,
        cause=cause,
        reason=reason,
        energy=energy,
        duplicate_of=duplicate_of,
    )


def _charge_reason(formula: str) -> str:
    if charge_neutral(formula) is None:
        return f"SMACT knows no oxidation states for an element of {formula}"
    return f"no combination of oxidation states makes {formula} neutral (SMACT)"
