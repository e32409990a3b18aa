"""LayOutMaker: a generation's candidates as a dataset, which makers of datasets label and relax."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import ClassVar

import numpy as np
from jobflow.core.maker import Maker

from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.jobs.stage import stage
from dao_flows.makers.machine.places import PATH, Places
from dao_flows.makers.merge import in_full
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import GeneratedCandidate, GenerationDoc
from dao_flows.makers.schemas.rounds import CandidateSetDoc
from dao_flows.makers.science.validity import Rules, volume_fault
from dao_flows.version import __version__

from .rows import MEANING, ORIGIN, Row, training_rows, write_dataset


@dataclass
class LayOutMaker(Maker):
    """Lays candidates out as rows of a dataset, behind training crystals of their formulas.

    anchors: of each formula, at most: those of the lowest known energy above hull, by which a teacher's energies of all
    crystals of the formula have their zero (model/data/labels.py). Candidates have no energy. All rows are for
    training; a candidate's `source` and `round` name the round, `material_id` and `candidate_id` the candidate,
    `template` the known crystal that it was made from. Cells too small or too large for a crystal are left out.
    """

    PLACES: ClassVar[Places] = {"dataset": PATH, "out": PATH}

    name: str = "lay out"
    anchors: int = 3

    @stage(output_schema=CandidateSetDoc)
    def make(self, dataset: str, generation: GenerationDoc, out: str, number: int) -> CandidateSetDoc:
        """Lay the candidates of round `number` out in the folder `out`, where they may lie already.

        dataset: the training set. Raises ParameterError for a setting, a folder that holds something else, and a
        generation without crystals; DataError for a damaged dataset.
        """
        from dao_flows.model.data.shards import columns, read_manifest

        started, folder, target = datetime.now(UTC), in_full(dataset), in_full(out)
        self.check()
        generation = GenerationDoc.model_validate(generation)
        parent = read_manifest(folder)
        science = Science(
            maker=type(self).__name__,
            parameters={"anchors": self.anchors},
            inputs={"dataset": parent.sha256, "generation": generation.provenance.science_hash, "round": number},
            checkpoints={},
            code_version=__version__,
        )
        faults = {each.candidate_id: volume_fault(each.structure, Rules()) for each in generation.candidates}
        left_out = {name: fault for name, fault in faults.items() if fault is not None}
        candidates = [each for each in generation.candidates if each.candidate_id not in left_out]
        if not candidates:
            raise ParameterError(f"the generator has drawn no crystal in round {number}: there is nothing to label")
        anchors = self._anchors(folder, {each.formula for each in candidates})
        made_by = {
            "maker": science.maker,
            "parameters": science.parameters,
            "generation": science.inputs["generation"],
            "checkpoints": generation.provenance.science.checkpoints,
            "round": number,
            "columns": {name: MEANING[name] for name in ORIGIN},
        }
        manifest = write_dataset(target, _rows(candidates, anchors, number), columns() | ORIGIN, parent, made_by)
        return CandidateSetDoc(
            round=number,
            path=str(target),
            sha256=manifest.sha256,
            name=manifest.name,
            rows=manifest.rows,
            candidates=len(candidates),
            anchors=manifest.rows - len(candidates),
            left_out=left_out,
            provenance=provenance(science, execution_record(started, "cpu", {})),
        )

    def check(self) -> None:
        """Raises ParameterError for a setting out of range."""
        if self.anchors < 1:
            raise ParameterError(f"anchors must be at least 1, not {self.anchors}")

    def _anchors(self, folder: Path, formulas: set[str]) -> dict[str, list[Row]]:
        """The training crystals of the lowest known energies above hull, of each formula."""
        known: dict[str, list[Row]] = defaultdict(list)
        for formula, row in training_rows(folder):
            energy = row["e_above_hull"]
            if formula in formulas and energy is not None and isfinite(energy):
                known[formula].append(row)
        return {formula: sorted(rows, key=_energy)[: self.anchors] for formula, rows in known.items()}


def _energy(row: Row) -> float:
    return float(row["e_above_hull"])


def _rows(candidates: list[GeneratedCandidate], anchors: dict[str, list[Row]], number: int) -> Iterator[Row]:
    """Of each formula its anchors, then its candidates."""
    from dao_flows.model.data.shards import columns

    by_formula: dict[str, list[GeneratedCandidate]] = defaultdict(list)
    for each in candidates:
        by_formula[each.formula].append(each)
    for formula, group in by_formula.items():
        for row in anchors.get(formula, []):
            yield {name: row.get(name) for name in columns()} | {"reduced_formula": formula}
        for each in group:
            yield _row(each, number)


def _row(candidate: GeneratedCandidate, number: int) -> Row:
    structure, origin = candidate.structure, candidate.origin
    return {
        "material_id": candidate.candidate_id,
        "source": f"round-{number}",
        "reduced_formula": candidate.formula,
        "n_atoms": len(structure),
        "numbers": list(structure.atomic_numbers),
        "lattice": structure.lattice.matrix.ravel().tolist(),
        "frac": (np.asarray(structure.frac_coords % 1, np.float32) % 1).ravel().tolist(),  # which may round up to 1
        "split": "train",
        "round": number,
        "candidate_id": candidate.candidate_id,
        "template": None if origin is None or origin.kind == "drawn" else origin.told(),
    }
