"""Verification by CP2K itself, under custodian, with the data of cp2k-data."""

import gzip
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from jobflow import run_locally
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Kpoints

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.verification import CalculationDoc, VerificationDoc
from dao_flows.makers.verify import VerifyMaker, backend
from dao_flows.makers.verify.codes import cp2k as cp2k_module
from dao_flows.makers.verify.codes.results import corrections

needs_makers = pytest.mark.skipif(find_spec("atomate2") is None, reason="needs dao-flows[dft]")
needs_data = pytest.mark.skipif(
    not (cp2k_module.SHARED / cp2k_module.BASIS_FILE).is_file(), reason="cp2k-data is not installed"
)
needs_cp2k = pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="CP2K (cp2k.psmp) is not installed")


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv(cp2k_module.FOLDER_VARIABLE, raising=False)
    return tmp_path / "runs"


@pytest.fixture
def silicon() -> Structure:
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.53), ["Si"], [[0, 0, 0]])


def coarse() -> dict:
    """The smallest basis, the fewest plane waves and k-points that still say something."""
    return dict(backend("cp2k", basis="SZV-MOLOPT-SR-GTH", cutoff=120, density=4).steps)


def verified(maker: VerifyMaker, structure: Structure, store) -> VerificationDoc:
    flow = maker.make(structure, "dao-1", "screened", "Si")
    run_locally(flow, store=store, log=False, raise_immediately=True)
    return VerificationDoc.model_validate(store.get_output(flow.output.uuid, load=True))


@needs_makers
@needs_data
@needs_cp2k
@pytest.mark.slow
def test_a_candidate_is_relaxed_under_custodian(silicon, job_store):
    maker = VerifyMaker(backend="cp2k", steps=coarse())
    maker.check(["Si"])
    document = verified(maker, silicon, job_store)
    assert (document.state, document.error, document.converged) == ("successful", None, True)
    assert document.level.code_version
    assert document.level.model_dump(exclude={"code_version"}) == {
        "code": "cp2k",
        "functional": "PBE",
        "pseudopotentials": {"Si": "GTH-PBE-q4 with SZV-MOLOPT-SR-GTH"},
        "hubbard_u": {},
        "cutoff": pytest.approx(120 * 13.605693, rel=1e-5),
        "kpoints": [2, 2, 2],
        "spin_polarised": True,
    }
    relax, static = (
        CalculationDoc.model_validate(each["output"])
        for each in job_store.query({"output.@class": "CalculationDoc"}, sort={"completed_at": 1})
    )
    assert relax.ionic_steps > 1
    assert relax.structure.volume != pytest.approx(document.sent.volume, rel=1e-3)
    assert np.abs(np.trace(relax.stress)) / 3 < 0.05  # GPa
    assert static.energy == pytest.approx(relax.energy, abs=0.01)
    assert list(Path(static.directory.partition(":")[2]).glob("custodian.json*"))


@needs_makers
@needs_data
@needs_cp2k
def test_what_custodian_cannot_mend_is_told(silicon, job_store, runs):
    static = coarse()["static"]
    static.input_set_generator.user_input_settings["override_default_params"] = {
        "FORCE_EVAL": {"DFT": {"NO_SUCH_KEYWORD": "1"}}
    }
    document = verified(VerifyMaker(backend="cp2k", steps={"relax": None, "static": static}), silicon, job_store)
    assert document.state == "failed"
    assert document.error.startswith("static: ")
    assert "NO_SUCH_KEYWORD" in document.error  # CP2K's own words
    assert "\n" not in document.error
    (record,) = document.calculations
    assert record.directory.endswith(str(next(runs.glob("cp2k-static-*/attempt-1"))))


@needs_makers
@needs_data
def test_basis_potential_and_k_points_are_looked_up_for_a_structure(silicon):
    maker = backend("cp2k", density=64).steps["relax"]
    cp2k_module.fill(maker, silicon.get_primitive_structure())
    generator = maker.input_set_generator
    found = generator.user_input_settings["basis_and_potential"]["Si"]
    assert (found["basis"].name, found["potential"].name) == ("DZVP-MOLOPT-SR-GTH", "GTH-PBE-q4")
    assert isinstance(generator.user_kpoints_settings, Kpoints)
    assert len(set(generator.user_kpoints_settings.kpts[0])) == 1
    text = str(generator.get_input_set(silicon.get_primitive_structure()).cp2k_input)
    assert "GTH-PBE-q4" in text
    assert "DZVP-MOLOPT-SR-GTH" in text
    assert "MONKHORST-PACK" in text


@needs_makers
@needs_data
def test_what_the_data_folder_lacks_is_told_in_a_line(tmp_path, monkeypatch):
    with pytest.raises(ParameterError, match="no DZVP-MOLOPT-SR-GTH for U") as caught:
        cp2k_module.basis_and_potential(["Si", "U"], "DZVP-MOLOPT-SR-GTH", "GTH-PBE")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(cp2k_module.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ParameterError, match="apt install cp2k-data"):
        cp2k_module.data_folder()


@needs_makers
def test_custodians_corrections_are_read_from_its_own_record(tmp_path, monkeypatch):
    from custodian.custodian import Custodian, CustodianError, ErrorHandler, Job

    class Quick(Job):
        def setup(self, directory="./"): ...

        def run(self, directory="./"):
            return subprocess.Popen(["true"])

        def postprocess(self, directory="./"): ...

        name = "quick"

    class Complaining(ErrorHandler):
        def check(self, directory="./"):
            return True

        def correct(self, directory="./"):
            return {"errors": ["Unhappy"], "actions": [{"dict": "cp2k.inp", "action": {"_set": {"CUTOFF": 500}}}]}

    monkeypatch.chdir(tmp_path)
    with pytest.raises(CustodianError):
        Custodian([Complaining()], [Quick()], max_errors=2).run()
    assert corrections(tmp_path / "elsewhere") == []
    found = corrections(tmp_path)
    assert [correction.errors for correction in found] == [["Unhappy"]] * len(found)
    assert len(found) >= 2
    assert "500" in found[0].actions[0]
    path = tmp_path / "custodian.json"
    (tmp_path / "custodian.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()  # as atomate2 leaves it
    assert corrections(tmp_path) == found
