"""A document out of a crate is plain JSON until it is proven; names of classes in it build nothing they should not."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobflow import OutputReference
from monty.json import jsanitize
from pymatgen.core import Lattice, Structure

from dao_flows.crate.archive import Limits
from dao_flows.crate.documents import COLLECTED, DocumentError, check, known_documents, parse, written
from dao_flows.makers.jobs.provenance import content_hash, digest
from dao_flows.makers.schemas.verification import VerificationDoc
from dao_flows.makers.stages.registry import stages

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
BOUNDS = Limits()


@pytest.fixture(scope="module")
def candidate(a_candidate):
    """A candidate's document as its collection holds it."""
    plain = jsanitize(a_candidate("dao-0123456789ab", SALT), strict=True)
    plain.pop("content_hash", None)
    return plain


@pytest.fixture(scope="module")
def job(a_verification, a_candidate):
    """The document of a job that made a verification."""
    output = jsanitize(a_verification(a_candidate("dao-0123456789ab", SALT)), strict=True)
    return {"uuid": "u", "index": 1, "output": output, "completed_at": "2026-11-23T10:00:00", "name": "verify"}


RECORD = {
    "record_id": "r-1",
    "schema_version": 2,
    "event": "job-end",
    "at": "2026-11-23T10:00:00+00:00",
    "attempt_id": "u-1-abcd",
    "job_uuid": "u",
    "job_index": 1,
    "outcome": "finished",
    "error": None,
    "envelope": {"@class": "hash"},
}


def sealed(document):
    """With the hashes it ought to have, as whoever forges one would write them."""
    document = json.loads(json.dumps(document))
    for held in (document, document.get("output")):
        if isinstance(held, dict):
            for name in ("provenance", "generation", "screening"):
                if isinstance(inner := held.get(name), dict) and isinstance(inner.get("science"), dict):
                    inner["science_hash"] = digest(inner["science"])
    output = document.get("output")
    if isinstance(output, dict) and isinstance(output.get("provenance"), dict):
        output["provenance"]["content_hash"] = content_hash(output)
    elif "output" not in document:
        document["content_hash"] = content_hash(document)
    return document


def checked(collection, document):
    return check(collection, written(document), BOUNDS)


def test_documents_of_ours_pass(candidate, job):
    assert checked("candidates", candidate)[1:] == ("dao-0123456789ab", False)
    assert checked("candidates", sealed(candidate))[1:] == ("dao-0123456789ab", True)
    assert checked("jobs", sealed(job))[1:] == ("u-1", True)
    assert checked("jobs", sealed(job)).document == sealed(job)
    assert checked("runs", RECORD).key == "r-1"


def test_a_reference_to_an_output_holds_nothing_else(job):
    reference = jsanitize(OutputReference("u", (("i", 0),), VerificationDoc), strict=True)
    assert checked("jobs", {**job, "output": reference}).key == "u-1"
    for change in (
        {"x": 1},
        {"uuid": {"@module": "atomate2.vasp.jobs.core", "@class": "StaticMaker"}},
        {"uuid": ["u"]},
    ):
        with pytest.raises(DocumentError, match="no reference to the output"):
            checked("jobs", {**job, "output": reference | change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": "other"}, "event"),
        ({"at": 3}, "at"),
        ({"run_id": ["a"]}, "run_id"),
        ({"envelope": {"@class": 1}}, "envelope"),
        ({"outcome": "won"}, "outcome"),
        ({"job_index": "1"}, "job_index"),
        ({"attempt_id": None}, "lacks attempt_id"),
        ({"event": "start"}, "lacks run_id, request_hash, request, process, libraries, command"),
        ({"event": "batch", "batch": {"key": "k"}}, "batch"),
        ({"event": "end", "run_id": "r", "science_hashes": "abc"}, "science_hashes"),
        ({"process": {"host": "h", "pid": "one", "born": ""}}, "pid"),
        ({"libraries": {"torch": 2}}, "libraries"),
        ({"_id": "somebody-elses"}, "a store alone gives"),
        ({"last_updated": "2026"}, "a store alone gives"),
    ],
)
def test_records_of_odd_types_are_refused(change, message):
    with pytest.raises(DocumentError, match=message):
        checked("runs", RECORD | change)


@pytest.mark.parametrize("collection", ["jobs", "candidates"])
@pytest.mark.parametrize("field", ["_id", "last_updated", "_anything", "of_nobody"])
def test_fields_that_no_schema_knows_are_refused(collection, field, candidate, job):
    document = sealed({"jobs": job, "candidates": candidate}[collection] | {field: "x"})
    with pytest.raises(DocumentError, match=r"a store alone gives|which no|of_nobody"):
        checked(collection, document)


def test_all_documents_that_jobs_write_are_known():
    known = known_documents()
    assert {name for _, name in known} >= {stage.document_name for stage in stages()} | set(COLLECTED.values())
    assert all("schema_version" in model.model_fields for model in known.values())


def test_a_changed_document_is_refused(candidate, job):
    for collection, document, path in (
        ("candidates", sealed(candidate), ("energy", "value")),
        ("jobs", sealed(job), ("output", "energy_per_atom")),
    ):
        held = document
        for part in path[:-1]:
            held = held[part]
        held[path[-1]] -= 1e-12
        with pytest.raises(DocumentError, match="content_hash"):
            checked(collection, document)


def test_changed_science_is_found_where_there_is_no_hash_of_the_content(candidate):
    candidate = json.loads(json.dumps(candidate))
    candidate["generation"]["science"]["seed"] = 1
    with pytest.raises(DocumentError, match="science_hash"):
        checked("candidates", candidate)


@pytest.mark.parametrize(
    "planted",
    [
        {"@module": "os", "@class": "system"},
        {"@module": "subprocess", "@class": "Popen", "args": ["true"]},
        {"@module": "evil", "@class": "Evil"},
        {"@module": "os", "@callable": "system", "@bound": None},
        {"@module": "abipy.abio.factories", "@callable": "np.os.system", "@bound": None},
        {"@module": "abipy.abio.factories", "@callable": "scf_input", "@bound": {"@module": "evil", "@class": "Evil"}},
        {"@module": "atomate2.run", "@class": "JobType"},
        {"@module": "atomate2.../evil", "@class": "EvilMaker"},
        {"@module": "pymatgen.io.vasp.outputs", "@class": "Vasprun", "filename": "/etc/passwd"},
        {"@module": "pathlib", "@class": "Path"},
        {"@module": "numpy", "@class": "array", "dtype": "int64", "data": [1]},
        {"@module": 1, "@class": "Structure"},
        {"@module": "dao_flows.makers.schemas.prediction", "@class": ["GenerationDoc"]},
        {"@class": "Structure"},
        {"@module": "dao_flows.store.stores", "@class": "EmbeddedStore"},
        {"$where": "sleep(1000)"},
        {"@unknown": 1},
    ],
)
def test_no_other_class_is_named(job, planted):
    for place in ("parameters", "inputs"):
        document = json.loads(json.dumps(job))
        document["output"]["provenance"]["science"][place]["settings"] = planted
        with pytest.raises(DocumentError, match=r"it names|it has the key"):
            checked("jobs", sealed(document))
    for document in ({**job, "output": planted}, {**job, "metadata": planted}):
        with pytest.raises(DocumentError):
            checked("jobs", document)
    assert "evil" not in sys.modules


def test_makers_of_calculations_may_stand_in_their_settings(job):
    settings = {
        "@module": "atomate2.abinit.jobs.core",
        "@class": "RelaxMaker",
        "input_set_generator": {"@module": "atomate2.abinit.sets.core", "@class": "RelaxSetGenerator"},
        "factory": {"@module": "abipy.abio.factories", "@callable": "ion_ioncell_relax_input", "@bound": None},
        "incar": {"@module": "pymatgen.io.vasp.sets", "@class": "MPRelaxSet"},
    }
    document = json.loads(json.dumps(job))
    document["output"]["provenance"]["science"]["parameters"]["settings"] = settings
    assert checked("jobs", sealed(document)).sealed


def test_packages_of_ones_own_may_be_named(job):
    document = json.loads(json.dumps(job))
    settings = {"@module": "my_lab.dft", "@class": "MyMaker"}
    document["output"]["provenance"]["science"]["parameters"]["settings"] = settings
    data = written(sealed(document))
    with pytest.raises(DocumentError, match=r"'MyMaker' of 'my_lab\.dft'"):
        check("jobs", data, BOUNDS)
    assert check("jobs", data, Limits(modules="other, my_lab")).sealed
    with pytest.raises(DocumentError):
        check("jobs", data, Limits(modules="my_la"))


def test_a_document_is_valid_as_what_it_says(candidate, job):
    for change, message in (
        ({"rank": "first"}, "rank"),
        ({"structure": None}, "structure"),
        ({"candidate_id": 7}, "no document of the collection"),
        ({"@class": "VerificationDoc", "@module": "dao_flows.makers.schemas.verification"}, "no document of"),
        ({"schema_version": 99}, "newer version of dao_flows"),
    ):
        with pytest.raises(DocumentError, match=message):
            checked("candidates", sealed({**candidate, **change}))
    for change in ({"uuid": ""}, {"uuid": None}, {"index": 0}, {"index": True}, {"index": "1"}, {"hosts": "h"}):
        with pytest.raises(DocumentError):
            checked("jobs", {**job, **change})
    with pytest.raises(DocumentError, match="no document of ours"):
        checked("jobs", {**job, "output": candidate["structure"]})


@pytest.mark.parametrize(
    "change",
    [
        {"lattice": None},
        {"lattice": {"matrix": [[1, 0, 0], [0, 1, 0]]}},
        {"lattice": {"matrix": "abc"}},
        {"sites": None},
        {"sites": [{}]},
        {"sites": [{"species": [{"element": "Xx", "occu": 1}], "abc": [0, 0, 0]}]},
        {"sites": [{"species": [], "abc": [0, 0, 0]}]},
        {"charge": {}},
    ],
)
def test_a_structure_that_is_none(candidate, change):
    document = {**candidate, "structure": {**candidate["structure"], **change}}
    with pytest.raises(DocumentError, match="structure"):
        checked("candidates", sealed(document))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no JSON"),
        (b"[]", "no JSON object"),
        (b"{", "no JSON"),
        (b'{"a":NaN}', "canonical|no JSON"),
        (b'{"a":1e999}', "canonical|no JSON"),
        (b'{"a": 1}', "canonical"),
        (b'{"a":1,"a":1}', "canonical"),
        (b'{"a":1.0e0}', "canonical"),
        (b'{"a":-0.0}', "canonical"),
        (b'{"a":1}\n', "canonical"),
        (b'{"a":"\\u0041"}', "canonical"),
        (b'{"a":"\\ud800"}', "no JSON"),
        (b'{"a":"\xff"}', "no JSON"),
        (b"\xef\xbb\xbf{}", "canonical|no JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a":99999999999999999999}', "64 bits"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
        (b'{"a":{"$date":{"$numberLong":"x"}}}', "no JSON|canonical"),
        (b'{"a":{"$date":{"$numberLong":"99999999999999999999999"}}}', "no JSON|canonical"),
        (b'{"a":{"$oid":"x"}}', "no JSON"),
        (b'{"a":{"$numberDouble":"1.5"}}', "canonical"),
        (b'{"a":{"$binary":{"base64":"A","subType":"00"}}}', "no JSON|canonical"),
    ],
)
def test_what_is_not_canonical_json(data, message):
    with pytest.raises(DocumentError, match=message):
        parse(data, BOUNDS)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: key[:1] != "$"), inner),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), json_values))
def test_whatever_a_store_holds_comes_back_the_same(document):
    try:
        data = written(document)
    except ValueError:
        return  # half a surrogate pair, a NUL in a key: refused when the document is sealed
    assert written(parse(data, BOUNDS)) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_nothing_but_our_error_comes_out_of_bytes(data):
    for collection in ("jobs", "candidates", "runs"):
        with pytest.raises(DocumentError):
            check(collection, data, BOUNDS)
