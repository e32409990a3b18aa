"""Screening documents become one candidate document a structure, however often and in whatever order they are built."""

import pytest

from dao_flows.errors import InputError
from dao_flows.makers.schemas.prediction import ScreeningDoc
from dao_flows.store import stores
from dao_flows.store.candidates import CandidateBuilder, find

QUERY = {"output.@class": ScreeningDoc.__name__}


@pytest.fixture
def screening(stored):
    """A screening document of the job store, as it is stored."""
    return stores.job_store().query_one(QUERY)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty store."""
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path))
    store = stores.job_store()
    return store, stores.collection(store, "candidates")


def content(candidates):
    return sorted(candidates.query(), key=lambda doc: doc["candidate_id"])


def test_every_accepted_structure_becomes_a_document_and_building_again_changes_nothing(screening, elsewhere):
    jobs, candidates = elsewhere
    jobs.update(screening)
    CandidateBuilder(jobs, candidates).build()
    first = content(candidates)
    document = ScreeningDoc.model_validate(screening["output"])
    assert {doc["candidate_id"] for doc in first} == {c.candidate_id for c in document.accepted}
    assert all(doc["screening"]["science_hash"] == document.provenance.science_hash for doc in first)
    CandidateBuilder(jobs, candidates).build()
    assert content(candidates) == first


@pytest.mark.parametrize("order", [("early", "late"), ("late", "early")])
def test_of_two_screenings_the_later_one_counts_in_whatever_order_they_are_built(screening, elsewhere, order):
    jobs, candidates = elsewhere
    for name in order:
        output = {**screening["output"], "provenance": {**screening["output"]["provenance"]}}
        execution = output["provenance"]["execution"]
        moved = {"ended_at": {"early": "2026-01-01", "late": "2030-01-01"}[name], "job_uuid": name}
        output["provenance"]["execution"] = {**execution, **moved}
        jobs.update({**screening, "_id": name, "uuid": name, "output": output})
        CandidateBuilder(jobs, candidates, [name]).build()
    CandidateBuilder(jobs, candidates).build()
    assert {doc["screening"]["execution"]["job_uuid"] for doc in content(candidates)} == {"late"}


def test_candidates_are_found_by_id_and_by_a_unique_beginning(stored):
    candidates = stores.collection(stores.job_store(), "candidates")
    ids = sorted(candidates.distinct("candidate_id"))
    for candidate_id in ids:
        shortest = next(n for n in range(5, 17) if sum(i.startswith(candidate_id[:n]) for i in ids) == 1)
        for reference in (candidate_id, candidate_id[:shortest], candidate_id[4:shortest]):
            assert find(candidates, reference).candidate_id == candidate_id
    with pytest.raises(InputError, match="several ids"):
        find(candidates, "dao-")
    for nothing in ("dao-xyz", "nonsense", ids[0] + "0"):
        with pytest.raises(InputError, match="dao-flows list"):
            find(candidates, nothing)


def test_no_cursor_stays_open_while_documents_are_laid_out(screening, elsewhere, monkeypatch):
    """Servers end a cursor that is idle for ten minutes, and laying out a hundred large documents takes longer."""
    jobs, candidates = elsewhere
    for name in ("first", "second"):
        jobs.update({**screening, "_id": name, "uuid": name})
    still_open = []

    def query(*args, _inner=jobs.query, **kwargs):
        still_open.append(args)
        yield from _inner(*args, **kwargs)
        still_open.remove(args)

    monkeypatch.setattr(jobs, "query", query)
    builder = CandidateBuilder(jobs, candidates)
    laid_out = []
    for item in builder.get_items():
        laid_out.append(builder.process_item(item))
        assert len(still_open) <= 1  # that of this very document
    assert len(laid_out) == 2
