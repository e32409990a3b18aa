"""From a stored candidate through a force field to a comparison, by the command line."""

import json
from importlib.util import find_spec

import pytest
from pymatgen.core import Lattice, Structure

from dao_flows.makers.schemas.prediction import CandidateDoc
from dao_flows.store.stores import collection, job_store

pytestmark = pytest.mark.skipif(find_spec("chgnet") is None, reason="CHGNet is not installed")

CRYSTALS = {
    "dao-a00000000001": Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    "dao-a00000000002": Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.4), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    "dao-b00000000003": Structure(Lattice.cubic(3.0), ["Na", "Cl"], [[0] * 3, [0.05, 0, 0]]),
}


@pytest.fixture
def known(stored, tmp_path, monkeypatch):
    """A store with three candidates of NaCl: rock salt, caesium chloride, and two atoms on top of each other."""
    like = CandidateDoc.model_validate(collection(job_store(), "candidates").query_one({"formula": "NaCl"}))
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    documents = [
        like.model_copy(update={"candidate_id": name, "structure": crystal, "rank": rank, "n_atoms": len(crystal)})
        for rank, (name, crystal) in enumerate(CRYSTALS.items(), 1)
    ]
    stored_ones = [{"_id": d.candidate_id, **json.loads(d.model_dump_json())} for d in documents]
    collection(job_store(), "candidates").update(stored_ones, key="candidate_id")
    return tmp_path


def test_verifying_twice_computes_once_and_compares(known, call):
    code, out, err = call("verify", *CRYSTALS, "--backend", "forcefield", "--json")
    assert code == 0, err
    result = json.loads(out)
    good, other, bad = result["verifications"]
    assert [v["state"] for v in (good, other, bad)] == ["successful", "successful", "failed"]
    assert "not sent" in bad["error"]
    assert good["energy_per_atom"] < other["energy_per_atom"]  # rock salt is what NaCl is
    assert len(good["sent"]["sites"]) == 2
    folders = sorted(path.name for path in (known / "runs").iterdir())
    code, out, _ = call("verify", "dao-a00000000001", "--backend", "forcefield", "--json")
    assert code == 0
    assert json.loads(out)["verifications"][0]["energy"] == good["energy"]
    assert sorted(path.name for path in (known / "runs").iterdir()) == folders
    code, out, _ = call("verify", "dao-a00000000001", "dao-b0")
    assert code == 0
    assert "successful" in out and "failed" in out and "not sent" in out
    code, out, _ = call("show", good["verification_id"][:8])
    assert code == 0
    assert "dao-a00000000001 (NaCl)" in out and "successful" in out and "CHGNet" in out
    code, out, _ = call("show", bad["verification_id"], "--json")
    assert json.loads(out)["error"] == bad["error"]
    assert call("show", "ver-nothing")[::2] == (
        2,
        "dao-flows: no verification has the id 'ver-nothing'; `dao-flows compare` shows what there is\n",
    )
    code, out, err = call("compare", "--json")
    assert code == 0, err
    ids = {c["candidate_id"] for c in json.loads(out)["comparisons"]}
    assert ids == {"dao-a00000000001", "dao-a00000000002"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "dao-a00000000001", "--backend", "magic"], "there is no backend 'magic'"),
        (["verify", "dao-nowhere", "--backend", "forcefield"], "no candidate has the id"),
        (["predict", "NaCl", "--verify", "forcefield:Magic"], "no force field 'Magic'"),
        (["predict", "NaCl", "--reference", "x.json"], "give --verify BACKEND too"),
    ],
)
def test_what_cannot_be_verified_is_refused_before_anything_runs(known, call, arguments, says):
    code, _, err = call(*arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert not (known / "runs").exists()
