"""What a document of any collection must be by itself: stored as what it is, sealed, of a version that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dao_flows.audit.integrity.consistency import newest_versions
from dao_flows.makers.jobs.provenance import content_hash

if TYPE_CHECKING:
    from .inspection import Inspection


def check_id(inspection: Inspection, document: dict[str, Any], where: str, keys: tuple[str, ...]) -> None:
    """Whether it is there once, stored under one of its keys, the last of which is its own id."""
    for problem, part, reason in inspection.identities.see(inspection.stores[where], where, keys, document):
        inspection.find(problem, where, keys[-1], reason, field=part)


def check_seal(inspection: Inspection, document: dict[str, Any], where: str, who: str, kind: str) -> bool:
    """Whether it has the content hash that it states; one that states none is taken for sound."""
    stated = document.get("content_hash")
    if stated is None:
        inspection.find("unverifiable", where, who, "it was written before there were content hashes", kind)
        return True
    try:
        sound = bool(content_hash(document) == stated)
    except (TypeError, ValueError):
        sound = False
    if not sound:
        inspection.find("altered", where, who, "it does not have the content hash that it states", kind)
    return sound


def check_schema(inspection: Inspection, document: Any, where: str, who: str, kind: str) -> None:
    """Whether this version of dao_flows knows its schema. document: it, or the output of a job."""
    if not isinstance(document, dict):
        return
    version, newest = document.get("schema_version"), newest_versions().get(str(document.get("@class")))
    if isinstance(version, int) and newest is not None and version > newest:
        reason = f"schema version {version} is newer than this version of dao_flows knows ({newest}): update it"
        inspection.find("unverifiable", where, who, reason, kind, "schema_version")
