"""`dao-flows compare`: tables, CSV, JSON and reports of what is verified, and one line for what cannot be compared."""

import csv
import io
import json
from importlib.util import find_spec

import pytest
from pymatgen.core import Lattice, Structure

from dao_flows.comparison.figures import ComparisonFigures
from dao_flows.comparison.schemas import ComparisonDoc
from dao_flows.makers.reference import entry_of
from dao_flows.makers.schemas.verification import Level
from dao_flows.store.stores import collection, job_store

CHGNET = Level(code="CHGNet", code_version="0.4.2", functional="CHGNet")
ABINIT = Level(code="abinit", functional="PBE", pseudopotentials={"Na": "t/Na.psp8", "Cl": "t/Cl.psp8"}, cutoff=500.0)
SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0] * 3, [0.5] * 3]
).get_primitive_structure()
CAESIUM = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.4), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
SODIUM = Structure(Lattice.cubic(4.29), ["Na", "Na"], [[0] * 3, [0.5] * 3])


@pytest.fixture
def verified(workplace, put, a_candidate, a_verification):
    """Two comparable verifications of NaCl by a force field, one of Na, one that failed, and one by ABINIT."""
    jobs = job_store()
    candidates = [
        a_candidate("dao-0", SALT, 0.01),
        a_candidate("dao-1", CAESIUM, 0.05, rank=2),
        a_candidate("dao-2", CAESIUM, 0.09, rank=3),
        a_candidate("dao-3", SODIUM, 0.0),
    ]
    put(jobs, *candidates, name="candidates")
    put(
        jobs,
        a_verification(candidates[0], -3.4),
        a_verification(candidates[1], -3.3, structure=SALT),
        a_verification(candidates[2], state="failed", error="relax: it did not converge"),
        a_verification(candidates[3], -1.3),
        a_verification(candidates[0], -700.0, verification_id="ver-abinit", backend="abinit", level=ABINIT),
    )
    return workplace


@pytest.fixture
def entries(tmp_path):
    """A reference set of the two elements at the force field's level."""
    chlorine = Structure(Lattice.cubic(4), ["Cl"], [[0] * 3])
    path = tmp_path / "entries.json"
    path.write_text(json.dumps([entry_of(SODIUM, -2.6, CHGNET).as_dict(), entry_of(chlorine, -1.8, CHGNET).as_dict()]))
    return path


def test_a_table_tells_every_candidate_and_every_failure(verified, call):
    code, out, err = call("compare", "--backend", "forcefield")
    assert (code, err) == (0, "")
    assert all(f"dao-{i}" in out for i in range(4))
    assert "221 → 225" in out and "no match" in out
    assert "failed: NaCl dao-2 by forcefield (ver-2): relax: it did not converge" in out
    assert "3 compared, 1 failed" in out
    assert "no hull: verify or compare with --reference" in out


def test_what_is_verified_by_two_codes_is_not_put_together(verified, call):
    code, out, err = call("compare")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "differ in code: CHGNet in ver-0, ver-1, ver-3; abinit in ver-abinit" in err and "--backend" in err
    code, out, _ = call("compare", "--backend", "abinit", "--json")
    assert code == 0 and json.loads(out)["figures"]["code"] == "abinit"


def test_json_holds_documents_and_figures(verified, call):
    _, out, _ = call("compare", "--backend", "forcefield", "--composition", "ClNa", "--json")
    result = json.loads(out)
    documents = [ComparisonDoc.model_validate(document) for document in result["comparisons"]]
    figures = ComparisonFigures.model_validate(result["figures"])
    assert [d.candidate_id for d in documents] == ["dao-0", "dao-1"]
    assert figures.comparison_ids == ["ver-0", "ver-1"]
    assert figures.ranking.compositions[0].first_choice_agrees
    assert [entry["verification_id"] for entry in result["failed"]] == ["ver-2"]


def test_a_reference_set_gives_all_a_hull_and_changes_nothing_stored(verified, call, entries):
    code, out, err = call("compare", "--backend", "forcefield", "--reference", str(entries), "--json")
    assert code == 0, err
    result = json.loads(out)
    above = {d["candidate_id"]: d["energy_above_hull"] for d in result["comparisons"]}
    assert above == {"dao-0": pytest.approx(-1.85), "dao-1": pytest.approx(-1.75), "dao-3": pytest.approx(0)}
    assert result["figures"]["reference"] == "entries.json"
    assert result["figures"]["energy"]["raw"]["mae"]["n"] == 3
    stored = collection(job_store(), "comparisons").query_one({"comparison_id": "ver-0"})
    assert stored["energy_above_hull"] is None
    code, out, _ = call("compare", "--backend", "forcefield", "--reference", str(entries))
    assert "hull of entries.json, corrections: none" in out and "-1.8500" in out
    code, out, _ = call("compare", "--backend", "forcefield", "--reference", "store:")
    assert "no hull for NaCl: the reference set has no entry of Cl" in out
    code, out, err = call("compare", "--backend", "abinit", "--reference", str(entries))
    assert (code, out) == (2, "") and "ver-abinit (NaCl): " in err and "different codes" in err


def test_csv_has_a_line_for_each_candidate(verified, call):
    code, out, _ = call("compare", "--backend", "forcefield", "--csv", "all.csv")
    assert code == 0 and "written: all.csv" in out
    text = (verified / "all.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["candidate_id"] for row in rows] == ["dao-3", "dao-0", "dao-1"]
    assert rows[1]["matches"] == "True" and float(rows[1]["energy_per_atom"]) == -3.4
    assert rows[2]["rmse"] == "" and float(rows[2]["volume_ratio"]) == pytest.approx(5.7**3 / 8 / (3.4**3 / 2))
    assert not any(mark in text for mark in ("sites", "{"))
    code, out, _ = call("compare", "--backend", "forcefield", "--csv", "-")
    assert out == text
    assert sorted(path.name for path in verified.iterdir()) == ["all.csv"]


@pytest.mark.skipif(
    find_spec("dao_flows.comparison.report") is None, reason="the report is not part of this installation"
)
def test_html_is_a_report(verified, call):
    code, out, err = call("compare", "--backend", "forcefield", "--html", "report.html")
    assert code == 0, err
    assert "written: report.html" in out
    page = (verified / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html") and "dao-0" in page


def test_of_several_verifications_of_a_candidate_the_latest_counts(verified, call, put, a_candidate, a_verification):
    again = a_verification(a_candidate("dao-0", SALT, 0.01), -3.5, verification_id="ver-9", ended_at="2090-01-01")
    put(job_store(), again)
    _, out, _ = call("compare", "--backend", "forcefield", "--composition", "NaCl", "--json")
    assert {d["comparison_id"]: d["energy_per_atom"] for d in json.loads(out)["comparisons"]} == {
        "ver-9": -3.5,
        "ver-1": -3.3,
    }


def test_two_predictors_are_told_apart(verified, call, put, a_candidate, a_verification):
    other = a_candidate("dao-7", SALT, 0.3, predictor="q" * 64)
    put(job_store(), other, name="candidates")
    put(job_store(), a_verification(other))
    code, _, err = call("compare", "--backend", "forcefield")
    assert code == 2 and "differ in DAO-P" in err and "--predictor" in err
    code, out, _ = call("compare", "--backend", "forcefield", "--predictor", "qqq", "--json")
    assert [d["candidate_id"] for d in json.loads(out)["comparisons"]] == ["dao-7"]


def test_failures_alone_are_told_without_figures(verified, call):
    jobs = job_store()
    call("compare", "--backend", "forcefield")
    for name in ("comparisons", "verifications"):
        kept = collection(jobs, name)
        if name == "comparisons":
            kept.remove_docs({})
        else:
            kept.remove_docs({"state": "successful"})
    jobs.remove_docs({"output.state": "successful"})
    code, out, _ = call("compare")
    assert code == 0 and "0 compared, 1 failed" in out and "it did not converge" in out
    code, out, err = call("compare", "--csv", "x.csv")
    assert (code, out) == (2, "") and "nothing to write" in err
    assert json.loads(call("compare", "--json")[1])["figures"] is None


def test_a_verification_whose_prediction_is_gone_is_told(verified, call):
    collection(job_store(), "candidates").remove_docs({"candidate_id": "dao-3"})
    code, out, _ = call("compare", "--backend", "forcefield")
    assert code == 0
    assert "not compared: Na dao-3 by forcefield (ver-3): the prediction is not in this store" in out


def test_a_verification_without_an_energy_holds_up_no_other(verified, call, put, a_candidate, a_verification):
    empty = a_verification(a_candidate("dao-1", CAESIUM, 0.05), verification_id="ver-8")
    put(job_store(), empty.model_copy(update={"energy": None, "energy_per_atom": None}))
    code, out, _ = call("compare", "--backend", "forcefield")
    assert code == 0 and "3 compared" in out
    assert "dao-1 by forcefield (ver-8): its document has no energy or level" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--composition", "Xx2"), "unknown element Xx"),
        (("--composition", "GaAs"), "nothing of GaAs verified yet"),
        (("--backend", "vasp"), "nothing verified by vasp yet"),
        (("--reference", "nowhere.json"), "no file nowhere.json"),
        (("--reference", "mp:"), "MP_API_KEY"),
        (("--csv", "nowhere/x.csv"), "cannot be written"),
        (("--html", "."), "is a folder"),
        (("--json", "--csv", "-"), "both want stdout"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(verified, call, monkeypatch, arguments, says):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    code, out, err = call("compare", *arguments)
    assert (code, out) == (2, "")
    assert says in err and err.count("\n") == 1
    assert not list(verified.iterdir())


def test_an_empty_store_says_what_to_do(workplace, call):
    code, _, err = call("compare")
    assert code == 2 and "dao-flows verify" in err
