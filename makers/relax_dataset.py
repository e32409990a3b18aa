"""RelaxDatasetMaker: DAO-P relaxes the unstable crystals of a dataset, one job a shard, for DAO-G to train on."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jobflow.core.flow import Flow
from jobflow.core.job import Response
from jobflow.core.maker import Maker
from jobflow.core.state import CURRENT_JOB
from pydantic import ValidationError

from .. import __version__
from .checkpoints import SettingError, card, load_model, pick_device
from .files import write_whole
from .merge import WORK, MergeShardsMaker, dataset_folder, in_full
from .places import CHECKPOINT, PATH, Places
from .progress import report
from .provenance import execution_record, provenance, science_hash
from .relax_schemas import Computation, RelaxationDoc, RelaxedDatasetDoc, ShardFile, Spread
from .reuse import reusable
from .schemas import Science
from .stage import stage

if TYPE_CHECKING:
    from dao_flows.model.checkpoint import Card
    from dao_flows.model.crystals import Crystal
    from dao_flows.model.dao_p import DaoP
    from dao_flows.model.dataset import Manifest, Shard

COLUMNS = {
    "energy_before": "double",
    "energy_after": "double",
    "displacement": "double",
    "volume_ratio": "double",
    "iterations": "int32",
    "relaxed": "bool",
    "relax_outcome": "string",
}

RATIOS = ("min_volume_ratio", "max_volume_ratio", "min_distance_ratio")
MIN_VOLUME = 1e-3  # Å³

Row = dict[str, Any]


@dataclass
class RelaxDatasetMaker(Maker):
    """Relaxes the crystals of one shard whose energy above hull lies in a window: low < e_above_hull ≤ high (eV/atom).

    predictor: DAO-P by name, path or sha256. iterations: L-BFGS steps on coordinates and lattice, none longer than
    max_displacement (fractional) and max_strain. A result takes the original's place if its predicted energy, in the
    Niggli cell in which it is stored, is below the original's; its volume lies within the two ratios to the original's;
    and no distance has fallen below min_distance_ratio of the sum of covalent radii. Else the original stays, and its
    row says why. unlabelled: relax crystals without a known energy too. chunk_rows: rows after which a killed job goes
    on; what is computed together is rounded together, so it counts among the settings.

    Columns that a relaxed shard has beside the dataset's own: `relaxed`; `relax_outcome`, a word and for some a reason
    after a colon; `energy_before`, DAO-P's prediction for the original (eV/atom above hull), of every crystal that
    was tried; and of the relaxed ones `energy_after`, `displacement` (Å, root mean square over the atoms),
    `volume_ratio` and `iterations`. Labels were computed for the original: in relaxed rows e_above_hull, its kind, the
    formation energy and all other numeric properties are null, so that DAO-P never learns from a label of another
    structure; the parent dataset keeps them.
    """

    PLACES: ClassVar[Places] = {"dataset": PATH, "out": PATH, "predictor": CHECKPOINT}

    name: str = "relax shard"
    predictor: str = "dao-p-base"
    low: float = 0.08
    high: float = 0.5
    iterations: int = 5
    max_displacement: float = 0.01
    max_strain: float = 0.02
    min_volume_ratio: float = 0.7
    max_volume_ratio: float = 1.4
    min_distance_ratio: float = 0.6
    unlabelled: bool = False
    chunk_rows: int = 1000
    device: str = "auto"

    @stage(output_schema=RelaxationDoc)
    def make(self, dataset: str | Mapping[str, Any], shard: int, out: str) -> RelaxationDoc:
        """Relax shard number `shard` of a dataset (its folder, or a document with its path) into the folder `out`.

        A killed job goes on after the last finished chunk, and a finished shard is not computed again. Raises
        SettingError for a setting or folder, DataError for a damaged dataset, CheckpointError.
        """
        from dao_flows.model.dataset import join_shards, read_manifest, shard_path

        started, device = datetime.now(UTC), pick_device(self.device)
        folder, target = dataset_folder(dataset), in_full(out)
        self.check()
        manifest = read_manifest(folder)
        science = self.science(manifest, shard)
        _refuse_other_results(target, folder, manifest)
        original = manifest.shards[shard]
        result = target / original.file
        with _alone(target / WORK / f"{result.stem}.lock"):
            if finished := _finished(result, science) or _taken(science):
                return finished
            source = shard_path(folder, original)
            model, found = load_model(self.predictor, "dao-p", device)
            work = target / WORK / result.stem
            chunks = work / science_hash(science)[:16]
            names = manifest.columns | COLUMNS
            labels = {name for name, kind in manifest.columns.items() if kind == "double"} - set(COLUMNS)
            relaxation = _Relaxation(self, model, found, frozenset(labels | {"e_above_hull_kind"}))
            computation = self._relax_chunks(source, original, chunks, names, relaxation)
            pieces = [_chunk(chunks, number) for number in range(computation.chunks)]
            document = RelaxationDoc(
                dataset=manifest.sha256,
                shard=shard,
                path=str(result),
                original=ShardFile(**asdict(original)),
                relaxed=ShardFile(**asdict(join_shards(result, pieces, names))),
                columns=names,
                **_summary(result),
                computation=computation,
                provenance=provenance(science, execution_record(started, device, {"predictor": found.name})),
            )
            write_whole(result.with_suffix(".json"), document.model_dump_json(indent=1) + "\n")
            shutil.rmtree(work)
        return document

    def check(self) -> Card:
        """The predictor's card. Raises SettingError for a setting out of range, CheckpointError for a checkpoint."""
        if not self.low < self.high:
            raise SettingError(f"the window is empty: low ({self.low:g}) must be below high ({self.high:g}) eV/atom")
        for setting in ("iterations", "chunk_rows"):
            if getattr(self, setting) < 1:
                raise SettingError(f"{setting} must be at least 1, not {getattr(self, setting)}")
        for setting in ("max_displacement", "max_strain", "min_volume_ratio"):
            if not getattr(self, setting) > 0:
                raise SettingError(f"{setting} must be above 0, not {getattr(self, setting):g}")
        if not self.min_volume_ratio < 1 < self.max_volume_ratio:
            raise SettingError("min_volume_ratio must be below 1, the original's volume, and max_volume_ratio above")
        if self.min_distance_ratio < 0:
            raise SettingError("min_distance_ratio must not be negative")
        return card(self.predictor, "dao-p")

    def science(self, manifest: Manifest, shard: int) -> Science:
        """All that decides the result, known before the run. Raises SettingError if there is no such shard."""
        if not 0 <= shard < len(manifest.shards):
            raise SettingError(f"there is no shard {shard}: the dataset has {len(manifest.shards)}, the first is 0")
        settings = {name: value for name, value in asdict(self).items() if name not in ("name", "predictor", "device")}
        for name in ("low", "high", "max_displacement", "max_strain", *RATIOS):
            settings[name] = float(settings[name])  # 0 and 0.0 are one setting
        return Science(
            maker=type(self).__name__,
            parameters=settings,
            inputs={"dataset": manifest.sha256, "shard": shard, "shard_sha256": manifest.shards[shard].sha256},
            checkpoints={"predictor": card(self.predictor, "dao-p").sha256},
            code_version=__version__,
        )

    def _relax_chunks(
        self, source: Path, original: Shard, folder: Path, names: Mapping[str, str], relaxation: _Relaxation
    ) -> Computation:
        """Relax the chunks that are not in the folder yet."""
        import pyarrow.parquet as pq

        from dao_flows.model.dataset import write_shard

        folder.mkdir(parents=True, exist_ok=True)
        computation = Computation(rows=0, tried=0, seconds=0, chunks=0, chunks_taken_over=0)
        done = 0
        with pq.ParquetFile(source) as opened:
            for number, batch in enumerate(opened.iter_batches(self.chunk_rows)):
                done += batch.num_rows
                computation.chunks += 1
                if _chunk(folder, number).exists():  # it was put there whole
                    computation.chunks_taken_over += 1
                    continue
                begun = time.monotonic()
                rows = relaxation.of(batch.to_pylist())
                write_shard(_chunk(folder, number), rows, names)
                computation.seconds += time.monotonic() - begun
                computation.rows += len(rows)
                computation.tried += sum(row["energy_before"] is not None for row in rows)
                report(done, original.rows, "relax")
        return computation


@dataclass(frozen=True)
class _Relaxation:
    """The maker's settings at work on rows. labels: the columns that hold for the original structure alone."""

    maker: RelaxDatasetMaker
    model: DaoP
    card: Card
    labels: frozenset[str]

    def of(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with the relaxation's columns, relaxed where accepted."""
        from dao_flows.model.dao_p import predict_energy
        from dao_flows.model.relax import RelaxConfig, relax

        from .acceptance import Bounds, Judged, judge

        maker = self.maker
        out = [row | dict.fromkeys(COLUMNS) | {"relaxed": False, "relax_outcome": self.fate(row)} for row in rows]
        trying = [index for index, row in enumerate(out) if row["relax_outcome"] is None]
        originals = [crystal for index in trying if (crystal := _crystal(rows[index])) is not None]
        config = RelaxConfig(maker.iterations, max_displacement=maker.max_displacement, max_strain=maker.max_strain)
        bounds = Bounds(maker.min_volume_ratio, maker.max_volume_ratio, maker.min_distance_ratio)
        accepted: dict[int, Judged] = {}
        for index, original, result in zip(trying, originals, relax(self.model, originals, config), strict=True):
            if not (isfinite(result.energy_before) and isfinite(result.energy_after)):
                out[index]["relax_outcome"] = "not finite"
                continue
            judged = judge(original, result, bounds)
            out[index] |= {"energy_before": result.energy_before, "relax_outcome": judged.fault}
            if judged.fault is None:
                accepted[index] = judged
        # the network sees the cell that is chosen, so the energy of another one is predicted anew
        moved = [index for index, judged in accepted.items() if judged.another_cell]
        energies = predict_energy(self.model, [accepted[index].relaxed.crystal for index in moved]).tolist()
        fresh = dict(zip(moved, energies, strict=True))
        for index, judged in accepted.items():
            before, after = judged.relaxed.energy_before, fresh.get(index, judged.relaxed.energy_after)
            if not after < before:
                out[index]["relax_outcome"] = f"energy: {after:.4f} eV/atom is not below {before:.4f}"
                continue
            crystal = judged.relaxed.crystal
            out[index] |= dict.fromkeys(self.labels) | {
                "lattice": crystal.lattice.ravel().tolist(),
                "frac": crystal.frac.ravel().tolist(),
                "energy_after": after,
                "displacement": judged.displacement,
                "volume_ratio": judged.volume_ratio,
                "iterations": judged.relaxed.iterations,
                "relaxed": True,
                "relax_outcome": "relaxed",
            }
        return out

    def fate(self, row: Row) -> str | None:
        """Why a row is not tried, or None."""
        energy, numbers = row["e_above_hull"], row["numbers"]
        if energy is None or not isfinite(energy):
            if not self.maker.unlabelled:
                return "unlabelled"
        elif energy <= self.maker.low:
            return "stable"
        elif energy > self.maker.high:
            return "above window"
        if len(numbers) > self.card.max_atoms:
            return f"not covered: {len(numbers)} atoms, {self.card.name} covers {self.card.max_atoms}"
        if unknown := sorted(set(numbers) - set(self.card.elements)):
            return f"not covered: {self.card.name} does not know the atomic number {unknown[0]}"
        if _crystal(row) is None:
            return "no crystal: the figures are not those of a cell with atoms"
        return None


def _crystal(row: Row) -> Crystal | None:
    """The crystal of a row, if it is one."""
    from dao_flows.model.crystals import Crystal

    numbers, frac, lattice = (np.asarray(row[name]) for name in ("numbers", "frac", "lattice"))
    if not len(numbers) or frac.shape != (3 * len(numbers),) or lattice.shape != (9,):
        return None
    lattice = lattice.astype(float).reshape(3, 3)
    if not (np.isfinite(lattice).all() and np.isfinite(frac.astype(float)).all()):
        return None
    return Crystal(numbers, frac.reshape(-1, 3), lattice) if abs(np.linalg.det(lattice)) > MIN_VOLUME else None


def _chunk(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:06d}.parquet"


def _summary(shard: Path) -> dict[str, Any]:
    """Counts and spreads of a relaxed shard, as the document holds them."""
    import pyarrow.parquet as pq

    names = ["split", "relax_outcome", "relaxed", "energy_before", "energy_after", "displacement", "volume_ratio"]
    table = pq.read_table(shard, columns=names)
    outcomes = Counter(text.partition(":")[0] for text in table["relax_outcome"].to_pylist())
    relaxed = table.filter(table["relaxed"])
    figures = {name: relaxed[name].to_numpy() for name in names[3:]}
    figures["energy_fall"] = figures["energy_before"] - figures["energy_after"]
    return {
        "splits": dict(sorted(Counter(table["split"].to_pylist()).items())),
        "outcomes": dict(sorted(outcomes.items())),
        **{name: _spread(values) for name, values in figures.items()},
    }


def _spread(values: np.ndarray) -> Spread | None:
    if not len(values):
        return None
    lowest, *quartiles, highest = np.percentile(values, [0, 25, 50, 75, 100]).tolist()
    return Spread(mean=float(values.mean()), minimum=lowest, quartiles=tuple(quartiles), maximum=highest)


def _refuse_other_results(target: Path, folder: Path, manifest: Manifest) -> None:
    """Raises SettingError if the folder for the results is the dataset's own, or holds another dataset."""
    from dao_flows.model.dataset import MANIFEST, read_manifest

    if target.resolve() == folder.resolve():
        raise SettingError(f"{target} is the dataset itself: relax it into another folder")
    if (target / MANIFEST).exists() and read_manifest(target).parent != manifest.sha256:
        raise SettingError(f"{target} holds another dataset: relax this one into another folder")


def _finished(result: Path, science: Science) -> RelaxationDoc | None:
    """The document of the shard if it lies there whole. Raises SettingError if it was relaxed otherwise."""
    from dao_flows.model.dataset import file_sha256

    record = result.with_suffix(".json")
    if not record.exists():
        return None
    try:
        document = RelaxationDoc.model_validate_json(record.read_bytes())
    except ValidationError:
        raise SettingError(f"{record} cannot be read: delete it, or relax into another folder") from None
    if document.provenance.science_hash != science_hash(science):
        raise SettingError(
            f"{result} was relaxed from other data, with other settings or another version: take another folder"
        )
    whole = result.is_file() and file_sha256(result) == document.relaxed.sha256
    return document.model_copy(update={"path": str(result)}) if whole else None


def _taken(science: Science) -> RelaxationDoc | None:
    """A stored shard of the same science that still lies where it was written, if this job is to take one."""
    from dao_flows.model.dataset import file_sha256

    found = reusable(RelaxationDoc, science)
    if found is None or not (path := Path(found.path)).is_file() or file_sha256(path) != found.relaxed.sha256:
        return None
    return found


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is at work here: a job that a queue believes lost may still run."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@stage(
    places=RelaxDatasetMaker.PLACES
)  # no output_schema: jobflow would hold the reference to the merge job's output against it
def relax_jobs(
    dataset: str | Mapping[str, Any],
    out: str,
    maker: RelaxDatasetMaker | None = None,
    merge: MergeShardsMaker | None = None,
    predictor: str | None = None,
) -> Response[RelaxedDatasetDoc]:
    """Relax a whole dataset: one job a shard, and one that merges them into a dataset in the folder `out`.

    A job itself, which reads the manifest when it runs: how many shards a dataset has may not be known before. Its
    output is the merged dataset's document. predictor: in place of the maker's, as the output of a training job.
    Raises SettingError and DataError as the makers do.
    """
    from dao_flows.model.dataset import read_manifest

    maker, merge = maker or RelaxDatasetMaker(), merge or MergeShardsMaker()
    if predictor is not None:
        maker = replace(maker, predictor=predictor)
    folder, target = dataset_folder(dataset), in_full(out)
    maker.check()
    shards = []
    for number in range(len(read_manifest(folder).shards)):
        shards.append(maker.make(str(folder), number, str(target)))
        shards[-1].name = f"{maker.name} {number}"
    merged = merge.make(str(folder), [shard.output for shard in shards], str(target))
    flow = Flow([*shards, merged], output=merged.output)
    if (parent := CURRENT_JOB.job) is not None:
        flow.update_metadata(dict(parent.metadata))
    return Response(replace=flow)
