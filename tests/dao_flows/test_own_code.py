"""A code of one's own, in one file of an installed package, is examined, runs, is read and replayed like ours."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from pymatgen.core import Lattice, Structure

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.prediction import CandidateDoc
from dao_flows.makers.schemas.verification import CalculationDoc
from dao_flows.makers.verify import VerifyMaker, codes
from dao_flows.store.stores import collection, job_store

pytestmark = pytest.mark.skipif(find_spec("atomate2") is None, reason="needs atomate2")

EMT = '''
"""ASE's effective medium theory as a backend: the relaxation of atomate2, then one step of it."""

from ase.calculators.emt import parameters
from dao_flows.makers.jobs.provenance import installed_version
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.verification import Level
from dao_flows.makers.verify.codes.code import Code, Preset
from dao_flows.makers.verify.codes.results import of_ase


def steps(fmax=0.01):
    from atomate2.ase.jobs import EmtRelaxMaker

    return {"relax": EmtRelaxMaker(relax_kwargs={"fmax": fmax}), "static": EmtRelaxMaker(steps=1)}


def check(steps, elements):
    if unknown := set(elements) - set(parameters):
        raise ParameterError(f"EMT has no parameters for {', '.join(sorted(unknown))}")


def read(task, directory):
    return of_ase(task, Level(code="emt", code_version=installed_version("ase"), functional="EMT"))


CODE = Code(
    name="emt",
    presets={"emt": Preset(steps)},
    document="atomate2.ase.schemas.AseStructureTaskDoc",
    calculator="emt",
    read=read,
    install="pip install atomate2",
    packages=("atomate2", "ase"),
    check=check,
    version=lambda maker: installed_version("ase") if "Emt" in type(maker).__name__ else None,
)
'''


@pytest.fixture
def emt(install) -> None:
    """A package with the backend `emt` is installed."""
    install("lab_emt", EMT, f"[{codes.GROUP}]\nemt = lab_emt:CODE\n")


@pytest.fixture
def copper(stored, emt, tmp_path, monkeypatch) -> str:
    """The id of a candidate of copper, stretched, in a store of its own."""
    like = CandidateDoc.model_validate(collection(job_store(), "candidates").query_one({"formula": "NaCl"}))
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    crystal = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.8), ["Cu"], [[0, 0, 0]])
    told = {"candidate_id": "dao-c00000000001", "structure": crystal, "n_atoms": 4, "formula": "Cu", "chemsys": "Cu"}
    document = like.model_copy(update={**told, "elements": ["Cu"]})
    stored_one = {"_id": document.candidate_id, **json.loads(document.model_dump_json())}
    collection(job_store(), "candidates").update([stored_one], key="candidate_id")
    return document.candidate_id


def test_it_verifies_is_read_at_its_level_and_replays(copper, call, tmp_path):
    code, out, err = call("verify", copper, "--backend", "emt", "--json")
    assert code == 0, err
    (document,) = json.loads(out)["verifications"]
    assert (document["state"], document["backend"], document["converged"]) == ("successful", "emt", True)
    assert (document["level"]["code"], document["level"]["functional"]) == ("emt", "EMT")
    assert document["structure"]["lattice"]["volume"] == pytest.approx(11.6, abs=0.2)  # EMT's copper, Å³
    atoms = Structure.from_dict(document["structure"]).to_ase_atoms()
    from ase.calculators import emt as ase_emt
    from ase.units import GPa

    atoms.calc = ase_emt.EMT()
    assert document["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert document["stress"][0] == pytest.approx((atoms.get_stress(voigt=False) / GPa)[0].tolist(), abs=1e-3)
    found = job_store().query({"output.@class": "CalculationDoc"})
    relax, static = sorted((CalculationDoc.model_validate(each["output"]) for each in found), key=lambda c: c.step)
    for each in (relax, static):
        parameters = each.provenance.science.parameters
        assert (parameters["code"], parameters["program_version"]) == ("emt", document["level"]["code_version"])
        uuid = each.provenance.execution.job_uuid
        for options, says in (((), "by inputs and outputs"), (("--dft",), "identical")):
            code, out, err = call("audit", "replay", uuid, *options)
            assert (code, says in out) == (0, True), out + err
    before = sorted((tmp_path / "runs").glob("emt-*/*"))
    assert call("verify", copper, "--backend", "emt")[0] == 0
    assert sorted((tmp_path / "runs").glob("emt-*/*")) == before  # it was not calculated again
    assert len(before) >= 2


def test_doctor_tells_what_it_needs_and_the_check_what_it_lacks(workplace, emt, call):
    _, out, _ = call("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert checks["emt: ase"]["status"] == checks["emt: atomate2"]["status"] == "ok"
    with pytest.raises(ParameterError, match="EMT has no parameters for Si"):
        VerifyMaker(backend="emt").check(["Cu", "Si"])


def test_one_that_cannot_be_loaded_is_named_and_harms_no_other(workplace, emt, call, install):
    install("lab_broken", "raise RuntimeError('out of order')\n", f"[{codes.GROUP}]\nbroken = lab_broken:CODE\n")
    _, out, _ = call("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert "out of order" in checks["broken"]["detail"] and checks["emt: ase"]["status"] == "ok"
    code, _, err = call("verify", "dao-c00000000001", "--backend", "broken")
    assert (code, err.count("\n")) == (2, 1)
    assert [code.name for code in codes.every("emt")] == ["emt", *dict.fromkeys(codes.BACKENDS.values())]


def test_the_list_of_codes_loads_none_of_them():
    code = (
        "import sys; from dao_flows.makers.verify import codes; codes.names(); print(*sorted("
        "name for name in sys.modules if name.split('.')[0] in ('atomate2', 'pymatgen', 'jobflow', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("name", codes.BACKENDS)
def test_ours_are_declared_without_atomate2(name):
    code = (
        f"import sys; from dao_flows.makers.verify import codes; code = codes.load({name!r}); "
        "assert code.name in code.presets and not any(m.startswith('atomate2') for m in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
