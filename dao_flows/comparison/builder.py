"""The `comparisons` collection: each successful verification beside the prediction that it tested."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from maggma.core import Builder, Store
from maggma.utils import grouper
from monty.json import jsanitize
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.makers.reference import ReferenceSet, hull_energy
from dao_flows.makers.schemas.prediction import CandidateDoc, ScreeningDoc
from dao_flows.makers.schemas.verification import HullEnergy, VerificationDoc
from dao_flows.makers.science.match_rate import MATCHER
from dao_flows.makers.science.structures import primitive_niggli
from dao_flows.makers.science.symmetry import LOOSE, space_group
from dao_flows.store.candidates import candidate_doc

from .schemas import SCHEMA_VERSION, ComparisonDoc, Cost, StructureChange

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

WHEN = "provenance.execution.ended_at"
CHUNK = 20
# how far a cell may change and still be told in the setting closest to the predicted one
LENGTHS, ANGLES = 0.3, 20.0  # relative, degrees


class Pair(NamedTuple):
    """A verification and the candidate that it tested."""

    verification: VerificationDoc
    candidate: CandidateDoc


class ComparisonBuilder(Builder):
    """Compares what is newly verified; safe to run again, and in several processes at once.

    jobs: where a candidate is looked up whose later screening has taken its place among the candidates. A verification
    whose prediction is in neither, or that has no structure, energy or level, is left alone, and looked at next time.
    """

    def __init__(self, jobs: JobStore, verifications: Store, candidates: Store, comparisons: Store) -> None:
        self.jobs, self.verifications, self.candidates, self.comparisons = jobs, verifications, candidates, comparisons
        super().__init__(sources=[jobs, verifications, candidates], targets=[comparisons], chunk_size=CHUNK)

    def get_items(self) -> Iterator[Pair]:
        """Successful verifications that are not compared yet, or were made again since, with their candidates."""
        marks = self.verifications.query({"state": "successful"}, properties=["verification_id", WHEN])
        ended = {mark["verification_id"]: mark["provenance"]["execution"]["ended_at"] for mark in marks}
        for chunk in grouper(ended, self.chunk_size):
            there = self._compared(chunk)
            wanted = [each for each in chunk if ended[each] > there.get(each, "")]
            found = self.verifications.query({"verification_id": {"$in": wanted}}) if wanted else ()
            for verification in map(VerificationDoc.model_validate, found):
                if None in (verification.structure, verification.energy_per_atom, verification.level):
                    continue
                if (candidate := self.predicted(verification)) is not None:
                    yield Pair(verification, candidate)

    def process_item(self, item: Pair) -> ComparisonDoc:
        """One document of both."""
        return comparison_doc(item.verification, item.candidate)

    def update_targets(self, items: list[ComparisonDoc]) -> None:
        """Write those that are later than what is there."""
        there = self._compared([document.comparison_id for document in items])
        fresh = [d for d in items if (d.verified_at or "") > there.get(d.comparison_id, "")]
        if fresh:
            clean = [jsanitize(document, strict=True) for document in fresh]
            sealed = [{"_id": d["comparison_id"], **d, "content_hash": content_hash(d)} for d in clean]
            self.comparisons.update(sealed, key="_id")

    def build(self) -> None:
        """What `run` does, without its logging and with the stores left open."""
        for chunk in grouper(self.get_items(), self.chunk_size):
            self.update_targets([self.process_item(item) for item in chunk])

    def _compared(self, ids: list[str]) -> dict[str, str]:
        """When each comparison that is there was verified; one of an older schema counts as not there."""
        criteria = {"comparison_id": {"$in": ids}, "schema_version": SCHEMA_VERSION}
        found = self.comparisons.query(criteria, properties=["comparison_id", "verified_at"])
        return {document["comparison_id"]: document.get("verified_at") or "" for document in found}

    def predicted(self, verification: VerificationDoc) -> CandidateDoc | None:
        """The candidate as the screening ranked it whose structure was verified."""
        wanted = verification.candidate_science_hash
        document = self.candidates.query_one({"candidate_id": verification.candidate_id})
        if document is not None and document["screening"]["science_hash"] == wanted:
            return CandidateDoc.model_validate(document)
        criteria = {"output.@class": ScreeningDoc.__name__, "output.provenance.science_hash": wanted}
        for job in self.jobs.query(criteria, properties=["output"]):
            screening = ScreeningDoc.model_validate(job["output"])
            for place, accepted in enumerate(screening.accepted):
                if accepted.candidate_id == verification.candidate_id:
                    return candidate_doc(screening, place)
        return None


def comparison_doc(verification: VerificationDoc, candidate: CandidateDoc) -> ComparisonDoc:
    """A successful verification beside the candidate that it tested."""
    relaxed, energy, level = verification.structure, verification.energy_per_atom, verification.level
    assert relaxed is not None and energy is not None and level is not None
    document = ComparisonDoc(
        comparison_id=verification.verification_id,
        candidate_id=candidate.candidate_id,
        verification_id=verification.verification_id,
        formula=candidate.formula,
        chemsys=candidate.chemsys,
        backend=verification.backend,
        level=level,
        reference_sha256=None,
        scheme=None,
        rank=candidate.rank,
        origin=candidate.origin,
        predicted_energy_above_hull=candidate.energy.value,
        predictor=candidate.energy.model_sha256,
        predictor_name=candidate.energy.model,
        energy_per_atom=energy,
        energy_above_hull=None,
        energy_error=None,
        structure_change=structure_change(candidate, verification.sent, relaxed),
        predicted_structure=candidate.structure,
        verified_structure=relaxed,
        cost=cost(candidate, verification),
        candidate_science_hash=verification.candidate_science_hash,
        verification_science_hash=verification.provenance.science_hash,
        verified_at=verification.provenance.execution.ended_at,
    )
    return document if verification.hull is None else with_hull(document, verification.hull)


def with_hull(document: ComparisonDoc, hull: HullEnergy) -> ComparisonDoc:
    """The same comparison, against this hull."""
    above = hull.energy_above_hull
    return document.model_copy(
        update={
            "reference": hull.reference,
            "reference_sha256": hull.reference_sha256,
            "scheme": hull.scheme,
            "scheme_version": hull.scheme_version,
            "missing": hull.missing,
            "energy_above_hull": above,
            "raw_energy_above_hull": hull.raw_energy_above_hull,
            "energy_error": None if above is None else document.predicted_energy_above_hull - above,
        }
    )


def against(document: ComparisonDoc, reference: ReferenceSet) -> ComparisonDoc:
    """The same comparison, against another reference set. Raises ReferenceSetError."""
    structure = document.verified_structure
    energy = document.energy_per_atom * len(structure)
    return with_hull(document, hull_energy(reference, structure, energy, document.level))


def structure_change(candidate: CandidateDoc, sent: Structure, relaxed: Structure) -> StructureChange:
    """What the relaxation of `sent`, the candidate's symmetrised primitive cell, did to it."""
    predicted, loose = candidate.structure, candidate.symmetry_loose
    symprec = loose.symprec if loose is not None else LOOSE
    rmse = _rmse(predicted, relaxed)
    found, _ = space_group(relaxed, symprec)
    before, after = (1 if group is None else group.number for group in (loose, found))
    cells = (sent, relaxed) if len(sent) == len(relaxed) else (primitive_niggli(sent), primitive_niggli(relaxed))
    lengths, angles = cell_change(*(structure.lattice for structure in cells))
    return StructureChange(
        matches=rmse is not None,
        rmse=rmse,
        volume_ratio=(relaxed.volume / len(relaxed)) / (predicted.volume / len(predicted)),
        lengths_change=lengths,
        angles_change=angles,
        space_group_before=before,
        space_group_after=after,
        space_group_kept=before == after,
    )


def _rmse(predicted: Structure, relaxed: Structure) -> float | None:
    """In units of the cube root of an atom's volume, at the tolerances of the match rate; None without a match."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = MATCHER.get_rms_dist(primitive_niggli(predicted), primitive_niggli(relaxed))  # type: ignore[no-untyped-call]
    except (ValueError, np.linalg.LinAlgError):  # a cell so far off that it cannot be reduced matches nothing
        return None
    return None if found is None else float(found[0])


def cell_change(before: Lattice, after: Lattice) -> tuple[list[float], list[float]]:
    """Relative changes of a, b, c and changes of α, β, γ (degrees), from the Niggli cell of `before`.

    Of all cells of `after` the one closest to it is taken: Niggli cells of two lattices that hardly differ can have
    angles 60° apart.
    """
    start = before.get_niggli_reduced_lattice()
    settings = [after.get_niggli_reduced_lattice()]
    settings += [
        each[0] for each in after.find_all_mappings(start, ltol=LENGTHS, atol=ANGLES, skip_rotation_matrix=True)
    ]

    def changes(end: Lattice) -> tuple[np.ndarray, np.ndarray]:
        return np.divide(end.abc, start.abc) - 1, np.subtract(end.angles, start.angles)

    def distance(end: Lattice) -> float:
        lengths, angles = changes(end)
        return float((lengths**2).sum() + (np.radians(angles) ** 2).sum())

    lengths, angles = changes(min(settings, key=distance))
    return lengths.tolist(), angles.tolist()


def cost(candidate: CandidateDoc, verification: VerificationDoc) -> Cost:
    """What the prediction took and what its verification took, from the provenance of both.

    A batch's time is shared alike by its candidates, rejected ones too; that of the sampler by those that were drawn.
    """
    science, generation, screening = candidate.generation.science, candidate.generation, candidate.screening
    compositions = science.inputs.get("compositions") or []
    counted = [cells for entry in compositions for cells in entry["cells"]]
    drawn = sum(cells["candidates"] for cells in counted)
    made = drawn + sum(cells.get("templates", 0) for cells in counted)
    steps = science.parameters.get("steps")
    share = generation.execution.wall_seconds / made if made else None
    step = generation.execution.wall_seconds / drawn / steps if drawn and steps else None
    timed = [each for each in verification.calculations if each.ionic_steps]
    iterations = sum(each.ionic_steps or 0 for each in timed)
    core_seconds = sum(each.wall_seconds * each.cores for each in timed)
    return Cost(
        prediction_seconds=share + screening.execution.wall_seconds / made if share is not None else None,
        verification_core_seconds=verification.core_seconds,
        sampling_step_seconds=step,
        dft_iteration_core_seconds=core_seconds / iterations if iterations else None,
    )
