"""Bringing a crate into a store: all of it is checked, and compared with what is there, before anything is written.

What is written comes in an order in which a part is whole without the parts that follow: datasets and checkpoints, the
records of runs, jobs, and at last what is laid out from jobs. After a kill the same import adds what is missing.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maggma.utils import grouper

from dao_flows.audit.graph.installed import known_crystals
from dao_flows.makers.jobs import record_chain as chain
from dao_flows.makers.jobs.attempts import SCHEMA_VERSION, append, who
from dao_flows.model.files import user_folders
from dao_flows.settings import Settings, settings
from dao_flows.store.collections import KEYS
from dao_flows.store.imported import datasets_folder, files_folder
from dao_flows.store.stores import collection

from .archive import CrateError, show
from .contents import stored_form
from .documents import job_key
from .reader import Crate, Found

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

CHUNK = 100  # documents in memory at a time
LISTED = 5000  # records that one record of an import names
ORDER = ("runs", "jobs", "verifications", "candidates", "comparisons")


@dataclass
class Imported:
    """What an import did, or would do. added, present: documents by collection; unsealed: those without a hash.

    checkpoints, datasets: sha256 -> folder of those that were brought in; files: path in the crate -> file here;
    left: what the crate has no content of.
    """

    sha256: str
    added: dict[str, int] = field(default_factory=dict)
    present: dict[str, int] = field(default_factory=dict)
    unsealed: int = 0
    checkpoints: dict[str, Path] = field(default_factory=dict)
    datasets: dict[str, Path] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        """Whether there was anything to do."""
        return any(self.added.values()) or bool(self.checkpoints or self.datasets or self.files)


def import_crate(crate: Crate, store: JobStore, dry_run: bool = False, config: Settings | None = None) -> Imported:
    """Bring a crate into a job store and the collections beside it, its files into the user's folders.

    Safe to repeat, and to go on with after a kill. Raises CrateError, before anything is written, if the store or a
    folder holds something else under the same id.
    """
    config = config or settings()
    done = Imported(crate.sha256, unsealed=sum(not found.sealed for found in crate.documents))
    wanted: dict[str, list[Found]] = {}
    problems: list[str] = []
    for name in ORDER:
        found = [document for document in crate.documents if document.collection == name]
        wanted[name], different = _missing(crate, store, name, found)
        problems += [f"{name.removesuffix('s')} {show(key)}" for key in different]
        done.present[name] = len(found) - len(wanted[name])
        done.added[name] = len(wanted[name])
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CrateError(
            f"{crate.where} is refused: the store has other content under the id of {', '.join(problems[:5])}{more}; "
            "nothing was written; import it into a store of its own (DAO_FLOWS_DATA_DIR)"
        )
    folders = _Folders(crate, done, config)
    if dry_run:
        return done
    with folders.staged():
        pass
    if wanted["runs"]:
        chain.begin(collection(store, "runs"))  # which is not that of the records that come
    for name in ORDER:
        for chunk in grouper(wanted[name], CHUNK):
            _write(store, name, [crate.document(found) for found in chunk])
    _log(store, crate, wanted["runs"])
    return done


def _log(store: JobStore, crate: Crate, brought: list[Found]) -> None:
    """Append which records came with a crate, so that they are missed if they go."""
    name = f"imp-{secrets.token_hex(6)}"
    for number, chunk in enumerate(grouper(brought, LISTED), 1):
        named = [(found.key, crate.document(found).get("content_hash")) for found in chunk]
        record = {
            "record_id": f"{name}-{number:06d}",
            "schema_version": SCHEMA_VERSION,
            "event": chain.IMPORT,
            "at": datetime.now(UTC).isoformat(),
            "who": who(),
            "crate": crate.sha256,
            "brought": [[key, sha256] for key, sha256 in named if isinstance(sha256, str)],
        }
        append(collection(store, "runs"), record)


def _missing(crate: Crate, store: JobStore, name: str, found: list[Found]) -> tuple[list[Found], list[str]]:
    """The documents that the store lacks, and the ids of those that it has with other content."""
    missing, different = [], []
    for chunk in grouper(found, CHUNK):
        held = dict(_held(store, name, chunk))
        for document in chunk:
            if document.key not in held:
                missing.append(document)
            elif held[document.key] != crate.read(document.path) and _canonical(held[document.key]) != _canonical(
                crate.read(document.path)
            ):
                different.append(document.key)
    return missing, different


def _canonical(data: bytes) -> bytes:
    """The same whatever the order of the keys."""
    return json.dumps(json.loads(data), sort_keys=True).encode()


def _held(store: JobStore, name: str, chunk: Iterable[Found]) -> Iterator[tuple[str, bytes]]:
    """What the store holds under these keys, in canonical form."""
    if name == "jobs":
        uuids = sorted({found.key.rpartition("-")[0] for found in chunk})
        for document in store.query({"uuid": {"$in": uuids}}, load=True):
            yield job_key(document), stored_form(document)
        return
    key = KEYS[name]
    for document in collection(store, name).query({key: {"$in": [found.key for found in chunk]}}):
        yield document[key], stored_form(document)


def _write(store: JobStore, name: str, documents: list[dict[str, Any]]) -> None:
    if name == "jobs":
        store.update(documents, key=["uuid", "index"])
        return
    key = KEYS[name]
    collection(store, name).update([{"_id": document[key], **document} for document in documents], key="_id")


class _Folders:
    """Checkpoints and datasets of a crate: which are missing here, and where they go."""

    def __init__(self, crate: Crate, done: Imported, config: Settings) -> None:
        self.crate, self.done = crate, done
        self.moves: list[tuple[str, str, Path]] = []  # kind, folder in the crate, folder here
        self.data, self.files = datasets_folder(config), files_folder(config)
        self.library = user_folders.checkpoints()
        for sha256, card in crate.checkpoints.items():
            name = str(card["name"])
            if _holds_checkpoint(sha256) or self._unnamed(sha256, f"the checkpoint {show(name)}"):
                continue
            if len(crate.files(f"checkpoints/{sha256}")) < 2:
                done.left.append(f"the weights of the checkpoint {show(name)} ({sha256[:12]})")
                continue
            folder = _free(self.library, name, sha256, done.checkpoints.values())
            done.checkpoints[sha256] = folder
            self.moves.append(("checkpoint", f"checkpoints/{sha256}", folder))
        libraries = known_crystals() if crate.datasets else {}
        for sha256, dataset in crate.datasets.items():
            folder = self.data / sha256
            if folder.exists() or sha256 in libraries or self._unnamed(sha256, f"the dataset {show(dataset.name)}"):
                continue
            if len(crate.files(f"datasets/{sha256}")) < 2 and dataset.shards:
                done.left.append(f"the rows of the dataset {show(dataset.name)} ({sha256[:12]})")
                continue
            done.datasets[sha256] = folder
            self.moves.append(("dataset", f"datasets/{sha256}", folder))

        for path in crate.files("files"):
            target = self.files / path.removeprefix("files/")
            if not target.exists() and not self._unnamed(target.name[:64], "a file"):
                done.files[path] = target

    def _unnamed(self, sha256: str, what: str) -> bool:
        """Whether no document of the crate leads to this: then it stays packed, and is told."""
        if unnamed := sha256 not in self.crate.named:
            self.done.left.append(f"{what} ({sha256[:12]}), which no document names,")
        return unnamed

    @contextmanager
    def staged(self) -> Iterator[None]:
        """Write all files beside where they go, check them there, and give them their names."""
        ready: list[tuple[Path, Path]] = []
        try:
            for kind, source, folder in self.moves:
                folder.parent.mkdir(parents=True, exist_ok=True)
                staging = Path(tempfile.mkdtemp(prefix=".importing-", dir=folder.parent))
                ready.append((staging, folder))
                for path in self.crate.files(source):
                    _write_file(staging / path.rsplit("/", 1)[1], self.crate.stream(path))
                self._check(kind, source, staging)
            for path, target in self.done.files.items():
                self._file(path, target)
            for staging, folder in ready:
                staging.chmod(0o755)
                with suppress(FileExistsError):  # another import of the same crate was quicker
                    staging.rename(folder)
            yield
        finally:
            for staging, _ in ready:
                shutil.rmtree(staging, ignore_errors=True)

    def _file(self, path: str, target: Path) -> None:
        """Write a single file; its name is its sha256, so that a part of an import that fails later does no harm."""
        self.files.mkdir(parents=True, exist_ok=True)
        partial = self.files / f".{target.name}.partial"
        _write_file(partial, self.crate.stream(path))
        partial.replace(target)

    def _check(self, kind: str, source: str, staging: Path) -> None:
        """As whoever loads them checks them. Raises CrateError."""
        from dao_flows.model.checkpoint.format import verify
        from dao_flows.model.data.shards import parts

        try:
            verify(staging) if kind == "checkpoint" else parts(staging)
        except (ValueError, RecursionError) as error:
            text = str(error).replace(str(staging), source)
            raise CrateError(f"{self.crate.where} is refused: {text}") from None


def _write_file(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _holds_checkpoint(sha256: str) -> bool:
    """Whether the library has it."""
    from dao_flows.model.checkpoint.format import CheckpointError
    from dao_flows.model.checkpoint.library import find

    try:
        find(sha256)
    except CheckpointError:
        return False
    return True


def _free(library: Path, name: str, sha256: str, planned: Iterable[Path]) -> Path:
    """A folder of the library for a checkpoint of this name, which another may have taken."""
    from dao_flows.model.checkpoint.library import available

    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,80}", name):
        name = f"imported-{sha256[:12]}"
    taken = name in available() or (library / name).exists() or library / name in planned
    return library / (f"{name}-{sha256[:12]}" if taken else name)
