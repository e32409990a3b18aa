"""PredictFlowMaker: from a formula to ranked structures, through a store."""

import pytest
from jobflow import run_locally
from monty.json import MontyDecoder, jsanitize

from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.predict import PredictFlowMaker
from dao_flows.makers.schemas.prediction import GenerationDoc, ScreeningDoc
from dao_flows.makers.science.chemistry import CompositionError
from dao_flows.makers.screen import ScreenMaker

pytestmark = pytest.mark.usefixtures("tiny_library")


@pytest.fixture
def maker() -> PredictFlowMaker:
    """Untrained networks draw huge cells: volumes do not count here."""
    return PredictFlowMaker(
        generate=GenerateMaker(checkpoint="dao-g-tiny", predictor="dao-p-tiny", steps=10, candidates=5),
        screen=ScreenMaker(predictor="dao-p-tiny", max_volume_per_atom=1e12, prototypes=False),
    )


def test_a_formula_becomes_a_ranked_screening_document(maker, job_store):
    flow = maker.make(["Cr3Os", "NaCl"])
    responses = run_locally(flow, store=job_store, ensure_success=True, log=False)
    generation, screening = (responses[job.uuid][1].output for job in flow.jobs)
    assert isinstance(generation, GenerationDoc)
    assert isinstance(screening, ScreeningDoc)
    assert screening.generation == generation.provenance
    assert screening.provenance.science == maker.screen.science(generation.provenance.science_hash)
    drawn = {c.candidate_id: c for c in generation.candidates}
    assert set(drawn) == {c.candidate_id for c in [*screening.accepted, *screening.rejected]}
    assert screening.accepted
    for c in screening.accepted:
        assert c.structure == drawn[c.candidate_id].structure
        assert (c.formula, c.z) == (drawn[c.candidate_id].formula, drawn[c.candidate_id].z)
    stored = job_store.query_one({"uuid": flow.jobs[1].uuid}, load=True)
    assert MontyDecoder().process_decoded(stored["output"]).model_dump() == screening.model_dump()


def test_makers_survive_serialisation(maker):
    again = MontyDecoder().process_decoded(jsanitize(maker, strict=True))
    assert again == maker
    job = maker.make("Cr3Os").jobs[0]
    assert MontyDecoder().process_decoded(jsanitize(job, strict=True)).maker == maker.generate


def test_what_is_no_formula_is_refused_when_the_flow_is_made():
    with pytest.raises(CompositionError, match=r"2 of 3 .*Xx.*SiO0"):
        PredictFlowMaker().make(["NaCl", "Xx", "SiO0"])


def test_check_covers_both_stages(maker):
    assert [entry.formula for entry in maker.check(["Cr6Os2", "NaCl"])] == ["Cr3Os", "NaCl"]
    with pytest.raises(CompositionError, match="has not seen U"):
        maker.check(["UO2"])
