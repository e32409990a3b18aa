"""jobflow-remote: the project's file, the routes of jobs, and a prediction through a real runner."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import yaml

from dao_flows.api.prediction.inputs import Entry
from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.errors import InputError, SettingsError
from dao_flows.launch.flows import predict_flows
from dao_flows.launch.remote import apply_routes, project_document, submit_remotely, write_project
from dao_flows.launch.routes import read_routes
from dao_flows.settings import settings

DOCS = Path(__file__).parents[2] / "docs" / "remote.md"
EXAMPLE = {
    "uri": "mongodb://user:password@db.example.org:27017/",
    "work_dir": "/scratch/me/dao",
    "queues": {"gpu": "gpu", "dft": "cpu", "cpu": "cpu"},
    "environment": "/scratch/me/env/bin",
    "host": "login.example.org",
}
MISSING = importlib.util.find_spec("jobflow_remote") is None

pytestmark = pytest.mark.usefixtures("tiny_library")


@pytest.fixture
def planned():
    return predict_flows(
        [Entry("NaCl")],
        settings(),
        PredictionRequest(n=4, z=1, steps=5, checkpoint="dao-g-tiny", predictor="dao-p-tiny"),
    )


def test_the_page_shows_the_project_that_is_written():
    shown = DOCS.read_text().split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(shown) == project_document("dao", **EXAMPLE)


def test_the_file_is_for_its_owner_alone_and_is_not_written_over(tmp_path):
    path = write_project(project_document("dao", **EXAMPLE), tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="is there already"):
        write_project(project_document("dao", **EXAMPLE), tmp_path)
    with pytest.raises(InputError, match="slurm or none, not 'pbs'"):
        project_document("dao", **EXAMPLE, queue="pbs")


def test_each_job_goes_to_the_worker_of_its_route_with_all_that_it_asks_for(planned):
    workers = {name: worker["resources"] for name, worker in project_document("d", **EXAMPLE)["workers"].items()}
    apply_routes(
        planned[0].flow, read_routes(None, ["screen.category=cpu", "generate.walltime=02:00:00"]), "slurm", workers
    )
    generate, screen = (job.config.manager_config for job, _ in planned[0].flow.iterflow())
    assert (generate["worker"], generate["exec_config"]) == ("gpu", "gpu")
    asked = {"partition": "gpu", "nodes": 1, "ntasks": 1, "cpus_per_task": 1, "gres": "gpu:1", "time": "02:00:00"}
    assert generate["resources"] == asked
    assert screen["worker"] == "cpu"
    assert "gres" not in screen["resources"]


def test_calculations_that_a_verification_starts_have_a_route_of_their_own():
    pytest.importorskip("atomate2", reason="atomate2 is not installed: pip install 'dao-flows[dft]'")
    asked = PredictionRequest(
        n=2, z=2, checkpoint="dao-g-tiny", predictor="dao-p-tiny", verify_with="abinit", verify_top=1
    )
    flow = predict_flows([Entry("Si")], settings(), asked)[0].flow
    apply_routes(flow, read_routes(None, ["calculate.cores=8"]), "slurm", {"dft": {"partition": "long"}})
    job = next(
        job
        for job, _ in flow.iterflow()
        if job.function.__name__ == "verify_candidates" or job.name.startswith("verify")
    )
    assert job.config.manager_config["worker"] == "cpu"
    later = [update["config"]["_set"] for update in job.config_updates]
    assert later
    assert {entry["manager_config->worker"] for entry in later} == {"dft"}
    assert all(entry["manager_config->resources"]["ntasks"] == 8 for entry in later)
    assert all(entry["manager_config->resources"]["partition"] == "long" for entry in later)


@pytest.mark.skipif(not MISSING, reason="jobflow-remote is installed")
def test_without_jobflow_remote_one_line_says_so(planned):
    with pytest.raises(SettingsError, match="jobflow-remote is not installed"):
        submit_remotely(planned, "dao", read_routes(None))


@pytest.mark.skipif(MISSING, reason="jobflow-remote is not installed: docs/remote.md")
@pytest.mark.skipif("DAO_FLOWS_TEST_MONGO_URI" not in os.environ, reason="DAO_FLOWS_TEST_MONGO_URI names no server")
def test_a_prediction_through_a_runner_equals_the_local_one(planned, tmp_path, monkeypatch):
    import pymongo
    from jobflow import JobStore, run_locally
    from jobflow_remote import SETTINGS, ConfigManager
    from jobflow_remote.jobs.runner import Runner
    from maggma.stores import MemoryStore

    monkeypatch.setattr(SETTINGS, "projects_folder", str(tmp_path / "projects"))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    uri, database = os.environ["DAO_FLOWS_TEST_MONGO_URI"], f"dao_remote_{os.getpid()}"
    programs = str(Path(sys.executable).parent)
    document = project_document(
        "dao", uri, str(tmp_path / "work"), queue="none", database=database, environment=programs
    )
    for category in document["workers"]:
        (tmp_path / "work" / category).mkdir(parents=True)
    write_project(document, tmp_path / "projects")
    client = pymongo.MongoClient(uri)
    try:
        ConfigManager().get_project("dao").get_job_controller().reset(max_limit=0)
        ids = submit_remotely(planned, "dao", read_routes(None))
        assert [len(jobs) for jobs in ids] == [2]
        Runner(project_name="dao").run_all_jobs(max_seconds=180)
        states = [job["state"] for job in client[database]["remote_jobs"].find()]
        assert states == ["COMPLETED", "COMPLETED"]
        outputs = [job["output"] for job in client[database]["jobs"].find()]
        found = next(output for output in outputs if "accepted" in output)
        again = predict_flows(
            [Entry("NaCl")],
            settings(),
            PredictionRequest(n=4, z=1, steps=5, checkpoint="dao-g-tiny", predictor="dao-p-tiny"),
        )
        responses = run_locally(again[0].flow, store=JobStore(MemoryStore()), ensure_success=True, log=False)
        local = responses[again[0].flow.output.uuid][1].output
        assert found["provenance"]["science_hash"] == local.provenance.science_hash
        stored = {
            c["candidate_id"]: (c["rank"], c["energy"]["value"], c["structure"]["lattice"]["matrix"])
            for c in found["accepted"]
        }
        assert stored == {
            c.candidate_id: (c.rank, c.energy.value, c.structure.lattice.matrix.tolist()) for c in local.accepted
        }
        assert len(found["accepted"]) + len(found["rejected"]) == 4
    finally:
        client.drop_database(database)
