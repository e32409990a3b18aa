"""What of each code is found on a machine, and what is said where it is not."""

import stat
from importlib.util import find_spec
from pathlib import Path

import pytest

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.verify import codes
from dao_flows.makers.verify.backends import Backend, backend
from dao_flows.makers.verify.codes import abinit, cp2k

pytestmark = pytest.mark.skipif(not (find_spec("atomate2") and find_spec("abipy")), reason="needs dao-flows[dft]")


@pytest.fixture
def bare(monkeypatch, tmp_path) -> Path:
    """A machine with nothing on it; its folder of programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv(cp2k.FOLDER_VARIABLE, str(tmp_path / "nothing"))
    monkeypatch.delenv(abinit.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(abinit, "SHARED", tmp_path / "nothing")
    return folder


def program(folder: Path, name: str, says: str) -> None:
    """A program that only tells its version, in place of the real one."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def missing(code: str) -> dict[str, str]:
    return {each.name: each.fix for each in codes.load(code).requirements() if each.found is None}


def test_each_thing_that_is_missing_has_a_line_that_fixes_it(bare):
    assert set(missing("abinit")) == {"abinit", "abinit: pseudopotentials"}
    assert set(missing("cp2k")) == {"cp2k", "cp2k: data"}
    assert set(missing("vasp")) >= {"vasp"}
    for code in ("abinit", "cp2k", "vasp"):
        for fix in missing(code).values():
            assert fix
            assert "\n" not in fix


def test_programs_are_found_with_their_versions(bare):
    program(bare, "abinit", "9.6.2")
    program(bare, "cp2k.psmp", " CP2K version 2023.1")
    found = {each.name: each.found for code in ("abinit", "cp2k") for each in codes.load(code).requirements()}
    assert found["abinit"] == f"{bare / 'abinit'}, 9.6.2"
    assert found["cp2k"] == f"{bare / 'cp2k.psmp'}, 2023.1"


def test_a_code_called_through_mpirun_tells_its_own_version(bare, monkeypatch):
    program(bare, "abinit", "9.6.2")
    program(bare, "mpirun", "mpirun (Open MPI) 4.1.4")
    monkeypatch.setattr("atomate2.SETTINGS.ABINIT_CMD", "mpirun -n 4 abinit")
    assert abinit.CODE.program.version() == "9.6.2"


def test_a_check_says_the_first_thing_that_is_missing(bare):
    with pytest.raises(ParameterError, match="abinit not found: apt install abinit"):
        backend("abinit").check(["Si"])
    program(bare, "abinit", "9.6.2")
    with pytest.raises(ParameterError, match="pseudopotentials not found: apt install abinit-data"):
        backend("abinit").check(["Si"])
    with pytest.raises(ParameterError, match="cp2k not found"):
        backend("cp2k").check(["Si"])
    backend("forcefield").check(["Si"])


@pytest.mark.skipif(find_spec("deepmd") is not None, reason="DeePMD is installed here")
def test_a_force_field_without_its_package_is_refused():
    with pytest.raises(ParameterError, match="force field DeepMD is not installed: install deepmd-kit"):
        backend("forcefield:DeepMD").check(["Si"])


def test_makers_with_pseudopotentials_of_their_own_need_none_here(bare):
    program(bare, "abinit", "9.6.2")
    steps = backend("abinit").steps
    for maker in steps.values():
        maker.input_set_generator.pseudos = ["mine.psp8"]
    Backend("abinit", "abinit", steps).check(["Si"])


def test_elements_without_pseudopotentials_are_refused(bare, tmp_path, monkeypatch):
    program(bare, "abinit", "9.6.2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "Si.psp8").touch()
    monkeypatch.setenv(abinit.FOLDER_VARIABLE, str(tmp_path / "mine"))
    backend("abinit").check(["Si"])
    with pytest.raises(ParameterError, match="O in mine"):
        backend("abinit").check(["Si", "O"])


def test_potcars_are_looked_for(bare, monkeypatch, tmp_path):
    import pymatgen.core

    (tmp_path / "potcars").mkdir()
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "gone"))
    assert "pmg config" in missing("vasp")["vasp: POTCARs"]
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "potcars"))
    assert "vasp: POTCARs" not in missing("vasp")
