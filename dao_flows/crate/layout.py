"""What lies where in a crate, and its manifest: the list of all members with their sizes and hashes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dao_flows.makers.jobs.provenance import canonical_json, digest

from .archive import NAME, CrateError, show

FORMAT = 1
MANIFEST = "manifest.json"
METADATA = "ro-crate-metadata.json"
README = "README.md"
PROV = "prov.json"
WORKFLOW = "workflow.json"
ENVIRONMENT = "environment/requirements.txt"
FOLDERS = {  # collection -> folder of its documents
    "jobs": "documents/jobs",
    "candidates": "documents/candidates",
    "verifications": "documents/verifications",
    "comparisons": "documents/comparisons",
    "runs": "documents/runs",
}
SHA256 = r"[0-9a-f]{64}"
FILES = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
Role = Literal["about", "document", "structure", "card", "weights", "dataset", "shard", "file"]
PLACES: tuple[tuple[re.Pattern[str], Role], ...] = (
    (re.compile("|".join(map(re.escape, (METADATA, README, PROV, WORKFLOW, ENVIRONMENT)))), "about"),
    (re.compile(rf"documents/(?P<collection>{'|'.join(FOLDERS)})/{FILES}\.json"), "document"),
    (re.compile(rf"structures/{FILES}\.cif"), "structure"),
    (re.compile(rf"checkpoints/(?P<sha256>{SHA256})/card\.json"), "card"),
    (re.compile(rf"checkpoints/(?P<sha256>{SHA256})/weights(-[0-9]+-of-[0-9]+)?\.safetensors"), "weights"),
    (re.compile(rf"datasets/(?P<sha256>{SHA256})/manifest\.json"), "dataset"),
    (re.compile(rf"datasets/(?P<sha256>{SHA256})/(?P<file>{FILES}\.(parquet|jsonl))"), "shard"),
    (re.compile(rf"files/(?P<sha256>{SHA256})(\.[a-z0-9]{{1,8}})?"), "file"),
)


class Place(NamedTuple):
    """What a member is, by its path. key: the collection of a document, the sha256 of a checkpoint or a dataset."""

    role: Role
    key: str = ""


def place(path: str) -> Place | None:
    """What lies at this path of a crate; None if nothing does."""
    for pattern, role in PLACES:
        if found := pattern.fullmatch(path):
            groups = found.groupdict()
            return Place(role, groups.get("collection") or groups.get("sha256") or "")
    return None


def document_path(collection: str, key: str) -> str:
    """Where a document lies. A key that cannot be a file's name is replaced by its hash."""
    if len(key) > 100 or "/" in key or not NAME.fullmatch(key):
        key = f"key-{digest(key)[:32]}"
    return f"{FOLDERS[collection]}/{key}.json"


class Member(BaseModel):
    """A file in a crate."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    sha256: str = Field(pattern=f"^{SHA256}$")
    size: int = Field(ge=0, description="bytes, unpacked")


class Manifest(BaseModel):
    """All that a crate holds, but this list itself.

    asked: the nodes exported, with their ancestry ('kind:id'); unsealed: documents from before documents stated a hash
    of their content. All others must.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal[1] = 1
    dao_flows: str = Field(description="version that wrote the crate")
    asked: list[str]
    unsealed: list[str] = Field(default_factory=list)
    members: dict[str, Member]

    @property
    def sha256(self) -> str:
        """The crate's identity: over this list, and so over the content of every member."""
        return digest(self.model_dump())

    def as_json(self) -> bytes:
        """Canonical JSON, with the sha256 in it."""
        return canonical_json({**self.model_dump(), "sha256": self.sha256})


def member(content: bytes) -> Member:
    """The entry of this content."""
    return Member(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def read_manifest(data: bytes, where: str) -> Manifest:
    """A crate's manifest, unchanged. Raises CrateError."""
    try:
        fields = json.loads(data)
        stated = fields.pop("sha256", None) if isinstance(fields, dict) else None
        if isinstance(fields, dict) and isinstance(fields.get("format"), int) and fields["format"] > FORMAT:
            raise CrateError(f"{where} was written by a newer version of dao_flows: update it to read the crate")
        manifest = Manifest.model_validate(fields)
        whole = stated == manifest.sha256 and manifest.as_json() == data
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CrateError(
            f"the {MANIFEST} of {where} was changed or is damaged: "
            f"{show('/'.join(map(str, first['loc'])))}: {first['msg']}"
        ) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, CrateError):
            raise
        raise CrateError(f"the {MANIFEST} of {where} was changed or is damaged: it is no JSON of ours") from None
    if not whole:
        raise CrateError(f"the {MANIFEST} of {where} was changed: it does not have the sha256 that it states")
    return manifest


def compare(manifest: Manifest, sizes: Mapping[str, int]) -> list[str]:
    """What is wrong with the members that an archive has: missing, unknown, of another size; one line each."""
    there = {name: size for name, size in sizes.items() if name != MANIFEST}
    problems = [f"{show(name)} is missing" for name in manifest.members if name not in there]
    for name, size in there.items():
        entry = manifest.members.get(name)
        if entry is None:
            problems.append(f"{show(name)} is not in its manifest")
        elif entry.size != size:
            problems.append(f"{show(name)} has {size} bytes, not {entry.size}")
        elif place(name) is None:
            problems.append(f"{show(name)} is nothing that a crate holds")
    return problems


def refuse(where: str, problems: list[str], most: int = 5) -> None:
    """Raise CrateError naming the problems, if there are any."""
    if problems:
        more = f"; and {len(problems) - most} more" if len(problems) > most else ""
        raise CrateError(f"{where} is refused: {'; '.join(problems[:most])}{more}")


def plain(value: Any) -> str:
    """A value for a message, short."""
    return show(value) if isinstance(value, str) else show(repr(value))
