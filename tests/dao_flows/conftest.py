"""A workplace of one's own: tiny checkpoints, an embedded store and a working directory under a temporary folder."""

import fcntl
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore
from monty.json import jsanitize
from pydantic import BaseModel
from pymatgen.core import Structure

from dao_flows.cli import run
from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import CandidateDoc, Energy, Validity
from dao_flows.makers.schemas.verification import Level, VerificationDoc
from dao_flows.makers.science.chemistry import formula_of
from dao_flows.makers.science.symmetry import space_group
from dao_flows.model.files.user_folders import CHECKPOINTS, LIBRARIES
from dao_flows.store.collections import JOBS, KEYS
from dao_flows.store.embedded import EmbeddedStore
from dao_flows.store.stores import collection

MONGO_URI = os.environ.get("DAO_FLOWS_TEST_MONGO_URI")
FOREIGN = ("DAO_FLOWS_", "JOBFLOW_")
PLANTED = {  # in the environment of the audited flow: none of it may reach a document, a file or a line of output
    "MP_API_KEY": "planted-key-93718",
    "LAB_PASSWORD": "planted-password-55120",
    "RESULTS_DB": "mongodb://ada:planted-in-uri-20264@db.example:27017/results",
    "LOST_CHECKPOINT": "https://ada:planted-in-name-77031@host.example/checkpoint",
}
BROWSER_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--window-size=1280,1600",
)
BROWSER_FLAGS += (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def environment(home: Path, checkpoints: Path) -> dict[str, str]:
    """The environment of a user whose home is `home`, who has the tiny checkpoints and no jobflow configuration.

    The library of known crystals is the small one of all tests.
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return {
        **clean,
        CHECKPOINTS: str(checkpoints),
        LIBRARIES: os.environ[LIBRARIES],
        "HOME": str(home),
        "DAO_FLOWS_DATA_DIR": str(home / "data"),
        "DAO_FLOWS_CHECKPOINT": "dao-g-tiny",
        "DAO_FLOWS_PREDICTOR": "dao-p-tiny",
        "DAO_FLOWS_JUDGE": "none",  # opening one takes seconds
        "OMP_NUM_THREADS": "1",
    }


def enter(patch: pytest.MonkeyPatch, home: Path, checkpoints: Path) -> Path:
    """Make this process that user's, in an empty working directory, which is returned."""
    wanted = environment(home, checkpoints)
    for key in set(os.environ) - set(wanted):
        patch.delenv(key)
    for key, value in wanted.items():
        patch.setenv(key, value)
    work = home / "work"
    work.mkdir(exist_ok=True)
    patch.chdir(work)
    return work


@pytest.fixture
def heeds_signals() -> Iterator[None]:
    """This process stops at Ctrl-C, wherever it was started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def workplace(tmp_path, tiny_checkpoints, monkeypatch) -> Path:
    """The working directory of a user with an empty store."""
    return enter(monkeypatch, tmp_path, tiny_checkpoints)


@pytest.fixture(scope="session")
def stored_home(tmp_path_factory, tiny_checkpoints) -> Path:
    """The home of a user who has predicted NaCl and Cr3Os once; not to be changed."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, home, tiny_checkpoints)
        assert run(["predict", "NaCl", "Cr3Os", "-n", "24", "--z", "2", "--steps", "4", "--out", "cif"]) == 0
    return home


@pytest.fixture
def stored(stored_home, tiny_checkpoints, monkeypatch) -> Path:
    """The working directory of that user."""
    return enter(monkeypatch, stored_home, tiny_checkpoints)


@pytest.fixture(scope="session")
def audited_home(tmp_path_factory) -> Path:
    """The home of a user who has run the small flow of every stage (audit_flow.py); not to be changed."""
    home = tmp_path_factory.mktemp("audited")
    script = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "audit_flow.py"), str(home / "flow")]
    env = environment(home, home / "checkpoints") | PLANTED
    done = subprocess.run(script, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (home / "output.txt").write_text(done.stdout + done.stderr)
    return home


@pytest.fixture
def audited(audited_home, tmp_path, monkeypatch) -> Path:
    """The working directory of that user, with a copy of the store: documents may be changed, other files may not."""
    work = enter(monkeypatch, audited_home, audited_home / "checkpoints")
    shutil.copytree(audited_home / "data" / "store", tmp_path / "data" / "store")
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(audited_home / "data" / "runs"))
    return work


@pytest.fixture(scope="session")
def mutator() -> Any:
    """benchmarks/mutate_store.py."""
    path = Path(__file__).parents[2] / "benchmarks" / "mutate_store.py"
    spec = importlib.util.spec_from_file_location("mutate_store", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate_store"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def install(tmp_path, monkeypatch) -> Iterator[Callable[[str, str, str], None]]:
    """Leaves what pip would of a package: install(module, its source, what its entry_points.txt says)."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install(module: str, source: str, entry_points: str) -> None:
        told = site / f"{module}-1.0.dist-info"
        told.mkdir()
        (site / f"{module}.py").write_text(source)
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (told / "entry_points.txt").write_text(entry_points)
        importlib.invalidate_caches()
        forget_plugins()

    yield install
    monkeypatch.undo()
    for module in site.glob("*.py"):
        sys.modules.pop(module.stem, None)
    forget_plugins()


def forget_plugins() -> None:
    """What is looked up once a process: other packages are installed now."""
    from dao_flows.audit.graph.drawing import colours
    from dao_flows.audit.integrity.consistency import newest_versions
    from dao_flows.crate.documents import known_documents
    from dao_flows.makers.models.plugins import points
    from dao_flows.makers.stages.registry import stages

    for each in (points, stages, colours, newest_versions, known_documents):
        each.cache_clear()


@pytest.fixture
def start(workplace) -> Callable[..., subprocess.Popen[str]]:
    """Start the real command in a process of its own, in this test's workplace."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
        # a runner in the background starts its children with SIGINT ignored; a terminal does not
        heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        command = [sys.executable, "-c", f"{heed}; from dao_flows.cli import main; main()", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(command, **{**pipes, **options}))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def a_candidate() -> Callable[..., CandidateDoc]:
    """Makes a candidate of a structure, as a prediction of 4 candidates in 20 s and a screening of 4 s leave it."""

    def make(name: str, structure: Structure, energy: float = 0.0, rank: int = 1, **values: Any) -> CandidateDoc:
        formula = formula_of(structure.composition)
        cells = [{"formula": formula.name, "cells": [{"z": formula.units, "candidates": 4}]}]
        science = Science(
            maker="GenerateMaker",
            parameters={"steps": 50},
            inputs={"compositions": cells},
            checkpoints={},
            seed=0,
            code_version="0",
        )
        screened = science.model_copy(update={"maker": "ScreenMaker", "inputs": {"generation": "0"}, "parameters": {}})
        predictor = values.pop("predictor", "p" * 64)
        screened = screened.model_copy(update={"checkpoints": {"predictor": predictor}, "seed": None})
        executions = [execution_record(datetime.now(UTC), "cpu", {}) for _ in range(2)]
        executions[0].wall_seconds, executions[1].wall_seconds = 20.0, 4.0
        generation, screening = (provenance(s, e) for s, e in zip((science, screened), executions, strict=True))
        composition = structure.composition
        fields = {
            "candidate_id": name,
            "formula": formula.name,
            "z": formula.units,
            "rank": rank,
            "structure": structure,
            "generated_structure": None,
            "refined_structure": None,
            "energy": Energy(value=energy, model="dao-p-test", model_sha256=predictor),
            "validity": Validity(
                shortest_distance=2, shortest_pair="Cl-Na", distance_ratio=1, volume_per_atom=20, charge_neutral=True
            ),
            "symmetry_tight": None,
            "symmetry_loose": space_group(structure, 0.1)[0],
            "n_atoms": len(structure),
            "elements": sorted(element.symbol for element in composition.elements),
            "chemsys": composition.chemical_system,
            "seed": 0,
            "generation": generation,
            "screening": screening,
        }
        return CandidateDoc(**{**fields, **values})

    return make


@pytest.fixture(scope="session")
def a_verification() -> Callable[..., VerificationDoc]:
    """Makes a verification of a candidate: relaxed in 9 steps, 18 s on 2 cores, then static in 4 s."""

    def make(candidate: CandidateDoc, energy_per_atom: float = -3.0, **values: Any) -> VerificationDoc:
        relaxed = values.pop("structure", candidate.structure)
        science = Science(
            maker="VerifyMaker",
            parameters={},
            inputs={"candidate": candidate.candidate_id, "energy": energy_per_atom},
            checkpoints={},
            code_version="0",
        )
        record = provenance(science, execution_record(datetime.now(UTC), "cpu", {}))
        record.execution.ended_at = values.pop("ended_at", record.execution.ended_at)
        step = {"job_uuid": "", "directory": "here:/", "energy_per_atom": 0.0, "converged": True, "corrections": []}
        fields = {
            "verification_id": candidate.candidate_id.replace("dao", "ver"),
            "state": "successful",
            "candidate_id": candidate.candidate_id,
            "candidate_science_hash": candidate.screening.science_hash,
            "formula": candidate.formula,
            "chemsys": candidate.chemsys,
            "backend": "forcefield",
            "level": Level(code="CHGNet", code_version="0.4.2", functional="CHGNet"),
            "sent": candidate.structure,
            "structure": relaxed,
            "energy": energy_per_atom * len(relaxed),
            "energy_per_atom": energy_per_atom,
            "converged": True,
            "calculations": [
                {**step, "step": "relax", "state": "successful", "ionic_steps": 9, "wall_seconds": 18.0, "cores": 2},
                {**step, "step": "static", "state": "successful", "ionic_steps": None, "wall_seconds": 4.0, "cores": 1},
            ],
            "core_seconds": 40.0,
            "provenance": record,
        }
        return VerificationDoc(**{**fields, **values})

    return make


@pytest.fixture(scope="session")
def put() -> Callable[..., None]:
    """Puts documents into a job store, as finished jobs of these uuids do, or into one of its collections."""

    def put(jobs: JobStore, *documents: BaseModel, name: str | None = None, uuids: Sequence[str] | None = None) -> None:
        for number, document in enumerate(documents):
            clean = jsanitize(document, strict=True)
            if name is not None:
                key = KEYS[name]
                collection(jobs, name).update({"_id": clean[key], **clean}, key=key)
                continue
            uuid = uuids[number] if uuids else f"job-{jobs.count()}"
            finished = {"uuid": uuid, "index": 1, "completed_at": "2026-11-23T10:00:00", "output": clean}
            jobs.update({"_id": uuid, **finished})

    return put


@pytest.fixture(params=["embedded", "memory"])
def jobs(request, tmp_path) -> JobStore:
    """An empty job store of both kinds."""
    store = JobStore(EmbeddedStore(JOBS, str(tmp_path / "store")) if request.param == "embedded" else MemoryStore())
    store.connect()
    return store


@pytest.fixture
def set_up(workplace, call, monkeypatch):
    """Writes a project on a database of its own, by a URI and options of `init`; enters its environment."""
    pytest.importorskip("fireworks", reason="FireWorks is not installed")
    if MONGO_URI is None:
        pytest.skip("DAO_FLOWS_TEST_MONGO_URI names no server")
    database = f"dao_flows_test_{uuid.uuid4().hex[:8]}"
    turn = (Path(tempfile.gettempdir()) / "dao_flows_test_slurm.lock").open("w")

    def set_up(*options: str, uri: str = MONGO_URI) -> Path:
        if "slurm" in options:  # one test at a time: one of them drains the node that another asks for
            fcntl.flock(turn, fcntl.LOCK_EX)
        with monkeypatch.context() as patch:
            patch.setenv("DAO_FLOWS_MONGO_URI", uri)
            code, out, err = call("init", "project", "--database", database, "--yes", *options)
        assert code == 0, out + err
        folder = Path("project").absolute()
        for line in (folder / "env.sh").read_text().splitlines():
            if (found := re.match(r"export (\w+)=(.*)", line)) and found[1] != "PATH":
                monkeypatch.setenv(found[1], shlex.split(found[2])[0])
        (folder / "launches").mkdir(exist_ok=True)
        return folder

    yield set_up
    turn.close()
    from pymongo import MongoClient

    with MongoClient(MONGO_URI) as client:
        client.drop_database(database)


@pytest.fixture
def project(set_up) -> Path:
    """A project whose workers run here."""
    return set_up()


@pytest.fixture
def work():
    """Starts a worker of a route, as launch.sh does; what it says goes to worker.log in its directory."""
    from dao_flows.launch.project import worker

    started = []

    def work(folder: Path, route: str, *options: str, place: Path | None = None) -> subprocess.Popen[bytes]:
        files = ["-l", str(folder / "my_launchpad.yaml"), "-w", str(folder / f"fworker_{route}.yaml")]
        place = place or folder / "launches" / uuid.uuid4().hex[:8]
        place.mkdir(exist_ok=True)
        command = [*worker("rlaunch"), "--loglvl", "WARNING", *files, "rapidfire", "--sleep", "1", *options]
        with (folder / "launches" / f"worker-{len(started)}.log").open("w") as log:
            started.append(subprocess.Popen(command, cwd=place, stdout=log, stderr=log))
        return started[-1]

    yield work
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def finish():
    """Waits for workers, which must end well."""

    def finish(*workers: subprocess.Popen[bytes], seconds: float = 240) -> None:
        ends = [worker.wait(seconds) for worker in workers]
        said = [path.read_text()[-2000:] for path in Path.cwd().glob("project/launches/worker-*.log")]
        assert ends == [0] * len(workers), "\n".join(said)

    return finish


@pytest.fixture
def submitted(call):
    """Submits, and tells of the flows."""

    def submitted(*arguments: str) -> list[dict[str, Any]]:
        code, out, err = call("submit", *arguments, "--json")
        assert code == 0, err
        return json.loads(out)["flows"]

    return submitted


@pytest.fixture
def browser(tmp_path) -> Iterator[Any]:
    """A browser without a network."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={tmp_path / 'chromium'}", "--enable-unsafe-swiftshader"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield driver
    driver.quit()
