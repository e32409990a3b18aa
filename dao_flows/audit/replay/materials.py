"""What a replay needs again: documents by uuid or science hash, checkpoints and datasets by sha256."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_flows.makers.schemas.verification import VerificationDoc
from dao_flows.makers.stages.rebuilding import ReplayError
from dao_flows.model.checkpoint.format import CheckpointError
from dao_flows.model.checkpoint.format import verify as verify_checkpoint
from dao_flows.model.checkpoint.library import find as find_checkpoint
from dao_flows.model.data.shards import MANIFEST, DataError, file_sha256, read_manifest
from dao_flows.model.files.places import CARD, INDEX_CARD
from dao_flows.model.templates.library import build_index
from dao_flows.model.templates.places import available, open_library
from dao_flows.store import imported
from dao_flows.store.stores import collection

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

SCIENCE = "output.provenance.science_hash"


@dataclass(frozen=True)
class Materials:
    """Where the inputs of recorded results are found, as `rebuilding.Materials` asks for them.

    places: folders and files to look in, beside the store's; trust: modules whose makers may be made from a record.
    """

    jobs: JobStore
    places: Sequence[Path] = ()
    trust: Sequence[str] = ()

    def document(self, uuid: str) -> dict[str, Any]:
        """The document that a job wrote, as it is stored. Raises ReplayError."""
        found = self.jobs.query_one({"uuid": uuid}, properties=["output", "index"], load=True)
        if found is None or not isinstance(found.get("output"), dict):
            raise ReplayError(f"the store holds no document of the job {uuid}")
        output: dict[str, Any] = found["output"]
        return output

    def of_science(self, science_hash: str, what: str, job: str | None = None) -> dict[str, Any]:
        """The document of this science hash, of this job if it has several. Raises ReplayError."""
        found = {d["uuid"]: d for d in self.jobs.query({SCIENCE: science_hash}, properties=["uuid", "completed_at"])}
        if not found:
            raise ReplayError(f"its {what} (science hash {science_hash[:12]}…) is not in the store any more")
        latest = max(found.values(), key=lambda each: str(each.get("completed_at")))
        return self.document(job if job in found and job is not None else latest["uuid"])

    def holding(self, field: str, value: str, what: str) -> dict[str, Any]:
        """A document of a job that holds this value in this field. Raises ReplayError."""
        found = self.jobs.query_one({f"output.{field}": value}, properties=["output"], load=True)
        if found is None:
            raise ReplayError(f"{what} is in no document of the store any more")
        output: dict[str, Any] = found["output"]
        return output

    def structure(self, candidate_id: str) -> Mapping[str, Any] | None:
        """The structure of a candidate, as pymatgen writes it; None if the candidate is gone."""
        criteria = {"candidate_id": candidate_id}
        found = collection(self.jobs, "candidates").query_one(criteria, properties=["structure"])
        return None if found is None else found["structure"]

    def sent(self, candidate_id: str) -> list[Mapping[str, Any]]:
        """The structures of a candidate that verifications sent to a code, likewise."""
        criteria = {"output.@class": VerificationDoc.__name__, "output.candidate_id": candidate_id}
        found = self.jobs.query(criteria, properties=["output.sent"])
        return [job["output"]["sent"] for job in found if job.get("output", {}).get("sent")]

    def checkpoint(self, sha256: str, role: str = "checkpoint") -> str:
        """The folder of a checkpoint whose weights have this sha256, hashed again. Raises ReplayError."""
        for folder in self._checkpoints(sha256):
            try:
                if verify_checkpoint(folder).sha256 == sha256:
                    return str(folder.absolute())
            except (CheckpointError, OSError):
                continue
        raise ReplayError(
            f"the {role} with sha256 {sha256[:12]}… is not here: put it into the library of checkpoints "
            "(`dao-flows checkpoint list`), or name its folder with --from"
        )

    def _checkpoints(self, sha256: str) -> Iterator[Path]:
        with suppress(CheckpointError):
            yield find_checkpoint(sha256)
        criteria = {"output.checkpoint_sha256": sha256}
        for found in self.jobs.query(criteria, properties=["output.path"]):
            if path := found.get("output", {}).get("path"):  # an evaluation names one without a path
                yield Path(path)
        for place in self.places:
            yield from (card.parent for card in [place / CARD, *place.glob(f"*/{CARD}")] if card.is_file())

    def dataset(self, sha256: str, what: str = "dataset") -> str:
        """The folder of a dataset, or a parquet file, of this identity. Raises ReplayError."""
        for path in self._datasets(sha256):
            try:
                found = read_manifest(path).sha256 if path.is_dir() else file_sha256(path)
            except (DataError, OSError):
                continue
            if found == sha256:
                return str(path.absolute())
        raise ReplayError(f"the {what} with sha256 {sha256[:12]}… is not here: name its folder or file with --from")

    def library(self, sha256: str, folder: Path) -> str:
        """The folder of a library of known crystals of this identity. Raises ReplayError.

        folder: an empty one, for the index of a library that came as a dataset, without one.
        """
        for place in [*available().values(), *self._datasets(sha256)]:
            try:
                if not place.is_dir() or read_manifest(place).sha256 != sha256:
                    continue
                if not (place / INDEX_CARD).is_file():
                    place = Path(shutil.copytree(place, folder / "library"))
                    build_index(place)
                return str(open_library(place).folder.absolute())
            except (DataError, OSError):
                continue
        raise ReplayError(
            f"the library of known crystals with sha256 {sha256[:12]}… is not here: put it among the libraries "
            "(`dao-flows library list`), or name its folder with --from"
        )

    def _datasets(self, sha256: str) -> Iterator[Path]:
        for found in self.jobs.query({"output.sha256": sha256}, properties=["output.path"]):
            if path := found.get("output", {}).get("path"):  # an evaluation names one without a path
                yield Path(path)
        if (folder := imported.dataset(sha256)) is not None:
            yield folder
        yield from self._places((MANIFEST,), ("*.parquet",))

    def _places(self, marks: Sequence[str], patterns: Sequence[str]) -> Iterator[Path]:
        for place in self.places:
            if place.is_file():
                yield place
                continue
            yield from (mark.parent for name in marks for mark in [place / name, *place.glob(f"*/{name}")])
            yield from (path for pattern in patterns for path in sorted(place.glob(pattern)))

    def file(self, path: str, sha256: str | None) -> str | None:
        """A file or folder where it was, or a file of the same content among the places; None if there is neither."""
        if Path(path).exists():
            return str(Path(path).absolute())
        if sha256 is not None and (brought := imported.file(sha256)) is not None and file_sha256(brought) == sha256:
            return str(brought.absolute())
        for place in self._places((), ("*",)):
            if sha256 is not None and place.is_file() and file_sha256(place) == sha256:
                return str(place.absolute())
        return None
