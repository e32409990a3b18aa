"""What documents say of each other: who names whom, which hashes and files they claim. Hashes, not documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dao_flows.audit.graph.documents import output_references, part
from dao_flows.makers.stages.declaration import values
from dao_flows.makers.stages.registry import stages

JobKey = tuple[str, int]


class Ended(NamedTuple):
    """The record of a finished attempt. result: content hash of the output; envelope: hashes of what is beside it.

    parts: the beginnings of the hashes of the output's fields.
    """

    at: str
    result: str | None
    parts: dict[str, str] | None
    envelope: dict[str, str] | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Ended:
        """As the record tells it."""
        return cls(str(record.get("at")), record.get("result"), record.get("parts"), record.get("envelope"))


class Claim(NamedTuple):
    """What a document says of a file or folder, when, and on which machine. owner: the document's id."""

    path: str
    sha256: str
    host: str
    at: str
    owner: str


@dataclass
class Ledger:
    """Filled while documents are read, used when all of them are known. Sciences and contents are hashes."""

    attempts: dict[JobKey, list[Ended]] = field(default_factory=dict)  # those that finished, the latest last
    results: dict[str, JobKey] = field(default_factory=dict)
    doubtful: set[JobKey] = field(default_factory=set)  # jobs of which a record was altered
    altered: set[str] = field(default_factory=set)  # uuids
    keys: set[JobKey] = field(default_factory=set)
    uuids: set[str] = field(default_factory=set)
    sciences: set[str] = field(default_factory=set)
    made_by: dict[str, set[str]] = field(default_factory=dict)  # job -> sciences of its documents
    taken_over: list[tuple[str, str, str]] = field(default_factory=list)  # document, job that computed it, science
    contents: set[str] = field(default_factory=set)
    candidates: set[str] = field(default_factory=set)
    verifications: set[str] = field(default_factory=set)
    layouts: dict[tuple[str, str], str] = field(default_factory=dict)  # candidate, screening job -> hash
    laid_out: set[str] = field(default_factory=set)  # screening jobs with documents among the candidates
    verified: set[str] = field(default_factory=set)
    blobs: dict[tuple[str, str], JobKey] = field(default_factory=dict)
    wanted: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # kind, id -> who names it
    files: list[Claim] = field(default_factory=list)
    folders: dict[str, tuple[Claim, dict[str, str]]] = field(default_factory=dict)  # of calculations, with their files
    datasets: dict[str, list[Claim]] = field(default_factory=dict)
    manifests: dict[str, Claim] = field(default_factory=dict)  # path -> the latest claim
    checkpoints: dict[str, list[Claim]] = field(default_factory=dict)
    cards: dict[str, tuple[Claim, str]] = field(default_factory=dict)  # sha256 of weights -> hash and name of the card
    registered: dict[str, set[str]] = field(default_factory=dict)  # sha256 of weights -> names in the library

    def ended(self, key: JobKey, attempt: Ended) -> None:
        """Note a finished attempt at a job."""
        known = self.attempts.setdefault(key, [])
        known.append(attempt)
        known.sort(key=lambda each: each.at)
        if attempt.result is not None:
            self.results[attempt.result] = key

    def attempt(self, key: JobKey, result: str | None = None) -> Ended | None:
        """The finished attempt at a job that left this result, else the latest; None if none is known.

        Two may finish where one worker was believed lost: the document is of one of them.
        """
        known = self.attempts.get(key, [])
        return next((each for each in known if result and each.result == result), known[-1] if known else None)

    def want(self, kind: str, wanted: str, who: str) -> None:
        """Note that a document names another, a dataset or a checkpoint."""
        self.wanted.setdefault((kind, wanted), []).append(who)


def references(output: Any) -> Iterator[tuple[str, str]]:
    """What the output of a job names: ('job', uuid), ('science', hash), ('dataset', sha256), ('checkpoint', sha256).

    ('content', hash) names a document as it was at the time.
    """
    yield from dict.fromkeys(pair for pair in _references(output) if isinstance(pair[1], str) and pair[1])


def sources(output: Any) -> Iterator[Mapping[str, Any]]:
    """What a document tells of raw data that it was made from."""
    yield from (value for what, value in _sought(output) if what == "source" and isinstance(value, Mapping))


def _references(output: Any) -> Iterator[tuple[str, Any]]:
    held = output.get("provenance") if isinstance(output, Mapping) else None
    if not isinstance(held, Mapping):
        yield from (("job", uuid) for uuid in output_references(output))
        return
    yield "job", part(held, "execution").get("job_uuid")
    for sha256 in part(held, "science", "checkpoints").values():
        yield "checkpoint", sha256
    yield from _sought(output)


def _sought(output: Any) -> Iterator[tuple[str, Any]]:
    """By every name that a document has for its parents."""
    kind = stages().kind_of(output)
    for parent in stages().parents(kind) if kind else ():
        for what, place in parent.named if parent.sought else ():
            yield from ((what, value) for value in values(output, place))
