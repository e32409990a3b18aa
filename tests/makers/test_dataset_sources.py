"""Each kind of source: a real file, database, store or server is read row by row; what is wrong is named."""

import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from ase import Atoms
from ase.db import connect
from ase.io import write
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from dao_flows.makers.datasets import BuildConfig, SourceError, build_dataset
from dao_flows.makers.datasets.cleaning import Clean, clean
from dao_flows.makers.datasets.databases import optimade
from dao_flows.makers.datasets.databases.optimade_pages import Pages, stated_total
from dao_flows.makers.datasets.readers.raw import Raw
from dao_flows.makers.datasets.readers.refusal import Rejected
from dao_flows.makers.datasets.sources import open_source
from dao_flows.model.data.shards import columns, dataset_rows, read_manifest

NAMES = ("quartz", "rock salt", "perovskite")


def read(text: str, properties: tuple[str, ...] = (), **options: object) -> list[tuple[Raw, Clean | Rejected]]:
    source = open_source(text, properties, **options)  # type: ignore[arg-type]
    config = BuildConfig(properties=properties)
    rows = list(source.read())
    positions = [raw.position for raw in rows]
    assert positions == sorted(set(positions))
    for start in positions[1:]:  # as a build goes on after a kill
        assert [raw.position for raw in source.read(start)] == [p for p in positions if p >= start]
    return [(raw, clean(raw, config, compare=False)) for raw in rows]


def structure(found: Clean | Rejected) -> Structure:
    assert isinstance(found, Clean), found
    row = found.row
    return Structure(np.reshape(row["lattice"], (3, 3)), row["numbers"], np.reshape(row["frac"], (-1, 3)))


def check(found: list[tuple[Raw, Clean | Rejected]], wanted: list[Structure]) -> None:
    matcher = StructureMatcher(scale=False)
    assert len(found) == len(wanted)
    assert all(matcher.fit(structure(got), want) for (_, got), want in zip(found, wanted, strict=True))


def test_extended_xyz(tmp_path, crystals):
    path = tmp_path / "set.extxyz"
    atoms = [AseAtomsAdaptor.get_atoms(crystals[name]) for name in NAMES]
    for i, (frame, name) in enumerate(zip(atoms, NAMES, strict=True)):
        frame.info = {"material_id": name, "e_above_hull": i / 10, "tc": 4.0 + i}
    write(path, atoms, format="extxyz")
    found = read(str(path), ("tc",))
    check(found, [crystals[name] for name in NAMES])
    rows = [got.row for _, got in found]
    assert [(r["e_above_hull"], r["tc"]) for r in rows] == [(0.0, 4.0), (0.1, 5.0), (0.2, 6.0)]
    assert [raw.material_id for raw, _ in found] == list(NAMES)
    text = path.read_text()
    path.write_text(text.replace('pbc="T T T"', 'pbc="T T F"', 1).replace("Na ", "Qq ", 1) + "oh no\n" + text)
    found = read(str(path))
    assert [isinstance(got, Clean) for _, got in found] == [False, False, True, False]
    reasons = [got.reason for _, got in found if isinstance(got, Rejected)]
    assert "not periodic" in reasons[0] and "not read from here on" in reasons[2]
    path.write_text("99999999999\nLattice=\n")
    assert [type(got) for _, got in read(str(path))] == [Rejected]


def test_ase_database(tmp_path, crystals):
    path = tmp_path / "set.db"
    with connect(path) as database:
        for i, name in enumerate(NAMES):
            database.write(AseAtomsAdaptor.get_atoms(crystals[name]), mp_id=f"mp-{i}", gap=0.5, data={"ehull": i / 10})
        database.write(Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]))
    found = read(f"{path}?e_above_hull=ehull", ("gap",))
    check(found[:3], [crystals[name] for name in NAMES])
    assert [(raw.material_id, got.row["e_above_hull"], got.row["gap"]) for raw, got in found[:3]] == [
        ("mp-0", 0.0, 0.5),
        ("mp-1", 0.1, 0.5),
        ("mp-2", 0.2, 0.5),
    ]
    assert isinstance(found[3][1], Rejected) and found[3][0].material_id is None
    (tmp_path / "torn.db").write_text("nothing")
    with pytest.raises(SourceError, match="is no ASE database"):
        open_source(str(tmp_path / "torn.db")).identity()


def test_folder_of_cif_and_poscar(tmp_path, crystals):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    crystals["quartz"].to(str(tmp_path / "in" / "b.cif"))
    crystals["rock salt"].to(str(tmp_path / "in" / "deep" / "POSCAR_salt"), fmt="poscar")
    crystals["perovskite"].to(str(tmp_path / "in" / "a.vasp"), fmt="poscar")
    (tmp_path / "in" / "torn.cif").write_text("data_\nnothing")
    (tmp_path / "in" / "notes.txt").write_text("no crystal")
    half = Structure(crystals["rock salt"].lattice, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    half.to(str(tmp_path / "in" / "half.cif"))
    found = read(str(tmp_path / "in"))
    assert [raw.material_id for raw, _ in found] == ["a", "b", "deep/POSCAR_salt", "half", "torn"]
    check(found[:3], [crystals[name] for name in ("perovskite", "quartz", "rock salt")])
    assert [got.cause for _, got in found[3:]] == ["disordered", "unreadable"]
    check(read(str(tmp_path / "in" / "b.cif")), [crystals["quartz"]])
    (tmp_path / "void").mkdir()
    with pytest.raises(SourceError, match="holds no CIF or POSCAR"):
        open_source(str(tmp_path / "void")).identity()


def test_dataset_of_ours(random_dataset, tmp_path):
    folder = random_dataset(30, rows_per_shard=8)
    manifest = build_dataset(
        tmp_path / "set", [str(folder)], BuildConfig(keep_duplicates=True, properties=("band_gap",), min_distance=0)
    )
    before, after = list(dataset_rows(folder)), list(dataset_rows(tmp_path / "set"))
    same = ("material_id", "source", "numbers", "e_above_hull", "e_above_hull_kind", "band_gap", "split")
    assert [[row[name] for name in same] for row in before] == [[row[name] for name in same] for row in after]
    assert list(manifest.columns) == list(columns(["band_gap"]))
    assert manifest.sources[0]["sha256"] == read_manifest(folder).sha256
    assert manifest.sources[0]["licence"] == "none"  # what the dataset itself says of its source


VASP = {"vasp_objects": {}, "orig_inputs": None, "state": "successful"}
OURS = {"candidate_id": "dao-1", "provenance": {}, "state": "successful"}
VERIFIED = {**OURS, "verification_id": "ver-1"}
HULL = {"energy_above_hull": 0.03, "formation_energy_per_atom": -1.0}
TASKS = [
    {"uuid": "b", "index": 1, "name": "relax", "output": {**VASP, "state": "failed"}},
    {"uuid": "a", "index": 1, "name": "static", "output": {**VASP, "output": {"energy_per_atom": -9.0}}},
    {"uuid": "a", "index": 2, "name": "static", "output": {**VASP, "output": {"energy_per_atom": -8.5}}},
    {"uuid": "c", "index": 1, "name": "static", "output": {"forcefield_name": "CHGNet"}},
    {"uuid": "d", "index": 1, "name": "static", "output": {**VASP, "energy_above_hull": 0.02}},
    {"uuid": "e", "index": 1, "name": "verification", "output": {**VERIFIED, "backend": "abinit", "hull": HULL}},
    {"uuid": "f", "index": 1, "name": "verification", "output": {**VERIFIED, "backend": "forcefield:MACE"}},
]


def test_finished_dft_documents_of_a_store(crystals, tmp_path):
    store = JobStore(MemoryStore())
    store.connect()
    for task in TASKS:
        output = {**task["output"], "structure": crystals["quartz"].as_dict()}
        store.docs_store.update({**task, "output": output}, key=["uuid", "index"])
    store.docs_store.update({"uuid": "z", "index": 1, "output": {"candidates": []}}, key=["uuid", "index"])
    found = read("store:", ("energy_per_atom",), store=store)
    assert [raw.material_id for raw, _ in found] == ["e", "f", "a", "b", "c", "d"]
    verified, by_mace, first, failed, forcefield, labelled = (got for _, got in found)
    assert structure(first).composition.reduced_formula == "SiO2"
    assert (first.row["energy_per_atom"], first.row["e_above_hull"]) == (-8.5, None)  # of the newest run
    assert "did not finish: failed" in failed.reason and "CHGNet" in forcefield.reason
    assert (labelled.row["e_above_hull"], labelled.row["e_above_hull_kind"]) == (0.02, "dft")
    assert (verified.row["e_above_hull"], verified.row["formation_energy_per_atom"]) == (0.03, -1.0)
    assert "forcefield:MACE" in by_mace.reason
    assert [raw.material_id for raw, _ in read("store:?job=relax", store=store)] == ["b"]
    with pytest.raises(SourceError, match="the store of a running job"):
        open_source("store:")
    build_dataset(tmp_path / "set", ["store:"], store=store)
    (row,) = dataset_rows(tmp_path / "set")  # of all that match, the verification
    assert (row["material_id"], row["e_above_hull"]) == ("e", 0.03)


def test_a_document_is_of_dft_only_if_that_is_known(crystals, tmp_path):
    from atomate2.ase.jobs import LennardJonesStaticMaker
    from jobflow import run_locally
    from pymatgen.core import Lattice

    store = JobStore(MemoryStore())
    argon = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.4), ["Ar"], [[0, 0, 0]])
    run_locally(LennardJonesStaticMaker().make(argon), store=store, root_dir=tmp_path, ensure_success=True)
    others = {
        "learned": {**VASP, "input": {"incar": {"ML_LMLFF": True}}},
        "classical": {"cp2k_objects": {}, "input": {"xc": None}, "state": "successful"},
        "next kind": {"state": "successful", "output": {"energy_per_atom": -1.0}, "@class": "NextKindTaskDoc"},
        "silent": {"vasp_objects": {}, "orig_inputs": None},
        "ours": {**OURS, "backend": "new-code"},
        "with cp2k": {"cp2k_objects": {}, "input": {"xc": "PBE"}, "state": "successful"},
        "with abinit": {"abinit_objects": {}, "event_report": {}, "state": "successful"},
    }
    for uuid, output in others.items():
        document = {"uuid": uuid, "index": 1, "output": {**output, "structure": crystals["quartz"].as_dict()}}
        store.docs_store.update(document, key=["uuid", "index"])
    found = {raw.material_id: got for raw, got in read("store:", store=store)}
    assert {name for name, got in found.items() if isinstance(got, Clean)} == {"with cp2k", "with abinit"}
    assert len(found) == len(others) + 1
    (ase,) = (got for name, got in found.items() if name not in others)
    assert "a calculator of ASE" in ase.reason
    assert "NextKindTaskDoc" in found["next kind"].reason and "does not say" in found["silent"].reason


def test_what_tells_dft_apart_are_fields_of_the_documents_themselves():
    from atomate2.abinit.schemas.task import AbinitTaskDoc
    from atomate2.ase.schemas import AseStructureTaskDoc
    from atomate2.cp2k.schemas.task import TaskDocument
    from atomate2.forcefields.schemas import ForceFieldTaskDocument
    from atomate2.lammps.schemas.task import LammpsTaskDocument
    from emmet.core.tasks import TaskDoc

    from dao_flows.makers.datasets.databases.known_dft import why_not_dft
    from dao_flows.makers.schemas.verification import CalculationDoc, VerificationDoc

    def filled(kind: type) -> dict[str, object]:
        return dict.fromkeys(kind.model_fields) | {"state": "successful", "input": {"xc": "PBE"}}

    for kind in (TaskDoc, AbinitTaskDoc, TaskDocument, AseStructureTaskDoc, ForceFieldTaskDocument, LammpsTaskDocument):
        known = kind in (TaskDoc, AbinitTaskDoc, TaskDocument)
        assert (why_not_dft(filled(kind)) is None) == known, kind
    for kind in (CalculationDoc, VerificationDoc):
        assert why_not_dft(filled(kind) | {"backend": "abinit"}) is None
        assert why_not_dft(filled(kind) | {"backend": "abinit", "level": {"code": "CHGNet"}}) is not None


@pytest.fixture(scope="module")
def optimade_server(tmp_path_factory) -> Iterator[str]:
    """The reference implementation of an OPTIMADE server with its own test structures."""
    with pytest.MonkeyPatch.context() as patch:
        config = tmp_path_factory.mktemp("optimade") / "config.json"
        aliases = {"structures": {"id": "task_id", "chemical_formula_reduced": "pretty_formula"}}
        setting = {"page_limit": 20, "page_limit_max": 20, "log_level": "error", "insert_test_data": True}
        config.write_text(json.dumps({**setting, "aliases": aliases}))
        patch.setenv("OPTIMADE_CONFIG_FILE", str(config))
        patch.setenv("OPTIMADE_LOG_DIR", str(config.parent))
        from optimade.server.main import app

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        for _ in range(600):
            if server.started:
                break
            time.sleep(0.1)
        assert server.started
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join(20)


def test_optimade(optimade_server, monkeypatch):
    assert optimade.PAGE > 20  # more than this server gives at once
    whole = list(open_source(f"optimade:{optimade_server}").read())
    monkeypatch.setattr(optimade, "PAGE", 4)
    found = read(f"optimade:{optimade_server}")
    source = open_source(f"optimade:{optimade_server}")
    assert source.total() == len(found) == len(whole) > 4  # several pages
    kept = [got for _, got in found if isinstance(got, Clean)]
    assert kept, [got for _, got in found]
    assert all(raw.material_id for raw, _ in found)
    assert all(got.reason for _, got in found if isinstance(got, Rejected))
    some = read(f'optimade:{optimade_server}/v1?filter=elements HAS "Ac" AND nelements=2')
    assert 0 < len(some) < len(found)
    assert all("Ac" in structure(got).composition for _, got in some if isinstance(got, Clean))
    with pytest.raises(SourceError, match="refuses the query"):
        list(open_source(f"optimade:{optimade_server}?filter=this is none").read())


def _structure(i: int, **more: object) -> dict[str, object]:
    a = 5.0 + 0.3 * i
    symbols = ("Li", "Cl")
    attributes = {
        "lattice_vectors": [[a, 0, 0], [0, a, 0], [0, 0, a]],
        "cartesian_site_positions": [[0, 0, 0], [a / 2] * 3],
        "species_at_sites": list(symbols),
        "species": [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in symbols],
        "dimension_types": [1, 1, 1],
        "structure_features": [],
        "nsites": 2,
        "chemical_formula_reduced": "ClLi",
        **more,
    }
    return {"id": f"e{i}", "type": "structures", "attributes": attributes}


def _answer(query: dict[str, str], link: object, more: bool, stated: object = 6) -> dict[str, object]:
    page = int(query.get("page", 0))
    data = [_structure(2 * page + k) for k in range(2)]
    return {"data": data, "meta": {"data_returned": stated, "more_data_available": more}, "links": link}


def _next(page: object) -> dict[str, object]:
    return {"next": f"/v1/structures?page={page}"}


PROVIDERS = {  # what it answers, and what is said; None: all is well
    "whole": (lambda q: _answer(q, _next(int(q.get("page", 0)) + 1) if q.get("page") != "2" else {}, False), None),
    "another name for the link": (lambda q: _answer(q, {"next_page": "x"}, True), "states 6 structures and gave 2"),
    "no link": (lambda q: _answer(q, {"next": None}, True, None), "has more than the 2 structures"),
    "cut short, unsaid": (lambda q: _answer(q, {"next": None}, False), "states 6 structures and gave 2"),
    "back to itself": (lambda q: _answer(q, _next(q.get("page", 0)), True, None), "gives the same page again"),
    "a cycle": (lambda q: _answer(q, _next((int(q.get("page", 0)) + 1) % 3), True, None), "leads back|same page"),
    "growing, the same": (
        lambda q: {**_answer({}, {}, True, None), "links": _next(int(q.get("page", 0)) + 1)},
        "gives the same page again",
    ),
    "growing, new": (
        lambda q: _answer(q, _next(int(q.get("page", 0)) + 1), True),
        "states 6 structures and gives more",
    ),
    "growing, empty": (
        lambda q: {"data": [], "meta": {}, "links": _next(int(q.get("page", 0)) + 1)},
        "an empty page and a link",
    ),
    "no list": (lambda q: {"data": {"id": 1}}, "no list of data"),
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_gives_as_many_rows_as_it_states_or_the_build_fails(name, serve, tmp_path):
    answer, says = PROVIDERS[name]
    source = open_source(f"optimade:{serve(lambda path, query: answer(query))}")
    if says is None:
        assert [raw.material_id for raw in source.read()] == [f"e{i}" for i in range(6)]
        return
    with pytest.raises(SourceError, match=says) as caught:
        list(source.read())
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match=says):
        build_dataset(tmp_path / "set", [source.location])
    assert not (tmp_path / "set").exists()


def test_fields_and_filter_that_a_link_loses_are_asked_for_again(serve):
    asked = []

    def answer(path: str, query: dict[str, str]) -> dict[str, object]:
        asked.append(query)
        page = int(query.get("page", 0))
        found = _answer(query, _next(page + 1) if page < 2 else {"next": None}, page < 2)
        if "response_fields" in query:
            for entry in found["data"]:
                entry["attributes"]["_my_hull"] = 0.01
        return found

    found = read(f"optimade:{serve(answer)}?e_above_hull=_my_hull&filter=nelements=2")
    assert [got.row["e_above_hull"] for _, got in found] == [0.01] * 6
    assert {query["filter"] for query in asked} == {"nelements=2"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"species": [{"name": "Li", "chemical_symbols": ["Li"], "concentration": [0.5]}]}, "partially occupied"),
        ({"species": [{"name": "Li", "chemical_symbols": ["X"], "concentration": [1.0]}]}, "no element"),
        ({"species": [{"name": "Li", "chemical_symbols": ["vacancy"], "concentration": [1.0]}]}, "no element"),
        (
            {"species": [{"name": "Li", "chemical_symbols": ["Li", "Na"], "concentration": [0.5, 0.5]}]},
            "partially occupied",
        ),
        (
            {"species": [{"name": "Li", "chemical_symbols": ["Li", "vacancy"], "concentration": [0.9, 0.1]}]},
            "partially occupied",
        ),
        ({"species": [{"name": "Li", "chemical_symbols": ["Li"]}]}, "not complete"),
        ({"species": [{"name": "Li", "chemical_symbols": ["Li"], "concentration": [1.0]}] * 2}, "there twice"),
        ({"species": None}, "not complete"),
        ({"structure_features": ["implicit_atoms"]}, "implicit_atoms"),
        ({"structure_features": ["_my_kind_of_disorder"]}, "_my_kind"),
        ({"dimension_types": [1, 1, 0]}, "not periodic"),
        ({"nperiodic_dimensions": 2}, "not periodic"),
        ({"nsites": 3}, "states 3 sites"),
        ({"cartesian_site_positions": [[0, 0, 0]]}, "1 positions"),
        ({"chemical_formula_reduced": "H2LiCl"}, "its own formula is H2LiCl"),
        ({"cartesian_site_positions": [[0, 0, 0], [None, None, None]]}, ""),
    ],
)
def test_an_entry_that_is_no_whole_crystal_is_rejected(more, says):
    entry = _structure(0, **more)
    chlorine = {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0]}
    if more.get("species"):
        entry["attributes"]["species"] = [*more["species"], chlorine]
    raw = open_source("optimade:http://127.0.0.1:1")._raw(entry, 0)
    found = clean(raw, BuildConfig(), compare=False)
    assert isinstance(found, Rejected) and says in found.reason


def test_a_provider_is_found_by_its_name(optimade_server, monkeypatch, serve):
    links = {
        "/v1/links": [_link("cod", "provider", "INDEX"), _link("none", "provider", None)],
        "/index/v1/links": [_link("core", "child", optimade_server), _link("root", "root", None)],
        "/two/v1/links": [_link("a", "child", "http://a"), _link("b", "child", "http://b")],
    }
    base = serve(lambda path, query: {"data": links[path]})
    links["/v1/links"][0]["attributes"]["base_url"] = f"{base}/index"
    links["/v1/links"].append(_link("two", "provider", {"href": f"{base}/two"}))
    monkeypatch.setattr(optimade, "PROVIDERS", base)
    source = open_source("optimade:cod?name=mine")
    assert source.identity()["url"] == f"{optimade_server}/v1"
    assert next(iter(source.read())).material_id
    for text, says in (
        ("optimade:nobody", "'nobody' is no OPTIMADE provider; there are: cod, two"),
        ("optimade:two", "choose one of: optimade:two/a, optimade:two/b"),
    ):
        with pytest.raises(SourceError, match=says):
            open_source(text).identity()


def _link(name: str, kind: str, base: object) -> dict[str, object]:
    return {"id": name, "type": "links", "attributes": {"link_type": kind, "base_url": base}}


@pytest.fixture
def serve() -> Iterator[object]:
    """Starts an HTTP server that answers with JSON, and gives its URL."""
    servers = []

    def start(answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urllib.parse.urlsplit(self.path)
                query = {k: v[0] for k, v in urllib.parse.parse_qs(parts.query).items()}
                body = json.dumps(answer(parts.path, query)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_what_does_not_answer_as_a_provider(serve):
    base = serve(lambda path, query: ["no", "object"])
    with pytest.raises(SourceError, match="refuses the query"):
        list(open_source(f"optimade:{base}").read())
    with pytest.raises(SourceError, match="must not hold credentials"):
        open_source("optimade:https://user:word@example.org")


def test_materials_project(crystals, monkeypatch, serve, materials_project_at):
    from dao_flows.makers.datasets.databases import materials_project

    entries = [
        {
            "material_id": f"mp-{i}",
            "structure": crystals[name].as_dict(),
            "energy_above_hull": i / 10,
            "formation_energy_per_atom": -1.0,
            "band_gap": 2.0,
        }
        for i, name in enumerate([*NAMES, "rutile", "A15"])
    ]
    asked = []

    def answer(path: str, query: dict[str, str]) -> dict[str, object]:
        asked.append((path, query))
        if "heartbeat" in path:
            return {"db_version": "2026.1", "version": "0.87.3", "access_controlled_batch_ids": []}
        size = int(query.get("_per_page") or query["_limit"])
        first = (int(query.get("_page", 1)) - 1) * size
        return {"data": entries[first : first + size], "meta": {"total_doc": len(entries)}}

    monkeypatch.setattr(materials_project, "PAGE", 2)
    materials_project_at(serve(answer) + "/")
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(SourceError, match="MP_API_KEY"):
        open_source("mp:").identity()
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    found = read("mp:?chemsys=Na-Cl&energy_above_hull=0,0.5", ("band_gap",))
    check(found, [crystals[name] for name in (*NAMES, "rutile", "A15")])
    last = found[-1][1].row
    assert (last["e_above_hull"], last["e_above_hull_kind"], last["band_gap"]) == (0.4, "dft", 2.0)
    searches = [query for path, query in asked if "summary" in path]
    assert searches[0]["chemsys"] == "Na-Cl" and searches[0]["energy_above_hull_max"] == "0.5"
    source = open_source("mp:")
    assert source.licence == "CC-BY-4.0" and "k" * 32 not in str((source, source.identity()))
    with pytest.raises(SourceError, match="is a range"):
        list(open_source("mp:?num_sites=3").read())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("absent.parquet", "no file or folder absent.parquet"),
        ("", "a source is empty"),
        ("mp:Na-Cl", r"mp:\?chemsys=Na-Cl"),
        ("optimade:", "followed by a provider"),
        ("mp:?colour=red", "no option colour"),
        ("mp:?chemsys=A&chemsys=B", "given twice"),
        ("store:here", r"store:\?job="),
        (str(Path(__file__)), "of no kind that can be read"),
    ],
)
def test_what_names_no_source_is_said_in_one_line(text, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=says) as caught:
        open_source(text)
    assert "\n" not in str(caught.value)


def test_tables_that_cannot_be_read_are_said_in_one_line(tmp_path):
    (tmp_path / "torn.parquet").write_text("nothing")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name, says in (("torn.parquet", "cannot read"), ("other.csv", "has no column cif")):
        with pytest.raises(SourceError, match=says) as caught:
            build_dataset(tmp_path / "set", [str(tmp_path / name)])
        assert "\n" not in str(caught.value)
    (tmp_path / "good.csv").write_text("cif,e\nx,1\n")
    with pytest.raises(SourceError, match="no column ehull; there are: cif, e"):
        open_source(f"{tmp_path / 'good.csv'}?e_above_hull=ehull").identity()


@pytest.mark.parametrize("count", [6, 6.0, "6", " 6 "])
def test_a_total_counts_however_it_is_written(count):
    answer = {"data": [{"id": "1"}], "meta": {"data_returned": count}}
    with pytest.raises(SourceError, match="states 6 structures and gave 1"):
        Pages("example.org").take("https://example.org/v1/structures", answer)


@pytest.mark.parametrize("count", [None, True, 6.5, float("nan"), float("inf"), "many", "", [6]])
def test_what_is_no_total_says_nothing(count):
    assert stated_total({"data_returned": count}) is None
