"""Whether everything in a store is what it was when it was written, and all that it names is still there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dao_flows.makers.jobs.attempts import ENDED, envelope
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.makers.machine.folder_hashes import PREFIX
from dao_flows.makers.stages.declaration import told_in, values
from dao_flows.makers.stages.registry import stages
from dao_flows.store.collections import KEYS
from dao_flows.store.interface import Damaged
from dao_flows.store.stores import collection, describe, result_store

from .comparisons import verify_comparisons
from .consistency import (
    SCREENED,
    altered_part,
    derived_fault,
    first_departure,
    in_screening,
    integer,
    laid_out,
    newest_versions,
    origin_fault,
    science_fault,
    value_at,
)
from .files import verify_files
from .findings import Finding, Problem, Report, first_difference
from .identity import Identities
from .ledger import Claim, Ended, JobKey, Ledger, references, sources
from .reading import blobs, documents, with_blobs
from .records import Records, head_of
from .scope import Scope

if TYPE_CHECKING:
    from jobflow.core.store import JobStore
    from maggma.core import Store

Tell = Callable[[int, int, str], None]
COLLECTIONS = ("runs", "jobs", "candidates", "verifications", "comparisons")


def verify(
    jobs: JobStore,
    scope: Scope | None = None,
    tell: Tell = lambda done, total, stage: None,
    *,
    folders: bool = False,
) -> Report:
    """Verify what is in scope (None: all) in a job store and its collections, and the files that it names.

    tell: is told how many documents, then files, are done of how many; folders: hash what codes left in the folders of
    calculations, too. Raises StoreError.
    """
    began = time.monotonic()
    verifier = _Verifier(jobs, scope, tell)
    verifier.read()
    verifier.relate()
    compared = verify_comparisons(jobs, verifier.stores, scope, verifier.findings)
    files = verify_files(verifier.ledger, tell, folders=folders)
    verifier.checked.update(files.checked)
    findings = [*verifier.findings, *compared, *files.findings]
    return Report(
        store=describe(jobs),
        asked=list(scope.asked) if scope is not None else [],
        checked=dict(verifier.checked),
        findings=sorted(findings, key=lambda each: (each.collection, each.id, each.problem)),
        seconds=round(time.monotonic() - began, 3),
        before_chaining=verifier.records.before_chaining,
    )


class _Verifier:
    """Reads each document once, notes what it says of others, and afterwards relates them to each other."""

    def __init__(self, jobs: JobStore, scope: Scope | None, tell: Tell) -> None:
        self.jobs, self.scope, self.tell = jobs, scope, tell
        self.stores: dict[str, Store] = {"jobs": jobs.docs_store} | {name: collection(jobs, name) for name in KEYS}
        self.ledger = Ledger()
        self.findings: list[Finding] = []
        self.checked: Counter[str] = Counter()
        self.records, self.identities = Records(), Identities()

    def find(
        self, problem: Problem, where: str, who: str, reason: str, kind: str = "", field: str | None = None
    ) -> Finding:
        """Note a finding."""
        found = Finding(problem=problem, collection=where, id=who, kind=kind, field=field, reason=reason)
        self.findings.append(found)
        return found

    def read(self) -> None:
        """Every document in scope, one at a time."""
        total = sum(store.count() for store in self.stores.values()) if self.scope is None else self._size(self.scope)
        done = 0
        readers = {
            "runs": self._record,
            "jobs": self._job,
            "candidates": self._candidate,
            "verifications": self._verification,
            "comparisons": self._comparison,
        }
        for name in COLLECTIONS:
            for document in self._documents(name):
                if isinstance(document, Damaged):
                    self.find("altered", name, document.key, document.reason)
                else:
                    readers[name](document)
                self.checked[name] += 1
                done += 1
                self.tell(done, max(done, total), "documents")

    def _size(self, scope: Scope) -> int:
        return len(scope.jobs) * 3 + len(scope.candidates) + len(scope.verifications) + len(scope.comparisons)

    def _documents(self, name: str) -> Iterator[dict[str, Any] | Damaged]:
        store, scope = self.stores[name], self.scope
        if scope is None:
            yield from documents(store)
        elif name == "jobs":
            yield from documents(store, "uuid", scope.jobs)
        elif name == "runs":
            yield from documents(store, "job_uuid", scope.jobs)
            for document in documents(store, "run_id", scope.runs):
                if isinstance(document, Damaged) or "job_uuid" not in document:
                    yield document
        else:
            yield from documents(store, KEYS[name], getattr(scope, name))

    # one document

    def _record(self, record: dict[str, Any]) -> None:
        who, event = str(record.get("record_id")), record.get("event")
        self._id(record, "runs", who, (who,))
        sound = self._own(record, "runs", who, f"record of a {event}")
        key = (str(record.get("job_uuid")), integer(record.get("job_index")))
        if not sound:
            self.ledger.doubtful.add(key)
            self.records.note(record)
            return
        for part, reason in self.records.see(record):
            self.find("altered", "runs", who, reason, f"record of a {event}", part)
        if event == ENDED and record.get("outcome") == "finished":
            ended = Ended(str(record.get("at")), record.get("result"), record.get("parts"), record.get("envelope"))
            known = self.ledger.attempts.setdefault(key, [])
            known.append(ended)
            known.sort(key=lambda each: each.at)
            if ended.result is not None:
                self.ledger.results[ended.result] = key

    def _job(self, document: dict[str, Any]) -> None:
        ledger, key = self.ledger, (str(document.get("uuid")), integer(document.get("index")))
        who, before = f"{key[0]}/{key[1]}", len(self.findings)
        self._id(document, "jobs", who, (key[0], who))
        self.records.job(document, who)
        for reference in blobs(document.get("output")):
            ledger.blobs[reference["store"], reference["blob_uuid"]] = key
        whole, lost = with_blobs(self.jobs, document)
        for reference in lost:
            reason = f"the blob that belongs to the output of job {who} is gone"
            self.find("missing", str(reference["store"]), str(reference["blob_uuid"]), reason, "blob")
        output = whole.get("output")
        if "output" not in document:
            self.find("altered", "jobs", who, "its output is gone", field="output")
        kind = stages().kind_of(output)
        if not lost:
            self._content(output, key, who, kind)
        self._envelope(document, key, who, kind)
        self._schema(output, "jobs", who, kind)
        sound = not any(each.problem == "altered" for each in self.findings[before:])
        if isinstance(output, dict) and kind == "generation" and sound:
            self._origins(output, who)
        if any(each.problem == "altered" for each in self.findings[before:]):
            ledger.altered.add(key[0])
        ledger.keys.add(key)
        ledger.uuids.add(key[0])
        for wanted_kind, wanted in references(output):
            ledger.want(wanted_kind, wanted, f"jobs {who}")
        if isinstance(output, dict):
            self._claims(output, who, kind)

    def _content(self, output: Any, key: JobKey, who: str, kind: str) -> None:
        """The output against the hash in it, and against what its attempt left."""
        ledger = self.ledger
        held = output.get("provenance") if isinstance(output, dict) else None
        stated = held.get("content_hash") if isinstance(held, dict) else None
        try:
            found = content_hash(output)
        except (TypeError, ValueError) as error:
            self.find("altered", "jobs", who, f"its output has no content hash: {error}", kind)
            return
        recorded = ledger.attempt(key, found)
        result = recorded.result if recorded is not None else None
        ledger.contents.update({found} if stated is None else {found, str(stated)})
        if isinstance(held, dict) and isinstance(held.get("science_hash"), str):
            ledger.sciences.add(held["science_hash"])
            ledger.made_by.setdefault(key[0], set()).add(held["science_hash"])
            computed = value_at(held, "execution", "job_uuid")
            if computed not in (None, key[0]):
                ledger.taken_over.append((who, str(computed), held["science_hash"]))
        if kind == "verification":
            ledger.verified.add(found)
        if kind == "screening":
            self._layout(output, key[0])
        if (stated is not None and found != stated) or (result is not None and found != result):
            if found == result:
                part: str | None = "output.provenance.content_hash"
            else:
                part = f"output.{inner}" if (inner := science_fault(output)) else altered_part(output, recorded)
            reason = "its output does not have the content hash that " + (
                "it states" if stated is not None and found != stated else "the attempt at it recorded"
            )
            self.find("altered", "jobs", who, reason, kind, part)
        elif recorded is None and key not in ledger.doubtful and found in ledger.results:
            uuid, index = ledger.results[found]
            self.find("altered", "jobs", who, f"it is the result of job {uuid}/{index}", kind, "uuid")
        elif inner := science_fault(output):
            self.find("altered", "jobs", who, "its science does not have its science hash", kind, inner)
        elif stated is None and result is None and key not in ledger.doubtful:
            reason = "it was written before there were content hashes, or by a job of another package"
            self.find("unverifiable", "jobs", who, reason, kind)

    def _envelope(self, document: dict[str, Any], key: JobKey, who: str, kind: str) -> None:
        """uuid, index, name, metadata, … against what the attempt recorded."""
        recorded = self.ledger.attempt(key)
        envelopes = [each.envelope for each in self.ledger.attempts.get(key, ()) if each.envelope is not None]
        if recorded is None or not envelopes:
            told = self.findings and self.findings[-1].id == who
            if key not in self.ledger.doubtful and not told:
                self.find("unverifiable", "jobs", who, "no attempt is logged that tells its name and metadata", kind)
            return
        try:
            found = envelope(document)
        except (TypeError, ValueError) as error:
            self.find("altered", "jobs", who, f"it cannot be hashed: {error}", kind)
            return
        if found not in envelopes:
            name = first_difference(envelopes[-1], found)
            self.find("altered", "jobs", who, "it is not what the attempt at the job left", kind, name)

    def _origins(self, output: dict[str, Any], who: str) -> None:
        """Whether what a generation tells of its templates fits their structures and its science."""
        candidates = output.get("candidates")
        for number, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
            if (wrong := origin_fault(candidate, value_at(output, "provenance", "science"))) is not None:
                reason = "what it tells of a candidate's origin does not fit its structure, or its science"
                self.find("altered", "jobs", who, reason, "generation", f"output.candidates.{number}.{wrong}")

    def _candidate(self, document: dict[str, Any]) -> None:
        who = str(document.get("candidate_id"))
        self._id(document, "candidates", who, (who,))
        sound = self._own(document, "candidates", who, "candidate")
        self._schema(document, "candidates", who, "candidate")
        self.ledger.candidates.add(who)
        screening = str(value_at(document, "screening", "execution", "job_uuid"))
        self.ledger.laid_out.add(screening)
        self.ledger.want("job", screening, f"candidates {who}")
        layout = self.ledger.layouts.get((who, screening))
        if layout is None and screening not in self.ledger.uuids and not self._exists("job", screening):
            self.find("orphaned", "candidates", who, f"the screening that it comes from is gone (job {screening})")
        elif layout is None or not sound or layout != laid_out(document):
            self._against_screening(document, who, screening, sound)
        elif (wrong := derived_fault(document)) is not None:
            self.find("altered", "candidates", who, "it does not follow from its structure", "candidate", wrong)

    def _against_screening(self, document: dict[str, Any], who: str, screening: str, sound: bool) -> None:
        """Name the first field in which a candidate differs from what its screening holds of it."""
        found = self._output(screening)
        entries = found.get("accepted") if isinstance(found, dict) else None
        entry = next((e for e in entries or () if isinstance(e, dict) and e.get("candidate_id") == who), None)
        own = next((f for f in reversed(self.findings) if f.collection == "candidates" and f.id == who), None)
        if entry is None or found is None:
            if sound:
                self.find("altered", "candidates", who, f"the screening {screening} holds no such candidate")
            return
        expected = {name: entry.get(name) for name in SCREENED} | {
            "generation": found.get("generation"),
            "screening": found.get("provenance"),
        }
        part = first_departure(expected, {name: document.get(name) for name in expected}) or derived_fault(document)
        if not sound and own is not None:
            own.field = part or own.field
        elif part is None:
            return  # the same in other words: another version of pymatgen wrote it
        elif screening in self.ledger.altered:
            self._name_field(screening, in_screening(part, found, entry))
        else:
            reason = f"it is not what the screening {screening} holds of it"
            self.find("altered", "candidates", who, reason, "candidate", part)

    def _verification(self, document: dict[str, Any]) -> None:
        who = str(document.get("verification_id"))
        self._id(document, "verifications", who, (who,))
        self._schema(document, "verifications", who, "verification")
        self.ledger.verifications.add(who)
        stated = value_at(document, "provenance", "content_hash")
        uuid = str(value_at(document, "provenance", "execution", "job_uuid"))
        self.ledger.want("job", uuid, f"verifications {who}")
        try:
            found = content_hash(document)
        except (TypeError, ValueError) as error:
            self.find("altered", "verifications", who, f"it has no content hash: {error}", "verification")
            return
        if stated is None:
            self.find("unverifiable", "verifications", who, "it was written before there were content hashes")
        if found in self.ledger.verified and stated in (found, None):
            return
        output = self._output(uuid)
        known = {key: value for key, value in document.items() if key != "_id"}
        part = first_difference(output, known) if output is not None else None
        if stated is not None and found != stated:
            part = part or science_fault(document)
            reason = "it does not have the content hash that it states"
            self.find("altered", "verifications", who, reason, "verification", part)
        elif output is None:
            self.find("orphaned", "verifications", who, f"the job that made it is gone (job {uuid})")
        elif part is not None and uuid in self.ledger.altered:
            self._name_field(uuid, f"output.{part}")
        elif part is not None and found not in self.ledger.results:
            reason = f"it is not what job {uuid} holds"
            self.find("altered", "verifications", who, reason, "verification", part)

    def _comparison(self, document: dict[str, Any]) -> None:
        who = str(document.get("comparison_id"))
        self._id(document, "comparisons", who, (who,))
        self._own(document, "comparisons", who, "comparison")
        self._schema(document, "comparisons", who, "comparison")
        for kind, name in (
            ("candidate", "candidate_id"),
            ("verification", "verification_id"),
            ("science", "candidate_science_hash"),
            ("science", "verification_science_hash"),
        ):
            self.ledger.want(kind, str(document.get(name)), f"comparisons {who}")

    def _own(self, document: dict[str, Any], where: str, who: str, kind: str) -> bool:
        """Whether a document has the content hash that it states; one that states none is taken for sound."""
        stated = document.get("content_hash")
        if stated is None:
            self.find("unverifiable", where, who, "it was written before there were content hashes", kind)
            return True
        try:
            sound = bool(content_hash(document) == stated)
        except (TypeError, ValueError):
            sound = False
        if not sound:
            self.find("altered", where, who, "it does not have the content hash that it states", kind)
        return sound

    def _id(self, document: dict[str, Any], where: str, who: str, keys: tuple[str, ...]) -> None:
        for problem, part, reason in self.identities.see(self.stores[where], where, keys, document):
            self.find(problem, where, who, reason, field=part)

    def _schema(self, document: Any, where: str, who: str, kind: str) -> None:
        version = document.get("schema_version") if isinstance(document, dict) else None
        newest = newest_versions().get(str(document.get("@class"))) if isinstance(document, dict) else None
        if isinstance(version, int) and newest is not None and version > newest:
            reason = f"schema version {version} is newer than this version of dao_flows knows ({newest}): update it"
            self.find("unverifiable", where, who, reason, kind, "schema_version")

    def _layout(self, output: dict[str, Any], uuid: str) -> None:
        """What the candidates of a screening should be."""
        provenance = {"generation": output.get("generation"), "screening": output.get("provenance")}
        for entry in output.get("accepted") or ():
            if isinstance(entry, dict):
                self.ledger.layouts[str(entry.get("candidate_id")), uuid] = laid_out({**entry, **provenance})

    def _claims(self, output: dict[str, Any], who: str, kind: str) -> None:
        """What a document says of files, datasets and checkpoints."""
        ledger = self.ledger
        host = str(value_at(output, "provenance", "execution", "host"))
        at = str(value_at(output, "provenance", "execution", "ended_at"))

        def claim(path: Any, sha256: Any) -> Claim:
            return Claim(str(path), str(sha256), host, at, f"jobs {who}")

        named = value_at(output, "provenance", "files")
        named = named if isinstance(named, dict) else {}
        inside_folder = {name: str(sha256) for name, sha256 in named.items() if name.startswith(PREFIX)}
        if inside_folder and isinstance(directory := output.get("directory"), str):
            held = claim(directory.partition(":")[2], "")
            ledger.folders.setdefault(held.path, (held, inside_folder))
        for name, sha256 in named.items():
            if name in inside_folder:
                continue
            base, _, inside = name.partition("/")
            found = claim(f"{output.get(base)}/{inside}" if inside else output.get(base), sha256)
            if name == "path/card.json":
                weights = str(output.get("checkpoint_sha256"))
                if weights not in ledger.cards or found.at > ledger.cards[weights][0].at:
                    ledger.cards[weights] = (found, str(output.get("name")))
            elif name == "path/manifest.json":
                if found.path not in ledger.manifests or found.at > ledger.manifests[found.path].at:
                    ledger.manifests[found.path] = found
            else:
                ledger.files.append(found)
        for made in stages().makes(kind):
            sha256, path = (next(iter(values(output, place)), None) for place in (made.sha256, made.path))
            if made.what == "dataset":
                ledger.datasets.setdefault(str(sha256), []).append(claim(path, ""))
            elif made.what == "shard":
                ledger.files.append(claim(path, sha256))
            else:
                ledger.checkpoints.setdefault(str(sha256), []).append(claim(path, sha256))
                if name := told_in(output, made.told).get("registered"):
                    ledger.registered.setdefault(str(sha256), set()).add(str(name))
        for source in sources(output):
            if source.get("sha256") and str(source.get("location", "")).startswith("/"):
                ledger.files.append(claim(source["location"], source["sha256"]))
        for sha256 in (value for what, value in references(output) if what == "checkpoint"):
            ledger.checkpoints.setdefault(sha256, []).append(claim("", sha256))
        for sha256 in (value for what, value in references(output) if what == "dataset"):
            ledger.datasets.setdefault(sha256, []).append(claim("", sha256))

    # all of them

    def relate(self) -> None:
        """What one document says of another, now that all are known."""
        self._lost_results()
        self._lost_records()
        self._lost_candidates()
        self._misplaced()
        for who, computed, science in self.ledger.taken_over:
            if science not in self.ledger.made_by.get(computed, {science}):
                reason = f"it names job {computed} as the one that computed it, which has another science"
                self.find("altered", "jobs", who, reason, field="output.provenance.execution.job_uuid")
        ledger = self.ledger
        there = {
            "job": ledger.uuids,
            "science": ledger.sciences,
            "candidate": ledger.candidates | {candidate for candidate, _ in ledger.layouts},
            "verification": ledger.verifications,
            "content": ledger.contents,
        }
        lost_already = {finding.id.partition("/")[0] for finding in self.findings if finding.problem == "missing"}
        for (kind, wanted), names in ledger.wanted.items():
            if kind not in there or wanted in there[kind] or wanted in lost_already or self._exists(kind, wanted):
                continue
            needed = f"{names[0]} was made from it" + (f", and {len(names) - 1} more" if len(names) > 1 else "")
            if kind == "content":
                overwritten = wanted in ledger.results
                reason = "a later attempt has taken its place" if overwritten else "no document has this content hash"
                problem: Problem = "unverifiable" if overwritten or self.scope is not None else "missing"
                self.find(problem, "jobs", wanted, f"{reason}; {needed}", "content hash")
            else:
                where = {"candidate": "candidates", "verification": "verifications"}.get(kind, "jobs")
                told = {"job": "", "science": "science hash"}.get(kind, kind)
                self.find("missing", where, wanted, f"it is not in the store; {needed}", told)
        self._check_blobs()

    def _lost_results(self) -> None:
        """Finished attempts whose document is gone."""
        for (uuid, index), attempts in self.ledger.attempts.items():
            ended = attempts[-1]
            if (uuid, index) not in self.ledger.keys and (self.scope is None or uuid in self.scope.jobs):
                reason = f"an attempt at it finished at {ended.at}, but its document is gone"
                self.find("missing", "jobs", f"{uuid}/{index}", reason)

    def _lost_candidates(self) -> None:
        """Those of a screening that was laid out."""
        for candidate, screening in self.ledger.layouts:
            wanted = self.scope is None or candidate in self.scope.candidates
            if wanted and screening in self.ledger.laid_out and candidate not in self.ledger.candidates:
                reason = f"its screening holds it (job {screening}), and others of the same are there"
                self.find("missing", "candidates", candidate, reason, "candidate")

    def _lost_records(self) -> None:
        """Records of runs that something names."""
        self.records.head(head_of(self.stores["runs"]))
        if self.scope is not None:
            self.records.rest(self.stores["runs"])
        told = [finding.id for finding in self.findings if finding.collection == "runs"]
        self.findings += self.records.gone(self.stores["runs"], self.scope, told)

    def _misplaced(self) -> None:
        """Documents in rows of other keys, which no query by id finds."""
        for name in COLLECTIONS if self.scope is None else ():
            for who, key in result_store(self.stores[name]).misplaced():
                self.find("altered", name, who, f"its row has the key {key}", field="row key")

    def _check_blobs(self) -> None:
        """What additional stores say of their blobs, and blobs that no document names."""
        for name, store in vars(self.jobs)["additional_stores"].items():
            store.connect()
            marks = ["blob_uuid", "job_uuid", "job_index"]
            wanted = [uuid for where, uuid in self.ledger.blobs if where == name]
            criteria = None if self.scope is None else {"blob_uuid": {"$in": wanted}}
            for blob in store.query(criteria, properties=marks):
                self.checked[name] += 1
                uuid = str(blob.get("blob_uuid"))
                key = self.ledger.blobs.get((name, uuid))
                if key is None:
                    self.find("orphaned", name, uuid, "no document names it: its job was run again", "blob")
                elif (blob.get("job_uuid"), blob.get("job_index")) != key:
                    told = f"it says that it is of job {blob.get('job_uuid')}/{blob.get('job_index')}"
                    part = "job_uuid" if blob.get("job_uuid") != key[0] else "job_index"
                    self.find("altered", name, uuid, told, "blob", part)

    def _exists(self, kind: str, wanted: str) -> bool:
        """Whether the store has it, outside of what is verified."""
        if self.scope is None:
            return False
        where = {
            "job": ("jobs", "uuid"),
            "science": ("jobs", "output.provenance.science_hash"),
            "content": ("jobs", "output.provenance.content_hash"),
            "candidate": ("candidates", "candidate_id"),
            "verification": ("verifications", "verification_id"),
        }
        name, path = where[kind]
        return self.stores[name].query_one({path: wanted}, properties=[path]) is not None

    def _output(self, uuid: str) -> dict[str, Any] | None:
        """What a job's last document holds as its output."""
        found = self.jobs.query_one({"uuid": uuid}, properties=["output", "index"], sort={"index": -1})
        output = found.get("output") if found is not None else None
        return output if isinstance(output, dict) else None

    def _name_field(self, uuid: str, part: str) -> None:
        """Say which field of an altered job differs."""
        for finding in self.findings:
            if finding.collection == "jobs" and finding.id.startswith(f"{uuid}/") and finding.field is None:
                finding.field = part
