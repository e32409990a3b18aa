"""Shards that a maker made of a dataset's become a dataset, whose manifest names the one that they were made from."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jobflow.core.maker import Maker

from dao_flows.makers.schemas.document import Science
from dao_flows.version import __version__

from .jobs.provenance import digest, execution_record, provenance
from .jobs.shards import WORK
from .jobs.stage import stage
from .machine.places import PATH, Places
from .machine.whole_files import write_whole
from .models.checkpoints import ParameterError
from .schemas.relaxation import Outcome, RelaxationDoc, RelaxedDatasetDoc
from .schemas.shards import ShardDoc

if TYPE_CHECKING:
    from dao_flows.model.data.shards import Manifest, Shard

REJECTS = "rejects.jsonl"
MEANING = {
    "e_above_hull": "null where relaxed: the label is the original's, which the parent keeps; so are all other figures",
    "energy_before": "eV/atom above hull, predicted for the original; of every crystal that was tried",
    "energy_after": "eV/atom above hull, predicted for the crystal of this row; where relaxed",
    "displacement": "Å, root mean square over the atoms, without the mean translation; where relaxed",
    "volume_ratio": "volume after to volume before; where relaxed",
    "iterations": "L-BFGS steps; where relaxed",
    "relaxed": "whether the row holds the relaxed crystal",
    "relax_outcome": "what became of the crystal, and why",
}


def in_full(path: str | Path) -> Path:
    """A folder given in full. Raises ParameterError for another: a job does not run where it was submitted."""
    folder = Path(path).expanduser()
    if not folder.is_absolute():
        raise ParameterError(f"give the folder {str(path)!r} in full: a job does not run where it was submitted")
    return folder


def dataset_folder(dataset: Any) -> Path:
    """The folder of a dataset given as such, or as a document with a `path`. Raises ParameterError for neither."""
    found = dataset.get("path") if isinstance(dataset, Mapping) else getattr(dataset, "path", dataset)
    if not isinstance(found, str | Path):
        raise ParameterError("a dataset is given as its folder, or as a document with its path")
    return in_full(found)


@dataclass
class MergeShardsMaker(Maker):
    """Makes a dataset of the relaxed shards of another one: the same rows in the same order.

    dataset_name: what the manifest calls it; None: the original's name and '-relaxed'. The manifest tells the parent's
    sha256, the settings and the checkpoint of the relaxation, and what the new columns mean. The same shards give the
    same dataset sha256.
    """

    PLACES: ClassVar[Places] = {"dataset": PATH, "out": PATH}

    name: str = "merge shards"
    dataset_name: str | None = None

    @stage(output_schema=RelaxedDatasetDoc)
    def make(self, dataset: str | Mapping[str, Any], shards: Sequence[RelaxationDoc], out: str) -> RelaxedDatasetDoc:
        """Merge the documents' shards into the folder `out`, where they may lie already.

        dataset: the original, by its folder or a document with its path. Raises ParameterError if a shard is missing,
        or is of another dataset, or was relaxed otherwise than its fellows; DataError for a damaged file.
        """
        from dao_flows.model.data.shards import read_manifest

        started = datetime.now(UTC)
        folder, target = dataset_folder(dataset), in_full(out)
        name = self.dataset_name or f"{read_manifest(folder).name}-relaxed"
        documents = [RelaxationDoc.model_validate(shard) for shard in shards]
        outcomes: Counter[Outcome] = Counter()
        for document in documents:
            outcomes.update(document.outcomes)
        told = {"outcomes": dict(sorted(outcomes.items())), "columns": MEANING}
        manifest = merge(folder, documents, target, name, told)
        return RelaxedDatasetDoc(
            path=str(target),
            sha256=manifest.sha256,
            parent=str(manifest.parent),
            rows=manifest.rows,
            outcomes=dict(sorted(outcomes.items())),
            provenance=provenance(merge_science(type(self).__name__, manifest), execution_record(started, "cpu", {})),
        )


def merge(
    folder: Path,
    documents: Sequence[ShardDoc],
    target: Path,
    name: str,
    told: Mapping[str, Any],
    rejects: str | None = None,
) -> Manifest:
    """Make a dataset of what was made of another one's shards; its manifest.

    told: for the manifest, beside the settings. rejects: lines that tell what was left out, for a file beside the
    manifest. Raises ParameterError for shards that are missing, of another dataset or made otherwise than their
    fellows, DataError for a damaged file.
    """
    from dao_flows.model.data.shards import MANIFEST, Manifest, read_manifest, write_manifest

    parent = read_manifest(folder)
    if target.resolve() == folder.resolve():
        raise ParameterError(f"{target} is the original dataset: merge into another folder")
    ordered = sorted(documents, key=lambda shard: shard.shard)
    _check_complete(parent, ordered)
    if (target / MANIFEST).exists() and read_manifest(target).parent != parent.sha256:
        raise ParameterError(f"{target} holds another dataset: merge into another folder")
    first = ordered[0].provenance.science
    splits: Counter[str] = Counter()
    for shard in ordered:
        splits.update(shard.splits)
    target.mkdir(parents=True, exist_ok=True)
    shards = tuple(_placed(shard, target) for shard in ordered)
    made_by = {"maker": first.maker, "parameters": first.parameters, "checkpoints": first.checkpoints, **told}
    if rejects is not None:
        sha256 = hashlib.sha256(rejects.encode()).hexdigest()
        made_by["rejects"] = {"file": REJECTS, "sha256": sha256, "rows": rejects.count("\n")}
    manifest = Manifest(
        name=name,
        columns=ordered[0].columns,
        shards=shards,
        counts=dict(sorted(splits.items())),
        code_version=__version__,
        sources=parent.sources,
        filters=parent.filters,
        parent=parent.sha256,
        made_by=made_by,
    )
    if (target / MANIFEST).exists() and read_manifest(target).sha256 != manifest.sha256:
        raise ParameterError(f"{target} holds another dataset: merge into another folder")
    if rejects is not None:
        write_whole(target / REJECTS, rejects)
    write_manifest(target, manifest)
    shutil.rmtree(target / WORK, ignore_errors=True)
    return manifest


def merge_science(maker: str, manifest: Manifest) -> Science:
    """What decided a merged dataset."""
    return Science(
        maker=maker,
        parameters={"dataset_name": manifest.name},
        inputs={"dataset": manifest.parent, "shards": [shard.sha256 for shard in manifest.shards]},
        checkpoints={},
        code_version=__version__,
    )


def _check_complete(parent: Manifest, shards: Sequence[ShardDoc]) -> None:
    """Raises ParameterError unless these are the shards of the dataset, each once, made alike."""
    if not parent.shards:
        raise ParameterError("the original dataset holds no crystals: there is nothing to merge")
    numbers = [shard.shard for shard in shards]
    if missing := sorted(set(range(len(parent.shards))) - set(numbers)):
        raise ParameterError(f"{len(missing)} of {len(parent.shards)} shards are missing, number {missing[0]} first")
    if len(numbers) > len(parent.shards):
        raise ParameterError(f"{len(numbers)} shards are too many for a dataset of {len(parent.shards)}")
    for shard, original in zip(shards, parent.shards, strict=True):
        if shard.dataset != parent.sha256 or shard.original.sha256 != original.sha256:
            raise ParameterError(f"shard {shard.shard} was made of another dataset, {shard.dataset[:12]}…")
        if _how(shard) != _how(shards[0]):
            raise ParameterError(
                f"shards {shards[0].shard} and {shard.shard} were made with different settings, checkpoints or "
                "versions: make one of them again"
            )


def _how(shard: ShardDoc) -> str:
    """Hash of all that decided what was made, apart from the shard."""
    return digest([shard.provenance.science.model_dump(exclude={"inputs"}), list(shard.columns.items())])


def _placed(document: ShardDoc, target: Path) -> Shard:
    """The shard that was made, in the folder, checked; copied if it lies elsewhere."""
    from dao_flows.model.data.shards import Shard, shard_path

    source = Path(document.path)
    shard = Shard(source.name, document.result.sha256, document.result.rows)
    shard_path(source.parent, shard)
    if source.parent.resolve() != target.resolve():
        partial = target / f".{source.name}.partial"
        shutil.copyfile(source, partial)
        partial.replace(target / source.name)
    return shard
