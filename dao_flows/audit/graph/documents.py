"""What a store holds, in brief: every document without its structures, what it names as its parents, what it made.

Five queries read a whole store, whatever its size, and a sixth the references that replaced jobs left.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from dao_flows.makers.jobs.provenance import digest
from dao_flows.store.stores import collection

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

Node = tuple[str, str]  # kind, id
Document = dict[str, Any]

COLLECTED = {"candidates": "candidate", "verifications": "verification", "comparisons": "comparison"}
KINDS = {"DatasetDoc": "ingestion"}  # "dataset" is the dataset itself; other classes have their own name in snake words
SHARDS = {"relaxation": "relaxed", "labelling": "labelled"}  # kind of a shard's document -> its field of the file made
MERGED = ("relaxed_dataset", "labelled_dataset")  # of such shards
STORING = "store_inputs"  # jobflow's job that stands for the output of a flow that took a job's place

_EXECUTION = [f"execution.{name}" for name in ("host", "started_at", "ended_at", "job_uuid", "checkpoints")]
_SCIENCE = [f"science.{name}" for name in ("maker", "code_version", "seed", "checkpoints")]
_PROVENANCE = ["science_hash", "content_hash", *_EXECUTION, *_SCIENCE]
# of the science's inputs: those that name other documents, datasets or compositions, and no structures
_INPUTS = (
    *("generation", "screening", "candidate", "previous", "calculations", "evaluations"),
    *("dataset", "parent", "data", "shard", "shard_sha256", "shards", "compositions", "library"),
)
_OUTPUT = (
    *("@class", "candidate_id", "verification_id", "candidate_science_hash", "formula", "state", "error", "backend"),
    *("step", "calculations", "hull.reference", "hull.reference_sha256", "generation.execution.job_uuid"),
    *("generation.science_hash", "name", "path", "rows", "sha256", "sources", "filters.held_out", "parent", "dataset"),
    *("shard", "kind", "stage", "registered_as", "checkpoint_sha256", "parent_sha256"),
    *(f"{made}.sha256" for made in SHARDS.values()),
    *("dataset_sha256", "dataset_rows", "checkpoint", "data", "data_sha256", "split", "force_field", "energy_per_atom"),
)
JOB_FIELDS = [
    *("uuid", "index", "name", "completed_at", "hosts", "metadata.dao_flows.run_id"),
    *(f"output.{name}" for name in _OUTPUT),
    *(f"output.provenance.{name}" for name in _PROVENANCE),
    *(f"output.provenance.science.inputs.{name}" for name in _INPUTS),
    "output.provenance.science.parameters.dataset_name",
]
_CANDIDATE = [
    *("candidate_id", "formula", "z", "rank", "prototype", "energy.value", "content_hash"),
    *("origin.kind", "origin.library", "origin.library_name", "origin.material_id", "origin.formula"),
    *(f"screening.{name}" for name in _PROVENANCE),
    *("generation.science_hash", "generation.execution.job_uuid"),
]
_VERIFICATION = [
    *("verification_id", "candidate_id", "candidate_science_hash", "formula", "state", "error", "backend"),
    *("calculations", "hull.reference", "hull.reference_sha256", "energy_per_atom"),
    *(f"provenance.{name}" for name in _PROVENANCE),
    *(f"provenance.science.inputs.{name}" for name in ("screening", "calculations")),
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
FIELDS = {"candidates": _CANDIDATE, "verifications": _VERIFICATION, "comparisons": _COMPARISON, "runs": _RECORD}


class Claim(NamedTuple):
    """What a document says of a parent. what: node (value: its kind and id), science (a hash) or job (a uuid).

    role: what the parent was to it, as in 'screened', 'guided by'.
    """

    what: str
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
    stored = Stored(jobs=list(store.docs_store.query(properties=JOB_FIELDS)))
    for name, fields in FIELDS.items():
        setattr(stored, name, list(collection(store, name).query(properties=fields)))
    found: dict[str, list[str]] = defaultdict(list)
    for job in store.docs_store.query({"name": STORING}, properties=["uuid", "output"]):
        if uuid := string(job.get("uuid")):
            found[uuid] += [reference["uuid"] for reference in _references(job.get("output"))]
    stored.references = dict(found)
    return stored


def kind_of(output: Any) -> str | None:
    """The kind of the document that a job wrote; None for an output that is no document with provenance."""
    if not isinstance(output, Mapping) or not isinstance(output.get("provenance"), Mapping):
        return None
    name = str(output.get("@class") or "")
    if name in KINDS:
        return KINDS[name]
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", name.removesuffix("Doc"))
    return "_".join(word.lower() for word in words) or None


def job_node(uuid: str, output: Any) -> Node:
    """The node of a finished job: its document, or the job itself where its output is none."""
    kind = kind_of(output)
    if kind is None:
        return "job", uuid
    if kind == "verification" and (name := string(output.get("verification_id"))):
        return kind, name  # the collection's id
    return kind, uuid


def made(kind: str, document: Mapping[str, Any]) -> Iterator[tuple[Node, dict[str, Any]]]:
    """Checkpoints and datasets that a document made, with what it tells of them."""
    if kind == "training" and (sha256 := string(document.get("checkpoint_sha256"))):
        told = {
            "name": document.get("name"),
            "model": document.get("kind"),
            "registered": document.get("registered_as"),
        }
        yield ("checkpoint", sha256), told
    if kind in ("ingestion", *MERGED) and (sha256 := string(document.get("sha256"))):
        told = {name: document.get(name) for name in ("name", "rows", "path")}
        told["name"] = told["name"] or part(document, "provenance", "science", "parameters").get("dataset_name")
        yield ("dataset", sha256), told


def named(document: Mapping[str, Any]) -> Iterator[tuple[Node, dict[str, Any]]]:
    """What a document calls the checkpoints, data and reference sets that it names by their hashes."""
    science, execution = part(document, "provenance", "science"), part(document, "provenance", "execution")
    for role, name in part(execution, "checkpoints").items():
        yield ("checkpoint", string(part(science, "checkpoints").get(role)) or ""), {"name": name}
    yield ("dataset", string(document.get("data_sha256")) or ""), {"name": document.get("data")}
    yield ("dataset", string(document.get("dataset_sha256")) or ""), {"rows": document.get("dataset_rows")}
    origin = part(document, "origin")
    yield ("dataset", string(origin.get("library")) or ""), {"name": origin.get("library_name")}
    for hull in (part(document, "hull"), document):
        yield ("reference", string(hull.get("reference_sha256")) or ""), {"name": hull.get("reference")}


def claims(kind: str, document: Mapping[str, Any]) -> Iterator[Claim]:
    """The parents that a document of a job or a collection names, whether the store holds them or not."""
    found = {
        "candidate": _of_candidate,
        "verification": _of_verification,
        "comparison": _of_comparison,
    }.get(kind, _of_output)
    for claim in found(document):  # of a damaged document, what still can be a name
        value = claim.value[1] if claim.what == "node" else claim.value
        if string(value) or (claim.what == "source" and isinstance(value, Mapping)):
            yield claim


def _of_output(document: Mapping[str, Any]) -> Iterator[Claim]:
    science = part(document, "provenance", "science")
    inputs = part(science, "inputs")
    for role, sha256 in part(science, "checkpoints").items():
        yield Claim("node", ("checkpoint", sha256), role)
    if generation := part(document, "generation", "execution").get("job_uuid"):
        yield Claim("job", generation, "screened")
    else:
        yield Claim("science", inputs.get("generation"), "screened")
    yield Claim("science", inputs.get("previous"), "goes on from")
    for each in listed(inputs.get("evaluations")):
        yield Claim("science", each, "compared")
    yield Claim("node", ("candidate", document.get("candidate_id")), "calculated")
    datasets = {
        "dataset": inputs.get("dataset") or document.get("dataset") or document.get("dataset_sha256"),
        "parent": inputs.get("parent"),
        "data": inputs.get("data") or document.get("data_sha256"),
        "library": inputs.get("library"),
    }
    for role, sha256 in datasets.items():
        told = {"data": "measured on", "library": "known crystals"}.get(role, role)
        yield Claim("node", ("dataset", sha256), told)
    for sha256 in listed(inputs.get("shards")):
        yield Claim("shard", sha256, "merged")
    for source, role in ((s, "built from") for s in listed(document.get("sources"))):
        yield Claim("source", source, role)
    for source in listed(part(document, "filters").get("held_out")):
        yield Claim("source", source, "held out")


def _of_candidate(document: Mapping[str, Any]) -> Iterator[Claim]:
    screening = part(document, "screening")
    if uuid := part(screening, "execution").get("job_uuid"):
        yield Claim("job", uuid, "accepted by")
    else:
        yield Claim("science", screening.get("science_hash"), "accepted by")
    yield Claim("node", ("dataset", part(document, "origin").get("library")), "template")


def _of_verification(document: Mapping[str, Any]) -> Iterator[Claim]:
    inputs = part(document, "provenance", "science", "inputs")
    yield Claim("node", ("candidate", document.get("candidate_id")), "verified")
    yield Claim("science", document.get("candidate_science_hash") or inputs.get("screening"), "ranked by")
    ran = [each.get("job_uuid") for each in listed(document.get("calculations")) if isinstance(each, Mapping)]
    for uuid in ran:
        yield Claim("job", uuid, "calculated")
    if not all(ran):
        for each in listed(inputs.get("calculations")):
            yield Claim("science", each, "calculated")
    yield Claim("node", ("reference", part(document, "hull").get("reference_sha256")), "energies against")


def _of_comparison(document: Mapping[str, Any]) -> Iterator[Claim]:
    yield Claim("node", ("verification", document.get("verification_id")), "compared")
    yield Claim("node", ("candidate", document.get("candidate_id")), "compared")
    yield Claim("node", ("reference", document.get("reference_sha256")), "energies against")


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


def _references(value: Any) -> Iterator[Mapping[str, Any]]:
    """The references to outputs of jobs in an output."""
    pending = [value]
    while pending:
        held = pending.pop()
        if isinstance(held, Mapping):
            if held.get("@class") == "OutputReference" and string(held.get("uuid")):
                yield held
            else:
                pending += held.values()
        elif isinstance(held, list):
            pending += held
