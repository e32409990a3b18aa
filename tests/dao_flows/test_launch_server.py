"""Launching for real: a MongoDB server, FireWorks' own workers in processes of their own, and a Slurm."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter

import pytest
import yaml

from dao_flows.launch.launchpad import launchpad
from dao_flows.store import stores
from dao_flows.store.collections import KEYS

MONGO_URI = os.environ.get("DAO_FLOWS_TEST_MONGO_URI")
PLANTED = "p1anted-app-name"  # in the URI, where a password would stand: the test server may have no users


def partitions() -> set[str]:
    """Of the Slurm here; none if there is none, or it does not run."""
    if not shutil.which("sinfo"):
        return set()
    asked = subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True, timeout=60)
    return set(asked.stdout.split())


def results():
    """Outputs in the store by kind of document, without what tells of the execution, or hashes that."""
    found = Counter()
    for document in stores.job_store().query({}, properties=["output", "name"]):
        text = json.dumps(without_execution(document["output"]), sort_keys=True, default=str)
        found[document["name"], text] += 1
    return found


def without_execution(value):
    if isinstance(value, dict):
        left_out = ("execution", "content_hash", "@version")
        return {key: without_execution(item) for key, item in value.items() if key not in left_out}
    return [without_execution(item) for item in value] if isinstance(value, list) else value


PREDICTION = ("predict", "NaCl", "-n", "8", "--z", "2", "--steps", "4")


def test_what_workers_compute_equals_a_local_run_and_holds_no_credentials(
    set_up, call, monkeypatch, work, finish, submitted
):
    monkeypatch.setenv("MP_API_KEY", "p1anted-api-key")
    assert call(*PREDICTION, "--out", "cif")[0] == 0
    local = results()
    folder = set_up(uri=f"{MONGO_URI}/?appname={PLANTED}")
    flow = submitted(*PREDICTION)[0]
    assert submitted(*PREDICTION)[0]["new"] is False
    finish(work(folder, "cpu"))  # takes nothing: both jobs are the GPU worker's
    assert launchpad().launches.count_documents({}) == 0
    finish(work(folder, "gpu"))
    assert results() == local
    code, out, _ = call("status", str(flow["flow"]), "--json")
    assert (code, json.loads(out)["flows"][0]["state"]) == (0, "COMPLETED")
    assert call("build")[0] == 0
    candidates = stores.collection(stores.job_store(), "candidates")
    assert candidates.count() > 0
    pad = launchpad()
    dump = [repr(list(pad.db[name].find())) for name in pad.db.list_collection_names()]
    assert len(dump) >= 5
    text = "".join(dump) + "".join(path.read_text() for path in (folder / "launches").rglob("FW.json"))
    assert "GenerateMaker" in text
    for planted in (PLANTED, "p1anted-api-key", "mongodb://"):
        assert planted not in text


def test_a_killed_worker_is_found_lost_and_its_job_run_again_once(project, call, work, finish, submitted, start):
    quick = {"PING_TIME_SECS": 1, "RUN_EXPIRATION_SECS": 3, "WFLOCK_EXPIRATION_SECS": 2}
    config = yaml.safe_load((project / "FW_config.yaml").read_text())
    (project / "FW_config.yaml").write_text(yaml.safe_dump(config | quick))
    flow = submitted(*PREDICTION)[0]
    victim = work(project, "gpu")
    pad = launchpad()
    deadline = time.monotonic() + 60
    while not list((project / "launches").rglob("FW.json")):  # written when the job is claimed, before it begins
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert stores.job_store().count() == 0  # in the middle of its job
    pad.workflows.update_one({}, {"$set": {"locked": True}})  # a worker may be killed in the moments when it holds it
    time.sleep(4)
    stages = json.loads(call("status", str(flow["flow"]), "--json")[1])["stages"]
    assert [stage["lost"] for stage in stages] == [1, 0]
    finish(work(project, "gpu", "--max_loops", "1"))  # a lost job is not taken by others, its flow waits
    assert stores.job_store().count() == 0
    again = start("rerun", str(flow["flow"]))
    assert again.communicate(timeout=60)[0] == f"again: jobs {flow['flow']}\n"
    finish(work(project, "gpu"))
    assert Counter(job["name"] for job in stores.job_store().query({})) == {"generate": 1, "screen": 1}
    assert pad.fireworks.count_documents({"state": "COMPLETED"}) == 2
    assert [len(job["archived_launches"]) for job in pad.fireworks.find().sort("fw_id", 1)] == [1, 0]


def test_two_workers_run_each_of_twenty_jobs_once(project, monkeypatch, work, finish, submitted):
    monkeypatch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "2")
    anions, cations = ("O", "S", "Se", "Te"), ("Mg", "Ca", "Sr", "Ba", "Zn")
    formulas = [cation + anion for cation in cations for anion in anions]
    flows = submitted("predict", *formulas, "-n", "2", "--z", "1", "--steps", "2", "--route", "screen.category=cpu")
    assert len(flows) == len({flow["key"] for flow in flows}) == 20
    finish(work(project, "gpu"), work(project, "gpu"))
    pad = launchpad()
    launches = list(pad.launches.find({}, {"fw_id": 1, "state": 1}))
    assert Counter(launch["state"] for launch in launches) == {"COMPLETED": 20}
    assert len({launch["fw_id"] for launch in launches}) == 20
    documents = list(stores.job_store().query({}, properties=["uuid", "name", "output.compositions"]))
    assert Counter(document["name"] for document in documents) == {"generate": 20}
    made = sorted(document["output"]["compositions"][0]["asked"][0] for document in documents)
    assert made == sorted(formulas)
    assert len({document["uuid"] for document in documents}) == 20


@pytest.mark.skipif(not {"gpu", "cpu"} <= partitions(), reason="no Slurm with partitions gpu and cpu runs here")
def test_each_job_runs_in_its_partition_of_slurm(set_up, call, submitted):
    queues = ("--queue", "slurm", "--gpu-queue", "gpu", "--dft-queue", "cpu", "--cpu-queue", "cpu")
    assert call(*PREDICTION, "--out", "cif")[0] == 0
    local = results()
    folder = set_up(*queues)
    flow = submitted(*PREDICTION, "--route", "screen.category=cpu")[0]
    script = [str(folder / "launch.sh"), "--nlaunches", "1", "--sleep", "1", "--timeout", "60"]
    with subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as launcher:
        pad = launchpad()
        deadline = time.monotonic() + 120
        while pad.fireworks.count_documents({"state": "COMPLETED"}) < 2:
            assert time.monotonic() < deadline, call("logs", str(flow["flow"]))[1]
            time.sleep(0.5)
        launcher.terminate()
    ran = {}
    for job in pad.fireworks.find():
        launch = pad.launches.find_one({"launch_id": job["launches"][-1]})
        ids = {entry.get("reservation_id") for entry in launch["state_history"]} - {None}
        asked = subprocess.run(["scontrol", "show", "job", *ids], capture_output=True, text=True, check=True).stdout
        ran[job["name"]] = (re.search(r"Partition=(\S+)", asked)[1], "gres:gpu:1" in asked or "gres/gpu" in asked)
    assert ran == {"generate": ("gpu", True), "screen": ("cpu", False)}
    assert results() == local


def test_what_workers_write_to_is_indexed(project):
    """Found by benchmarks/launching.py: each document stored made the server read all the others."""
    database = launchpad().db

    def keys(name):
        return [list(index["key"]) for index in database[name].list_indexes()]

    assert {("uuid",), ("output.@class", "completed_at")} <= {tuple(key) for key in keys("jobs")}
    for name, key in KEYS.items():
        assert [key] in keys(name)
    assert ["spec._category", "state", "spec._priority"] in keys("fireworks")
