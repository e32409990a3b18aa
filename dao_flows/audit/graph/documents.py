"""What a store holds, in brief: every document without its structures, what it names as its parents, what it made.

Five queries read a whole store, whatever its size, and a sixth the references that replaced jobs left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from dao_flows.makers.jobs.provenance import digest
from dao_flows.makers.schemas.verification import VerificationDoc
from dao_flows.makers.stages.declaration import STORING, Stage, What, is_name, told_in, values
from dao_flows.makers.stages.registry import stages
from dao_flows.store.fields import mappings
from dao_flows.store.stores import collection

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

Node = tuple[str, str]  # kind, id
Document = dict[str, Any]


_EXECUTION = [f"execution.{name}" for name in ("host", "started_at", "ended_at", "job_uuid", "checkpoints")]
_SCIENCE = [f"science.{name}" for name in ("maker", "code_version", "seed", "checkpoints")]
_PROVENANCE = ["science_hash", "content_hash", *_EXECUTION, *_SCIENCE]
_OUTPUT = (  # what is told of a document of any kind
    *("@class", "formula", "state", "error", "backend", "step", "stage", "split", "shard", "rows", "path"),
    *("energy_per_atom", "provenance.science.inputs.compositions"),
)
_JOB = ("uuid", "index", "name", "completed_at", "hosts", "metadata.dao_flows.run_id")
_CANDIDATE = [
    *("candidate_id", "formula", "z", "rank", "prototype", "energy.value", "content_hash"),
    *("origin.kind", "origin.library", "origin.library_name", "origin.material_id", "origin.formula"),
    *(f"screening.{name}" for name in _PROVENANCE),
    *("generation.science_hash", "generation.execution.job_uuid"),
]
_COMPARISON = [
    *("comparison_id", "candidate_id", "verification_id", "formula", "backend", "reference", "reference_sha256"),
    *("predictor", "predictor_name", "candidate_science_hash", "verification_science_hash", "verified_at"),
    *("energy_error", "predicted_energy_above_hull", "energy_above_hull", "content_hash"),
]
_RECORD = [
    *("record_id", "run_id", "event", "at", "command", "request.formulas", "who", "process.host", "batch"),
    *("attempt_id", "job_uuid", "job_index", "job_name", "function", "parents", "outcome", "error", "seconds"),
]
FIELDS = {"candidates": _CANDIDATE, "comparisons": _COMPARISON, "runs": _RECORD}


def fields_of(output: Sequence[Stage], before: str = "") -> list[str]:
    """What is read of documents of these stages. before: the name under which a document has them."""
    places = {*_OUTPUT, *(f"provenance.{name}" for name in _PROVENANCE), *(f for stage in output for f in stage.fields)}
    whole = [each for each in places if not any(each.startswith(f"{other}.") for other in places)]
    return [f"{before}{each}" for each in sorted(whole)]


class Claim(NamedTuple):
    """What a document says of a parent. what: what its name is; value: the name, of raw data all that is told of it.

    role: what the parent was to it, as in 'screened', 'guided by'.
    """

    what: What
    value: Any
    role: str


@dataclass
class Stored:
    """All documents of a store, in brief, as the store gives them but for the fields that nothing here needs.

    references: uuid of a job that a flow replaced -> uuids of the jobs whose outputs stand for its own.
    """

    jobs: list[Document] = field(default_factory=list)
    candidates: list[Document] = field(default_factory=list)
    verifications: list[Document] = field(default_factory=list)
    comparisons: list[Document] = field(default_factory=list)
    runs: list[Document] = field(default_factory=list)
    references: dict[str, list[str]] = field(default_factory=dict)


def read(store: JobStore) -> Stored:
    """Everything in a job store and the collections beside it. Raises StoreError."""
    known = stages()
    job_fields = [*_JOB, *fields_of(list(known), "output.")]
    stored = Stored(jobs=list(store.docs_store.query(properties=job_fields)))
    verification = known.by_document[VerificationDoc.__name__]
    for name, fields in {**FIELDS, "verifications": fields_of([verification])}.items():
        setattr(stored, name, list(collection(store, name).query(properties=fields)))
    found: dict[str, list[str]] = defaultdict(list)
    for job in store.docs_store.query({"name": STORING}, properties=["uuid", "output"]):
        if uuid := string(job.get("uuid")):
            found[uuid] += output_references(job.get("output"))
    stored.references = dict(found)
    return stored


def job_node(uuid: str, output: Any) -> Node:
    """The node of a finished job: its document, or the job itself where its output is none."""
    kind = stages().kind_of(output)
    if not kind:
        return "job", uuid
    stage = stages().by_kind.get(kind)
    own = string(output.get(stage.id)) if stage is not None and stage.id else None
    return kind, own or uuid


def made(kind: str, document: Mapping[str, Any]) -> Iterator[tuple[Node, dict[str, Any]]]:
    """Checkpoints, datasets and shards that a document made, with what it tells of them."""
    for each in stages().makes(kind):
        for sha256 in filter(string, values(document, each.sha256)):
            yield (each.what, sha256), told_in(document, each.told)


def named(kind: str, document: Mapping[str, Any]) -> Iterator[tuple[Node, dict[str, Any]]]:
    """What a document calls the checkpoints, data and reference sets that it names by their hashes."""
    science, execution = part(document, "provenance", "science"), part(document, "provenance", "execution")
    for role, name in part(execution, "checkpoints").items():
        yield ("checkpoint", string(part(science, "checkpoints").get(role)) or ""), {"name": name}
    if kind == "candidate":
        origin = part(document, "origin")
        yield ("dataset", string(origin.get("library")) or ""), {"name": origin.get("library_name")}
    elif kind == "comparison":
        yield ("reference", string(document.get("reference_sha256")) or ""), {"name": document.get("reference")}
    else:
        for parent in stages().parents(kind):
            for what, value in parent.claims(document) if parent.told else ():
                yield (what, value), told_in(document, parent.told)


def claims(kind: str, document: Mapping[str, Any]) -> Iterator[Claim]:
    """The parents that a document of a job or a collection names, whether the store holds them or not."""
    found = {"candidate": _of_candidate, "comparison": _of_comparison}.get(kind)
    for claim in found(document) if found is not None else _of_output(kind, document):
        if is_name(claim.what, claim.value):  # of a damaged document, what still can be
            yield claim


def _of_output(kind: str, document: Mapping[str, Any]) -> Iterator[Claim]:
    for role, sha256 in part(document, "provenance", "science", "checkpoints").items():
        yield Claim("checkpoint", sha256, role)
    for parent in stages().parents(kind):
        for what, value in parent.claims(document):
            yield Claim(what, value, parent.role)


def _of_candidate(document: Mapping[str, Any]) -> Iterator[Claim]:
    screening = part(document, "screening")
    if uuid := part(screening, "execution").get("job_uuid"):
        yield Claim("job", uuid, "accepted by")
    else:
        yield Claim("science", screening.get("science_hash"), "accepted by")
    yield Claim("dataset", part(document, "origin").get("library"), "template")


def _of_comparison(document: Mapping[str, Any]) -> Iterator[Claim]:
    yield Claim("verification", document.get("verification_id"), "compared")
    yield Claim("candidate", document.get("candidate_id"), "compared")
    yield Claim("reference", document.get("reference_sha256"), "energies against")


def source_node(source: Mapping[str, Any]) -> Node:
    """Raw data by its content: the sha256 of a file or dataset, else a hash of the query that it came from."""
    if sha256 := string(source.get("sha256")):
        return "source", sha256
    told = {name: value for name, value in source.items() if name in ("query", "database", "url", "filter", "job")}
    told |= {name: source[name] for name in ("documents", "last") if name in source}
    return "source", digest(told or {"name": source.get("name")}, extended=True)


def string(value: Any) -> str | None:
    """A string that is not empty, or None."""
    return value if isinstance(value, str) and value else None


def part(document: Any, *names: str) -> Mapping[str, Any]:
    """The mapping at the end of these names, or an empty one."""
    for name in names:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document if isinstance(document, Mapping) else {}


def listed(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def number(value: Any) -> int:
    """A whole number, or 1."""
    return value if isinstance(value, int) else 1


def output_references(value: Any) -> Iterator[str]:
    """The uuids of the jobs whose outputs a value refers to, as jobflow writes them."""
    found = mappings(value, lambda held: held.get("@class") == "OutputReference" and bool(string(held.get("uuid"))))
    yield from (held["uuid"] for held in found)
