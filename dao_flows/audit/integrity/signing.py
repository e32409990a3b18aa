"""Signatures over what the store holds of a result, so that a third party can tell whether it was changed since.

A signature lists the documents, datasets and checkpoints that it covers, each with its content hash; the root hash is
the sha256 over the canonical JSON of that list, and the Ed25519 signature is over the canonical JSON of a statement
with the root hash, who signed and when.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from dao_flows.errors import InputError
from dao_flows.makers.jobs.attempts import RECORD_ID, SCHEMA_VERSION, append, who
from dao_flows.makers.jobs.provenance import canonical_json, content_hash, digest
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.store.collections import KEYS
from dao_flows.store.interface import Damaged
from dao_flows.store.stores import collection

from .reading import documents

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from jobflow.core.store import JobStore

    from .scope import Scope

EVENT = "signature"
LARGEST = 100_000  # nodes; a document has at most 16 MB
DOCUMENTS = ("jobs", "candidates", "verifications", "comparisons")
Node = tuple[str, str, str]  # collection, id, content hash


class Statement(BaseModel):
    """What is signed."""

    format: Literal[1] = 1
    asked: list[str]
    root_hash: str
    nodes: int
    who: str | None
    at: str
    public_key: str


class Signature(BaseModel):
    """A statement, its signature (base64), and the nodes that its root hash is over, sorted."""

    statement: Statement
    signature: str
    nodes: list[Node]

    @property
    def id(self) -> str:
        """By which it is known in the store."""
        return f"sig-{digest([self.statement.model_dump(), self.signature])[:12]}"


class SignatureError(InputError):
    """A signature does not hold, or a key cannot be used; the message is one line."""


def root_hash(nodes: Iterable[Node]) -> str:
    """The hash over nodes and their content hashes."""
    return digest(sorted([list(node) for node in nodes]))


def nodes_of(jobs: JobStore, scope: Scope) -> Iterator[Node]:
    """The documents in scope with the hashes of what the store holds of them now, and its datasets and checkpoints."""
    for name in DOCUMENTS:
        wanted = getattr(scope, name)
        store, key = (jobs.docs_store, "uuid") if name == "jobs" else (collection(jobs, name), KEYS[name])
        for document in documents(store, key, wanted):
            if isinstance(document, Damaged):
                raise SignatureError(f"{name} cannot be signed: {document.reason}")
            held = str(document[key]) + (f"/{document['index']}" if name == "jobs" else "")
            yield name, held, content_hash(document)
    yield from (("datasets", sha256, sha256) for sha256 in scope.datasets)
    yield from (("checkpoints", sha256, sha256) for sha256 in scope.checkpoints)


def sign(jobs: JobStore, scope: Scope, key: Ed25519PrivateKey) -> Signature:
    """Sign what is in scope. Raises SignatureError if that is nothing, or too much for one document."""
    nodes = sorted(set(nodes_of(jobs, scope)))
    if not nodes:
        raise SignatureError(f"there is nothing to sign of {', '.join(scope.asked)}")
    if len(nodes) > LARGEST:
        raise SignatureError(f"{len(nodes)} documents are too many for one signature (at most {LARGEST}): sign parts")
    statement = Statement(
        asked=list(scope.asked),
        root_hash=root_hash(nodes),
        nodes=len(nodes),
        who=who(),
        at=datetime.now(UTC).isoformat(),
        public_key=_raw(key.public_key()),
    )
    signed = base64.b64encode(key.sign(canonical_json(statement.model_dump()))).decode()
    return Signature(statement=statement, signature=signed, nodes=nodes)


def check(jobs: JobStore, signature: Signature, public_key: Ed25519PublicKey | None = None) -> str | None:
    """Why a signature does not hold for what the store has now, in one line; None if it does.

    public_key: whose signature it should be; None: that of whatever key it names.
    """
    kind: type[Ed25519PublicKey] = _ed25519().Ed25519PublicKey
    from cryptography.exceptions import InvalidSignature

    statement = signature.statement
    if public_key is not None and _raw(public_key) != statement.public_key:
        return f"it was made with another key ({statement.public_key})"
    try:
        verifier = public_key or kind.from_public_bytes(base64.b64decode(statement.public_key, validate=True))
        signed = base64.b64decode(signature.signature, validate=True)
        verifier.verify(signed, canonical_json(statement.model_dump()))
    except (InvalidSignature, ValueError):
        return "it was altered: it is not this key's signature under what it states"
    if root_hash(signature.nodes) != statement.root_hash or len(signature.nodes) != statement.nodes:
        return "its list of documents was altered: it does not have the root hash that was signed"
    differing = _differing(jobs, signature)
    if differing:
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        return f"{differing[0]} is not what was signed{more}"
    return None


def touches(signature: Signature, scope: Scope) -> bool:
    """Whether a signature covers a document in scope."""
    for name, held, _ in signature.nodes:
        wanted: frozenset[str] = getattr(scope, name, frozenset())
        if name in DOCUMENTS and (held.rpartition("/")[0] if name == "jobs" else held) in wanted:
            return True
    return False


def unsigned(checked: int, signatures: Iterable[Signature], scope: Scope | None) -> int:
    """Of so many documents of jobs that were verified, how many none of these signatures, which hold, covers."""
    covered = {held for each in signatures for name, held, _ in each.nodes if name == "jobs"}
    if scope is not None:
        covered = {held for held in covered if held.rpartition("/")[0] in scope.jobs}
    return max(0, checked - len(covered))


def made_by(signature: Signature, key: Ed25519PublicKey) -> bool:
    """Whether a signature names this key as its own."""
    return signature.statement.public_key == _raw(key)


def _differing(jobs: JobStore, signature: Signature) -> list[str]:
    """Signed documents that have another content now, or are gone."""
    from .scope import Scope

    ids: dict[str, set[str]] = {name: set() for name in DOCUMENTS}
    for name, held, _ in signature.nodes:
        if name in ids:
            ids[name].add(held.rpartition("/")[0] if name == "jobs" else held)
    wanted = {name: frozenset(found) for name, found in ids.items()}
    scope = Scope(wanted["jobs"], frozenset(), wanted["candidates"], wanted["verifications"], wanted["comparisons"])
    there = set(nodes_of(jobs, scope))
    signed = [node for node in signature.nodes if node[0] in ids]
    return [f"{name} {who}" for name, who, _ in sorted(set(signed) - there)]


def store(jobs: JobStore, signature: Signature) -> str:
    """Append a signature to the `runs` collection; returns its id."""
    record = {"schema_version": SCHEMA_VERSION, RECORD_ID: signature.id, "event": EVENT, "at": signature.statement.at}
    append(collection(jobs, "runs"), {**record, **signature.model_dump(mode="json")})
    return signature.id


def stored(jobs: JobStore) -> list[Signature]:
    """All signatures in a store. Raises SignatureError for one that cannot be read."""
    found = collection(jobs, "runs").query({"event": EVENT})
    return [_read(record, f"the signature {record.get(RECORD_ID)}") for record in found]


def read(path: Path) -> Signature:
    """A signature from a file. Raises SignatureError."""
    try:
        return _read(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, SignatureError):
            raise
        raise SignatureError(f"{path} cannot be read as a signature: {error}") from None


def _read(record: Any, where: str) -> Signature:
    try:
        fields = {name: record[name] for name in Signature.model_fields}
        return Signature.model_validate(fields)
    except (ValidationError, KeyError, TypeError):
        raise SignatureError(f"{where} was altered: it is no signature any more") from None


def make_key(path: Path) -> Path:
    """Write a new private key that only the user can read, and the public key beside it, whose path is returned.

    Raises SignatureError if a file is there already or cryptography is not installed.
    """
    key = _ed25519().Ed25519PrivateKey.generate()
    from cryptography.hazmat.primitives import serialization as forms

    public = path.with_name(f"{path.name}.pub")
    private = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    text = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    if public.exists():
        raise SignatureError(f"{public} is there already: name another file")
    try:
        for target, content, mode in ((path, private, 0o600), (public, text, 0o644)):
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(content)
    except FileExistsError as error:
        raise SignatureError(f"{error.filename} is there already: name another file") from None
    return public


def private_key(path: Path) -> Ed25519PrivateKey:
    """A key to sign with. Raises SignatureError for one that others can read, or that is none."""
    kind: type[Ed25519PrivateKey] = _ed25519().Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if path.stat().st_mode & 0o077:
            raise SignatureError(f"the key {path} can be read by others: `chmod 600 {path}`, or make another")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, SignatureError):
            raise
        raise SignatureError(f"{path} cannot be read as a private key: {type(error).__name__}") from None
    if not isinstance(key, kind):
        raise SignatureError(f"{path} is no Ed25519 key: `dao-flows audit keygen` makes one")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """A key to check with. Raises SignatureError."""
    kind: type[Ed25519PublicKey] = _ed25519().Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SignatureError(f"{path} cannot be read as a public key: {type(error).__name__}") from None
    if not isinstance(key, kind):
        raise SignatureError(f"{path} is no Ed25519 key")
    return key


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ParameterError("signatures need cryptography: pip install 'dao-flows[audit]'") from None
    return ed25519


def _raw(key: Ed25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes_raw()).decode()
