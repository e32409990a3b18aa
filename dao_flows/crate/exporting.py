"""Writing a crate: results and the whole of their ancestry, in one archive that others can read and check."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import TYPE_CHECKING

from dao_flows.makers.machine.masking import holds_secret, remember_environment, remember_store
from dao_flows.version import __version__

from .archive import CrateError, limits, write_archive
from .contents import Contents
from .documents import is_sealed
from .gathering import gather
from .history import About
from .layout import ENVIRONMENT, MANIFEST, METADATA, PROV, README, WORKFLOW, Manifest, Member, member, place
from .metadata import metadata
from .prov_json import prov_json
from .reader import open_crate

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

UNSTATED = "https://rightsstatements.org/vocab/CNE/1.0/"  # "copyright not evaluated"
AUTHOR = re.compile(r"\s*(?P<name>[^<>]+?)\s*(<(https://orcid\.org/)?(?P<orcid>[\dX-]+)>)?\s*")


@dataclass(frozen=True)
class Exported:
    """What was written. members: in the archive; unsealed: documents without a hash of their own."""

    path: Path
    sha256: str
    members: int
    documents: dict[str, int]
    unsealed: int
    left: list[str]


def export_crate(
    store: JobStore,
    ids: Sequence[str],
    out: Path,
    *,
    name: str | None = None,
    description: str | None = None,
    licence: str = UNSTATED,
    authors: Sequence[str] = (),
    published: str | None = None,
    weights: bool = False,
    shards: bool = False,
    force: bool = False,
) -> Exported:
    """Write a crate of the documents, checkpoints or datasets of these ids and of all that they were made from.

    weights, shards: take the contents of checkpoints and datasets along, not only their cards and manifests. The file
    appears whole, after it was read back as an import reads it. Raises CrateError, InputError.
    """
    if out.exists() and not force:
        raise CrateError(f"{out} exists already: choose another name, or replace it with --force")
    if not out.parent.is_dir():
        raise CrateError(f"there is no folder {out.parent}")
    people = tuple(author(text) for text in authors)
    contents = gather(store, ids, weights, shards)
    history = contents.history()
    about = About(
        name or contents.title(),
        description or f"{contents.title()}, with all that they were made from: jobs, checkpoints and data",
        licence,
        people,
        published,
    )
    files: dict[str, bytes | Path] = dict(contents.members())
    files[ENVIRONMENT] = environment()
    files[PROV] = prov_json(history)
    files[WORKFLOW] = contents.workflow(history)
    files[README] = readme(about, contents)
    listed = {path: _entry(content) for path, content in sorted(files.items())}
    files[METADATA] = metadata(history, about, listed, __version__, version("jobflow"))
    listed[METADATA] = member(_bytes(files[METADATA]))
    unsealed = sorted(path for path, content in files.items() if _is_unsealed(path, content))
    manifest = Manifest(
        dao_flows=__version__,
        asked=contents.asked_names(),
        unsealed=unsealed,
        members=dict(sorted(listed.items())),
    )
    files[MANIFEST] = manifest.as_json()
    _refuse_secrets(store, files)

    def check(path: Path) -> None:
        with open_crate(path, limits()):
            pass

    write_archive(out, files, check)
    counts = {name: len(held) for name, held in contents.documents.items() if held}
    return Exported(out, manifest.sha256, len(files), counts, len(unsealed), contents.left)


def _is_unsealed(path: str, content: bytes | Path) -> bool:
    """Whether a member is a document that states no hash of its content."""
    at = place(path)
    if at is None or at.role != "document" or not isinstance(content, bytes):
        return False
    document = json.loads(content)
    return not is_sealed(document.get("output") if at.key == "jobs" else document, at.key)


def _bytes(content: bytes | Path) -> bytes:
    assert isinstance(content, bytes)
    return content


def _entry(content: bytes | Path) -> Member:
    if isinstance(content, bytes):
        return member(content)
    with content.open("rb") as file:
        return Member(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=content.stat().st_size)


def _refuse_secrets(store: JobStore, files: Mapping[str, bytes | Path]) -> None:
    """A crate is for others to read: no credentials that this process knows of, and none of a URI."""
    remember_environment()
    remember_store(store)
    for path, content in files.items():
        if isinstance(content, bytes) and holds_secret(content.decode("utf-8", "replace")):
            raise CrateError(f"nothing was written: {path} would hold what looks like a password or a key")


def author(text: str) -> tuple[str, str | None]:
    """A name and an ORCID from 'Name <0000-0000-0000-0000>' or a name alone. Raises CrateError."""
    found = AUTHOR.fullmatch(text)
    if found is None:
        raise CrateError(f"{text!r} is no author: write 'Ada Lovelace' or 'Ada Lovelace <0000-0002-1825-0097>'")
    orcid = found["orcid"]
    if orcid is not None and not _is_orcid(orcid):
        raise CrateError(f"{orcid} is no ORCID: its check digit is wrong, or it has not four groups of four")
    return found["name"], orcid


def _is_orcid(text: str) -> bool:
    """ISO 7064 mod 11-2, as orcid.org describes it."""
    if not re.fullmatch(r"(\d{4}-){3}\d{3}[\dX]", text):
        return False
    total = 0
    for digit in text.replace("-", "")[:-1]:
        total = (total + int(digit)) * 2
    return "0123456789X"[(12 - total % 11) % 11] == text[-1]


def environment() -> bytes:
    """The Python packages that are installed, one a line, as pip reads them. No addresses, no paths."""
    found = {(d.metadata["Name"] or "").lower().replace("_", "-"): d.version for d in distributions()}
    lines = [f"{name}=={number}" for name, number in sorted(found.items()) if name and number]
    head = f"# Python {platform.python_version()}: what was installed where this crate was written"
    return "\n".join([head, "# what took part in each job stands in its document", *lines, ""]).encode()


def readme(about: About, contents: Contents) -> bytes:
    """README.md of the crate: what lies where, and how to check it with nothing but Python."""
    lines = "\n".join(f"| `{path}` | {text} |" for path, text in _table(contents))
    return f"""# {about.name}

{about.description}.

An RO-Crate (Provenance Run Crate 0.5) written by dao_flows {__version__}. `dao-flows import-crate` brings it into
another store; `ro-crate-metadata.json` describes all files for RO-Crate tools, and `prov.json` the history in W3C PROV.

| where | what |
|---|---|
{lines}

## Checking it without dao_flows
`manifest.json` lists the sha256 of every other file. Its own `sha256` is over itself without that field, in canonical
JSON: keys sorted, no whitespace, UTF-8. The documents are JSON too (values that JSON lacks are written as MongoDB's
Extended JSON), so that the hash which a job's document states in `provenance.content_hash` can be computed again: over
`output` without that field, in canonical JSON.

```python
import hashlib, json, pathlib

def canonical(value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()

manifest = json.loads(pathlib.Path("manifest.json").read_text())
assert manifest.pop("sha256") == canonical(manifest)
for path, entry in manifest["members"].items():
    assert hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() == entry["sha256"], path
for path in pathlib.Path("documents/jobs").glob("*.json"):
    output = json.loads(path.read_text())["output"]
    stated = output["provenance"].pop("content_hash", None) if "provenance" in (output or {{}}) else None
    assert stated in (None, canonical(output)), path
```
""".encode()


def _table(contents: Contents) -> Iterable[tuple[str, str]]:
    told = {
        "jobs": "one document a job, as the job store holds it",
        "candidates": "one document a ranked structure",
        "verifications": "one document a verified candidate",
        "comparisons": "one document a comparison of prediction and verification",
        "runs": "records of runs and of attempts at jobs, failed ones too",
    }
    for name, held in contents.documents.items():
        if held:
            yield f"documents/{name}/", f"{told[name]} ({len(held)})"
    if contents.structures:
        yield "structures/", f"structures as CIF ({len(contents.structures)})"
    if contents.checkpoints:
        yield "checkpoints/", "cards of checkpoints, by the sha256 of their weights; the weights if they were asked for"
    if contents.datasets:
        yield "datasets/", "manifests of datasets, by their sha256; the rows if they were asked for"
    if contents.figures:
        yield "files/", "figures and tables that documents name, by their sha256"
    yield WORKFLOW, "each job with its maker, what it used and what it made"
    yield ENVIRONMENT, "packages that were installed where the crate was written"
