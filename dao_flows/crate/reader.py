"""A crate, opened and proven whole before anything of it is used. Nothing is written here, and nothing executed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError

from dao_flows.makers.jobs.attempts import ENDED, envelope
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.model.data.shards import FORMAT as DATASET_FORMAT
from dao_flows.model.data.shards import DataError
from dao_flows.model.data.shards import Manifest as Dataset

from .archive import Archive, CrateError, Limits, limits, show
from .documents import Checked, DocumentError, check
from .layout import MANIFEST, METADATA, Manifest, compare, document_path, place, read_manifest, refuse

HASH = re.compile(rb'"([0-9a-f]{64})"')


@dataclass(frozen=True)
class Found:
    """A document of a crate. path: its member; key: its identity in the collection; sealed: it states its own hash."""

    path: str
    collection: str
    key: str
    sealed: bool


class Crate:
    """A crate whose every member was checked. checkpoints, datasets: their cards and manifests by sha256."""

    def __init__(self, archive: Archive) -> None:
        self._archive, self.where, self.bounds = archive, archive.where, archive.bounds
        if MANIFEST not in archive.sizes:
            raise CrateError(f"{self.where} is no crate of dao_flows: it has no {MANIFEST}{_within(archive)}")
        self.manifest: Manifest = read_manifest(archive.read(MANIFEST), self.where)
        refuse(self.where, compare(self.manifest, archive.sizes))
        if METADATA not in archive.sizes:
            raise CrateError(f"{self.where} is no crate of dao_flows: it has no {METADATA}")
        self.documents: list[Found] = []
        self.checkpoints: dict[str, dict[str, Any]] = {}
        self.datasets: dict[str, Dataset] = {}
        self._weights: dict[str, list[str]] = {}
        self._jobs: dict[tuple[str, int], tuple[str, dict[str, str], str | None]] = {}
        self._ends: dict[tuple[str, int], dict[str, Any]] = {}
        self._mentions: dict[str, set[str]] = {}  # hashes in documents (""), in a card or a dataset's manifest
        self._check_members()
        self.named = self._named()

    @property
    def sha256(self) -> str:
        """The crate's identity."""
        return self.manifest.sha256

    def read(self, path: str) -> bytes:
        """A member that is no large file, unchanged. Raises CrateError."""
        data = self._archive.read(path)
        if hashlib.sha256(data).hexdigest() != self.manifest.members[path].sha256:
            raise CrateError(f"{self.where} is refused: {show(path)} was changed")
        return data

    def stream(self, path: str) -> Iterator[bytes]:
        """A member in pieces. Raises CrateError at its end if it was changed."""
        seen = hashlib.sha256()
        for piece in self._archive.stream(path):
            seen.update(piece)
            yield piece
        if seen.hexdigest() != self.manifest.members[path].sha256:
            raise CrateError(f"{self.where} is refused: {show(path)} was changed")

    def document(self, found: Found) -> dict[str, Any]:
        """The content of a document, ready for a store."""
        return check(found.collection, self.read(found.path), self.bounds).document

    def files(self, folder: str) -> list[str]:
        """The paths of the members in a folder."""
        return [path for path in self.manifest.members if path.startswith(f"{folder}/")]

    def _check_members(self) -> None:
        """Read each member to its end; find what was changed, and what is not what its place says."""
        problems: list[str] = []
        for path in self.manifest.members:
            with self._noting(problems, path):
                self._check_member(path)
        for sha256, names in self._weights.items():
            with self._noting(problems, f"checkpoints/{sha256}"):
                self._check_weights(sha256, names)
        problems += self._check_files()
        problems += self._check_records()
        refuse(self.where, problems)

    @contextmanager
    def _noting(self, problems: list[str], path: str) -> Iterator[None]:
        """Add what is found wrong at a path to the problems."""
        try:
            yield
        except DocumentError as wrong:
            problems.append(f"{show(path)}: {wrong}")
        except CrateError as error:
            text = str(error).removeprefix(f"{self.where} is refused: ")
            problems.append(text.removeprefix(f"{self.where} is "))

    def _check_member(self, path: str) -> None:
        at = place(path)
        assert at is not None  # compare() has seen to it
        if at.role == "weights":  # read in their order when all are known
            self._weights.setdefault(at.key, []).append(path.rsplit("/", 1)[1])
            return
        if at.role in ("shard", "file"):
            for _ in self.stream(path):
                pass
            if at.role != "shard" and self.manifest.members[path].sha256 != at.key:
                raise DocumentError("it does not have the sha256 that its name says")
            return
        data = self.read(path)
        if at.role in ("document", "card", "dataset"):
            mentions = self._mentions.setdefault("" if at.role == "document" else at.key, set())
            mentions |= {found.decode() for found in HASH.findall(data)}
        if at.role == "document":
            found = check(at.key, data, self.bounds)
            self._note(path, at.key, found)
        elif at.role == "card":
            self.checkpoints[at.key] = read_card(data, at.key)
        elif at.role == "dataset":
            self.datasets[at.key] = read_dataset(data, at.key)

    def _named(self) -> set[str]:
        """The sha256 of whatever the documents name, or was asked for, and of what that was made from."""
        named = set(self._mentions.get("", ()))
        named |= {wanted.partition(":")[2] for wanted in self.manifest.asked}
        pending = list(named)
        while pending:
            new = self._mentions.get(pending.pop(), set()) - named
            named |= new
            pending += new
        return named

    def _check_weights(self, sha256: str, names: list[str]) -> None:
        """The weights of a checkpoint have their card, all their parts, and over these the sha256 they lie under."""
        from dao_flows.model.checkpoint.format import CheckpointError, weight_names

        if f"checkpoints/{sha256}/card.json" not in self.manifest.members:
            raise DocumentError("it has no card")
        try:
            ordered = weight_names(names, "it")
        except CheckpointError as error:
            raise DocumentError(str(error)) from None
        seen = hashlib.sha256()
        for name in ordered:
            for piece in self.stream(f"checkpoints/{sha256}/{name}"):
                seen.update(piece)
        if seen.hexdigest() != sha256:
            raise DocumentError("it does not have the sha256 that its name says")

    def _note(self, path: str, collection: str, found: Checked) -> None:
        """Keep what later checks and an import need of a document."""
        if document_path(collection, found.key) != path:
            raise DocumentError(f"it is the document {show(found.key)}, which does not lie there")
        if not found.sealed and path not in self.manifest.unsealed:
            raise DocumentError("it was changed: it states no content_hash any more")
        self.documents.append(Found(path, collection, found.key, found.sealed))
        document = found.document
        if collection == "jobs":
            provenance = document["output"].get("provenance") if isinstance(document.get("output"), dict) else None
            stated = (
                provenance.get("content_hash") if isinstance(provenance, dict) else content_hash(document["output"])
            )
            self._jobs[document["uuid"], document["index"]] = path, envelope(document), stated
        elif collection == "runs" and document.get("event") == ENDED and document.get("outcome") == "finished":
            index = document.get("job_index")
            key = str(document.get("job_uuid")), index if isinstance(index, int) else 0
            if str(document.get("at")) >= str(self._ends.get(key, {}).get("at", "")):
                self._ends[key] = document

    def _check_records(self) -> list[str]:
        """Jobs are as the records of the attempts that made them say, where there are such records."""
        problems = []
        for key, (path, around, content) in self._jobs.items():
            end = self._ends.get(key, {})
            if isinstance(stated := end.get("envelope"), dict) and stated != around:
                problems.append(f"{show(path)}: what stands beside its output is not what the record of its job says")
            if end.get("result") is not None and content is not None and end["result"] != content:
                problems.append(f"{show(path)}: its output is not what the record of its job says")
        return problems

    def _check_files(self) -> list[str]:
        """The files of a dataset are those that its manifest names."""
        problems = []
        for path in self.manifest.members:
            at = place(path)
            assert at is not None
            if at.role == "shard" and f"datasets/{at.key}/manifest.json" not in self.manifest.members:
                problems.append(f"{show(path)} has no dataset")
        for sha256, dataset in self.datasets.items():
            there = {path.rsplit("/", 1)[1]: path for path in self.files(f"datasets/{sha256}")}
            stated = dataset.files()
            del there[MANIFEST]
            for name, path in there.items():
                if stated.get(name) != self.manifest.members[path].sha256:
                    problems.append(f"{show(path)} is not what the dataset's manifest says")
            if there and (missing := sorted(set(stated) - set(there))):
                problems.append(f"of the dataset {sha256[:12]} {show(missing[0])} is missing")
        return problems


def _within(archive: Archive) -> str:
    """What to do where a crate lies within the archive: in a folder, or as it is."""
    for name in archive.sizes:
        folder, _, last = name.rpartition("/")
        if last == MANIFEST and f"{folder}/{METADATA}" in archive.sizes:
            return f"; but one lies in its folder {folder}/: unpack it, then `cd {folder} && zip -r ../crate.zip .`"
    inner = [name for name in archive.sizes if name.endswith(".zip")]
    return f"; but it holds {show(inner[0])}: unpack it, and import that" if inner else ""


@contextmanager
def open_crate(source: Path | bytes, bounds: Limits | None = None) -> Iterator[Crate]:
    """A crate from a file, or from memory, checked to the last byte. Raises CrateError."""
    if isinstance(source, bytes):
        yield Crate(Archive(BytesIO(source), "the crate", bounds or limits()))
        return
    try:
        file: BinaryIO = source.open("rb")
    except OSError as error:
        raise CrateError(f"{source} cannot be read: {error.strerror or error}") from None
    with file:
        yield Crate(Archive(file, str(source), bounds or limits()))


def _plain_fields(data: bytes, kind: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise DocumentError(f"it is no {kind}: no JSON, or nested too deeply") from None
    if not isinstance(found, dict):
        raise DocumentError(f"it is no {kind}")
    return found


def read_card(data: bytes, sha256: str) -> dict[str, Any]:
    """The card of the checkpoint of this sha256, with fields of the right types. Raises DocumentError."""
    from dao_flows.model.checkpoint.format import CARD_TYPES, Card

    card = _plain_fields(data, "card of a checkpoint")
    known = {field.name for field in fields(Card)}
    needed = {"name", "kind", "sha256", "elements", "max_atoms", "code_version", "architecture"}
    wrong = [name for name, kind in CARD_TYPES.items() if not isinstance(card.get(name, kind()), kind)]
    if not needed <= set(card) <= known or wrong or card["sha256"] != sha256:
        raise DocumentError(f"it is not the card of the checkpoint {sha256[:12]}")
    return card


def read_dataset(data: bytes, sha256: str) -> Dataset:
    """The manifest of the dataset of this sha256. Raises DocumentError."""
    stated = _plain_fields(data, "manifest of a dataset")
    try:
        dataset = _DATASET.validate_python({key: value for key, value in stated.items() if key != "sha256"})
        identity = dataset.sha256
        dataset.files()
    except (ValidationError, UnicodeEncodeError, DataError):
        raise DocumentError("it is no manifest of a dataset that this version can read") from None
    if dataset.format > DATASET_FORMAT:
        raise DocumentError("it needs a newer version of dao_flows")
    if not stated.get("sha256") == identity == sha256:
        raise DocumentError(f"it is not the manifest of the dataset {sha256[:12]}")
    return dataset


_DATASET = TypeAdapter(Dataset)
