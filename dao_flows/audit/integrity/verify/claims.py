"""What documents of jobs say of files, datasets and checkpoints, for `verify_files` to hash again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dao_flows.audit.integrity.ledger import Claim, Ledger, references, sources
from dao_flows.makers.machine.folder_hashes import PREFIX
from dao_flows.makers.stages.declaration import first, told_in
from dao_flows.makers.stages.registry import stages
from dao_flows.model.data.shards import MANIFEST
from dao_flows.model.files.places import CARD
from dao_flows.store.fields import get

CARD_FILE, MANIFEST_FILE = f"path/{CARD}", f"path/{MANIFEST}"  # in the folder that the field `path` names

Claiming = Callable[[Any, Any], Claim]  # of a path and its sha256


def note_claims(ledger: Ledger, output: dict[str, Any], who: str, kind: str) -> None:
    """Note in the ledger what the output of a job claims. who: the job's document; kind: of the output."""
    host, at = (str(get(output, f"provenance.execution.{name}")) for name in ("host", "ended_at"))

    def claim(path: Any, sha256: Any) -> Claim:
        return Claim(str(path), str(sha256), host, at, f"jobs {who}")

    named = get(output, "provenance.files")
    if isinstance(named, dict):
        _files(ledger, output, named, claim)
    _things(ledger, output, kind, claim)
    for source in sources(output):
        if source.get("sha256") and str(source.get("location", "")).startswith("/"):
            ledger.files.append(claim(source["location"], source["sha256"]))
    for what, sha256 in references(output):
        if what == "checkpoint":
            ledger.checkpoints.setdefault(sha256, []).append(claim("", sha256))
        elif what == "dataset":
            ledger.datasets.setdefault(sha256, []).append(claim("", sha256))


def _files(ledger: Ledger, output: dict[str, Any], named: Mapping[str, Any], claim: Claiming) -> None:
    """Files by the fields that name them or their folders, and those of a calculation's folder."""
    inside_folder = {name: str(sha256) for name, sha256 in named.items() if name.startswith(PREFIX)}
    if inside_folder and isinstance(directory := output.get("directory"), str):
        held = claim(directory.partition(":")[2], "")
        ledger.folders.setdefault(held.path, (held, inside_folder))
    for name, sha256 in named.items():
        if name in inside_folder:
            continue
        base, _, inside = name.partition("/")
        found = claim(f"{output.get(base)}/{inside}" if inside else output.get(base), sha256)
        if name == CARD_FILE:
            weights = str(output.get("checkpoint_sha256"))
            if weights not in ledger.cards or found.at > ledger.cards[weights][0].at:
                ledger.cards[weights] = (found, str(output.get("name")))
        elif name == MANIFEST_FILE:
            if found.path not in ledger.manifests or found.at > ledger.manifests[found.path].at:
                ledger.manifests[found.path] = found
        else:
            ledger.files.append(found)


def _things(ledger: Ledger, output: dict[str, Any], kind: str, claim: Claiming) -> None:
    """Datasets, shards and checkpoints that a document's stage declares as made by it."""
    for made in stages().makes(kind):
        sha256, path = first(output, made.sha256), first(output, made.path)
        if made.what == "dataset":
            ledger.datasets.setdefault(str(sha256), []).append(claim(path, ""))
        elif made.what == "shard":
            ledger.files.append(claim(path, sha256))
        else:
            ledger.checkpoints.setdefault(str(sha256), []).append(claim(path, sha256))
            if name := told_in(output, made.told).get("registered"):
                ledger.registered.setdefault(str(sha256), set()).add(str(name))
