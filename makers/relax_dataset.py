"""RelaxDatasetMaker: DAO-P relaxes the unstable crystals of a dataset, one job a shard, for DAO-G to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jobflow.core.job import Response
from jobflow.core.maker import Maker

from dao_flows.makers.schemas.document import Science
from dao_flows.version import __version__

from .jobs.provenance import execution_record, provenance
from .jobs.shards import NO_CRYSTAL, Chunk, Row, at_work, crystal_of, of_the_original, shard_flow, shard_inputs, spread
from .jobs.stage import stage
from .machine.places import CHECKPOINT, PATH, Places
from .merge import MergeShardsMaker, dataset_folder, in_full
from .models.checkpoints import ParameterError, card, load_model, pick_device
from .schemas.relaxation import RelaxationDoc, RelaxedDatasetDoc
from .schemas.shards import ShardFile

if TYPE_CHECKING:
    from dao_flows.model.checkpoint.format import Card
    from dao_flows.model.dao_p import DaoP
    from dao_flows.model.data.shards import Manifest

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
        ParameterError for a setting or folder, DataError for a damaged dataset, CheckpointError.
        """
        from dao_flows.model.data.shards import read_manifest

        started, device = datetime.now(UTC), pick_device(self.device)
        folder, target = dataset_folder(dataset), in_full(out)
        self.check()
        manifest = read_manifest(folder)
        science = self.science(manifest, shard)
        with at_work(RelaxationDoc, (folder, manifest), target, science) as work:
            if isinstance(work, RelaxationDoc):
                return work
            model, found = load_model(self.predictor, "dao-p", device)
            names = manifest.columns | COLUMNS
            relaxation = _Relaxation(self, model, found, frozenset(of_the_original(manifest.columns) - set(COLUMNS)))
            computation = work.compute(names, self.chunk_rows, relaxation.of, "relax")
            document = RelaxationDoc(
                dataset=manifest.sha256,
                shard=shard,
                path=str(work.result),
                original=ShardFile(**asdict(work.original)),
                relaxed=work.join(names, computation),
                columns=names,
                **_summary(work.result),
                computation=computation,
                provenance=provenance(science, execution_record(started, device, {"predictor": found.name})),
            )
            work.finish(document)
        return document

    def check(self) -> Card:
        """The predictor's card. Raises ParameterError for a setting out of range, CheckpointError for a checkpoint."""
        if not self.low < self.high:
            raise ParameterError(f"the window is empty: low ({self.low:g}) must be below high ({self.high:g}) eV/atom")
        for setting in ("iterations", "chunk_rows"):
            if getattr(self, setting) < 1:
                raise ParameterError(f"{setting} must be at least 1, not {getattr(self, setting)}")
        for setting in ("max_displacement", "max_strain", "min_volume_ratio"):
            if not getattr(self, setting) > 0:
                raise ParameterError(f"{setting} must be above 0, not {getattr(self, setting):g}")
        if not self.min_volume_ratio < 1 < self.max_volume_ratio:
            raise ParameterError("min_volume_ratio must be below 1, the original's volume, and max_volume_ratio above")
        if self.min_distance_ratio < 0:
            raise ParameterError("min_distance_ratio must not be negative")
        return card(self.predictor, "dao-p")

    def science(self, manifest: Manifest, shard: int) -> Science:
        """All that decides the result, known before the run. Raises ParameterError if there is no such shard."""
        settings = {name: value for name, value in asdict(self).items() if name not in ("name", "predictor", "device")}
        for name in ("low", "high", "max_displacement", "max_strain", *RATIOS):
            settings[name] = float(settings[name])  # 0 and 0.0 are one setting
        return Science(
            maker=type(self).__name__,
            parameters=settings,
            inputs=shard_inputs(manifest, shard),
            checkpoints={"predictor": card(self.predictor, "dao-p").sha256},
            code_version=__version__,
        )


@dataclass(frozen=True)
class _Relaxation:
    """The maker's settings at work on rows. labels: the columns that hold for the original structure alone."""

    maker: RelaxDatasetMaker
    model: DaoP
    card: Card
    labels: frozenset[str]

    def of(self, rows: Sequence[Row]) -> Chunk:
        """The rows with the relaxation's columns, relaxed where accepted."""
        from dao_flows.model.dao_p import predict_energy
        from dao_flows.model.relax import RelaxConfig, relax

        from .science.acceptance import Bounds, Judged, judge

        maker = self.maker
        out = [row | dict.fromkeys(COLUMNS) | {"relaxed": False, "relax_outcome": self.fate(row)} for row in rows]
        trying = [index for index, row in enumerate(out) if row["relax_outcome"] is None]
        originals = [crystal for index in trying if (crystal := crystal_of(rows[index])) is not None]
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
        return Chunk(out, sum(row["energy_before"] is not None for row in out))

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
        if crystal_of(row) is None:
            return NO_CRYSTAL
        return None


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
        **{name: spread(values) for name, values in figures.items()},
    }


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
    Raises ParameterError and DataError as the makers do.
    """
    maker = maker or RelaxDatasetMaker()
    if predictor is not None:
        maker = replace(maker, predictor=predictor)
    maker.check()
    return shard_flow(maker, merge or MergeShardsMaker(), dataset_folder(dataset), in_full(out))
