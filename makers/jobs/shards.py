"""What makers share that take a dataset shard by shard: chunks of rows, so that a killed job loses little."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from jobflow.core.flow import Flow
from jobflow.core.job import Job, Response
from jobflow.core.state import CURRENT_JOB
from pydantic import ValidationError

from dao_flows.makers.machine.whole_files import write_whole
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.shards import Computation, ShardDoc, ShardFile, Spread

from .progress import report
from .provenance import science_hash
from .reuse import reusable

if TYPE_CHECKING:
    from dao_flows.model.crystals import Crystal
    from dao_flows.model.data.shards import Manifest, Shard

WORK = ".unfinished"  # in the folder of the results: chunks of shards that are not finished
MIN_VOLUME = 1e-3  # Å³
NO_CRYSTAL = "no crystal: the figures are not those of a cell with atoms"

Row = dict[str, Any]
Document = TypeVar("Document", bound=ShardDoc)


class Chunk(NamedTuple):
    """What came of some rows. tried: crystals that were computed; failed: of what has no result its `row`, and why."""

    rows: Sequence[Row]
    tried: int
    failed: Sequence[Row] = ()


@dataclass(frozen=True)
class ShardWork:
    """A shard that is not finished. source: its file; result: the file to be made; folder: of the chunks."""

    original: Shard
    source: Path
    result: Path
    folder: Path

    def compute(
        self, names: Mapping[str, str], chunk_rows: int, of: Callable[[list[Row]], Chunk], stage: str
    ) -> Computation:
        """Compute the chunks that are not there yet. names: columns of the result, with their types."""
        import pyarrow.parquet as pq

        from dao_flows.model.data.shards import write_shard

        self.folder.mkdir(parents=True, exist_ok=True)
        computation = Computation(rows=0, tried=0, seconds=0, chunks=0, chunks_taken_over=0)
        done = 0
        with pq.ParquetFile(self.source) as opened:
            for number, batch in enumerate(opened.iter_batches(chunk_rows)):
                done += batch.num_rows
                computation.chunks += 1
                chunk = self._chunk(number)
                if chunk.exists():  # it was put there whole, after its list of failures
                    computation.chunks_taken_over += 1
                    continue
                begun = time.monotonic()
                found = of(batch.to_pylist())
                first = done - batch.num_rows
                failed = [each | {"row": each["row"] + first} for each in found.failed]
                lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in failed)
                write_whole(chunk.with_suffix(".jsonl"), lines.encode("utf-8", "replace"))
                write_shard(chunk, found.rows, names)
                computation.seconds += time.monotonic() - begun
                computation.rows += batch.num_rows
                computation.tried += found.tried
                report(done, self.original.rows, stage)
        return computation

    def join(self, names: Mapping[str, str], computation: Computation) -> ShardFile:
        """The chunks as one file."""
        from dao_flows.model.data.shards import join_shards

        pieces = [self._chunk(number) for number in range(computation.chunks)]
        return ShardFile(**asdict(join_shards(self.result, pieces, names)))

    def failed(self, computation: Computation) -> list[Row]:
        """The failures of all chunks, in the order of the rows."""
        lists = (self._chunk(number).with_suffix(".jsonl") for number in range(computation.chunks))
        return [json.loads(line) for each in lists for line in each.read_text(encoding="utf-8").splitlines()]

    def finish(self, document: ShardDoc) -> None:
        """Write the document beside the result, which makes it a finished one, and clear away."""
        write_whole(self.result.with_suffix(".json"), document.model_dump_json(indent=1) + "\n")
        shutil.rmtree(self.folder.parent)

    def _chunk(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06d}.parquet"


@contextmanager
def at_work(
    kind: type[Document], dataset: tuple[Path, Manifest], target: Path, science: Science
) -> Iterator[Document | ShardWork]:
    """The document of a shard, if it is finished, or the work to be done, which no other process does meanwhile.

    dataset: folder and manifest; target: folder of the results; science: its inputs name the shard. Raises
    ParameterError for a folder that holds something else, DataError for a damaged shard.
    """
    from dao_flows.model.data.shards import shard_path

    folder, manifest = dataset
    _refuse_other_results(target, folder, manifest)
    original = manifest.shards[science.inputs["shard"]]
    result = target / original.file
    work = target / WORK / result.stem
    lock = work.with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # a job that a queue believes lost may still run
        yield (
            _finished(kind, result, science)
            or _taken(kind, science)
            or ShardWork(original, shard_path(folder, original), result, work / science_hash(science)[:16])
        )


def _refuse_other_results(target: Path, folder: Path, manifest: Manifest) -> None:
    """Raises ParameterError if the folder for the results is the dataset's own, or holds another dataset."""
    from dao_flows.model.data.shards import MANIFEST, read_manifest

    if target.resolve() == folder.resolve():
        raise ParameterError(f"{target} is the dataset itself: take another folder for the results")
    if (target / MANIFEST).exists() and read_manifest(target).parent != manifest.sha256:
        raise ParameterError(f"{target} holds another dataset: take another folder for the results")


def _finished(kind: type[Document], result: Path, science: Science) -> Document | None:
    """The document of the shard if it lies there whole. Raises ParameterError if it was made otherwise."""
    from dao_flows.model.data.shards import file_sha256

    record = result.with_suffix(".json")
    if not record.exists():
        return None
    try:
        document = kind.model_validate_json(record.read_bytes())
    except ValidationError:
        raise ParameterError(f"{record} cannot be read: delete it, or take another folder for the results") from None
    if document.provenance.science_hash != science_hash(science):
        raise ParameterError(
            f"{result} was made from other data, with other settings or another version: take another folder"
        )
    whole = result.is_file() and file_sha256(result) == document.result.sha256
    return document.model_copy(update={"path": str(result)}) if whole else None


def _taken(kind: type[Document], science: Science) -> Document | None:
    """A stored shard of the same science that still lies where it was written, if this job is to take one."""
    from dao_flows.model.data.shards import file_sha256

    found = reusable(kind, science)
    if found is None or not (path := Path(found.path)).is_file() or file_sha256(path) != found.result.sha256:
        return None
    return found


def shard_inputs(manifest: Manifest, shard: int) -> dict[str, Any]:
    """What the science of a shard names as its inputs. Raises ParameterError if there is no such shard."""
    if not 0 <= shard < len(manifest.shards):
        raise ParameterError(f"there is no shard {shard}: the dataset has {len(manifest.shards)}, the first is 0")
    return {"dataset": manifest.sha256, "shard": shard, "shard_sha256": manifest.shards[shard].sha256}


def shard_flow(maker: Any, merge: Any, folder: Path, target: Path) -> Response[Any]:
    """In place of the running job: one of the maker's a shard, and the merge of their documents, whose output stands.

    How many shards a dataset has may not be known before. Raises DataError.
    """
    from dao_flows.model.data.shards import read_manifest

    shards: list[Job] = []
    for number in range(len(read_manifest(folder).shards)):
        shards.append(maker.make(str(folder), number, str(target)))
        shards[-1].name = f"{maker.name} {number}"
    merged = merge.make(str(folder), [shard.output for shard in shards], str(target))
    flow = Flow([*shards, merged], output=merged.output)
    if (parent := CURRENT_JOB.job) is not None:
        flow.update_metadata(dict(parent.metadata))
    return Response(replace=flow)


def crystal_of(row: Row) -> Crystal | None:
    """The crystal of a row, if it is one."""
    from dao_flows.model.crystals import Crystal

    numbers, frac, lattice = (np.asarray(row[name]) for name in ("numbers", "frac", "lattice"))
    if not len(numbers) or frac.shape != (3 * len(numbers),) or lattice.shape != (9,):
        return None
    lattice = lattice.astype(float).reshape(3, 3)
    if not (np.isfinite(lattice).all() and np.isfinite(frac.astype(float)).all()):
        return None
    return Crystal(numbers, frac.reshape(-1, 3), lattice) if abs(np.linalg.det(lattice)) > MIN_VOLUME else None


def of_the_original(columns: Mapping[str, str]) -> set[str]:
    """The columns that hold for a dataset's crystals as they are, and for no other geometry of them."""
    return {name for name, kind in columns.items() if kind == "double"} | {"e_above_hull_kind"}


def spread(values: np.ndarray) -> Spread | None:
    """How the values, (n,), are distributed; None of none."""
    if not len(values):
        return None
    lowest, *quartiles, highest = np.percentile(values, [0, 25, 50, 75, 100]).tolist()
    return Spread(mean=float(values.mean()), minimum=lowest, quartiles=tuple(quartiles), maximum=highest)
