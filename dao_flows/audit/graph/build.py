"""Documents in brief become a graph: names of parents are looked up among what there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dao_flows.makers.jobs.attempts import BEGAN, ENDED
from dao_flows.makers.stages.registry import stages
from dao_flows.store.collections import LAID_OUT

from .documents import (
    Document,
    Node,
    Stored,
    claims,
    job_node,
    listed,
    made,
    named,
    part,
    source_node,
    string,
)
from .graph import Attempt, Edge, Facts, Graph, State, without_circles

if TYPE_CHECKING:
    from pathlib import Path

    from dao_flows.model.checkpoint.format import Card

SHORT = 12  # digits of a hash in a label
STARTED, TOOK_OVER = "started", "taken over by"


def assemble(stored: Stored, library: Mapping[str, Card] | None = None) -> Graph:
    """The graph of all documents. library: cards of checkpoints by sha256 (None: the user's, and those that ship).

    Which libraries of known crystals are installed is looked up.
    """
    assembly = _Assembly(stored, cards() if library is None else library)
    assembly.run()
    edges, dropped = without_circles(assembly.edges)
    return Graph(assembly.nodes, edges, (), dropped)


def cards() -> dict[str, Card]:
    """The checkpoints of the library by their sha256; a damaged one is left out."""
    from dao_flows.model.checkpoint.format import CheckpointError, read_card
    from dao_flows.model.checkpoint.library import available

    found: dict[str, Card] = {}
    for folder in available().values():
        try:
            card = read_card(folder)
        except CheckpointError:
            continue
        found.setdefault(card.sha256, card)
    return found


def known_crystals() -> dict[str, Path]:
    """The folders of installed libraries by their sha256; a damaged one is left out."""
    from dao_flows.model.data.shards import DataError, read_manifest
    from dao_flows.model.templates.places import available

    found: dict[str, Path] = {}
    for folder in available().values():
        try:
            found.setdefault(read_manifest(folder).sha256, folder)
        except DataError:
            continue
    return found


class _Assembly:
    """Nodes first, then the edges that documents claim, then what the records of attempts and flows add."""

    def __init__(self, stored: Stored, library: Mapping[str, Card]) -> None:
        self.stored, self.library = stored, library
        self.nodes: dict[Node, Facts] = {}
        self.edges: dict[Edge, str] = {}
        self.parents: dict[Node, set[Node]] = defaultdict(set)
        self.of_job: dict[str, Node] = {}
        self.by_science: dict[str, list[Node]] = defaultdict(list)
        self.shards: dict[str, list[Node]] = defaultdict(list)
        self.claimed: list[tuple[Node, str, Document]] = []
        self.latest: dict[str, Document] = {}
        self.flows: dict[str, list[set[str]]] = defaultdict(list)

    def run(self) -> None:
        """All of it."""
        self._jobs()
        self._collections()
        attempts = self._attempts()
        self._claims()
        self._library()
        self._known_crystals()
        self._attempted(attempts)
        self._started()
        self._runs()

    # nodes

    def _jobs(self) -> None:
        """The last document of each job, and what it made."""
        groups: dict[str, list[Document]] = defaultdict(list)
        for job in self.stored.jobs:
            if uuid := string(job.get("uuid")):
                groups[uuid].append(job)
        for uuid, documents in groups.items():
            documents.sort(key=lambda job: _number(job.get("index")))
            self.flows[uuid] = [set(filter(string, listed(job.get("hosts")))) for job in documents]
            job = self.latest[uuid] = documents[-1]
            output = job.get("output")
            node = self.of_job[uuid] = job_node(uuid, output)
            facts = _of_job(node, job, documents)
            kept = self.nodes.get(node)
            if kept is None or (facts.when or "") > (kept.when or ""):
                self.nodes[node] = facts
                if kept is not None:
                    facts.details["earlier"] = [*kept.details.get("earlier", ()), kept.job]
            if facts.science_hash:
                self.by_science[facts.science_hash].append(node)
            if isinstance(output, dict) and (kind := stages().kind_of(output)):
                self.claimed.append((node, kind, output))
                for (what, sha256), _ in made(kind, output):
                    if what == "shard":
                        self.shards[sha256].append(node)

    def _collections(self) -> None:
        """What is laid out: candidates, comparisons, and verifications whose jobs are elsewhere."""
        for document in self.stored.candidates:
            self._collected("candidate", document, part(document, "screening"))
        for document in self.stored.verifications:
            if ("verification", string(document.get("verification_id"))) not in self.nodes:
                self._collected("verification", document, part(document, "provenance"))
        for document in self.stored.comparisons:
            self._collected("comparison", document, {})

    def _collected(self, kind: str, document: Document, provenance: Mapping[str, Any]) -> None:
        if (key := string(document.get(f"{kind}_id"))) is None:
            return
        node = (kind, key)
        facts = self.nodes[node] = _facts(node, document, provenance)
        facts.content_hash = string(document.get("content_hash")) or facts.content_hash
        if kind == "comparison":
            facts.when = string(document.get("verified_at"))
        if kind == "verification" and facts.science_hash:
            self.by_science[facts.science_hash].append(node)
        self.claimed.append((node, kind, document))

    # edges that documents claim

    def _claims(self) -> None:
        self.claimed.sort(key=lambda each: (each[1] != "candidate", self.nodes[each[0]].when or "", each[0]))
        for node, kind, document in self.claimed:
            own = self.latest.get(self.nodes[node].job or "", {})
            original = string(part(document, "provenance", "execution").get("job_uuid"))
            if kind not in ("candidate", "comparison") and original and own and original != own["uuid"]:
                taken = self.of_job.get(original, ("job", original))
                if taken != node:
                    self._edge(taken, node, TOOK_OVER)  # a result that was in the store already
            for claim in claims(kind, document):
                for parent in self._meant(claim.what, claim.value, node):
                    led = claim.what == "science" and any(parent in self.parents.get(p, ()) for p in self.parents[node])
                    if not led:  # a verification's screening led to its candidate
                        self._edge(parent, node, claim.role)
            for thing, told in made(kind, document):
                if thing[0] != "shard":  # which is no node of its own
                    self._thing(thing, told, "stored")
                    self._edge(node, thing, "made")
        for _, kind, document in self.claimed:  # what made a thing says more of it than what used it
            for thing, told in named(kind, document):
                if thing in self.nodes:
                    self._thing(thing, told)
        self._same_data()

    def _meant(self, what: str, value: Any, child: Node) -> Iterator[Node]:
        """The nodes that a claim names."""
        if what in ("checkpoint", "dataset", "reference", "candidate", "verification"):
            yield what, value
        elif what == "job":
            yield self.of_job.get(str(value), ("job", str(value)))
        elif what == "source" and isinstance(value, Mapping):
            node = source_node(value)
            self._thing(node, {name: value.get(name) for name in ("name", "location", "licence", "rows")})
            yield node
        elif what == "science":
            yield self._of_hash(self.by_science.get(str(value), ()), child) or ("document", str(value))
        elif what == "shard":
            yield self._of_hash(self.shards.get(str(value), ()), child) or ("shard", str(value))

    def _of_hash(self, found: Iterable[Node], child: Node) -> Node | None:
        """Of equal documents the last that was there when the child was made, else the first."""
        began = self.nodes[child].when or "~"
        ordered = sorted((node for node in found if node != child), key=lambda node: self.nodes[node].when or "")
        before = [node for node in ordered if (self.nodes[node].when or "") <= began]
        return before[-1] if before else ordered[0] if ordered else None

    def _same_data(self) -> None:
        """A file that is raw data to one document and a dataset to another is one node."""
        same = {node: ("dataset", node[1]) for node in self.nodes if node[0] == "source"}
        same = {source: dataset for source, dataset in same.items() if dataset in self.nodes}
        if not same:
            return
        for source, dataset in same.items():
            facts = self.nodes.pop(source)
            self._thing(dataset, {"name": facts.details.get("name"), **facts.details})
        edges, self.edges, self.parents = self.edges, {}, defaultdict(set)
        for (parent, child), role in edges.items():
            self._edge(same.get(parent, parent), child, role)

    def _library(self) -> None:
        """What the cards of the library tell of checkpoints, and of those before them."""
        waiting = [node[1] for node in self.nodes if node[0] == "checkpoint"]
        seen = set(waiting)
        while waiting:
            sha256 = waiting.pop()
            card = self.library.get(sha256)
            if card is None:
                continue
            node = ("checkpoint", sha256)
            self._thing(node, {"name": card.name, "model": card.kind})
            if self.nodes[node].state == "external":
                self.nodes[node].state = "stored"
                self.nodes[node].details["from"] = "library"
            if any(parent[0] == "training" for parent in self.parents[node]):
                continue  # its document says more
            self.nodes[node].code_version = card.code_version
            if card.parent:
                self._edge(("checkpoint", card.parent), node, "start")
            data = card.training.get("data") or {}
            if data.get("sha256"):
                self._thing(("dataset", data["sha256"]), {name: data.get(name) for name in ("name", "file", "rows")})
                self._edge(("dataset", data["sha256"]), node, "dataset")
            for entry in (("checkpoint", card.parent), *self.parents[node]):
                if entry[0] == "checkpoint" and entry[1] and entry[1] not in seen:
                    seen.add(entry[1])
                    waiting.append(entry[1])

    def _known_crystals(self) -> None:
        """Installed libraries of known crystals, which no document of the store made."""
        wanted = [node for node, facts in self.nodes.items() if node[0] == "dataset" and facts.state == "external"]
        installed = known_crystals() if wanted else {}
        for node in wanted:
            if (folder := installed.get(node[1])) is not None:
                self._thing(node, {"name": folder.name, "from": "library"}, "stored")

    # what records of attempts, and flows, add

    def _attempts(self) -> dict[str, list[str]]:
        """Attempts of each job; those of jobs without a document become nodes. Returns the parents of jobs."""
        found: dict[str, Attempt] = {}
        jobs: dict[str, str] = {}
        parents: dict[str, list[str]] = {}
        names: dict[str, Document] = {}
        for record in sorted(self.stored.runs, key=lambda record: str(record.get("record_id"))):
            key, uuid = string(record.get("attempt_id")), string(record.get("job_uuid"))
            if record.get("event") not in (BEGAN, ENDED) or not key or not uuid:
                continue
            attempt = found.setdefault(key, Attempt(_number(record.get("job_index"))))
            jobs[key] = uuid
            names[uuid] = {**names.get(uuid, {}), **record}
            if record["event"] == BEGAN:
                attempt.began, attempt.who = string(record.get("at")), string(record.get("who"))
                attempt.host = string(part(record, "process").get("host"))
                if attempt.index == 1 or uuid not in parents:
                    parents[uuid] = [parent for parent in listed(record.get("parents")) if string(parent)]
            else:
                attempt.ended, attempt.outcome = string(record.get("at")), string(record.get("outcome"))
                attempt.error = string(record.get("error"))
        for key, attempt in found.items():
            uuid = jobs[key]
            node = self.of_job.setdefault(uuid, ("job", uuid))
            if node not in self.nodes:
                record = names[uuid]
                name = string(record.get("job_name"))
                self.nodes[node] = Facts(
                    name or "job",
                    run=string(record.get("run_id")),
                    job=uuid,
                    job_name=name,
                    maker=str(record.get("function") or "").partition(".")[0] or None,
                )
            self.nodes[node].attempts.append(attempt)
        for facts in self.nodes.values():
            facts.attempts.sort(key=lambda attempt: attempt.began or attempt.ended or "")
        for uuid in set(jobs.values()) - set(self.latest):
            facts = self.nodes[self.of_job[uuid]]
            last = facts.attempts[-1]
            facts.state = "failed" if last.outcome == "failed" else "unfinished"
            facts.when, facts.host = last.ended or last.began, last.host
            if last.error:
                facts.details["error"] = last.error
        return parents

    def _attempted(self, attempts: Mapping[str, list[str]]) -> None:
        """Parents that only the records of attempts name: of jobs that failed, or wrote no document."""
        for uuid, parents in attempts.items():
            if (node := self.of_job.get(uuid)) is None:
                continue  # records that contradict each other
            for parent in parents:
                for meant in self._outputs(parent):
                    if meant != node and not self._follows(node, meant):
                        self._edge(meant, node, "input")

    def _outputs(self, uuid: str) -> list[Node]:
        """The documents that stand for a job's output: of a replaced one, those of its flow."""
        if uuid in self.stored.references:
            found = [self.of_job.get(each, ("job", each)) for each in self.stored.references[uuid]]
            return found or [self.of_job.get(uuid, ("job", uuid))]
        return [self.of_job.get(uuid, ("job", uuid))]

    def _follows(self, child: Node, parent: Node) -> bool:
        """Whether an edge from this parent would say nothing new: it is one, or a parent of one."""
        direct = self.parents[child]
        return parent in direct or any(parent in self.parents[each] for each in direct if each in self.parents)

    def _started(self) -> None:
        """A job that a flow replaced, before the jobs of that flow."""
        by_flow: dict[str, list[str]] = defaultdict(list)
        for uuid, hosts in self.flows.items():
            for flow in hosts[0]:
                by_flow[flow].append(uuid)
        for uuid, hosts in self.flows.items():
            own = {flow for later, earlier in zip(hosts[1:], hosts, strict=False) for flow in later - earlier}
            children = {self.of_job[each] for flow in own for each in by_flow[flow] if each != uuid}
            self._lead(self.of_job[uuid], children, STARTED)

    def _runs(self) -> None:
        """A run, before the first of its jobs."""
        runs: dict[str, set[Node]] = defaultdict(set)
        for node, facts in self.nodes.items():
            if facts.run and node[0] not in ("candidate", "comparison"):
                runs[facts.run].add(node)
        for record in self.stored.runs:
            if not (run := string(record.get("run_id"))):
                continue
            for each in ("generate_uuid", "screen_uuid"):  # another run's, perhaps, that this one took over
                if (uuid := string(part(record, "batch").get(each))) in self.of_job:
                    runs[run].add(self.of_job[uuid])
            facts = self.nodes.setdefault(("run", run), Facts(f"run {run}"))
            if record.get("event") == "start":
                facts.when = string(record.get("at"))
                facts.host = string(part(record, "process").get("host"))
                facts.details |= {name: record[name] for name in ("command", "who") if record.get(name)}
            elif record.get("event") == "end":
                facts.details |= {name: record[name] for name in ("outcome", "error") if record.get(name)}
                facts.state = "failed" if record.get("outcome") == "failed" else "stored"
        for run, nodes in runs.items():
            self.nodes.setdefault(("run", run), Facts(f"run {run}"))
            own = {node for node in nodes if self.nodes[node].run == run}
            self._lead(("run", run), own, STARTED)
            self._lead(("run", run), nodes - own, TOOK_OVER)

    def _lead(self, parent: Node, group: set[Node], role: str) -> None:
        """An edge to those of a group that no other of it leads to, be it over a checkpoint or dataset."""
        for node in sorted(group - {parent}):
            before = self.parents.get(node, set())
            if before & group:
                continue
            things = [each for each in before if each[0] in ("checkpoint", "dataset", "candidate")]
            if not any(self.parents[each] & group for each in things if each in self.parents):
                self._edge(parent, node, role)

    # small things

    def _edge(self, parent: Node, child: Node, role: str) -> None:
        if parent == child:
            return
        for node in (parent, child):
            if node not in self.nodes:
                self.nodes[node] = Facts(f"{node[0]} {node[1][:SHORT]}", "external")
        held = self.edges.get((parent, child))
        if held is None:
            self.edges[parent, child] = role
        elif role not in held.split(", "):
            self.edges[parent, child] = f"{held}, {role}"
        self.parents[child].add(parent)

    def _thing(self, node: Node, told: Mapping[str, Any], state: State | None = None) -> None:
        """A checkpoint, a dataset or raw data, with what is told of it; what was told before stays."""
        facts = self.nodes.setdefault(node, Facts("", "external"))
        facts.state = state or facts.state
        facts.details = {k: v for k, v in told.items() if v is not None} | facts.details
        name = facts.details.get("registered") or facts.details.get("name") or facts.details.get("location")
        words = {"source": str(name or "raw data"), "reference": f"reference set {name or node[1][:SHORT]}"}
        facts.label = words.get(node[0], f"{name or node[0]} {node[1][:8]}")


def _of_job(node: Node, job: Document, documents: list[Document]) -> Facts:
    """What the document of a job tells; `documents`: all of this uuid, replacements too."""
    facts = _facts(node, part(job, "output"), part(job, "output", "provenance"))
    facts.job, facts.job_name = string(job["uuid"]), string(documents[0].get("name"))
    if len(documents) > 1:
        facts.details["replaced"] = len(documents) - 1
    if node[0] == "job":
        facts.label = facts.job_name or "job"
    facts.when = facts.when or _moment(job.get("completed_at"))
    facts.run = string(part(job, "metadata", "dao_flows").get("run_id"))
    return facts


def _facts(node: Node, document: Mapping[str, Any], provenance: Mapping[str, Any]) -> Facts:
    science, execution = part(provenance, "science"), part(provenance, "execution")
    facts = Facts(
        label=_label(node, document),
        state="failed" if document.get("state") == "failed" else "stored",
        when=string(execution.get("ended_at")),
        job=string(execution.get("job_uuid")),
        maker=string(science.get("maker")),
        code_version=string(science.get("code_version")),
        host=string(execution.get("host")),
        science_hash=string(provenance.get("science_hash")),
        content_hash=string(provenance.get("content_hash")),
    )
    told = ("formula", "z", "rank", "prototype", "backend", "step", "stage", "split", "shard", "rows", "error", "path")
    facts.details = {name: document[name] for name in told if document.get(name) is not None}
    energies = ("energy_per_atom", "predicted_energy_above_hull", "energy_above_hull", "energy_error")
    facts.details |= {name: document[name] for name in energies if document.get(name) is not None}
    if node[0] == "candidate" and isinstance(energy := document.get("energy"), Mapping):
        facts.details["predicted_energy_above_hull"] = energy.get("value")
    if node[0] == "candidate":
        facts.details["from"] = _origin(part(document, "origin"))
    if science.get("seed") is not None:
        facts.details["seed"] = science["seed"]
    if formulas := _formulas(science):
        facts.details["formulas"] = formulas
    return facts


def _origin(origin: Mapping[str, Any]) -> str:
    """Where a candidate comes from, in a few words."""
    if origin.get("kind") not in ("template", "known"):
        return "drawn"
    what = "known" if origin["kind"] == "known" else origin.get("formula")
    return f"{what} {origin.get('material_id')}"


def _formulas(science: Mapping[str, Any]) -> list[str]:
    asked = listed(part(science, "inputs").get("compositions"))
    return [name for entry in asked if (name := string(part(entry).get("formula")))]


def _label(node: Node, document: Mapping[str, Any]) -> str:
    """What a document is called in a drawing."""
    kind = node[0].replace("_", " ")
    if node[0] in LAID_OUT:
        return f"{document.get('formula') or kind} {node[1]}"
    stage = stages().by_kind.get(node[0])
    return kind if stage is None else stage.called(document)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 1


def _moment(value: Any) -> str | None:
    return None if value is None else str(value)
