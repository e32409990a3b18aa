"""Records of runs and attempts: whether all are there that the others, the head and the jobs' documents name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dao_flows.audit.integrity.consistency import numbered
from dao_flows.audit.integrity.findings import Finding, Problem
from dao_flows.audit.integrity.reading import documents
from dao_flows.makers.jobs.attempts import BEGAN, ENDED
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.makers.jobs.record_chain import (
    ATTEMPT,
    CHAIN,
    HEAD,
    HEADS,
    IMPORT,
    KEY,
    Link,
    chain_of,
    head,
    links,
    named_by,
    number_of,
)
from dao_flows.store.fields import get
from dao_flows.store.interface import READ_ERRORS, Damaged
from dao_flows.store.stores import result_store

if TYPE_CHECKING:
    from maggma.core import Store

    from dao_flows.audit.integrity.scope import Scope

ALWAYS = ""  # in place of a chain: what names the record says that it is in this store
NUMBERED = re.compile(r"-(\d|\d{6})$")  # a record of an attempt, or of a run
LARGEST_GAP = 100  # records that are missing in a row and told one by one
BROUGHT = "brought"  # of a record of an import: the records that came
FIELDS = [KEY, "event", "content_hash", CHAIN, BROUGHT]
PLACES = {BEGAN: 1, ENDED: 2, "start": 1}


class Records:
    """Is told of each record once, in any order; holds a hash of each, and what is named and was not seen yet."""

    def __init__(self) -> None:
        self.before_chaining = 0
        self._events: dict[str, dict[int, int]] = defaultdict(dict)  # run or attempt -> numbers of its records, digits
        self._seen: set[bytes] = set()
        self._named: dict[str, dict[str, tuple[str, str]]] = {}  # hash -> chain of who names it -> its id, who that is
        self._lengths: Counter[str] = Counter()  # chain -> the highest number in it
        self._head: dict[str, Any] | None = None

    def see(self, record: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """A record that has the hash it states; fields that contradict each other, and why."""
        who, chain = str(record.get(KEY)), chain_of(record)
        self.note(record)
        if "attempt_id" in record or "run_id" in record or record.get("event") == IMPORT:
            self._number(who)
        if chain is None:
            self.before_chaining += 1
        elif (wrong := misnamed(record)) is not None:
            yield wrong, "the record's id does not follow from it"

    def _number(self, who: str) -> None:
        name, number = numbered(who)
        self._events[name][number] = len(who) - len(name) - 1

    def note(self, record: dict[str, Any]) -> None:
        """What a record says of others, and that it is there."""
        who, chain = str(record.get(KEY)), chain_of(record)
        self._found(record.get("content_hash"))
        if chain is not None:
            self._lengths[chain] = max(self._lengths[chain], number_of(record))
            for each in links(record):
                self.name(each, f"record {who}", chain)
        brought = record.get(BROUGHT) if record.get("event") == IMPORT else None
        for one in brought if isinstance(brought, list) else ():
            self.name(named_by(one), f"record {who}")

    def job(self, document: dict[str, Any], who: str) -> None:
        """What a job's document says of the record of its beginning."""
        self.name(named_by(get(document, f"metadata.dao_flows.{ATTEMPT}")), f"the document of job {who}")

    def head(self, document: dict[str, Any] | None) -> None:
        """What says which record is the newest."""
        self._head = document
        if document is not None:
            self.name(named_by(document.get("newest")), "the head of the chain")

    def name(self, link: Link | None, by: str, chain: str = ALWAYS) -> None:
        """Note that a record is named. chain: of what names it."""
        if link is None or _short(link.sha256) in self._seen:
            return
        self._named.setdefault(link.sha256, {})[chain] = (link.record_id, by)

    def _found(self, sha256: Any) -> None:
        if isinstance(sha256, str):
            self._seen.add(_short(sha256))
            self._named.pop(sha256, None)

    def rest(self, store: Store) -> None:
        """Note what the records say that are not verified themselves: what names a record may be of any run."""
        for record in documents(store, needed=FIELDS):
            if not isinstance(record, Damaged):
                self.note(record)

    def gone(self, store: Store, scope: Scope | None, told: Iterable[str]) -> Iterator[Finding]:
        """Records that are missing, or that were sealed anew. told: ids of those of which something is known."""
        known = {numbered(each) for each in told}
        unnamed = list(self._unnamed(store))
        for finding in unnamed:
            if finding.problem == "missing" and NUMBERED.search(finding.id):
                self._number(finding.id)  # so are those before it, if they are not there
        for finding in [*unnamed, *self._gaps()]:
            within = scope is None or (finding.collection != HEADS and _within(finding.id, scope))
            if numbered(finding.id) not in known and within:
                known.add(numbered(finding.id))
                yield finding

    def _unnamed(self, store: Store) -> Iterator[Finding]:
        """Against what names them."""
        own = chain_of(self._head) if self._head is not None else None
        if self._head is not None:
            yield from self._head_faults(store, self._head)
        elif self._lengths:
            yield _of_head("missing", "the records are chained, and nothing says which was the newest")
        for sha256, names in self._named.items():
            for chain in (ALWAYS, own):
                if chain is not None and chain in names:
                    record_id, by = names[chain]
                    there = result_store(store).document(record_id)
                    if there is not None and there.get("content_hash") == sha256:
                        break  # it was written while the others were read
                    if there is not None:
                        reason = f"it was sealed anew: {by} names it with the hash {sha256[:12]}"
                        yield _finding("altered", record_id, reason)
                    else:
                        yield _finding("missing", record_id, f"{by} names it")
                    break

    def _head_faults(self, store: Store, head: dict[str, Any]) -> Iterator[Finding]:
        """The head against the record that it names."""
        link, own = named_by(head.get("newest")), str(chain_of(head))
        if content_hash(head) != head.get("content_hash"):
            yield _of_head("altered", "it does not have the content hash that it states")
            return
        if link is None:
            if self._lengths[own] > 1:  # one that was killed right after the first record left it so
                yield _of_head("altered", "it names no newest record, and there are some", "newest")
            return
        newest = result_store(store).document(link.record_id)
        if newest is None or newest.get("content_hash") != link.sha256:
            return  # told by what names it
        for name, one, other in (
            (f"{CHAIN}.id", own, chain_of(newest)),
            (f"{CHAIN}.number", number_of(head), number_of(newest)),
            ("at", head.get("at"), newest.get("at")),
        ):
            if one != other:
                yield _of_head("altered", f"it is not what the newest record says ({link.record_id})", name)
                return

    def _gaps(self) -> Iterator[Finding]:
        """Records of runs and attempts are numbered from 1: gaps show, before there were chains too."""
        for name, numbers in self._events.items():
            for one, other in pairwise(sorted({0: 0} | numbers)):
                first, last, reason = one + 1, other - 1, "a later record of the same is there, or was"
                digits = numbers[other]
                if last - first >= LARGEST_GAP:
                    yield _finding("missing", f"{name}-{first:0{digits}}", f"{reason}; so are all to number {last}")
                else:
                    for number in range(first, last + 1):
                        yield _finding("missing", f"{name}-{number:0{digits}}", reason)


def head_of(runs: Store) -> dict[str, Any] | None:
    """The head of a store's chain, if it has one; a store that can only be read may have no place for one."""
    try:
        return head(runs)
    except (OSError, TypeError, *READ_ERRORS):
        return None


def misnamed(record: dict[str, Any]) -> str | None:
    """The field of a record that its id does not follow from."""
    name, number = numbered(str(record.get(KEY)))
    attempt, run = record.get("attempt_id"), record.get("run_id")
    if attempt is not None and not str(attempt).startswith(f"{record.get('job_uuid')}-{record.get('job_index')}-"):
        return "attempt_id"
    if (attempt is not None or run is not None) and name != (attempt or run):
        return KEY
    return "event" if PLACES.get(str(record.get("event")), number) != number else None


def _short(sha256: str) -> bytes:
    return sha256[:32].encode()


def _within(record_id: str, scope: Scope) -> bool:
    """Whether a record is of a run or a job in scope."""
    name, _ = numbered(record_id)
    job = name.rpartition("-")[0].rpartition("-")[0]
    return name in scope.runs or job in scope.jobs


def _of_head(problem: Problem, reason: str, field: str | None = None) -> Finding:
    return Finding(problem=problem, collection=HEADS, id=HEAD, field=field, reason=reason)


def _finding(problem: Problem, who: str, reason: str, field: str | None = None) -> Finding:
    return Finding(problem=problem, collection="runs", id=who, field=field, reason=reason)
