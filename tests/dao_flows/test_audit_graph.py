"""The provenance graph: of real flows in real stores, of damaged documents, and of random graphs."""

import json
import os
import re
import uuid
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobflow import Flow, JobStore, Response, run_locally
from maggma.stores import MongoStore
from monty.json import jsanitize

from dao_flows.audit.graph import documents
from dao_flows.audit.graph.build import assemble
from dao_flows.audit.graph.collapse import collapse
from dao_flows.audit.graph.documents import read
from dao_flows.audit.graph.drawing import mermaid, svg
from dao_flows.audit.graph.from_store import build
from dao_flows.audit.graph.graph import Facts, Graph, without_circles
from dao_flows.audit.graph.identify import find
from dao_flows.audit.graph.layout import layout
from dao_flows.audit.graph.page import page
from dao_flows.cli.audit.tree import line
from dao_flows.errors import InputError
from dao_flows.makers.jobs.attempts import BEGAN, ENDED
from dao_flows.makers.jobs.stage import stage
from dao_flows.model.checkpoint.library import card_of
from dao_flows.store.collections import JOBS, KEYS
from dao_flows.store.embedded import EmbeddedStore
from dao_flows.store.stores import collection, job_store

MONGO_URI = os.environ.get("DAO_FLOWS_TEST_MONGO_URI")
QUERIES = 6


@pytest.fixture
def store(audited) -> JobStore:
    """The store of the small flow of every stage."""
    return job_store()


@pytest.fixture
def graph(store) -> Graph:
    """Its graph."""
    return build(store)


def only(graph: Graph, kind: str, *without: tuple[str, str]):
    """The one node of a kind."""
    (found,) = (node for node in graph.nodes if node[0] == kind and node not in without)
    return found


def kinds(nodes) -> Counter:
    """How many there are of each kind."""
    return Counter(node[0] for node in nodes)


# real flows


def test_every_stage_leads_from_raw_data_to_the_comparison(graph):
    source, run = only(graph, "source"), only(graph, "run")
    last = only(graph, "comparison")
    assert graph.ancestors(last) >= {source, run}
    assert last in graph.descendants(source) & graph.descendants(run)
    steps = ["source", "ingestion", "dataset", "training", "checkpoint", "relaxation", "relaxed_dataset", "dataset"]
    steps += ["training", "checkpoint", "generation", "screening", "candidate", "calculation", "verification"]
    reached = {source}
    for step in [*steps[1:], "comparison"]:
        reached = {child for node in reached for child in graph.children(node) if child[0] == step}
        assert reached, f"no way to a {step}"
    back = kinds(graph.ancestors(last))
    assert back["checkpoint"] == back["training"] == back["relaxation"] == back["calculation"] == 2
    assert back["dataset"] == 3  # the library of known crystals is one
    assert not back["evaluation"] and not back["stages"]  # measured, but nothing was made from it
    assert all(facts.state == "stored" for node, facts in graph.nodes.items() if node[0] not in ("source", "job"))


def test_a_replaced_job_leads_to_the_jobs_that_took_its_place(graph):
    started = {graph.nodes[node].job_name: node for node in graph.nodes if node[0] == "job"}
    shards = graph.children(started["relax_jobs"])
    assert kinds(shards) == {"relaxation": 2}
    assert kinds(graph.parents(started["relax_jobs"])) == {"training": 1, "ingestion": 1}
    assert graph.nodes[started["relax_jobs"]].details["replaced"] == 1
    (first,) = graph.children(started["verify"])
    assert first[0] == "calculation" and graph.edges[started["verify"], first] == "started"
    merged = only(graph, "relaxed_dataset")  # the training named the replaced job's output
    assert kinds(graph.parents(merged)) == {"dataset": 1, "relaxation": 2}


@pytest.mark.skipif(find_spec("chgnet") is None, reason="nothing is labelled without CHGNet")
def test_a_labelled_dataset_leads_back_to_its_shards_and_their_data(graph):
    merged = only(graph, "labelled_dataset")
    assert kinds(graph.parents(merged)) == {"dataset": 1, "labelling": 2}
    assert kinds(graph.children(merged)) == {"dataset": 1}
    source = only(graph, "ingestion")
    for shard in graph.parents(merged):
        assert shard[0] == "dataset" or source in graph.ancestors(shard)
        assert graph.nodes[shard].state == "stored"


def test_failed_attempts_are_there(graph):
    (lost,) = (node for node, facts in graph.nodes.items() if facts.label == "lost")
    facts = graph.nodes[lost]
    assert (lost[0], facts.state, facts.attempts[0].outcome) == ("job", "failed", "failed")
    assert facts.details["error"].startswith("CheckpointError: no checkpoint called")
    finished = graph.nodes[only(graph, "screening")]
    assert [attempt.outcome for attempt in finished.attempts] == ["finished"]
    assert finished.code_version and finished.science_hash and finished.content_hash and finished.run


@stage
def going_on(left: int):
    """A job that takes its own place until nothing is left, as a training beyond a queue's time does."""
    return Response(replace=going_on(left - 1)) if left else left


@stage
def failing_first(marker: str, before: int):
    """A job that fails until a file is there."""
    if not Path(marker).exists():
        raise RuntimeError("not yet")
    return before


def test_jobs_that_go_on_and_jobs_that_are_run_again(jobs, tmp_path):
    if not isinstance(jobs.docs_store, EmbeddedStore):
        pytest.skip("a store in memory keeps no records")
    first = going_on(2)
    second = failing_first(str(tmp_path / "marker"), first.output)
    run_locally(Flow([first, second]), store=jobs, log=False)
    graph = build(jobs)
    before, after = ("job", first.uuid), ("job", second.uuid)
    assert set(graph.nodes) == {before, after} and graph.parents(after) == [before]
    assert [attempt.index for attempt in graph.nodes[before].attempts] == [1, 2, 3]
    assert graph.nodes[before].details["replaced"] == 2
    assert graph.nodes[after].state == "failed" and "not yet" in graph.nodes[after].details["error"]
    (tmp_path / "marker").touch()
    second.run(jobs)
    again = build(jobs).nodes[after]
    assert again.state == "stored" and [attempt.outcome for attempt in again.attempts] == ["failed", "finished"]
    assert "1 of 2 attempts failed" in line(after, again).plain


def test_a_job_that_was_killed_is_unfinished(store):
    runs = collection(store, "runs")
    began = next(runs.query({"event": BEGAN}))
    killed = str(uuid.UUID(int=9))
    record = {**began, "_id": "killed-1", "record_id": "killed-1", "attempt_id": "killed", "job_uuid": killed}
    runs.update([record], key="record_id")
    facts = build(store).nodes["job", killed]
    assert facts.state == "unfinished" and facts.attempts[0].outcome is None


def test_a_run_leads_to_its_first_jobs_alone(graph):
    assert kinds(graph.children(only(graph, "run"))) == {"ingestion": 1}


def test_roles_say_what_the_parent_was(graph):
    generation = only(graph, "generation")
    roles = {graph.edges[parent, generation] for parent in graph.parents(generation)}
    assert roles == {"generator", "predictor", "known crystals"}


def copies(store: JobStore, number: int) -> None:
    """Add as many stores of the same kind of documents with ids of their own."""
    pattern = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{64}|(?:dao|ver)-[0-9a-f]{12}")
    for name, part in {"jobs": store.docs_store, **{name: collection(store, name) for name in KEYS}}.items():
        found = [json.dumps(jsanitize({k: v for k, v in d.items() if k != "_id"})) for d in part.query()]
        for count in range(number):
            new = [json.loads(pattern.sub(lambda m: renamed(m.group(), count), text)) for text in found]  # noqa: B023
            key = ["uuid", "index"] if name == "jobs" else KEYS[name]
            if new:
                part.update(new, key=key)


def renamed(ident: str, count: int) -> str:
    """Another id of the same form."""
    head, digits = (ident[:4], ident[4:]) if ident[:4] in ("dao-", "ver-") else ("", ident)
    turned = digits.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    return head + (turned if count == 0 else renamed(turned, count - 1).removeprefix(head))


def test_the_number_of_queries_does_not_grow(store, monkeypatch):
    asked = Counter()

    def counted(method):
        def call(self, *args, **kwargs):
            asked[self.collection_name] += 1
            return method(self, *args, **kwargs)

        return call

    for name in ("query", "count", "distinct", "documents"):
        monkeypatch.setattr(EmbeddedStore, name, counted(getattr(EmbeddedStore, name)))
    for part in KEYS:
        collection(store, part)  # a store asks once when it is opened
    asked.clear()
    small = build(store)
    assert asked.total() == QUERIES
    copies(store, 8)
    asked.clear()
    large = build(store, [next(iter(small.nodes))[1]])
    assert asked.total() == QUERIES
    assert len(build(store).nodes) > 8 * (len(small.nodes) - 2) and large.nodes


@pytest.mark.skipif(MONGO_URI is None, reason="DAO_FLOWS_TEST_MONGO_URI names no server")
def test_both_stores_give_one_graph(store, graph):
    database = f"dao_flows_test_{uuid.uuid4().hex[:8]}"
    remote = JobStore(MongoStore.from_uri(MONGO_URI, database=database, collection_name=JOBS))
    remote.connect()
    try:
        remote.docs_store.update(list(store.docs_store.query()), key=["uuid", "index"])
        for name, key in KEYS.items():
            collection(remote, name).update(list(collection(store, name).query()), key=key)
        there = build(remote)
        assert there.edges == graph.edges and there.nodes == graph.nodes
    finally:
        remote.docs_store._coll.database.client.drop_database(database)


def test_the_order_in_which_a_store_gives_its_documents_does_not_matter(damageable):
    graph = assemble(damageable, {})
    names = ("jobs", "candidates", "verifications", "comparisons", "runs")
    turned = replace(damageable, **{name: getattr(damageable, name)[::-1] for name in names})
    assert assemble(turned, {}) == graph


def test_a_result_that_was_there_already_is_taken_over(store, graph):
    """A calculation that the store held is another job's output again, with the first one's provenance."""
    first = next(node for node in graph.nodes if node[0] == "calculation")
    document = store.docs_store.query_one({"uuid": graph.nodes[first].job})
    document.pop("_id")
    store.docs_store.update([{**document, "uuid": str(uuid.UUID(int=7))}], key=["uuid", "index"])
    again = build(store)
    second = ("calculation", str(uuid.UUID(int=7)))
    assert again.edges[first, second] == "taken over by"


def test_a_rerun_takes_nothing_away(store, graph):
    """A second result of the same science stands beside the first; what was made from the first stays there."""
    first, screening = only(graph, "generation"), only(graph, "screening")
    document = store.docs_store.query_one({"uuid": first[1]})
    document.pop("_id")
    document["uuid"] = document["output"]["provenance"]["execution"]["job_uuid"] = str(uuid.UUID(int=7))
    document["output"]["provenance"]["execution"]["ended_at"] = "2099-01-01T00:00:00+00:00"
    store.docs_store.update([document], key=["uuid", "index"])
    again = build(store)
    assert again.parents(screening) == graph.parents(screening)
    assert find(again, graph.nodes[first].science_hash) == ("generation", str(uuid.UUID(int=7)))


def test_a_run_leads_to_the_jobs_that_it_took_over(store, graph):
    first = only(graph, "run")
    records = list(collection(store, "runs").query({"run_id": first[1], "event": {"$in": ["start", "batch"]}}))
    for record in records:
        record |= {
            "_id": f"again-{record['record_id']}",
            "record_id": f"again-{record['record_id']}",
            "run_id": "again",
        }
    collection(store, "runs").update(records, key="record_id")
    again = build(store)
    assert again.children(("run", "again")) == [only(graph, "generation")]
    assert again.edges[("run", "again"), only(graph, "generation")] == "taken over by"
    assert first in again.ancestors(only(graph, "generation"))


def test_checkpoints_of_the_library_have_their_cards_ancestry(stored):
    graph = build(job_store())
    generation = only(graph, "generation")
    generator = next(p for p in graph.parents(generation) if "generator" in graph.edges[p, generation])
    card = card_of("dao-g-tiny")
    assert generator == ("checkpoint", card.sha256)
    assert graph.nodes[generator].state == "stored" and graph.nodes[generator].details["from"] == "library"
    data = (card.training.get("data") or {}).get("sha256")
    assert not data or ("dataset", data) in graph.parents(generator)


def test_what_nobody_has_is_external(store):
    stored = read(store)
    graph = assemble(stored, {})
    trained = [job for job in stored.jobs if (job.get("output") or {}).get("@class") == "TrainingDoc"]
    stored.jobs = [job for job in stored.jobs if job not in trained]
    alone = assemble(stored, {})
    for job in trained:
        node = ("checkpoint", job["output"]["checkpoint_sha256"])
        assert graph.nodes[node].state == "stored" and alone.nodes[node].state == "external"
        assert alone.children(node) and job["output"]["name"] in alone.nodes[node].label  # as others call it


# ids


def test_ids_of_every_kind_are_understood(graph, audited_home):
    candidate, verified, run = only(graph, "comparison"), only(graph, "verification"), only(graph, "run")
    first = next(node for node in graph.nodes if node[0] == "candidate")
    screening, dataset = only(graph, "screening"), only(graph, "ingestion")
    checkpoint = ("checkpoint", card_of("artist").sha256)
    made = next(node for node in graph.children(dataset) if node[0] == "dataset")
    for text, node in {
        first[1]: first,
        first[1][4:]: first,
        first[1][:10]: first,
        verified[1]: verified,
        f"comparison:{candidate[1]}": candidate,
        screening[1]: screening,
        screening[1][:8]: screening,
        graph.nodes[screening].science_hash: screening,
        graph.nodes[screening].content_hash: screening,
        "artist": checkpoint,
        checkpoint[1]: checkpoint,
        checkpoint[1][:12]: checkpoint,
        made[1]: made,
        str(audited_home / "flow" / "dataset"): made,
        run[1]: run,
        f"run:{run[1]}": run,
        graph.nodes[verified].job: verified,
    }.items():
        assert find(graph, text) == node, text


def test_an_unknown_id_and_an_ambiguous_one_are_one_line_each(call, audited):
    for wanted, words in {"dao-000000000000": "nothing in the store", "": "nothing", "dao-": "nothing"}.items():
        code, out, err = call("audit", "graph", wanted)
        assert (code, out, err.count("\n")) == (2, "", 1) and words in err
    graph = Graph({("job", "12345678"): Facts("a"), ("job", "12345679"): Facts("b")})
    with pytest.raises(InputError, match=r"'1234567' means 2 things: job:12345678, job:12345679"):
        find(graph, "1234567")


# the command


def test_text_shows_both_ways(call, audited, graph):
    verified = only(graph, "verification")[1]
    code, out, _ = call("audit", "graph", verified[:8])
    assert code == 0 and out.startswith("NaCl ver-") and "made from" in out and "led to" in out
    assert "crystals_small" in out and "(see above)" in out
    shown = [line for line in out.splitlines() if "screening" in line and "(see above)" not in line]
    assert len(shown) == 1  # followed once
    assert "led to" not in call("audit", "graph", verified, "--direction", "back")[1]
    assert "crystals_small" not in call("audit", "graph", verified, "--direction", "forward")[1]
    code, out, _ = call("audit", "graph")
    assert "2 candidates" in out and "1 failed" in out


def test_files_are_written_in_the_format_of_their_ending(call, audited, graph, tmp_path):
    for ending in ("json", "svg", "html", "mmd", "txt"):
        code, out, err = call("audit", "graph", only(graph, "run")[1], "--out", str(tmp_path / f"graph.{ending}"))
        assert code == 0 and " nodes, " in out, err
    told = json.loads((tmp_path / "graph.json").read_text())
    assert Graph.from_dict(told).edges and told["asked"] == [f"run:{only(graph, 'run')[1]}"]
    drawn = ElementTree.parse(tmp_path / "graph.svg").getroot()
    cards = [element for element in drawn.iter() if "data-card" in element.attrib]
    assert len(cards) == len(told["nodes"])
    html = (tmp_path / "graph.html").read_text()
    assert not re.findall(r'(?:src|href)="|@import|url\(', html) and "default-src 'none'" in html
    assert "flowchart LR" in (tmp_path / "graph.mmd").read_text()
    code, _, err = call("audit", "graph", "--out", str(tmp_path / "no" / "graph.svg"))
    assert (code, err.count("\n")) == (2, 1)


def test_an_empty_store_is_no_error(call, workplace):
    assert call("audit", "graph")[:2] == (0, "the store is empty; `dao-flows predict` makes a first result\n")
    code, out, _ = call("audit", "graph", "--format", "json")
    assert code == 0 and Graph.from_dict(json.loads(out)) == Graph()


def test_names_of_users_do_no_harm_in_drawings():
    nasty = '</script><script>alert(1)</script>"]:::x & <b>'
    node = ("candidate", nasty)
    view = collapse(graph := Graph({node: Facts(nasty, details={"formula": nasty})}, asked=(node,)))
    ElementTree.fromstring(svg(view, nasty))
    assert "<script>alert" not in page(view, graph)
    (line,) = (line for line in mermaid(view).splitlines() if line.strip().startswith("n0["))
    assert line.count('"') == 2 and "<b>" not in line


# damaged documents


@pytest.fixture(scope="module")
def damageable(audited_home) -> documents.Stored:
    """What was read of the small flow's store."""
    store = JobStore(EmbeddedStore(JOBS, str(audited_home / "data" / "store")))
    store.connect()
    return read(store)


def places(value, path=()):
    """Paths to everything in a document."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_a_document_breaks_the_graph(damageable, data):
    name = data.draw(st.sampled_from(["jobs", "candidates", "verifications", "comparisons", "runs"]))
    held = getattr(damageable, name)
    document = held[data.draw(st.integers(0, len(held) - 1))]
    *before, last = data.draw(st.sampled_from([path for path in places(document) if path]))
    inner = document
    for key in before:
        inner = inner[key]
    sound = inner[last]
    inner[last] = data.draw(st.sampled_from([None, 0, 1.5, "", "x", [], {}, [1], {"a": 1}, [["x"]], "a" * 64]))
    try:
        graph = assemble(damageable, {})
    finally:
        inner[last] = sound
    assert graph.order() and len(graph.nodes) >= 20
    assert all(isinstance(each, str) for node in graph.nodes for each in node)
    collapse(graph, 10)
    json.dumps(graph.as_dict())


def test_records_that_contradict_each_other_are_borne(damageable):
    """A record of an attempt's end with another job's uuid once ended in a KeyError."""
    runs = [{**r, "job_uuid": "x"} if r.get("event") == ENDED else r for r in damageable.runs]
    assert assemble(replace(damageable, runs=runs), {}).order()


# random graphs


@st.composite
def graphs(draw, most: int = 14):
    """Graphs without circles, of a few kinds."""
    count = draw(st.integers(1, most))
    nodes = [(draw(st.sampled_from(["job", "candidate", "dataset"])), str(number)) for number in range(count)]
    pairs = [(nodes[a], nodes[b]) for a in range(count) for b in range(a + 1, count)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    states = st.sampled_from(["stored", "failed", "unfinished", "external"])
    facts = {node: Facts(draw(st.text(max_size=8)), draw(states)) for node in draw(st.permutations(nodes))}
    return Graph(facts, dict.fromkeys(edges, "made"), tuple(draw(st.lists(st.sampled_from(nodes), max_size=2))))


@settings(deadline=None)
@given(graphs())
def test_ancestors_and_descendants_are_dual(graph):
    for node in graph.nodes:
        assert {other for other in graph.nodes if node in graph.ancestors(other)} == graph.descendants(node)
        assert node not in graph.ancestors(node)


@settings(deadline=None)
@given(graphs())
def test_parents_come_before_their_children(graph):
    place = {node: at for at, node in enumerate(graph.order())}
    assert set(place) == set(graph.nodes)
    assert all(place[parent] < place[child] for parent, child in graph.edges)


@settings(deadline=None)
@given(graphs())
def test_json_and_back_changes_nothing(graph):
    assert Graph.from_dict(json.loads(json.dumps(graph.as_dict()))) == graph


@settings(deadline=None)
@given(graphs(), st.sampled_from(["back", "forward", "both"]), st.data())
def test_a_part_is_the_lineage_and_nothing_else(graph, direction, data):
    node = data.draw(st.sampled_from(sorted(graph.nodes)))
    part = graph.around([node], direction)
    wanted = {node}
    wanted |= graph.ancestors(node) if direction != "forward" else set()
    wanted |= graph.descendants(node) if direction != "back" else set()
    assert set(part.nodes) == wanted and part.asked == (node,)
    assert set(part.edges) == {edge for edge in graph.edges if set(edge) <= wanted}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda e: e[0] != e[1]), unique=True))
def test_circles_are_opened_and_nothing_else_is_lost(pairs):
    edges = {(("job", str(a)), ("job", str(b))): "made" for a, b in pairs}
    kept, dropped = without_circles(edges)
    assert set(kept) | set(dropped) == set(edges) and not set(kept) & set(dropped)
    graph = Graph({node: Facts("") for edge in edges for node in edge}, kept)
    graph.order()
    for parent, child in dropped:  # each closes a circle with what was there
        whole = Graph(graph.nodes, edges)
        assert parent in whole.descendants(child)


@settings(deadline=None)
@given(graphs(), st.integers(1, 20))
def test_a_view_counts_every_node_once_and_has_no_circle(graph, most):
    view = collapse(graph, most)
    assert sorted(node for card in view.cards for node in card.members) == sorted(graph.nodes)
    as_graph = Graph(
        {("job", str(number)): Facts("") for number in range(len(view.cards))},
        {(("job", str(a)), ("job", str(b))): role for (a, b), role in view.edges.items()},
    )
    as_graph.order()
    place = {node: number for number, card in enumerate(view.cards) for node in card.members}
    assert set(view.edges) == {(place[parent], place[child]) for parent, child in graph.edges}
    assert all(card.count == 1 for card in view.cards if card.asked)
    ElementTree.fromstring(svg(view, "a drawing"))


@settings(deadline=None)
@given(graphs(), st.data())
def test_boxes_do_not_overlap_and_edges_go_one_way(graph, data):
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    edges = [(numbers[a], numbers[b]) for a, b in graph.edges]
    sizes = data.draw(st.lists(st.floats(5, 200), min_size=len(numbers), max_size=len(numbers)))
    placed = layout(sizes, edges, gap=10)
    for start, end in edges:
        assert placed.layers[start] < placed.layers[end]
        assert [layer for layer, _ in placed.bends[start, end]] == list(
            range(placed.layers[start] + 1, placed.layers[end])
        )
    rows = {}
    for box, layer in enumerate(placed.layers):
        rows.setdefault(layer, []).append(box)
    for row in rows.values():
        row.sort(key=lambda box: placed.heights[box])
        for one, other in pairwise(row):
            apart = placed.heights[other] - placed.heights[one]
            assert apart >= (sizes[one] + sizes[other]) / 2 + 10 - 1e-6


def test_a_chain_is_drawn_straight():
    placed = layout([30.0] * 5, [(n, n + 1) for n in range(4)])
    assert placed.layers == [0, 1, 2, 3, 4] and len(set(placed.heights)) == 1


@pytest.mark.parametrize("damage", [{"schema_version": 99}, {"edges": [{"from": "a:b", "to": "c:d", "role": ""}]}])
def test_a_graph_of_another_kind_is_refused(damage):
    with pytest.raises((ValueError, KeyError)):
        Graph.from_dict(Graph().as_dict() | damage)


def test_a_reader_clicks_through_the_page(browser, tmp_path):
    """A click lights the lineage and tells the facts; the search finds; nothing is asked of a network."""
    a, b, c, d = (("job", name) for name in ("aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"))
    many = {("candidate", f"dao-{number:012d}"): Facts(f"many {number}") for number in range(30)}
    facts = {a: Facts("first"), b: Facts("second", details={"formula": "NaCl"}), c: Facts("third"), d: Facts("apart")}
    edges = {(a, b): "made", (b, c): "made"} | {(d, node): "accepted by" for node in many}
    graph = Graph(facts | many, edges, (c,))
    path = tmp_path / "graph.html"
    path.write_text(page(collapse(graph, 10), graph))
    browser.get(path.as_uri())
    shown = {each.text.split("\n")[0]: each for each in browser.find_elements("css selector", "[data-card]")}
    assert set(shown) == {"first", "second", "third", "apart", "30 candidates"}
    assert "asked" in shown["third"].get_attribute("class")

    def lit():
        return {name for name, each in shown.items() if "on" in each.get_attribute("class").split()}

    shown["second"].find_element("css selector", "text").click()
    assert lit() == {"first", "second", "third"}
    about = browser.find_element("id", "about")
    assert "NaCl" in about.text and "job:bbbbbbbb" in about.text
    shown["30 candidates"].find_element("css selector", "text").click()
    assert lit() == {"apart", "30 candidates"}
    assert len(about.find_elements("css selector", "details")) == 30
    search = browser.find_element("id", "find")
    search.send_keys("nacl")
    assert lit() == {"first", "second", "third"} and "1 boxes" not in about.text
    browser.find_element("id", "whole").click()
    assert lit() == set() and "Click a box" in about.text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
