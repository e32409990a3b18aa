"""Evaluation: the figures are those of the protocol, a second run draws nothing anew, and bad requests are refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobflow import run_locally

from dao_flows.makers import evaluate
from dao_flows.makers.evaluate import EvaluateMaker, EvaluationDoc, energy_figures
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.science.match_rate import match
from dao_flows.model.checkpoint.format import CheckpointError
from dao_flows.model.data.shards import DataError

QUICK = {"predictor": "dao-p-tiny", "steps": 3, "samples": 2, "chunk": 3, "split": None}


@pytest.fixture
def held_out(tmp_path, crystals):
    """A file of known crystals; one of them has an element that the tiny checkpoints do not cover."""
    structures = [crystals[name] for name in ("rock salt", "zinc blende", "perovskite", "rutile")]
    odd = crystals["rock salt"].copy()
    odd.replace_species({"Na": "Pu"})
    columns = {
        "numbers": [list(s.atomic_numbers) for s in (*structures, odd)],
        "frac": [s.frac_coords.ravel().tolist() for s in (*structures, odd)],
        "lattice": [s.lattice.matrix.ravel().tolist() for s in (*structures, odd)],
        "split": ["val", "val", "test", "test", "val"],
    }
    pq.write_table(pa.table(columns), tmp_path / "held_out.parquet")
    return tmp_path / "held_out.parquet"


@pytest.fixture
def run(tiny_library, tmp_path, monkeypatch, job_store):
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)

    def run(data, checkpoint="dao-g-tiny", **settings) -> EvaluationDoc:
        made = EvaluateMaker(**(QUICK | settings)).make(checkpoint, str(data))
        output = run_locally(made, store=job_store, ensure_success=True)[made.uuid][1].output
        return EvaluationDoc.model_validate(output)

    return run


def test_figures_are_those_of_the_samples_it_keeps(run, held_out, tmp_path):
    document = run(held_out)
    assert (document.n, document.samples, document.split) == (4, 2, None)  # not the crystal with plutonium
    [folder] = (tmp_path / "runs").iterdir()
    parts = [evaluate.read_crystal_file(path)[0] for path in sorted(folder.iterdir())]
    assert [len(part) for part in parts] == [3, 3, 2]
    maker = EvaluateMaker(**QUICK)
    found = match(maker.held_out("dao-g-tiny", held_out).crystals, [c for part in parts for c in part])
    assert document.all == found.all
    assert document.valid_only == found.valid_only
    assert document.energies is not None
    assert sum(document.energies.histogram) == 8
    assert document.provenance.science.inputs == {"data": document.data_sha256}
    assert str(tmp_path) not in document.model_dump_json()


def test_what_is_drawn_is_not_drawn_again(run, held_out, monkeypatch, tmp_path):
    first = run(held_out)
    [folder] = (tmp_path / "runs").iterdir()
    (folder / "samples-0000003.npz").unlink()  # as if a kill had come before the second chunk
    drawn = []
    import dao_flows.model.sampling.sample as sampling

    original = sampling.sample

    def counting(model, requests, *args, **kwargs):
        drawn.append(len(requests))
        return original(model, requests, *args, **kwargs)

    monkeypatch.setattr(sampling, "sample", counting)
    again = run(held_out)
    assert drawn == [3]
    ignored = {"provenance", "sampling_seconds"}
    assert again.model_dump(exclude=ignored) == first.model_dump(exclude=ignored)
    assert again.provenance.science_hash == first.provenance.science_hash
    assert run(held_out, seed=1).provenance.science_hash != first.provenance.science_hash


def test_auto_is_measured_once_and_goes_on_in_what_it_came_to(run, held_out, tmp_path, call_takes):
    timed = call_takes(2.0, 1.0)
    first = run(held_out, bf16="auto")
    assert len(timed) == 1
    assert first.provenance.science.parameters["bf16"] is True
    assert first.provenance.execution.precision.bf16
    assert first.provenance.science_hash == run(held_out, bf16=True).provenance.science_hash
    [folder] = (tmp_path / "runs").iterdir()
    (folder / "samples-0000003.npz").unlink()  # as if a kill had come before the second chunk
    timed = call_takes(1.0, 2.0)  # another machine
    again = run(held_out, bf16="auto")
    assert timed == []
    assert again.provenance.execution.precision == first.provenance.execution.precision
    assert again.all == first.all
    anew = run(held_out, bf16="auto", seed=1)
    assert len(timed) == 1
    assert anew.provenance.science.parameters["bf16"] is False


def test_splits_limits_and_judges(run, held_out):
    assert run(held_out, split="val").n == 2
    assert run(held_out, limit=3, predictor=None).energies is None
    guided = run(held_out, limit=2, guidance_coordinates=1.0)
    assert guided.provenance.science.parameters["guidance_coordinates"] == 1.0


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"samples": 0}, ParameterError, "samples must be at least 1, not 0"),
        ({"limit": 0}, ParameterError, "limit must be at least 1"),
        ({"bf16": "fast"}, ParameterError, "bf16 must be true, false or 'auto', not 'fast'"),
        ({"checkpoint": "dao-p-tiny"}, ParameterError, "a DAO-G checkpoint is needed"),
        ({"checkpoint": "nope"}, CheckpointError, "no checkpoint called 'nope'"),
        ({"split": "other"}, DataError, "no crystal with split == 'other'"),
        ({"predictor": None, "guidance_lattice": 1.0}, ParameterError, "guidance needs a predictor"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_drawn(tiny_library, held_out, settings, error, says):
    maker = EvaluateMaker(**(QUICK | {k: v for k, v in settings.items() if k != "checkpoint"}))
    with pytest.raises(error, match=says):
        maker.held_out(settings.get("checkpoint", "dao-g-tiny"), held_out)


def test_a_judge_that_learned_by_another_objective_judges_but_does_not_guide(by_flow, held_out):
    judging, guiding = EvaluateMaker(**QUICK), EvaluateMaker(**QUICK, guidance_lattice=1.0)
    held = judging.held_out(by_flow, held_out)
    judging.science(by_flow, "dao-p-tiny", held)
    with pytest.raises(ParameterError, match="dao-p-tiny cannot guide dao-g-flowing"):
        guiding.science(by_flow, "dao-p-tiny", held)


def test_energies_beyond_the_histogram_are_counted_at_its_ends():
    energies = np.array([-5.0, -0.1, 0.0, 0.0799, 0.08, 3.0, np.nan])
    found = energy_figures(energies, "p")
    assert found.stable_share == pytest.approx(4 / 7)  # one without an energy is not stable
    assert sum(found.histogram) == 6
    assert found.histogram[0] == found.histogram[-1] == 1
    assert len(found.edges) == len(found.histogram) + 1
    low, high = found.mean_95
    assert low <= found.mean <= high
