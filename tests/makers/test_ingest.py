"""IngestMaker: a dataset as a job, from a store among others."""

from dataclasses import fields

import pytest
from jobflow import Flow, run_locally
from monty.json import MontyDecoder, jsanitize

from dao_flows.makers.datasets import BuildConfig, SourceError
from dao_flows.makers.ingest import IngestMaker
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.dataset import DatasetDoc
from dao_flows.model.data.shards import dataset_rows, read_manifest


def ingest(store, maker: IngestMaker, sources: list[str], out: str) -> DatasetDoc:
    job = maker.make(sources, out)
    responses = run_locally(Flow([job]), store=store, ensure_success=True)
    return DatasetDoc.model_validate(responses[job.uuid][1].output)


def test_a_job_builds_a_dataset_and_documents_it(random_dataset, job_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, out = str(random_dataset(40)), str(tmp_path / "set")
    maker = IngestMaker(max_energy=0.5, properties=["band_gap"], min_distance=0.0, rows_per_shard=10)
    document = ingest(job_store, maker, [source], out)
    manifest = read_manifest(tmp_path / "set")
    assert (document.sha256, document.rows, document.shards) == (manifest.sha256, manifest.rows, len(manifest.shards))
    assert 0 < document.rows < 40 and all(row["e_above_hull"] <= 0.5 for row in dataset_rows(tmp_path / "set"))
    jsanitize(document.model_dump(), strict=True)
    stored = next(iter(job_store.query({"output.sha256": manifest.sha256})))
    assert stored["output"]["provenance"]["science_hash"] == document.provenance.science_hash
    again = ingest(job_store, maker, [source], out)
    assert again.provenance.science_hash == document.provenance.science_hash
    moved = (tmp_path / "random").rename(tmp_path / "moved")  # where the data lie decides nothing
    other = ingest(job_store, maker, [str(moved)], str(tmp_path / "other"))
    assert (other.sha256, other.provenance.science_hash) == (document.sha256, document.provenance.science_hash)


def test_where_held_out_data_lie_decides_nothing(random_dataset, job_store, tmp_path, monkeypatch):
    source, held = str(random_dataset(12)), random_dataset(6, name="held")
    hashes = []
    for folder in ("one", "two"):
        (tmp_path / folder / "data").mkdir(parents=True)
        held = held.rename(tmp_path / folder / "data" / "held")
        monkeypatch.chdir(tmp_path / folder)
        maker = IngestMaker(min_distance=0.0, held_out=["data/held"])
        document = ingest(job_store, maker, [source], "set")
        assert document.path == str(tmp_path / folder / "set")
        hashes.append(document.provenance.science_hash)
        (told,) = document.provenance.science.parameters["held_out"]
        assert told.startswith("held sha256:") and folder not in told
    assert hashes[0] == hashes[1]


def test_a_job_reads_the_store_that_it_runs_on(crystals, job_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job_store.connect()
    output = {"structure": crystals["quartz"].as_dict(), "state": "successful", "output": {"energy_per_atom": -8.0}}
    output |= {"vasp_objects": {}, "orig_inputs": None}
    job_store.docs_store.update({"uuid": "q", "index": 1, "name": "static", "output": output}, key=["uuid", "index"])
    document = ingest(job_store, IngestMaker(properties=["energy_per_atom"]), ["store:"], str(tmp_path / "set"))
    (row,) = dataset_rows(tmp_path / "set")
    assert (row["material_id"], row["energy_per_atom"], row["e_above_hull"]) == ("q", -8.0, None)
    assert document.sources[0]["location"] == "store:"


def test_routing_one_job_leaves_the_next_alone():
    first, second = (IngestMaker().make(["x.parquet"], "/data/set") for _ in range(2))
    first.update_config({"manager_config": {"_category": "cpu"}}, dynamic=False)
    assert (first.name, second.config.manager_config, second.config.expose_store) == ("ingest", {}, True)


def test_the_maker_survives_its_serialisation_and_says_what_is_wrong(tmp_path):
    maker = IngestMaker(max_energy=0.5, held_out=["x.parquet"])
    assert MontyDecoder().process_decoded(maker.as_dict()) == maker
    assert {f.name for f in fields(IngestMaker)} - {"dataset_name"} == set(BuildConfig.model_fields)
    assert IngestMaker().config() == BuildConfig()
    with pytest.raises(SourceError, match="min_atoms must not be above"):
        IngestMaker(min_atoms=9, max_atoms=3).config()
    with pytest.raises(ParameterError, match="in full"):
        IngestMaker.build.original(IngestMaker(), ["x.parquet"], "set")
