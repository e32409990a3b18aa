"""Verification by VASP without VASP: the inputs that are written, and the flow up to outputs that stand in for VASP's.

VASP and its POTCARs are licensed, and were not run. SYNTHETIC outputs are made here, with energies that mean nothing.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.io import zopen
from monty.os.path import zpath
from pymatgen.core import Structure
from pymatgen.io.vasp import Incar, Kpoints, Poscar

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.verification import CalculationDoc, VerificationDoc
from dao_flows.makers.science.symmetry import symmetrised_primitive
from dao_flows.makers.verify import VerifyMaker

pytestmark = pytest.mark.skipif(find_spec("atomate2") is None, reason="needs dao-flows[dft]")

INPUTS = ("INCAR", "KPOINTS", "POSCAR", "POTCAR.spec")
OUTPUTS = ("vasprun.xml", "OUTCAR", "CONTCAR", "WAVECAR", "CHGCAR")
STEPS = ("relax 1", "relax 2", "static")


def rows(tag: str, name: str, values) -> str:
    lines = "".join(f"<v>{' '.join(f'{x:.10f}' for x in row)}</v>\n" for row in values)
    return f'<{tag} name="{name}">\n{lines}</{tag}>\n'


def synthetic_vasprun(structure: Structure, incar: Incar, grid: list[int], energy: float) -> str:
    """A vasprun.xml of one ionic step with the settings of an INCAR, a flat band structure and no meaning."""
    kinds = {bool: ("logical", lambda v: "T" if v else "F"), int: ("int", str), float: (None, str)}

    def item(name: str, value) -> str:
        kind, text = kinds.get(type(value), ("string", str))
        typed = f' type="{kind}"' if kind else ""
        if isinstance(value, list):
            return f'<v name="{name}">{" ".join(str(x) for x in value)}</v>\n'
        return f'<i{typed} name="{name}">{text(value)}</i>\n'

    settings = {k: v for k, v in incar.items() if not isinstance(v, dict)}
    defaults = {"NELM": 100, "NSW": 99, "ISPIN": 2, "ENMAX": 520.0, "IBRION": -1, "LDAU": False}
    functional = {"GGA": "PE", "METAGGA": "--", "LHFCALC": False, "AEXX": 0.0}
    parameters = defaults | functional | settings
    symbols = [site.specie.symbol for site in structure]
    species = list(dict.fromkeys(symbols))
    atoms = "".join(f"<rc><c>{s}</c><c>{species.index(s) + 1}</c></rc>\n" for s in symbols)
    numbers = "<c>1.0</c><c>4.0</c>"  # mass, valence
    types = "".join(
        f"<rc><c>{symbols.count(s)}</c><c>{s}</c>{numbers}<c>PAW_PBE {s} SYNTHETIC</c></rc>\n" for s in species
    )
    cell = (
        f"<crystal>{rows('varray', 'basis', structure.lattice.matrix)}"
        f'<i name="volume">{structure.volume}</i></crystal>{rows("varray", "positions", structure.frac_coords)}'
    )
    energies = "".join(f'<i name="{name}">{energy}</i>\n' for name in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))
    bands = "".join(f"<r>{e} {o}</r>\n" for e, o in ((-5, 1), (-4, 1), (3, 0), (4, 0)))
    eigen = "".join(f'<set comment="spin {s}"><set comment="kpoint 1">{bands}</set></set>' for s in (1, 2))
    levels = "".join(f"<r>{e} {d} {i}</r>\n" for e, d, i in ((-5, 1, 4), (0, 0, 8), (4, 1, 8)))
    density = "".join(f'<set comment="spin {s}">{levels}</set>' for s in (1, 2))
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
<generator><i name="program" type="string">vasp </i><i name="version" type="string">6.0.0 </i>
<i name="subversion" type="string">SYNTHETIC</i></generator>
<incar>{"".join(item(k, v) for k, v in settings.items())}</incar>
<kpoints><generation param="Gamma"><v type="int" name="divisions">{" ".join(map(str, grid))}</v>
<v name="usershift">0 0 0</v></generation>
{rows("varray", "kpointlist", [[0, 0, 0]])}{rows("varray", "weights", [[1]])}</kpoints>
<parameters>{"".join(item(k, v) for k, v in parameters.items())}</parameters>
<atominfo><atoms>{len(symbols)}</atoms><types>{len(species)}</types>
<array name="atoms"><dimension dim="1">ion</dimension><field type="string">element</field>
<field type="int">atomtype</field><set>{atoms}</set></array>
<array name="atomtypes"><dimension dim="1">type</dimension><field type="int">atomspertype</field>
<field type="string">element</field><field>mass</field><field>valence</field>
<field type="string">pseudopotential</field><set>{types}</set></array></atominfo>
<structure name="initialpos">{cell}</structure>
<calculation><scstep><energy>{energies}</energy></scstep><structure>{cell}</structure>
{rows("varray", "forces", np.full((len(symbols), 3), 0.001))}{rows("varray", "stress", 10 * np.eye(3))}
<energy>{energies}</energy>
<eigenvalues><array><dimension dim="1">band</dimension><field>eigene</field><field>occ</field><set>{eigen}</set></array>
</eigenvalues><dos><i name="efermi">0.0</i><total><array><dimension dim="1">gridpoints</dimension>
<field>energy</field><field>total</field><field>integrated</field><set>{density}</set></array></total></dos></calculation>
<structure name="finalpos">{cell}</structure>
</modeling>
"""


def write_synthetic_outputs(energy: float) -> None:
    """In the working directory, where the inputs are: the cell grows by one per cent a side."""
    structure = Poscar.from_file("POSCAR").structure
    structure.scale_lattice(structure.volume * 1.01**3)
    incar = Incar.from_file("INCAR")
    grid = [int(n) for n in Kpoints.from_file("KPOINTS").kpts[0]] if Path("KPOINTS").exists() else [4, 4, 4]
    Path("vasprun.xml").write_text(synthetic_vasprun(structure, incar, grid, energy))
    Poscar(structure).write_file("CONTCAR")
    for name in ("WAVECAR", "CHGCAR"):
        Path(name).write_text("SYNTHETIC\n")
    Path("OUTCAR").write_text(OUTCAR)


OUTCAR = """ SYNTHETIC, not VASP's
 running on    4 total cores
   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=      4
   total plane-waves  NPLWV =   1000
   IBRION =     -1
    total drift:                                0.000000      0.000000      0.000000
   NELECT =      16.0000    total number of electrons
 General timing and accounting informations for this job:
 Total CPU time used (sec):       10.000
 User time (sec):        9.000
 System time (sec):        1.000
 Elapsed time (sec):       11.000
 Maximum memory used (kb):       1000.
 Average memory used (kb):          0.
 """


@pytest.fixture
def vasp_hook(monkeypatch, tmp_path):
    """atomate2's hook for testing without VASP: compares inputs with those in a folder, and copies its outputs."""
    from atomate2.utils.testing.vasp import monkeypatch_vasp

    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    (tmp_path / "reference").mkdir()
    hook = monkeypatch_vasp(monkeypatch, tmp_path / "reference", nelect=16)
    yield next(hook)
    next(hook, None)


def atomate2s_own(flow_maker, structure: Structure, folder: Path, monkeypatch) -> None:
    """Run atomate2's flow on synthetic outputs, and keep inputs and outputs of each step in a folder of its name."""
    import atomate2.vasp.jobs.base

    count = iter(range(len(STEPS)))

    def instead_of_vasp(*args, **kwargs) -> None:
        number = next(count)
        inputs, outputs = (folder / STEPS[number] / kind for kind in ("inputs", "outputs"))
        inputs.mkdir(parents=True)
        for name in INPUTS:
            if Path(name).exists():
                shutil.copy(name, inputs)
        write_synthetic_outputs(-10.0 - number)
        outputs.mkdir()
        for name in OUTPUTS:
            shutil.copy(name, outputs)

    with monkeypatch.context() as patched:
        patched.setattr(atomate2.vasp.jobs.base, "run_vasp", instead_of_vasp)
        run_locally(
            flow_maker.make(structure),
            store=JobStore(MemoryStore(), additional_stores={"data": MemoryStore()}),
            create_folders=True,
            root_dir=folder / "run",
            log=False,
            ensure_success=True,
            raise_immediately=True,
        )


@pytest.mark.parametrize(("preset", "functional"), [("vasp", "PBE"), ("vasp-r2scan", "r2SCAN")])
def test_the_inputs_are_atomate2s_own(preset, functional, crystals, vasp_hook, tmp_path, monkeypatch, job_store):
    from atomate2.vasp.flows.mp import MPGGADoubleRelaxStaticMaker, MPMetaGGADoubleRelaxStaticMaker

    flow_maker = {"vasp": MPGGADoubleRelaxStaticMaker, "vasp-r2scan": MPMetaGGADoubleRelaxStaticMaker}[preset]()
    reference = tmp_path / "reference"
    structure = crystals["rock salt"]
    atomate2s_own(flow_maker, symmetrised_primitive(structure, 0.1), reference, monkeypatch)
    vasp_hook({f"{step} dao-1": step for step in STEPS}, {f"{step} dao-1": {"clear_inputs": False} for step in STEPS})
    flow = VerifyMaker(backend=preset).make(structure, "dao-1", "screened", "NaCl")
    run_locally(flow, store=job_store, log=False, raise_immediately=True)
    document = VerificationDoc.model_validate(job_store.get_output(flow.output.uuid, load=True))
    assert (document.state, document.error, document.converged) == ("successful", None, True)
    calculations = [
        CalculationDoc.model_validate(each["output"])
        for each in job_store.query({"output.@class": "CalculationDoc"}, sort={"completed_at": 1})
    ]
    assert [each.step for each in calculations] == list(STEPS)
    for each in calculations:  # the hook compared parsed files; here they are the same to the letter
        for path in (reference / each.step / "inputs").iterdir():
            with zopen(zpath(str(Path(each.directory.partition(":")[2]) / path.name)), "rt") as written:
                assert written.read() == path.read_text()
    assert (reference / "relax 1" / "inputs" / "KPOINTS").exists() == (preset == "vasp")
    assert document.energy == -12.0
    assert document.level.functional == functional
    assert document.level.code == "vasp"
    assert document.level.code_version.startswith("6.0.0")
    assert document.level.cutoff == {"vasp": 520.0, "vasp-r2scan": 680.0}[preset]
    assert document.level.pseudopotentials == {"Na": "PAW_PBE Na SYNTHETIC", "Cl": "PAW_PBE Cl SYNTHETIC"}
    assert document.level.spin_polarised is True
    assert np.allclose(document.stress, -np.eye(3))  # GPa: the synthetic 10 kB, with the sign turned
    assert document.max_force == pytest.approx(0.001 * 3**0.5)
    if preset == "vasp":
        grid = Kpoints.from_file(reference / "static" / "inputs" / "KPOINTS").kpts[0]
        assert document.level.kpoints == [int(n) for n in grid]


def test_files_pass_from_step_to_step(crystals, vasp_hook, tmp_path, monkeypatch, job_store):
    from atomate2.vasp.flows.mp import MPGGADoubleRelaxStaticMaker

    structure = crystals["rock salt"]
    atomate2s_own(
        MPGGADoubleRelaxStaticMaker(), symmetrised_primitive(structure, 0.1), tmp_path / "reference", monkeypatch
    )
    checks = {"check_inputs": ("incar", "kpoints", "poscar", "potcar", "wavecar"), "clear_inputs": False}
    first = {"clear_inputs": False}
    vasp_hook(
        {f"{step} dao-1": step for step in STEPS},
        {f"{step} dao-1": first if step == "relax 1" else checks for step in STEPS},
    )
    flow = VerifyMaker(backend="vasp").make(structure, "dao-1", "", "NaCl")
    run_locally(flow, store=job_store, log=False, raise_immediately=True)
    document = VerificationDoc.model_validate(job_store.get_output(flow.output.uuid, load=True))
    assert document.error is None


def test_other_inputs_would_be_noticed(crystals, vasp_hook, tmp_path, monkeypatch, job_store):
    """The comparison above can fail: a maker with another cut-off does, and its document says why."""
    from atomate2.vasp.flows.mp import MPGGADoubleRelaxStaticMaker
    from atomate2.vasp.jobs.mp import MPGGARelaxMaker
    from pymatgen.io.vasp.sets import MPRelaxSet

    structure = crystals["rock salt"]
    atomate2s_own(
        MPGGADoubleRelaxStaticMaker(), symmetrised_primitive(structure, 0.1), tmp_path / "reference", monkeypatch
    )
    vasp_hook({f"{step} dao-1": step for step in STEPS})
    other = MPGGARelaxMaker(input_set_generator=MPRelaxSet(user_incar_settings={"ENCUT": 400}))
    flow = VerifyMaker(backend="vasp", steps={"relax 1": other}).make(structure, "dao-1", "", "NaCl")
    run_locally(flow, store=job_store, log=False, raise_immediately=True)
    document = VerificationDoc.model_validate(job_store.get_output(flow.output.uuid, load=True))
    assert document.state == "failed"
    assert "INCAR value of ENCUT is inconsistent: expected 520" in document.error


@pytest.mark.skipif(shutil.which("vasp_std") is not None, reason="VASP is installed here")
def test_without_vasp_a_line_says_so():
    with pytest.raises(ParameterError, match="vasp not found: VASP is licensed"):
        VerifyMaker(backend="vasp").check(["Na", "Cl"])
