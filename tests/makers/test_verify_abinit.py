"""Verification by ABINIT itself, with the pseudopotentials of abinit-data."""

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from jobflow import run_locally
from pymatgen.core import Lattice, Structure

from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.verification import CalculationDoc, VerificationDoc
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.verify import VerifyMaker, backend, verify_screening
from dao_flows.makers.verify.codes import abinit as abinit_module

NORM_CONSERVING, PAW = (abinit_module.SHARED / name for name in abinit_module.TABLES)
needs_makers = pytest.mark.skipif(not (find_spec("atomate2") and find_spec("abipy")), reason="needs dao-flows[dft]")
needs_data = pytest.mark.skipif(not NORM_CONSERVING.is_dir(), reason="abinit-data is not installed")
needs_abinit = pytest.mark.skipif(shutil.which("abinit") is None, reason="ABINIT is not installed")


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv(abinit_module.FOLDER_VARIABLE, raising=False)
    return tmp_path / "runs"


def coarse() -> VerifyMaker:
    """The preset with the fewest plane waves and k-points that still say something."""
    return VerifyMaker(backend="abinit", steps=dict(backend("abinit", ecut=12, density=20).steps))


@needs_makers
@needs_data
@needs_abinit
def test_a_generated_candidate_is_relaxed(job_store):
    maker = coarse()
    maker.check(["Si"])
    drawn = GenerateMaker.make.original(GenerateMaker(candidates=2, seed=0, steps=40, device="cpu"), "Si2")
    screening = ScreenMaker.make.original(ScreenMaker(device="cpu", prototypes=False), drawn)
    built = verify_screening(screening, maker, top=1)
    run_locally(built, store=job_store, log=False, raise_immediately=True)
    stored = job_store.get_output(built.uuid, load=True)
    raw = job_store.query({"output.@class": "VerificationDoc"}, properties=["output.sent"])
    assert [each["output"]["sent"]["@module"] for each in raw] == ["pymatgen.core.structure"]  # and not abipy's
    (document,) = (VerificationDoc.model_validate(each) for each in stored)
    assert (document.state, document.error, document.converged) == ("successful", None, True)
    assert document.candidate_id == next(c.candidate_id for c in screening.accepted if c.rank == 1)
    assert document.level.model_dump() == {
        "code": "abinit",
        "code_version": document.level.code_version,
        "functional": "PBE",
        "pseudopotentials": {"Si": "Pseudodojo_nc_sr_04_pbe_standard_psp8/Si.psp8"},
        "hubbard_u": {},
        "cutoff": pytest.approx(12 * 27.211386, rel=1e-6),
        "kpoints": document.level.kpoints,
        "spin_polarised": False,
    }
    assert document.level.code_version.count(".") == 2
    assert min(document.level.kpoints) >= 3
    relax, static = (
        CalculationDoc.model_validate(each["output"])
        for each in job_store.query({"output.@class": "CalculationDoc"}, sort={"completed_at": 1})
    )
    assert relax.ionic_steps > 1
    assert static.ionic_steps is None
    assert relax.provenance.science.inputs["pseudopotentials"] == {
        "Si": hashlib.sha256((NORM_CONSERVING / "Si.psp8").read_bytes()).hexdigest()
    }
    assert "/" not in str(relax.provenance.science.parameters)  # no path decides a result
    assert relax.provenance.science.parameters["program_version"] == document.level.code_version
    assert np.abs(relax.stress).max() < 0.02  # GPa; the code's own threshold is 0.015
    assert document.max_force < 0.01  # eV/Å
    assert -120 < document.energy_per_atom < -110  # eV, of this pseudopotential
    assert document.energy == pytest.approx(static.energy_per_atom * len(document.structure))
    assert type(document.structure) is Structure
    assert (Path(static.directory.partition(":")[2]) / "run.abo").exists()


@needs_makers
@needs_data
@needs_abinit
def test_abinits_own_words_are_the_error(job_store, runs):
    makers = dict(backend("abinit", ecut=12, density=10).steps)
    makers["relax"].input_set_generator.user_abinit_settings["nband"] = 1  # four valence electrons a cell need two
    del makers["static"]
    silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.47), ["Si"], [[0, 0, 0]])
    flow = VerifyMaker(backend="abinit", steps=makers).make(silicon, "dao-1", "", "Si")
    run_locally(flow, store=job_store, log=False, raise_immediately=True)
    document = VerificationDoc.model_validate(job_store.get_output(flow.output.uuid, load=True))
    assert document.state == "failed"
    assert "nband" in document.error or "band" in document.error
    (directory,) = runs.glob("abinit-relax-*/attempt-1")
    assert abinit_module.complaint(directory) in document.error


@needs_makers
@needs_data
@needs_abinit
def test_a_restart_that_abinit_asks_for_is_given(job_store, runs):
    makers = dict(backend("abinit", ecut=12, density=10).steps)
    makers["relax"].input_set_generator.user_abinit_settings["ntime"] = 4  # too few to converge: more follow
    silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.6), ["Si"], [[0, 0, 0]])
    flow = VerifyMaker(backend="abinit", steps={"relax": makers["relax"], "static": None})
    flow = flow.make(silicon, "dao-1", "", "Si")
    run_locally(flow, store=job_store, log=False, raise_immediately=True)
    document = VerificationDoc.model_validate(job_store.get_output(flow.output.uuid, load=True))
    assert document.error is None
    restarts = list(runs.glob("abinit-relax-*/attempt-1/restart-*"))
    assert restarts
    assert document.calculations[0].directory.endswith(f"restart-{len(restarts)}")
    assert np.abs(document.stress).max() < 0.02


@needs_data
def test_a_table_is_chosen_that_has_all_elements(monkeypatch, tmp_path):
    assert abinit_module.choose(["Si", "O"]).name == NORM_CONSERVING.name
    assert abinit_module.choose(["Na", "I"]).name == PAW.name  # the other has neither
    assert abinit_module.choose(["Sn"]).files["Sn"].name == "Sn.xml"
    assert abinit_module.choose(["Zn"]).files["Zn"].name == "Zn-sp.psp8"
    with pytest.raises(ParameterError, match=r"has all of Na, Zn \(missing: Na in") as caught:
        abinit_module.choose(["Na", "Zn"])
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(abinit_module.FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ParameterError, match="is not a folder"):
        abinit_module.choose(["Si"])
    (tmp_path / "mine").mkdir()
    shutil.copy(NORM_CONSERVING / "Si.psp8", tmp_path / "mine" / "Si-mine.psp8")
    shutil.copy(PAW / "Si.xml", tmp_path / "mine" / "Si.xml")
    shutil.copy(PAW / "O.xml", tmp_path / "mine" / "O.xml")
    monkeypatch.setenv(abinit_module.FOLDER_VARIABLE, str(tmp_path / "mine"))
    assert abinit_module.choose(["Si"]).files == {"Si": tmp_path / "mine" / "Si-mine.psp8"}
    with pytest.raises(ParameterError, match="O in mine"):  # norm-conserving and PAW do not mix
        abinit_module.choose(["Si", "O"])


@needs_makers
@needs_data
def test_cutoff_and_spin_follow_the_elements():
    def filled(*elements: str):
        maker = backend("abinit").steps["static"]
        cell = Structure(Lattice.cubic(4), elements, np.arange(len(elements))[:, None] * [[0.5, 0.5, 0.5]])
        hashes = abinit_module.fill(maker, cell)
        assert set(hashes) == set(elements)
        return maker.input_set_generator.factory_kwargs

    assert filled("Si")["ecut"] == 18  # PseudoDojo's normal hint
    assert filled("Si", "O")["ecut"] == 42  # the harder one's
    assert filled("Si", "O")["spin_mode"] == "unpolarized"
    salt = filled("Na", "I")
    assert (salt["ecut"], salt["pawecutdg"]) == (17.5, 35)  # the XML's own recommendation, and twice that
    assert filled("Ni")["spin_mode"] == "polarized"
    own = backend("abinit", ecut=30).steps["static"]
    abinit_module.fill(own, Structure(Lattice.cubic(4), ["Si"], [[0, 0, 0]]))
    assert own.input_set_generator.factory_kwargs["ecut"] == 30
    own.input_set_generator.pseudos = ["mine.psp8"]
    assert abinit_module.fill(own, Structure(Lattice.cubic(4), ["O"], [[0, 0, 0]])) == {}
    assert own.input_set_generator.pseudos == ["mine.psp8"]


@needs_makers
@needs_data
def test_the_recommended_cutoffs_are_of_these_files():
    """The published md5 sums that the table of cut-offs goes with; As and Ga are other variants there."""
    published = {
        "H": "20698c48a21fe3532638b4d685fd1c8b",
        "N": "01bdf84d59ae6bc236a02b05a98ec0f5",
        "O": "abbcf0645b4a6d69360cd16bcad3e730",
        "Al": "57224185a50eb565dff7432e4aa35376",
        "Si": "45c393525680abc7b25445b8ec62bf83",
        "Ca": "465a3a044f2c7a72aff2b3fb3f797e8d",
        "Zn": "107a1bff54836171a556b2839dee4f22",
        "Se": "9d379314253f25ba1b3521210f42514f",
        "In": "6afc605ab2da9eed3c2cc6336515d190",
    }
    files = abinit_module.table(NORM_CONSERVING).files
    assert set(files) == set(abinit_module.ECUT)
    assert {e: hashlib.md5(files[e].read_bytes()).hexdigest() for e in published} == published
