"""Stored results taken into a job: only those whose science is the one asked for, and which name no objects.

jobflow decodes with monty what a job hands to the next one, and so whatever a result from a shared store names.
"""

import copy
import logging
import sys
from datetime import UTC, datetime

import pytest
from monty.json import MontyDecoder, jsanitize

from dao_flows.makers.jobs.provenance import content_hash, execution_record, provenance, science_hash
from dao_flows.makers.jobs.reuse import stored
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import ScreeningDoc
from dao_flows.makers.schemas.verification import CalculationDoc, CustodianCorrection

SETTINGS = {"@module": "atomate2.forcefields.jobs", "@class": "ForceFieldStaticMaker", "force_field_name": "CHGNet"}
OBJECT = {"@module": "hostile_module", "@callable": "Thing"}


def of(maker: str, **parameters):
    science = Science(maker=maker, parameters=parameters, inputs={}, checkpoints={}, code_version="0")
    return provenance(science, execution_record(datetime.now(UTC), "cpu", {}))


@pytest.fixture
def documents(crystals):
    calculation = CalculationDoc(
        state="successful",
        candidate_id="dao-1",
        backend="forcefield",
        step="static",
        directory="here:/",
        structure=crystals["rock salt"],
        wall_seconds=1.0,
        cores=1,
        corrections=[CustodianCorrection(errors=["a"], actions=["b"])],
        task={"output": {"energy": -1.0}},
        provenance=of("CalculateMaker", settings=SETTINGS),
    )
    screening = ScreeningDoc(accepted=[], rejected=[], generation=of("GenerateMaker"), provenance=of("ScreenMaker"))
    return {type(document): jsanitize(document, strict=True) for document in (calculation, screening)}


@pytest.fixture
def put(job_store):
    job_store.connect()

    def put(output) -> str:
        """Store a document with the content hash that it has now, as who alters it would; returns its science hash."""
        output = copy.deepcopy(output)
        output["provenance"]["content_hash"] = content_hash(output)
        finished = {"uuid": "job-1", "index": 1, "completed_at": "2026-11-23T10:00:00", "output": output}
        job_store.docs_store.update([finished], key=["uuid", "index"])
        return output["provenance"]["science_hash"]

    return put


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Whether the module that OBJECT names was imported."""
    (tmp_path / "hostile_module.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Thing:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield (tmp_path / "ran").exists
    sys.modules.pop("hostile_module", None)


@pytest.mark.parametrize("kind", [CalculationDoc, ScreeningDoc])
def test_a_result_is_taken_as_it_is(documents, put, job_store, kind):
    wanted = put(documents[kind])
    found = stored(job_store, kind, wanted)
    assert isinstance(found, kind)
    assert science_hash(found.provenance.science) == wanted


PLACES = {
    "settings": (CalculationDoc, ("provenance", "science", "parameters", "settings", "name")),
    "parameters": (CalculationDoc, ("provenance", "science", "parameters", "x")),
    "inputs": (CalculationDoc, ("provenance", "science", "inputs", "x")),
    "task": (CalculationDoc, ("task", "output", "x")),
    "settings of another": (ScreeningDoc, ("generation", "science", "parameters", "settings")),
    "parameters of another": (ScreeningDoc, ("generation", "science", "parameters", "x")),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_result_that_names_objects_is_not_taken(documents, put, job_store, ran, caplog, place):
    kind, path = PLACES[place]
    document = copy.deepcopy(documents[kind])
    held = document
    for name in path[:-1]:
        held = held[name]
    held[path[-1]] = OBJECT
    with caplog.at_level(logging.ERROR):
        assert stored(job_store, kind, put(document)) is None
    assert "the result of job job-1 is not taken" in caplog.text
    assert not ran()
    MontyDecoder().process_decoded(document)  # as jobflow would, for the next job
    assert ran()


def test_a_structures_properties_are_data(documents, put, job_store, ran):
    document = copy.deepcopy(documents[CalculationDoc])
    document["structure"]["sites"][0]["properties"] = {"magmom": OBJECT}
    found = stored(job_store, CalculationDoc, put(document))
    MontyDecoder().process_decoded(jsanitize(found, strict=True))
    assert not ran()


def test_a_result_whose_science_is_not_what_its_hash_says_is_not_taken(documents, put, job_store):
    document = copy.deepcopy(documents[CalculationDoc])
    document["provenance"]["science"]["parameters"]["settings"] = SETTINGS | {"force_field_name": "MACE"}
    assert stored(job_store, CalculationDoc, put(document)) is None
