"""Verifications of the job store become one document each, whatever the order of attempts and builds."""

from itertools import permutations

import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from dao_flows.makers.schemas.verification import VerificationDoc
from dao_flows.store.stores import collection
from dao_flows.store.verifications import VerificationBuilder

SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0] * 3, [0.5] * 3]
).get_primitive_structure()
# (state, when it ended, energy): the second of the successful ones counts
ATTEMPTS = [
    ("failed", "2026-01", 0.0),
    ("successful", "2026-02", -3.0),
    ("successful", "2026-03", -3.1),
    ("failed", "2026-04", 0.0),
]


@pytest.fixture
def attempts(a_candidate, a_verification) -> list[VerificationDoc]:
    candidate = a_candidate("dao-1", SALT)
    return [
        a_verification(candidate, energy, ended_at=ended, state=state, error="it broke" if state == "failed" else None)
        for state, ended, energy in ATTEMPTS
    ]


def laid_out(jobs: JobStore) -> list[VerificationDoc]:
    found = collection(jobs, "verifications").query(sort={"verification_id": 1})
    return [VerificationDoc.model_validate(document) for document in found]


def test_every_verification_is_laid_out_once(jobs, put, a_candidate, a_verification):
    documents = [a_verification(a_candidate(f"dao-{i}", SALT)) for i in range(3)]
    put(jobs, *documents)
    VerificationBuilder(jobs, collection(jobs, "verifications")).build()
    first = laid_out(jobs)
    assert [d.model_dump_json() for d in first] == [d.model_dump_json() for d in documents]
    put(jobs, a_verification(a_candidate("dao-3", SALT)))
    builder = VerificationBuilder(jobs, collection(jobs, "verifications"))
    assert [item["verification_id"] for item in builder.get_items()] == ["ver-3"]  # only what is new is read
    builder.build()
    assert len(laid_out(jobs)) == 4 and not list(builder.get_items())


def test_a_failure_takes_no_success_s_place_in_whatever_order_they_are_built(put, attempts):
    for order in permutations(range(4)):
        for built_each_time in (True, False):
            jobs = JobStore(MemoryStore())
            jobs.connect()
            for number in order:
                put(jobs, attempts[number])
                if built_each_time:
                    VerificationBuilder(jobs, collection(jobs, "verifications")).build()
            VerificationBuilder(jobs, collection(jobs, "verifications")).build()
            assert [(d.state, d.energy_per_atom) for d in laid_out(jobs)] == [("successful", -3.1)]


def test_failed_verifications_are_laid_out_with_their_error(jobs, put, attempts):
    put(jobs, attempts[0], attempts[3])
    VerificationBuilder(jobs, collection(jobs, "verifications")).build()
    (found,) = laid_out(jobs)
    assert (found.state, found.error, found.provenance.execution.ended_at) == ("failed", "it broke", "2026-04")


def test_only_the_jobs_named_are_looked_at(jobs, put, a_candidate, a_verification):
    put(jobs, *(a_verification(a_candidate(f"dao-{i}", SALT)) for i in range(3)), uuids=["a", "b", "c"])
    VerificationBuilder(jobs, collection(jobs, "verifications"), ["b"]).build()
    assert [d.verification_id for d in laid_out(jobs)] == ["ver-1"]
