"""The files that documents name: data, figures, datasets and checkpoints, hashed again, several at a time."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from dao_flows.audit.graph.installed import known_crystals
from dao_flows.makers.machine.folder_hashes import LINK, PREFIX, folder_hashes
from dao_flows.model.checkpoint.format import CheckpointError, read_card, weights_sha256
from dao_flows.model.checkpoint.format import verify as verify_checkpoint
from dao_flows.model.checkpoint.library import available
from dao_flows.model.data.shards import MANIFEST, DataError, file_sha256, read_manifest, shard_path
from dao_flows.model.files.places import CARD
from dao_flows.model.templates.library import INDEX, verify_index
from dao_flows.store import imported

from .findings import Finding, Problem
from .ledger import Claim, Ledger

AT_ONCE = 8  # files; hashing is outside of Python's lock, and reading waits


@dataclass
class Files:
    """What became of the files."""

    findings: list[Finding] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)


def verify_files(ledger: Ledger, tell: Callable[[int, int, str], None], folders: bool = False) -> Files:
    """Every file that is claimed; what should be here and is not is missing, what lies elsewhere is unverifiable."""
    tasks: list[tuple[str, Callable[[], Iterable[Finding]]]] = []
    tasks += [("files", partial(_file, claims)) for claims in _by_path(ledger.files)]
    crystals = known_crystals()
    tasks += [("datasets", partial(_dataset, sha, claims, ledger, crystals)) for sha, claims in ledger.datasets.items()]
    library = _library()
    found = ledger.checkpoints.items()
    tasks += [("checkpoints", partial(_checkpoint, sha, claims, ledger, library)) for sha, claims in found]
    if folders:
        tasks += [("folders of calculations", partial(_folder, *each)) for each in ledger.folders.values()]
    files = Files()
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        running = [(name, pool.submit(task)) for name, task in tasks]
        for done, (name, task) in enumerate(running, 1):
            files.findings += task.result()
            files.checked[name] += 1
            tell(done, len(running), "files")
    return files


def _by_path(claims: Iterable[Claim]) -> list[list[Claim]]:
    """Claims of one file, the latest last."""
    found: dict[str, list[Claim]] = {}
    for claim in sorted(claims, key=lambda each: each.at):
        found.setdefault(claim.path, []).append(claim)
    return list(found.values())


def _file(claims: list[Claim]) -> Iterator[Finding]:
    """A file against the latest claim; it may have been written anew since an earlier one."""
    claim = claims[-1]
    path = Path(claim.path)
    if not path.exists():
        path = imported.file(claim.sha256) or path
    if path.is_dir():
        yield from _whole_dataset(path, claim.sha256, "files", claim.path)
    elif not path.is_file():
        yield _absent("files", claim.path, claims)
    elif (found := _sha256(path)) != claim.sha256:
        yield _altered("files", claim.path, claim, found)
    for earlier in claims[:-1]:
        if earlier.sha256 != claim.sha256:
            reason = f"it was written anew since; {earlier.owner} names it as it was"
            yield Finding(problem="unverifiable", collection="files", id=claim.path, reason=reason)


def _folder(claim: Claim, stated: Mapping[str, str]) -> Iterator[Finding]:
    """The folder of a calculation: files that are altered, that are gone, and that nothing names."""
    folder = Path(claim.path)
    if not folder.is_dir():
        yield _absent("files", claim.path, [claim])
        return
    expected = {os.path.normpath(folder / name.removeprefix(PREFIX)): sha256 for name, sha256 in stated.items()}
    top = folder / ("../" * min(name.count("../") for name in stated))  # of restarts, whose last is the directory
    there = {os.path.normpath(top / name): sha256 for name, sha256 in folder_hashes(top).items()}
    finding = partial(Finding, collection="files", kind="calculation")
    for path, sha256 in expected.items():
        if path not in there:
            if not Path(path).is_file():
                yield finding(problem="missing", id=path, reason=f"{claim.owner} left it there")
            else:
                yield finding(problem="altered", id=path, reason="it cannot be read")
        elif there[path] != sha256:
            reason = f"it is {_said(there[path])}; {claim.owner} left {_said(sha256)}"
            yield finding(problem="altered", id=path, reason=reason)
    for path in there.keys() - expected.keys():
        reason = f"it was not there when {claim.owner} ended, or was not readable"
        yield finding(problem="orphaned", id=path, reason=reason)


def _said(held: str) -> str:
    return f"a {held}" if held.startswith(LINK) else f"a file of sha256 {held[:12]}…"


def _dataset(sha256: str, claims: list[Claim], ledger: Ledger, crystals: Mapping[str, Path]) -> Iterator[Finding]:
    """A dataset wherever a document says that it lies, or a library of known crystals where it is installed."""
    places = {claim.path: claim for claim in claims if claim.path}
    here = [path for path in places if Path(path).is_dir()]
    if (folder := imported.dataset(sha256)) is not None:
        here.append(str(folder))
    if (folder := crystals.get(sha256)) is not None:
        here.append(str(folder))
        yield from _index(folder, sha256)
    if not here:
        yield _absent("datasets", sha256, list(places.values()) or claims, f"at {next(iter(places))}" if places else "")
    stated = {path: claim for path in places if (claim := ledger.manifests.get(f"{path}/{MANIFEST}")) is not None}
    for path in here:  # an imported copy came with the manifest of a place that is named
        claim = stated.get(path) if path in places else next(iter(stated.values()), None)
        yield from _whole_dataset(Path(path), sha256, "datasets", sha256, claim)


def _index(folder: Path, sha256: str) -> Iterator[Finding]:
    """The index of a library, derived from its crystals again."""
    try:
        verify_index(folder)
    except (DataError, OSError) as error:
        yield Finding(problem="altered", collection="datasets", id=sha256, field=INDEX, reason=str(error))


def _whole_dataset(
    folder: Path, sha256: str, where: str, who: str, manifest_claim: Claim | None = None
) -> Iterator[Finding]:
    """Manifest and shards of a dataset that is here."""
    problem = partial(Finding, collection=where, id=who)
    manifest = folder / MANIFEST
    if manifest_claim is not None and manifest.is_file() and (found := _sha256(manifest)) != manifest_claim.sha256:
        yield _altered(where, who, manifest_claim, found)
    try:
        read = read_manifest(folder)
    except DataError as error:
        yield problem(problem="altered" if manifest.is_file() else "missing", field=MANIFEST, reason=str(error))
        return
    if read.sha256 != sha256:
        yield problem(problem="missing", reason=f"another dataset ({read.sha256[:12]}…) lies at {folder}")
        return
    for shard in read.shards:
        try:
            shard_path(folder, shard)
        except (DataError, OSError) as error:
            gone = not (folder / shard.file).is_file()
            yield problem(problem="missing" if gone else "altered", field=shard.file, reason=str(error))


def _library() -> dict[Path, str]:
    """The folders of the user's checkpoints and of those that ship, with the sha256 that each card states."""
    found = {}
    for folder in available().values():
        try:
            found[folder] = read_card(folder).sha256
        except CheckpointError:
            found[folder] = ""
    return found


def _checkpoint(sha256: str, claims: list[Claim], ledger: Ledger, library: dict[Path, str]) -> Iterator[Finding]:
    """A checkpoint where it was trained, where it was registered, and wherever its card is found."""
    names = ledger.registered.get(sha256, set())
    folders = {Path(claim.path) for claim in claims if claim.path and Path(claim.path).is_dir()}
    for folder, stated in library.items():
        if stated == sha256 or (folder.name in names and (not stated or _weights(folder) == sha256)):
            folders.add(folder)
    found, whole = [], False
    for folder in sorted(folders):
        problem = _damage(folder, sha256, ledger)
        whole = whole or problem is None
        if problem is not None:
            found.append(problem)
    yield from found
    if not folders:
        yield _absent("checkpoints", sha256, claims)
    elif whole and sha256 not in ledger.cards:
        reason = "no document says what its card should be; its weights are unchanged"
        yield Finding(problem="unverifiable", collection="checkpoints", id=sha256, field=CARD, reason=reason)


def _damage(folder: Path, sha256: str, ledger: Ledger) -> Finding | None:
    """What is wrong with a checkpoint in a folder."""
    altered = partial(Finding, problem="altered", collection="checkpoints", id=sha256)
    try:
        card = verify_checkpoint(folder)
    except CheckpointError as error:
        return altered(reason=str(error))
    if card.sha256 != sha256:
        return Finding(
            problem="missing", collection="checkpoints", id=sha256, reason=f"another checkpoint lies at {folder}"
        )
    if sha256 not in ledger.cards:
        return None
    claim, name = ledger.cards[sha256]
    written = (folder / CARD).read_bytes()
    as_trained = (json.dumps(asdict(replace(card, name=name)), indent=1, ensure_ascii=False) + "\n").encode()
    own = (json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n").encode()
    if hashlib.sha256(as_trained).hexdigest() != claim.sha256 or written != own:
        return altered(field=CARD, reason=f"the card at {folder} is not the one that {claim.owner} wrote")
    if card.name != name and card.name != folder.name and not folder.name.startswith(f"{card.name}-"):
        return altered(field=CARD, reason=f"the card at {folder} has another name")
    return None


def _weights(folder: Path) -> str:
    try:
        return weights_sha256(folder)
    except (CheckpointError, OSError):
        return ""


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _absent(where: str, who: str, claims: list[Claim], place: str = "") -> Finding:
    """Missing if this is the machine that had it, else unverifiable."""
    here = platform.node()
    hosts = sorted({claim.host for claim in claims})
    problem: Problem = "missing" if here in hosts else "unverifiable"
    told = f"it is not {place or 'here'}; {claims[-1].owner} names it, made on {', '.join(hosts)}"
    return Finding(problem=problem, collection=where, id=who, reason=told)


def _altered(where: str, who: str, claim: Claim, found: str) -> Finding:
    path = claim.path if claim.path != who else "it"
    reason = f"{path} has sha256 {found[:12]}…, {claim.owner} says {claim.sha256[:12]}…"
    return Finding(problem="altered", collection=where, id=who, reason=reason)
