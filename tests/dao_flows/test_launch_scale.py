"""Many flows on the LaunchPad: what `status` says of them, and that it reads no more of them than it must."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import mongomock
import mongomock.gridfs
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dao_flows.api.prediction.inputs import Entry
from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.launch import launchpad as launchpad_module
from dao_flows.launch import progress, submit
from dao_flows.launch.flows import predict_flows
from dao_flows.launch.progress import status
from dao_flows.launch.routes import read_routes
from dao_flows.settings import settings

fireworks = pytest.importorskip("fireworks", reason="FireWorks is not installed")
STATES = ("WAITING", "READY", "RESERVED", "RUNNING", "COMPLETED", "FIZZLED", "DEFUSED")
LONG_AGO = (datetime.now(UTC) - timedelta(days=1)).isoformat()


@pytest.fixture
def pad(workplace):
    """A LaunchPad of this process alone, with one flow of two jobs."""
    mongomock.gridfs.enable_gridfs_integration()
    found = fireworks.LaunchPad(name="test", strm_lvl="ERROR")
    found.connection.close()
    found.connection = mongomock.MongoClient()
    found.db = found.connection["test"]
    for name in ("fireworks", "launches", "offline_runs", "fw_id_assigner", "workflows"):
        setattr(found, name, found.db[name])
    launchpad_module.prepare(found)
    planned = predict_flows([Entry("NaCl")], settings(), PredictionRequest(n=2, steps=2))
    submit.submit(planned, found, read_routes(None), "none")
    return found


def copies(pad, states):
    """In place of the only flow: one for each pair of states, each job with a launch of 3 s by its id."""
    workflow, *jobs = pad.workflows.find_one({}), *pad.fireworks.find({}).sort("fw_id", 1)
    for collection in (pad.workflows, pad.fireworks, pad.launches):
        collection.delete_many({})
    for number, pair in enumerate(states):
        ids = [10 * number + 1, 10 * number + 2]
        about = {**workflow["metadata"]["dao_flows"], "submission": f"key-{number}"}
        changed = {"_id": number, "nodes": ids, "fw_states": dict(zip(map(str, ids), pair, strict=True))}
        pad.workflows.insert_one({**workflow, **changed, "metadata": {"dao_flows": about}})
        for fw_id, job, state in zip(ids, jobs, pair, strict=True):
            ran = state in ("RUNNING", "COMPLETED", "FIZZLED")
            pad.fireworks.insert_one(
                {**job, "_id": fw_id, "fw_id": fw_id, "state": state, "launches": [fw_id] if ran else []}
            )
            if ran:
                pad.launches.insert_one({"launch_id": fw_id, "fw_id": fw_id, "state": state, "state_history": []})
                pad.launches.update_one({"launch_id": fw_id}, {"$set": {"runtime_secs": 3.0 * fw_id}})


@given(st.lists(st.tuples(*[st.sampled_from(STATES)] * 2), min_size=1, max_size=8), st.booleans())
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_servers_counts_are_those_of_the_jobs_one_by_one(pad, states, foreign):
    original = [*pad.workflows.find({}), *pad.fireworks.find({})]
    copies(pad, states)
    if foreign:  # a workflow of somebody else, and a job like ours
        pad.workflows.insert_one({"_id": "other", "nodes": [999], "metadata": {}, "state": "READY"})
        pad.fireworks.insert_one({**pad.fireworks.find_one({}), "_id": 999, "fw_id": 999, "state": "READY"})
    found = status(pad)
    expected = {"generate": Counter(a for a, _ in states), "screen": Counter(b for _, b in states)}
    assert {stage.stage: stage.states for stage in found.stages} == expected
    assert len(found.flows) == len(states)
    for place, stage in enumerate(found.stages):
        done = [3.0 * (10 * n + 1 + place) for n, pair in enumerate(states) if pair[place] == "COMPLETED"]
        assert stage.seconds == (pytest.approx(sum(done) / len(done)) if done else None)
    failed = [10 * n + 1 + place for n, pair in enumerate(states) for place in (0, 1) if pair[place] == "FIZZLED"]
    assert [failure.job for failure in found.failures] == sorted(failed, reverse=True)[:10]
    assert all(failure.flow == failure.job - (failure.job - 1) % 10 for failure in found.failures)
    pad.workflows.delete_many({})
    pad.fireworks.delete_many({})
    pad.workflows.insert_one(original[0])
    pad.fireworks.insert_many(original[1:])


def test_lost_jobs_count_for_their_stage_and_only_while_they_run(pad):
    copies(pad, [("RUNNING", "WAITING"), ("COMPLETED", "RUNNING"), ("RUNNING", "WAITING"), ("FIZZLED", "WAITING")])
    silent = [{"state": "RUNNING", "updated_on": LONG_AGO}]
    alive = [{"state": "RUNNING", "updated_on": datetime.now(UTC).isoformat()}]
    for launch, history in ((1, silent), (12, silent), (21, alive)):
        pad.launches.update_one({"launch_id": launch}, {"$set": {"state_history": history}})
    pad.launches.insert_one({"launch_id": 99, "fw_id": 31, "state": "RUNNING", "state_history": silent})  # not its last
    assert {stage.stage: stage.lost for stage in status(pad).stages} == {"generate": 1, "screen": 1}


def test_the_mean_is_over_the_latest_jobs(pad, monkeypatch):
    monkeypatch.setattr(progress, "SAMPLE", 5)
    copies(pad, [("COMPLETED", "FIZZLED")] * 40)
    found = status(pad, failures=3)
    assert [stage.states for stage in found.stages] == [{"COMPLETED": 40}, {"FIZZLED": 40}]
    assert found.stages[0].seconds == pytest.approx(3.0 * (351 + 361 + 371 + 381 + 391) / 5)
    assert [failure.job for failure in found.failures] == [392, 382, 372]
