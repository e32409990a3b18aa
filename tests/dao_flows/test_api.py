"""`predict`: reproducible, checked up front, safe against interruption."""

import signal

import numpy as np
import pytest

from dao_flows import predict
from dao_flows.api import predict as api
from dao_flows.errors import InputError
from dao_flows.makers import generate
from dao_flows.makers.generators import dao_g
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.store import runs, stores
from dao_flows.store.candidates import CandidateBuilder

QUICK = {"n": 4, "z": 2, "steps": 4}
HOPELESS = {"n": 2, "z": 1, "steps": 40}  # an untrained network's cells explode: nothing passes, and little is computed


def fingerprint(result):
    return [
        (c.candidate_id, c.rank, c.energy.value, c.structure.lattice.matrix.tolist(), c.structure.frac_coords.tolist())
        for c in result.candidates()
    ]


def runs_of(store):
    return runs.read(stores.collection(store, "runs"))


def test_the_sampler_asked_for_is_the_one_in_the_document(workplace):
    predict("NaCl", sampler="ancestral", **QUICK)
    [run] = runs_of(stores.job_store())
    assert run.request["sampler"] == "ancestral"
    documents = stores.job_store().query({"output.provenance.science.maker": "GenerateMaker"})
    assert [d["output"]["provenance"]["science"]["parameters"]["sampler"] for d in documents] == ["ancestral"]


def test_the_same_seed_gives_the_same_candidates_and_they_are_stored_once(workplace):
    first, second = predict("NaCl", **QUICK), predict(["NaCl"], **QUICK)
    assert fingerprint(first) == fingerprint(second) != []
    other = predict("NaCl", seed=1, **QUICK)
    assert not {c[0] for c in fingerprint(first)} & {c[0] for c in fingerprint(other)}
    store = stores.job_store()
    stored = [doc["candidate_id"] for doc in stores.collection(store, "candidates").query()]
    assert sorted(stored) == sorted(c[0] for c in fingerprint(first) + fingerprint(other))
    assert [run.outcome for run in runs_of(store)] == ["finished"] * 3
    assert second.reused_batches == 0, "what finished is computed again"
    assert list(workplace.iterdir()) == [], "nothing is left in the working directory"


def test_a_candidate_does_not_depend_on_the_batch(workplace, monkeypatch):
    together = predict(["NaCl", "MgO"], **QUICK)
    monkeypatch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "1")
    apart = predict(["MgO", "NaCl"], **QUICK)
    one, two = ({c.candidate_id: c for c in result.candidates()} for result in (together, apart))
    assert one.keys() == two.keys() != set()
    for candidate_id, candidate in one.items():
        assert np.allclose(candidate.structure.lattice.matrix, two[candidate_id].structure.lattice.matrix, rtol=1e-3)


def test_files_go_to_out_and_say_what_the_result_says(workplace):
    result = predict("NaCl", out="cif", **QUICK)
    assert sorted(workplace.rglob("*.cif")) == sorted(workplace / path for path in result.files)
    assert len(result.files) == len(result.compositions[0].ranked) > 0


def test_every_z_that_fits_is_named(workplace):
    (composition,) = predict("Cr3Os", n=7, steps=40, max_atoms=12, templates=0).compositions
    assert {cells.z: cells.candidates for cells in composition.cells} == {1: 3, 2: 2, 3: 2}


def test_a_thousand_formulas_with_three_bad_ones_name_the_three_before_anything_runs(workplace):
    formulas = [f"Na{i % 9 + 1}Cl{i % 7 + 1}" for i in range(1000)]
    formulas[5], formulas[500], formulas[999] = "Xx2", "Na0.5Cl", "UO2"
    with pytest.raises(InputError, match="3 of 1000") as caught:
        predict(formulas)
    assert all(text in str(caught.value) for text in ("Xx", "fractional", "U; it covers"))
    store = stores.job_store()
    assert store.count() == 0
    assert runs_of(store) == []


@pytest.mark.parametrize(
    "setting",
    [
        {"n": 0},
        {"bf16": "yes"},
        {"sampler": "euler"},
        {"seed": -1},
        {"steps": 0},
        {"top_k": 0},
        {"max_atoms": 1000},
        {"n": 10**6},
    ],
)
def test_settings_out_of_range_are_refused_before_anything_runs(workplace, setting):
    with pytest.raises(ParameterError):
        predict("NaCl", **{**QUICK, **setting})
    assert runs_of(stores.job_store()) == []


@pytest.mark.parametrize(("at", "finished"), [(0, 0), (2, 2)])
def test_an_interrupted_run_goes_on_where_it_stopped(workplace, monkeypatch, at, finished):
    formulas = ["NaCl", "MgO", "CaO"]
    monkeypatch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "1")
    computed = []

    def stop(progress):
        if progress.batch == at + 1:
            raise KeyboardInterrupt

    with pytest.raises(api.Interrupted, match=f"{finished} of 3 batches"):
        predict(formulas, on_progress=stop, **HOPELESS)
    result = predict(formulas, on_progress=lambda p: computed.append(p.batch), **HOPELESS)
    assert result.reused_batches == finished
    assert set(computed) == set(range(at + 1, 4))
    assert [c.formula for c in result.compositions] == formulas
    outcomes = [run.outcome for run in runs_of(stores.job_store())]
    assert outcomes == ["finished", "interrupted"]
    assert len(runs_of(stores.job_store())[0].science_hashes) == 3
    assert predict(formulas, **HOPELESS).reused_batches == 0


@pytest.mark.parametrize(("made_of_it", "finished"), [(ValueError("could not determine the shape"), 0), (None, 1)])
def test_an_interrupt_that_a_library_hides_is_one(workplace, monkeypatch, heeds_signals, made_of_it, finished):
    """As torch makes a ValueError of it while it reads a file, and generators lose it while they are closed."""
    load_model = dao_g.load_model

    def interrupted(*arguments):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if made_of_it is not None:
                raise made_of_it from None
        return load_model(*arguments)

    monkeypatch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "1")
    with monkeypatch.context() as patch, pytest.raises(api.Interrupted, match=f"{finished} of 2 batches"):
        patch.setattr(dao_g, "load_model", interrupted)
        predict(["NaCl", "MgO"], **HOPELESS)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [run.outcome for run in runs_of(stores.job_store())] == ["interrupted"]


def test_an_interrupted_run_takes_over_what_auto_came_to_then(workplace, monkeypatch, call_takes):
    monkeypatch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "1")

    def stop(progress):
        if progress.batch == 2:
            raise KeyboardInterrupt

    timed = call_takes(2.0, 1.0)
    with pytest.raises(api.Interrupted, match="1 of 2 batches"):
        predict(["NaCl", "MgO"], bf16="auto", on_progress=stop, **HOPELESS)
    assert len(timed) == 2
    timed = call_takes(1.0, 2.0)  # another machine
    assert predict(["NaCl", "MgO"], bf16="auto", **HOPELESS).reused_batches == 1
    assert len(timed) == 1
    drawn = [d["output"]["provenance"] for d in stores.job_store().query({"output.@class": "GenerationDoc"})]
    assert sorted(each["science"]["parameters"]["bf16"] for each in drawn) == [False, True]
    assert all(e["science"]["parameters"]["bf16"] == e["execution"]["precision"]["bf16"] for e in drawn)


def test_a_batch_whose_candidates_were_not_laid_out_yet_is_finished_all_the_same(workplace, monkeypatch):
    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(api.Interrupted):
        patch.setattr(CandidateBuilder, "build", killed)
        predict("NaCl", **QUICK)
    assert stores.collection(stores.job_store(), "candidates").count() == 0
    result = predict("NaCl", **QUICK)
    assert result.reused_batches == 1
    assert stores.collection(stores.job_store(), "candidates").count() == len(fingerprint(result)) > 0


def test_another_request_takes_nothing_over(workplace):
    def stop(progress):
        if progress.stage == "generate" and progress.batch == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "1")
        with pytest.raises(api.Interrupted):
            predict(["NaCl", "MgO"], on_progress=stop, **HOPELESS)
        assert predict(["NaCl", "MgO"], seed=3, **HOPELESS).reused_batches == 0
        assert predict(["NaCl", "MgO"], **HOPELESS).reused_batches == 1


def test_a_failure_is_logged_and_raised(workplace, monkeypatch):
    def explode(device):
        raise RuntimeError("the GPU is on fire at mongodb://me:hunter2@host")

    monkeypatch.setattr(generate, "pick_device", explode)
    with pytest.raises(RuntimeError, match="on fire"):
        predict("NaCl", **QUICK)
    (run,) = runs_of(stores.job_store())
    assert run.outcome == "failed"
    assert run.error == "RuntimeError: the GPU is on fire at mongodb://***@host"


def test_jobs_carry_the_run_that_they_belong_to(stored):
    store = stores.job_store()
    (run,) = runs_of(store)
    assert {doc["metadata"]["dao_flows"]["run_id"] for doc in store.query()} == {run.run_id}
    assert {doc["uuid"] for doc in store.query()} == {run.batches[0].generate_uuid, run.batches[0].screen_uuid}
