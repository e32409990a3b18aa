"""What records of attempts and runs add to a graph: jobs without documents, inputs of these, who started what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from dao_flows.makers.jobs.attempts import BEGAN, ENDED

from .documents import Document, Node, listed, number, part, string
from .graph import Attempt, Facts, Growing

STARTED, TOOK_OVER = "started", "taken over by"


def add_attempts(
    growing: Growing, records: Sequence[Document], finished: Mapping[str, Document]
) -> dict[str, list[str]]:
    """Attempts of each job; those of jobs without a document become nodes. Returns the parents of jobs.

    finished: the jobs that have documents, by uuid.
    """
    found: dict[str, Attempt] = {}
    jobs: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    names: dict[str, Document] = {}
    for record in sorted(records, key=lambda record: str(record.get("record_id"))):
        key, uuid = string(record.get("attempt_id")), string(record.get("job_uuid"))
        if record.get("event") not in (BEGAN, ENDED) or not key or not uuid:
            continue
        attempt = found.setdefault(key, Attempt(number(record.get("job_index"))))
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
        node = growing.of_job.setdefault(uuid, ("job", uuid))
        if node not in growing.nodes:
            record = names[uuid]
            name = string(record.get("job_name"))
            growing.nodes[node] = Facts(
                name or "job",
                run=string(record.get("run_id")),
                job=uuid,
                job_name=name,
                maker=str(record.get("function") or "").partition(".")[0] or None,
            )
        growing.nodes[node].attempts.append(attempt)
    for facts in growing.nodes.values():
        facts.attempts.sort(key=lambda attempt: attempt.began or attempt.ended or "")
    for uuid in set(jobs.values()) - set(finished):
        facts = growing.nodes[growing.of_job[uuid]]
        last = facts.attempts[-1]
        facts.state = "failed" if last.outcome == "failed" else "unfinished"
        facts.when, facts.host = last.ended or last.began, last.host
        if last.error:
            facts.details["error"] = last.error
    return parents


def add_inputs(growing: Growing, inputs: Mapping[str, list[str]], references: Mapping[str, list[str]]) -> None:
    """Parents that only the records of attempts name: of jobs that failed, or wrote no document."""
    for uuid, parents in inputs.items():
        if (node := growing.of_job.get(uuid)) is None:
            continue  # records that contradict each other
        for parent in parents:
            for meant in _outputs(growing, parent, references):
                if meant != node and not _follows(growing, node, meant):
                    growing.edge(meant, node, "input")


def _outputs(growing: Growing, uuid: str, references: Mapping[str, list[str]]) -> list[Node]:
    """The documents that stand for a job's output: of a replaced one, those of its flow."""
    if uuid in references:
        found = [growing.of_job.get(each, ("job", each)) for each in references[uuid]]
        return found or [growing.of_job.get(uuid, ("job", uuid))]
    return [growing.of_job.get(uuid, ("job", uuid))]


def _follows(growing: Growing, child: Node, parent: Node) -> bool:
    """Whether an edge from this parent would say nothing new: it is one, or a parent of one."""
    direct = growing.parents[child]
    return parent in direct or any(parent in growing.parents[each] for each in direct if each in growing.parents)


def add_flows(growing: Growing, flows: Mapping[str, list[set[str]]]) -> None:
    """A job that a flow replaced, before the jobs of that flow."""
    by_flow: dict[str, list[str]] = defaultdict(list)
    for uuid, hosts in flows.items():
        for flow in hosts[0]:
            by_flow[flow].append(uuid)
    for uuid, hosts in flows.items():
        own = {flow for later, earlier in zip(hosts[1:], hosts, strict=False) for flow in later - earlier}
        children = {growing.of_job[each] for flow in own for each in by_flow[flow] if each != uuid}
        _lead(growing, growing.of_job[uuid], children, STARTED)


def add_runs(growing: Growing, records: Sequence[Document]) -> None:
    """A run, before the first of its jobs."""
    runs: dict[str, set[Node]] = defaultdict(set)
    for node, facts in growing.nodes.items():
        if facts.run and node[0] not in ("candidate", "comparison"):
            runs[facts.run].add(node)
    for record in records:
        if not (run := string(record.get("run_id"))):
            continue
        for each in ("generate_uuid", "screen_uuid"):  # another run's, perhaps, that this one took over
            if (uuid := string(part(record, "batch").get(each))) in growing.of_job:
                runs[run].add(growing.of_job[uuid])
        facts = growing.nodes.setdefault(("run", run), Facts(f"run {run}"))
        if record.get("event") == "start":
            facts.when = string(record.get("at"))
            facts.host = string(part(record, "process").get("host"))
            facts.details |= {name: record[name] for name in ("command", "who") if record.get(name)}
        elif record.get("event") == "end":
            facts.details |= {name: record[name] for name in ("outcome", "error") if record.get(name)}
            facts.state = "failed" if record.get("outcome") == "failed" else "stored"
    for run, nodes in runs.items():
        growing.nodes.setdefault(("run", run), Facts(f"run {run}"))
        own = {node for node in nodes if growing.nodes[node].run == run}
        _lead(growing, ("run", run), own, STARTED)
        _lead(growing, ("run", run), nodes - own, TOOK_OVER)


def _lead(growing: Growing, parent: Node, group: set[Node], role: str) -> None:
    """An edge to those of a group that no other of it leads to, be it over a checkpoint or dataset."""
    for node in sorted(group - {parent}):
        before = growing.parents.get(node, set())
        if before & group:
            continue
        things = [each for each in before if each[0] in ("checkpoint", "dataset", "candidate")]
        if not any(growing.parents[each] & group for each in things if each in growing.parents):
            growing.edge(parent, node, role)
