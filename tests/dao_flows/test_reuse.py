"""Reuse: stored results of the same science in place of running, only where asked for and only while they are whole."""

import json
from pathlib import Path

import pytest

from dao_flows.api.predict import predict
from dao_flows.store.runs import read
from dao_flows.store.stores import collection, job_store

ASKED = {"n": 4, "z": 2, "steps": 4}
PREDICT = ("predict", "NaCl", "-n", "4", "--z", "2", "--steps", "4", "--json")


@pytest.fixture
def first(workplace):
    """What the first prediction gave."""
    return predict("NaCl", **ASKED)


def alter(kind):
    jobs = job_store()
    document = next(iter(jobs.docs_store.query({"output.@class": kind})))
    part = "candidates" if kind == "GenerationDoc" else "rejected" if document["output"]["rejected"] else "accepted"
    document["output"][part][0]["formula"] = "KBr"
    jobs.docs_store.update([document], key=["uuid", "index"])


def attempts():
    return list(collection(job_store(), "runs").query({"event": "job-end"}, sort={"at": 1}))


def test_a_stored_batch_is_taken_only_where_asked_for(first):
    jobs, notices = job_store(), []
    assert jobs.count() == 2
    again = predict("NaCl", **ASKED, on_notice=notices.append)
    assert (again.reused_batches, jobs.count()) == (0, 4)
    assert notices == ["1 of 1 batches are in the store already: --reuse takes them"]
    taken = predict("NaCl", **ASKED, reuse=True, on_notice=notices.append)
    assert (taken.reused_batches, jobs.count(), len(notices)) == (1, 4, 1)
    assert taken.compositions == again.compositions == first.compositions
    run = read(collection(jobs, "runs"), {"run_id": taken.run_id})[0]
    assert [batch.reused_from for batch in run.batches] == [again.run_id]  # the latest


@pytest.mark.parametrize("stored", [False, True])
def test_where_bf16_is_auto_a_result_of_either_precision_is_taken(workplace, call_takes, stored):
    timed = call_takes(1.0, 1.0)
    predict("NaCl", **ASKED, bf16=stored)
    document = next(iter(job_store().query({"output.@class": "ScreeningDoc"})))["output"]
    notices = []
    taken = predict("NaCl", **ASKED, bf16="auto", reuse=True, on_notice=notices.append)
    assert (taken.reused_batches, notices, timed) == (1, [], [])
    run = read(collection(job_store(), "runs"), {"run_id": taken.run_id})[0]
    assert run.science_hashes == [document["provenance"]["science_hash"]]
    assert predict("NaCl", **ASKED, top_k=1, bf16="auto", reuse=True).reused_batches == 0
    assert attempts()[-2]["reused_from"] == attempts()[0]["job_uuid"]  # the generation alone
    assert timed == []


def test_other_science_is_not_taken(first):
    assert predict("NaCl", **{**ASKED, "seed": 1}, reuse=True).reused_batches == 0
    both = predict(["NaCl", "SiO2"], **ASKED, reuse=True)
    assert both.reused_batches == 0  # another batch: other jobs


def test_a_generation_is_taken_for_another_screening(first):
    found = predict("NaCl", **ASKED, top_k=1, reuse=True)
    assert found.reused_batches == 0
    generated, screened = attempts()[-2:]
    assert generated["reused_from"] == attempts()[0]["job_uuid"]
    assert "reused_from" not in screened
    documents = list(job_store().query({"output.@class": "GenerationDoc"}))
    assert len({d["output"]["provenance"]["content_hash"] for d in documents}) == 1


def test_a_generation_is_not_taken_unasked(first):
    predict("NaCl", **ASKED, top_k=1)
    assert all("reused_from" not in attempt for attempt in attempts())


@pytest.mark.parametrize("kind", ["ScreeningDoc", "GenerationDoc"])
def test_an_altered_result_is_computed_again(first, kind):
    alter(kind)
    found = predict("NaCl", **{**ASKED, **({"top_k": 1} if kind == "GenerationDoc" else {})}, reuse=True)
    assert found.reused_batches == 0
    assert [c.formula for c in found.compositions] == ["NaCl"]
    generated = attempts()[-2]
    assert ("reused_from" in generated) == (kind == "ScreeningDoc")


def test_on_the_command_line(workplace, call):
    assert call(*PREDICT)[0] == 0
    code, out, err = call(*PREDICT)
    assert (code, json.loads(out)["reused_batches"]) == (0, 0)
    assert "1 of 1 batches are in the store already: --reuse takes them" in err
    code, out, err = call(*PREDICT, "--reuse")
    assert (code, json.loads(out)["reused_batches"], "in the store already" in err) == (0, 1, False)


def test_flows_to_submit(first):
    from dao_flows.api.prediction.inputs import Entry
    from dao_flows.api.prediction.request import PredictionRequest
    from dao_flows.launch.flows import not_stored, predict_flows
    from dao_flows.settings import settings

    planned = predict_flows([Entry("NaCl"), Entry("SiO2")], settings(), PredictionRequest(**ASKED))
    jobs = job_store()
    assert [each.reuse for each in not_stored(planned, jobs)] == [True]  # both formulas are one batch
    alone = predict_flows([Entry("NaCl")], settings(), PredictionRequest(**ASKED))
    assert not_stored(alone, jobs) == []
    alter("ScreeningDoc")
    assert len(not_stored(alone, jobs)) == 1


def test_a_training_is_taken_with_its_checkpoint(audited, tmp_path, monkeypatch):
    """By a store of its own, so that the run's folder cannot help; registered under the new name."""
    from jobflow import Flow

    from dao_flows.api.local import run_here
    from dao_flows.api.reuse import marks
    from dao_flows.makers.train import TrainMaker
    from dao_flows.model.checkpoint.library import card_of
    from dao_flows.model.files.user_folders import CHECKPOINTS

    jobs = job_store()
    stored = next(d["output"] for d in jobs.query({"output.@class": "TrainingDoc", "output.stage": ""}))
    dataset = next(iter(jobs.query({"output.@class": "DatasetDoc"})))["output"]["path"]
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "library"))
    science = stored["provenance"]["science"]["parameters"]
    config = {name: value for name, value in science.items() if name != "kind" and value is not None}
    maker = TrainMaker(kind="dao-p", config=config | {"threads": 1}, register_as="again", device="cpu")

    def train(reuse):
        job = maker.make(dataset)
        flow = Flow([job])
        flow.update_metadata(marks("a-run", reuse))
        run_here(flow, jobs, lambda done, total, stage: None)
        return jobs.get_output(job.uuid)

    found = train(True)
    assert found["provenance"]["execution"] == stored["provenance"]["execution"]
    assert (found["registered_as"], card_of("again").sha256) == ("again", stored["checkpoint_sha256"])
    assert not (tmp_path / "runs").exists()  # nothing was trained
    anew = train(False)
    assert anew["checkpoint_sha256"] == stored["checkpoint_sha256"]
    assert Path(anew["path"]).is_relative_to(tmp_path / "runs")


def test_pretraining_again_from_the_store(workplace, call, tmp_path, monkeypatch):
    """Every stage but the ingestion is taken over, though folders for runs and datasets are new."""
    crystals = Path(__file__).parent.parent.parent / "examples" / "data" / "crystals_small.parquet"
    training = "{steps: 4, batch_size: 16, rate: 2.0e-3, warm_up: 2, save_every_s: 0, threads: 1}"
    text = f"""
name: small
sources: [{crystals}]
out: OUT
dataset: {{max_atoms: 4, val_share: 0.1}}
network: {{hidden: 8, layers: 1, heads: 2, frequencies: 2, time_width: 8, volume_scaling: true}}
predictor: {training}
stage_one: {training}
relax: {{iterations: 1, low: 0.3, high: 0.4}}
stage_two: {training}
evaluate: {{limit: 2, samples: 1, steps: 2}}
device: cpu
"""
    documents = []
    for name in ("one", "two"):
        config = Path(f"{name}.yaml")
        config.write_text(text.replace("OUT", name))
        monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / f"runs-{name}"))
        code, out, err = call("pretrain", str(config), "--json", *(["--reuse"] if name == "two" else []))
        assert code == 0, err
        documents.append(json.loads(out[out.index("{") :]))
    assert documents[0]["checkpoint"] == documents[1]["checkpoint"]
    taken = [attempt for attempt in attempts() if attempt.get("reused_from")]
    assert len(taken) == 6  # three trainings, a shard, two evaluations
    assert not (tmp_path / "runs-two").exists()
