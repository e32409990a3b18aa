"""ChooseMaker: which relaxed candidates join the training set."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jobflow.core.job import Response
from jobflow.core.maker import Maker
from jobflow.core.state import CURRENT_JOB

from dao_flows.makers.crosscheck import CrossCheckMaker
from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.jobs.shards import crystal_of
from dao_flows.makers.jobs.stage import stage
from dao_flows.makers.machine.places import PATH, Places
from dao_flows.makers.merge import dataset_folder, in_full
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.labels import LabelledDatasetDoc
from dao_flows.makers.schemas.rounds import CandidateSetDoc, Chosen, ExtendedDatasetDoc
from dao_flows.makers.science.duplicates import Tolerance, find_duplicates
from dao_flows.makers.science.structures import to_structure
from dao_flows.makers.science.validity import Rules, contact_fault, contacts, volume_fault
from dao_flows.version import __version__

from .rows import JUDGED, MEANING, ORIGIN, Row, formula_of_numbers, training_rows, write_dataset

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

ABOVE, NOT_PREDICTED, GEOMETRY = "above the bound", "no prediction", "atoms too close or cell too large"
KNOWN, DUPLICATE, ENOUGH = "in the training set", "duplicate", "enough of its formula"


@dataclass
class ChooseMaker(Maker):
    """Chooses relaxed candidates, and makes a dataset of the training set with them behind it.

    A candidate joins if DAO-P's energy of what its relaxation left (the crystal as it was, where that was refused) is
    at most `bound` (eV/atom above hull), its geometry is valid, it is neither a crystal of the training set nor a
    better candidate, and fewer than per_formula of its formula have joined (None: any number). It joins without an
    e_above_hull, so that DAO-P never learns from its own word; what it predicted stands in predicted_e_above_hull.
    cross_check: the teacher checks a sample of the relaxations in a job beside, where there was any (None: none does).
    """

    PLACES: ClassVar[Places] = {"dataset": PATH, "out": PATH}

    name: str = "choose"
    bound: float = 0.1
    per_formula: int | None = 3
    cross_check: CrossCheckMaker | None = field(default_factory=CrossCheckMaker)

    @stage(output_schema=ExtendedDatasetDoc)
    def make(
        self,
        dataset: str,
        candidates: CandidateSetDoc,
        relaxed: str | Mapping[str, Any],
        labels: LabelledDatasetDoc,
        out: str,
    ) -> Response[ExtendedDatasetDoc]:
        """Choose among the candidates of a round, and make the dataset in the folder `out`, where it may lie already.

        dataset: the training set, in full; candidates: as laid out; relaxed, labels: the datasets that DAO-P and the
        teacher made of them. Raises ParameterError for what does not belong together, and a folder that holds something
        else; DataError for a damaged dataset.
        """
        from dao_flows.model.data.shards import dataset_rows, read_manifest

        started, folder, target = datetime.now(UTC), in_full(dataset), in_full(out)
        self.check()
        candidates = CandidateSetDoc.model_validate(candidates)
        labels = LabelledDatasetDoc.model_validate(labels)
        parent, moved = read_manifest(folder), read_manifest(dataset_folder(relaxed))
        if not moved.parent == labels.parent == candidates.sha256:
            raise ParameterError("relaxed and labelled candidates are not those that were laid out")
        science = Science(
            maker=type(self).__name__,
            parameters={"bound": float(self.bound), "per_formula": self.per_formula},
            inputs={
                "dataset": parent.sha256,
                "candidates": candidates.sha256,
                "relaxed": moved.sha256,
                "labels": labels.sha256,
                "round": candidates.round,
            },
            checkpoints=moved.made_by.get("checkpoints", {}),
            code_version=__version__,
        )
        rows = [row for row in dataset_rows(dataset_folder(relaxed)) if row["candidate_id"] is not None]
        chosen, turned_away = self._chosen(folder, rows)
        teacher = f"{labels.force_field} {labels.force_field_version}"
        names = parent.columns | ORIGIN | JUDGED
        joining = [
            {name: row.get(name) for name in names}
            | {"e_above_hull": None, "teacher": teacher, "predicted_e_above_hull": predicted(row)}
            for row in chosen
        ]
        made_by = {
            "maker": science.maker,
            "parameters": science.parameters,
            "checkpoints": science.checkpoints,
            **{name: told for name, told in science.inputs.items() if name != "dataset"},
            "teacher": teacher,
            "columns": MEANING,
        }
        manifest = write_dataset(target, chain(dataset_rows(folder), joining), names, parent, made_by)
        document = ExtendedDatasetDoc(
            round=candidates.round,
            path=str(target),
            sha256=manifest.sha256,
            name=manifest.name,
            rows=manifest.rows,
            parent=parent.sha256,
            teacher=labels.force_field,
            teacher_version=labels.force_field_version,
            candidates=len(rows),
            chosen=[
                Chosen(
                    candidate_id=row["candidate_id"],
                    formula=row["reduced_formula"],
                    predicted_e_above_hull=row["predicted_e_above_hull"],
                    relaxed=before["relaxed"],
                    template=row["template"],
                )
                for row, before in zip(joining, chosen, strict=True)
            ],
            turned_away=turned_away,
            provenance=provenance(science, execution_record(started, "cpu", {})),
        )
        return Response(output=document, addition=self._sample(candidates.path, relaxed, rows))

    def check(self) -> None:
        """Raises ParameterError for a setting out of range, and a force field of the check that cannot be used."""
        if not isfinite(self.bound):
            raise ParameterError(f"bound must be a number of eV/atom, not {self.bound}")
        if self.per_formula is not None and self.per_formula < 1:
            raise ParameterError(f"per_formula must be at least 1, not {self.per_formula}")
        if self.cross_check is not None:
            self.cross_check.check()

    def _chosen(self, training: Path, rows: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
        """The rows that join, by formula and the best first, and how many do not, by reason."""
        away: Counter[str] = Counter()
        fitting = []
        for row in rows:
            if (fault := self._fault(row)) is None:
                fitting.append(row)
            else:
                away[fault] += 1
        fitting.sort(key=lambda row: (row["reduced_formula"], predicted(row), row["candidate_id"]))
        formulas = {row["reduced_formula"] for row in fitting}
        known = [row for formula, row in training_rows(training) if formula in formulas and crystal_of(row) is not None]
        compared = [*known, *fitting]
        formulas_of = [formula_of_numbers(row["numbers"]) for row in compared]
        same = find_duplicates([_structure(row) for row in compared], formulas_of, Tolerance())
        chosen: dict[str, list[Row]] = defaultdict(list)
        for row, twin in zip(fitting, same[len(known) :], strict=True):
            group = chosen[row["reduced_formula"]]
            if twin is not None:
                away[KNOWN if twin < len(known) else DUPLICATE] += 1
            elif self.per_formula is not None and len(group) >= self.per_formula:
                away[ENOUGH] += 1
            else:
                group.append(row)
        return list(chain.from_iterable(chosen.values())), dict(sorted(away.items()))

    def _fault(self, row: Row) -> str | None:
        """Why a candidate cannot join, whatever the others are."""
        energy = predicted(row)
        if energy is None or not isfinite(energy):
            return NOT_PREDICTED
        if energy > self.bound:
            return ABOVE
        structure = _structure(row)
        rules = Rules()
        if volume_fault(structure, rules) is not None or contact_fault(contacts(structure), rules) is not None:
            return GEOMETRY
        return None

    def _sample(self, candidates: str, relaxed: str | Mapping[str, Any], rows: Sequence[Row]) -> Any:
        """The teacher's check beside, if there is anything to check."""
        if self.cross_check is None or not any(row["relaxed"] for row in rows):
            return None
        job = self.cross_check.make(candidates, str(dataset_folder(relaxed)))
        if (parent := CURRENT_JOB.job) is not None:
            job.update_metadata(dict(parent.metadata))
        return job


def predicted(row: Row) -> float | None:
    """DAO-P's energy (eV/atom above hull) of the crystal that a row of a relaxed dataset holds; None: it has none."""
    energy: float | None = row["energy_after"] if row["relaxed"] else row["energy_before"]
    return energy


def _structure(row: Row) -> Structure:
    crystal = crystal_of(row)
    assert crystal is not None  # rows without a crystal are predicted no energy
    return to_structure(crystal)
