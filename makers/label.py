"""LabelMaker: a force field's energies, forces and stresses of the crystals of a dataset, one job a shard."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jobflow.core.job import Response
from jobflow.core.maker import Maker

from dao_flows.makers.schemas.document import Science
from dao_flows.version import __version__

from .jobs.provenance import execution_record, provenance
from .jobs.shards import NO_CRYSTAL, Chunk, Row, at_work, crystal_of, of_the_original, shard_flow, shard_inputs, spread
from .jobs.stage import stage
from .machine.places import PATH, Places
from .merge import REJECTS, dataset_folder, in_full, merge, merge_science
from .models.atomate import CHGNET
from .models.checkpoints import ParameterError, pick_device
from .models.energy_model import energy_model
from .models.force_field import ForceField, ForceFieldError, Frame
from .schemas.labels import FailedCrystal, LabelledDatasetDoc, LabellingDoc
from .schemas.shards import ShardFile
from .science.structures import to_structure

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from dao_flows.model.data.shards import Manifest

COLUMNS = {
    "step": "int32",
    "energy_per_atom": "double",
    "forces": "list<float>",
    "stress": "list<float>",
}
MEANING = {
    "step": "steps of relaxation after which the crystal is that of this row; 0: as it was",
    "energy_per_atom": "eV/atom, on the force field's own scale",
    "forces": "(3n) eV/Å, atom after atom, in the axes of the lattice",
    "stress": "(9) GPa, row-major, dE/dε over the volume: positive on the diagonal where the crystal would shrink",
    "e_above_hull": "null where step > 0, as all other figures: the label is the original's, which the parent keeps",
}


@dataclass
class LabelMaker(Maker):
    """Labels the crystals of one shard with a force field, as they are and on the way of their relaxation.

    force_field: as atomate2.forcefields calls it (CHGNet ships with the extra `forcefields`). steps: of relaxation
    (L-BFGS, cell and atoms free, symmetry kept) after which there is a frame; one that ends sooner gives its last frame
    for all that follow, once. chunk_rows: crystals after which a killed job goes on; they are the row groups of the
    result, so it counts among the settings.

    A labelled shard has one row a frame, in the order of the crystals and steps, with the columns of the dataset and
    `step`, `energy_per_atom` (eV/atom, on the force field's own scale), `forces` (3n, eV/Å) and `stress` (9, GPa, as
    ase has it: positive on the diagonal where the crystal would shrink), in place of what had these names. Where step
    is not 0, the dataset's labels and other numeric properties are null, for they are those of another geometry. A
    crystal that the force field cannot compute is told in the document, and harms no other.
    """

    PLACES: ClassVar[Places] = {"dataset": PATH, "out": PATH}

    name: str = "label shard"
    force_field: str = CHGNET
    steps: tuple[int, ...] = (0, 10, 30)
    chunk_rows: int = 50
    device: str = "auto"

    @stage(output_schema=LabellingDoc)
    def make(self, dataset: str | Mapping[str, Any], shard: int, out: str) -> LabellingDoc:
        """Label shard number `shard` of a dataset (its folder, or a document with its path) into the folder `out`.

        A killed job goes on after the last finished chunk, and a finished shard is not computed again. Raises
        ParameterError for a setting, folder or force field, DataError for a damaged dataset.
        """
        from dao_flows.model.data.shards import read_manifest

        started, device = datetime.now(UTC), pick_device(self.device)
        folder, target = dataset_folder(dataset), in_full(out)
        self.check()
        manifest = read_manifest(folder)
        science = self.science(manifest, shard)
        with at_work(LabellingDoc, (folder, manifest), target, science) as work:
            if isinstance(work, LabellingDoc):
                return work
            names = manifest.columns | COLUMNS
            lost = frozenset(of_the_original(manifest.columns) - set(COLUMNS))
            labelling = _Labelling(ForceField(self.force_field, device), science.parameters["steps"], lost)
            computation = work.compute(names, self.chunk_rows, labelling.of, "label")
            failed = [FailedCrystal.model_validate(each) for each in work.failed(computation)]
            document = LabellingDoc(
                dataset=manifest.sha256,
                shard=shard,
                path=str(work.result),
                original=ShardFile(**asdict(work.original)),
                labelled=work.join(names, computation),
                force_field=science.parameters["force_field"],
                force_field_version=science.parameters["force_field_version"],
                columns=names,
                crystals=work.original.rows - sum(each.step == science.parameters["steps"][0] for each in failed),
                failed=failed,
                **_summary(work.result),
                computation=computation,
                provenance=provenance(science, execution_record(started, device, {})),
            )
            work.finish(document)
        return document

    def check(self) -> None:
        """Raises ParameterError for a setting out of range, and a force field that is not known or not installed."""
        if not self.steps or min(self.steps) < 0:
            raise ParameterError(f"steps must be numbers of relaxation steps from 0 on, not {tuple(self.steps)}")
        if self.chunk_rows < 1:
            raise ParameterError(f"chunk_rows must be at least 1, not {self.chunk_rows}")
        _ = energy_model(self.force_field).version

    def science(self, manifest: Manifest, shard: int) -> Science:
        """All that decides the result, known before the run. Raises ParameterError if there is no such shard."""
        teacher = energy_model(self.force_field)
        return Science(
            maker=type(self).__name__,
            parameters={
                "force_field": teacher.name,
                "force_field_version": teacher.version,
                "steps": sorted(set(self.steps)),
                "chunk_rows": self.chunk_rows,
            },
            inputs=shard_inputs(manifest, shard),
            checkpoints={},
            code_version=__version__,
        )


@dataclass(frozen=True)
class _Labelling:
    """A force field at work on rows. steps: of the frames, ascending; lost: columns of the original alone."""

    force_field: ForceField
    steps: Sequence[int]
    lost: frozenset[str]

    def of(self, rows: Sequence[Row]) -> Chunk:
        """The frames of the rows, and the failures."""
        out: list[Row] = []
        failed: list[Row] = []
        tried = 0
        for number, row in enumerate(rows):
            told = {"material_id": row["material_id"], "row": number}
            structure = _structure(row)
            if structure is None:
                failed.append(told | {"step": self.steps[0], "reason": NO_CRYSTAL})
                continue
            tried += 1
            for step, frame in self._frames(structure):
                if isinstance(frame, Frame):
                    labels = dict.fromkeys(self.lost) if step else {}
                    out.append(row | labels | _figures(frame) | {"step": step})
                else:
                    failed.append(told | {"step": step, "reason": frame})
        return Chunk(out, tried, failed)

    def _frames(self, structure: Structure) -> Iterator[tuple[int, Frame | str]]:
        """The frames of one crystal with their steps, and at the end the reason if any are missing."""
        first, last = self.steps[0], self.steps[-1]
        try:
            way = self.force_field.relax(structure, last, frames=True).frames if last else (self._as_is(structure),)
        except ForceFieldError as error:
            missing = first
            if first == 0 < last:  # what it is before the relaxation may have figures all the same
                with suppress(ForceFieldError):
                    yield 0, self._as_is(structure)
                    missing = self.steps[1]
            yield missing, str(error)
            return
        for step in sorted({min(step, len(way) - 1) for step in self.steps}):
            yield step, way[step]

    def _as_is(self, structure: Structure) -> Frame:
        return Frame(structure, self.force_field.labels(structure))


def _structure(row: Row) -> Structure | None:
    """The structure of a row, if it is one."""
    crystal = crystal_of(row)
    try:
        return None if crystal is None else to_structure(crystal)
    except ValueError:  # an atomic number of no element
        return None


def _figures(frame: Frame) -> Row:
    """The columns of a frame that are its own."""
    frac = (frame.structure.frac_coords % 1).astype(np.float32) % 1  # which may round up to 1
    return {
        "lattice": frame.structure.lattice.matrix.ravel().tolist(),
        "frac": frac.ravel().tolist(),
        "energy_per_atom": frame.labels.energy,
        "forces": frame.labels.forces.ravel().tolist(),
        "stress": frame.labels.stress.ravel().tolist(),
    }


def _summary(labelled: Path) -> dict[str, Any]:
    """Rows of each split, and spreads of a labelled shard's energies, as the document holds them."""
    import pyarrow.parquet as pq

    table = pq.read_table(labelled, columns=["split", "material_id", "step", "energy_per_atom"])
    energies, steps, ids = (table[name].to_numpy() for name in ("energy_per_atom", "step", "material_id"))
    starts = np.ones(len(steps), bool)  # of each crystal's frames
    starts[1:] = (np.diff(steps) <= 0) | (ids[1:] != ids[:-1])
    before, after = energies[starts], energies[np.roll(starts, -1)]
    return {
        "splits": dict(sorted(Counter(table["split"].to_pylist()).items())),
        "energy_before": spread(before),
        "energy_after": spread(after),
        "energy_fall": spread(before - after),
    }


@dataclass
class MergeLabelsMaker(Maker):
    """Makes a dataset of the labelled shards of another one: the same crystals in the same order, each with its frames.

    dataset_name: what the manifest calls it; None: the original's name and '-labelled'. The manifest tells the parent's
    sha256, the settings, the force field with its version, and what the new columns mean; rejects.jsonl beside it
    names the crystals that failed, if any did. The same shards give the same dataset sha256.
    """

    PLACES: ClassVar[Places] = {"dataset": PATH, "out": PATH}

    name: str = "merge labels"
    dataset_name: str | None = None

    @stage(output_schema=LabelledDatasetDoc)
    def make(self, dataset: str | Mapping[str, Any], shards: Sequence[LabellingDoc], out: str) -> LabelledDatasetDoc:
        """Merge the documents' shards into the folder `out`, where they may lie already.

        dataset: the original, by its folder or a document with its path. Raises ParameterError if a shard is missing,
        or is of another dataset, or was labelled otherwise than its fellows; DataError for a damaged file.
        """
        from dao_flows.model.data.shards import read_manifest

        started = datetime.now(UTC)
        folder, target = dataset_folder(dataset), in_full(out)
        name = self.dataset_name or f"{read_manifest(folder).name}-labelled"
        documents = sorted((LabellingDoc.model_validate(shard) for shard in shards), key=lambda shard: shard.shard)
        failed = [{"shard": shard.shard} | each.model_dump() for shard in documents for each in shard.failed]
        lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in failed)
        crystals = sum(shard.crystals for shard in documents)
        manifest = merge(folder, documents, target, name, {"crystals": crystals, "columns": MEANING}, lines or None)
        return LabelledDatasetDoc(
            path=str(target),
            sha256=manifest.sha256,
            parent=str(manifest.parent),
            rows=manifest.rows,
            crystals=crystals,
            failed=len(failed),
            force_field=documents[0].force_field,
            force_field_version=documents[0].force_field_version,
            rejects=str(target / REJECTS) if failed else None,
            provenance=provenance(merge_science(type(self).__name__, manifest), execution_record(started, "cpu", {})),
        )


@stage(places=LabelMaker.PLACES)  # no output_schema, as of relax_jobs
def label_jobs(
    dataset: str | Mapping[str, Any], out: str, maker: LabelMaker | None = None, merge: MergeLabelsMaker | None = None
) -> Response[LabelledDatasetDoc]:
    """Label a whole dataset: one job a shard, and one that merges them into a dataset in the folder `out`.

    A job itself, which reads the manifest when it runs. Its output is the merged dataset's document. Raises
    ParameterError and DataError as the makers do.
    """
    maker = maker or LabelMaker()
    maker.check()
    return shard_flow(maker, merge or MergeLabelsMaker(), dataset_folder(dataset), in_full(out))
