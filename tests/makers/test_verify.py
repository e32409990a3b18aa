"""Verification by a force field: what any backend does with candidates, failures, reruns and routes."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, jsanitize
from monty.serialization import dumpfn
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.verification import CalculationDoc, VerificationDoc
from dao_flows.makers.science.symmetry import symmetrised_primitive
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.verify import CalculateMaker, VerifyMaker, backend, verify_screening
from dao_flows.makers.verify import calculation as calculation_module
from dao_flows.makers.verify.verify import keep_routes, route, unfit

pytestmark = pytest.mark.skipif(
    not (find_spec("atomate2") and find_spec("chgnet")), reason="needs dao-flows[forcefields]"
)


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    """The folder that calculations run in."""
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def unknown() -> Structure:
    """A crystal of an element that CHGNet does not know (it ends at Z = 94)."""
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.9), ["Am"], [[0, 0, 0]])


def verified(flow, store: JobStore) -> VerificationDoc:
    run_locally(flow, store=store, log=False, raise_immediately=True)
    return VerificationDoc.model_validate(store.get_output(flow.output.uuid, load=True))


def calculations(store: JobStore) -> list[CalculationDoc]:
    found = store.query({"output.@class": "CalculationDoc"}, sort={"completed_at": 1})
    return [CalculationDoc.model_validate(document["output"]) for document in found]


def test_a_binary_is_relaxed_and_its_document_tells_what_ran(crystals, job_store):
    stretched = crystals["rock salt"].copy()
    stretched.scale_lattice(1.1 * stretched.volume)
    flow = VerifyMaker(backend="forcefield").make(stretched, "dao-1", "screened", "NaCl")
    document = verified(flow, job_store)
    assert (document.state, document.error, document.converged) == ("successful", None, True)
    assert len(document.sent) == 2  # the primitive cell of the eight atoms
    assert document.structure.volume < document.sent.volume
    assert document.structure.get_space_group_info()[1] == 225
    assert (document.candidate_id, document.candidate_science_hash) == ("dao-1", "screened")
    assert (document.level.code, document.level.functional) == ("CHGNet", "CHGNet")
    assert document.level.code_version
    relax, static = calculations(job_store)
    assert [relax.step, static.step] == ["relax", "static"]
    assert document.energy == static.energy == pytest.approx(2 * document.energy_per_atom)
    assert document.max_force == pytest.approx(np.linalg.norm(static.forces, axis=1).max())
    assert document.core_seconds == pytest.approx(relax.wall_seconds * relax.cores + static.wall_seconds * static.cores)
    assert [record.job_uuid for record in document.calculations] == [job.uuid for job in flow.jobs[:2]]
    assert relax.forcefield_name == "CHGNet"
    assert static.provenance.science.inputs["previous"] == relax.provenance.science_hash
    assert Path(relax.directory.partition(":")[2]).is_dir()
    for each in (document, relax, static):
        assert type(each).model_validate(json.loads(json.dumps(jsanitize(each, strict=True)))) == each
    assert isinstance(MontyDecoder().process_decoded(jsanitize(relax, strict=True)), CalculationDoc)


@pytest.mark.parametrize(("scale", "sign"), [(0.85, -1), (1.2, 1)])
def test_stress_is_positive_where_the_cell_would_shrink(crystals, job_store, scale, sign):
    strained = crystals["rock salt"].copy()
    strained.scale_lattice(scale * strained.volume)
    maker = VerifyMaker(backend="forcefield", steps={"relax": None})
    document = verified(maker.make(strained, "dao-1", "", "NaCl"), job_store)
    assert [record.step for record in document.calculations] == ["static"]
    assert np.sign(np.trace(document.stress)) == sign
    assert 0.1 < abs(np.trace(document.stress)) / 3 < 50  # GPa
    atoms = document.structure.to_ase_atoms()
    from chgnet.model import CHGNetCalculator

    atoms.calc = CHGNetCalculator(use_device="cpu", verbose=False)
    from ase.units import GPa

    assert np.allclose(document.stress, atoms.get_stress(voigt=False) / GPa, atol=1e-3)
    assert np.allclose(calculations(job_store)[0].forces, atoms.get_forces(), atol=1e-4)


def test_energies_stand_against_a_reference_set(crystals, job_store, tmp_path):
    maker = VerifyMaker(backend="forcefield", steps={"relax": None})
    energy = verified(maker.make(crystals["rock salt"], "dao-1", "", "NaCl"), job_store).energy_per_atom
    entries = [ComputedEntry("Na", -1.3, entry_id="Na"), ComputedEntry("Cl", -1.8, entry_id="Cl")]
    dumpfn([*entries, ComputedEntry("NaCl", 2 * energy - 0.2, entry_id="NaCl")], tmp_path / "entries.json")
    maker.reference = f"{tmp_path / 'entries.json'}?code=CHGNet&functional=CHGNet"
    maker.check(["Na", "Cl"])
    hull = verified(maker.make(crystals["rock salt"], "dao-1", "", "NaCl"), job_store).hull
    assert hull.energy_above_hull == pytest.approx(0.1)
    assert hull.formation_energy_per_atom == pytest.approx(energy + 1.55)
    assert hull.missing == []


def test_a_hull_that_cannot_be_undoes_no_calculation(crystals, job_store, tmp_path):
    dumpfn([ComputedEntry("Na", -1.3), ComputedEntry("Cl", -1.8)], tmp_path / "entries.json")
    wrong = f"{tmp_path / 'entries.json'}?code=vasp&functional=PBE"
    maker = VerifyMaker(backend="forcefield", steps={"relax": None}, reference=wrong)
    document = verified(maker.make(crystals["rock salt"], "dao-1", "", "NaCl"), job_store)
    assert (document.state, document.hull) == ("successful", None)
    assert document.error.startswith("no hull: ")
    with pytest.raises(ValueError, match="there is no file"):
        VerifyMaker(backend="forcefield", reference="nowhere.json").check(["Na"])


def test_a_failed_calculation_harms_no_sibling(crystals, unknown, job_store, runs):
    maker = VerifyMaker(backend="forcefield")
    from jobflow import Flow

    bad, good = maker.make(unknown, "dao-bad", "", "Am"), maker.make(crystals["rock salt"], "dao-good", "", "NaCl")
    responses = run_locally(Flow([bad, good]), store=job_store, log=False, raise_immediately=True)
    assert len(responses) == 6  # all ran, none raised
    failed, fine = (
        VerificationDoc.model_validate(job_store.get_output(flow.output.uuid, load=True)) for flow in (bad, good)
    )
    assert fine.state == "successful"
    assert failed.state == "failed"
    assert failed.error.startswith("relax: ")
    assert "Error" in failed.error
    assert "\n" not in failed.error
    assert [record.step for record in failed.calculations] == ["relax"]  # the static one was not begun
    assert failed.energy is failed.structure is failed.hull is None
    assert len(list(runs.glob("forcefield-static-*"))) == 1


def test_what_does_not_converge_has_failed_and_keeps_its_figures(crystals, job_store):
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker

    crystal = crystals["quartz"].copy()
    crystal.perturb(0.2)
    short = ForceFieldRelaxMaker(force_field_name="CHGNet", steps=2)
    maker = VerifyMaker(backend="forcefield", steps={"relax": short}, symprec=0.01)
    document = verified(maker.make(crystal, "dao-1", "", "SiO2"), job_store)
    assert document.state == "failed"
    assert "without converging" in document.error
    (relax,) = {each.provenance.science_hash: each for each in calculations(job_store)}.values()
    assert relax.converged is False
    assert relax.energy is not None
    assert relax.task["output"]["n_steps"] == relax.ionic_steps


def test_what_cannot_be_a_crystal_is_not_sent(crystals, job_store, runs):
    pressed = crystals["rock salt"].copy()
    pressed.scale_lattice(0.1 * pressed.volume)
    flow = VerifyMaker(backend="forcefield").make(pressed, "dao-1", "", "NaCl")
    assert len(flow.jobs) == 1
    document = verified(flow, job_store)
    assert document.state == "failed"
    assert document.error == f"not sent: {unfit(document.sent)}"
    assert "covalent radii" in document.error
    assert document.calculations == []
    assert not runs.exists()


def test_a_finished_calculation_is_taken_over_and_again_computes_it(crystals, job_store, runs):
    def run(**settings) -> VerificationDoc:
        maker = VerifyMaker(backend="forcefield", **settings)
        return verified(maker.make(crystals["rock salt"], "dao-1", "", "NaCl"), job_store)

    first, second = run(), run()
    assert len(list(runs.glob("*/attempt-*"))) == 2
    assert second.calculations == first.calculations
    assert second.verification_id == first.verification_id
    third = run(again=True)
    assert len(list(runs.glob("*/attempt-*"))) == 4
    assert third.energy == pytest.approx(first.energy, abs=1e-6)
    assert {record.job_uuid for record in third.calculations}.isdisjoint(r.job_uuid for r in first.calculations)


def test_a_failed_calculation_is_tried_again(unknown, job_store, runs):
    for attempt in (1, 2):
        maker = VerifyMaker(backend="forcefield")
        assert verified(maker.make(unknown, "dao-1", "", "Am"), job_store).state == "failed"
        assert len(list(runs.glob("forcefield-relax-*/attempt-*"))) == attempt


def test_other_settings_are_another_calculation(crystals):
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker

    structure = crystals["rock salt"]

    def science_of(structure: Structure, **settings):
        calculator = ForceFieldRelaxMaker(force_field_name="CHGNet", **settings)
        maker = CalculateMaker("n", "forcefield", "forcefield", "relax", calculator)
        return maker.science(calculator, structure, None, {})

    same = science_of(structure)
    assert science_of(structure, name="another name") == same
    moved = structure.copy()
    moved.translate_sites([0], [0.001, 0, 0])
    others = [science_of(structure, steps=7), science_of(structure, relax_kwargs={"fmax": 0.01}), science_of(moved)]
    assert all(other != same for other in others)


def test_an_interrupt_is_no_failure_and_leaves_no_process(crystals, job_store, monkeypatch, capsys):
    started = []
    for kind in (KeyboardInterrupt, SystemExit):

        def stop(built, kind=kind):
            print("noise")
            started.append(subprocess.Popen(["sleep", "600"]))  # as a code that runs
            raise kind

        monkeypatch.setattr(calculation_module, "_respond", stop)
        flow = VerifyMaker(backend="forcefield").make(crystals["rock salt"], "dao-1", "", "NaCl")
        with pytest.raises(kind):
            run_locally(flow, store=job_store, log=False)
        assert calculations(job_store) == []
        assert started[-1].poll() is not None
    assert "noise" not in capsys.readouterr().out


SCRIPT = """
    import sys
    from dao_flows.makers.verify import VerifyMaker
    from jobflow import JobStore, run_locally
    from maggma.stores import JSONStore
    from pymatgen.core import Lattice, Structure
    from sleepy import SleepyMaker

    store = JobStore(JSONStore("jobs.json", read_only=False))
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    steps = {"static": SleepyMaker(force_field_name="CHGNet")}
    flow = VerifyMaker(backend="forcefield", steps=steps).make(salt, "dao-1", "", "NaCl")
    run_locally(flow, store=store, log=False, raise_immediately=True)
    print(store.get_output(flow.output.uuid, load=True)["state"])
"""
SLEEPY = """
    import time
    from dataclasses import dataclass
    from pathlib import Path
    from atomate2.forcefields.jobs import ForceFieldStaticMaker, forcefield_job

    @dataclass
    class SleepyMaker(ForceFieldStaticMaker):
        @forcefield_job
        def make(self, structure, prev_dir=None):
            Path("begun").touch()
            while not (Path(__file__).parent / "awake").exists():
                time.sleep(0.1)
            return ForceFieldStaticMaker.make.original(self, structure, prev_dir)
"""


def test_a_kill_during_the_second_calculation_repeats_nothing(tmp_path, runs):
    (tmp_path / "run.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "sleepy.py").write_text(textwrap.dedent(SLEEPY))
    command = [sys.executable, "-W", "ignore", "run.py"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 120
        while not list(runs.glob("forcefield-static-*/attempt-1/begun")):
            assert first.poll() is None, first.stderr.read().decode()
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    (tmp_path / "awake").touch()
    second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert second.stdout.split()[-1:] == ["successful"], second.stderr
    assert len(list(runs.glob("forcefield-relax-*/attempt-*"))) == 1
    assert len(list(runs.glob("forcefield-static-*/attempt-*"))) == 2


@pytest.fixture
def screening(crystals, generation, tiny_library, job_store):
    job_store.connect()
    maker = ScreenMaker(predictor="dao-p-tiny", device="cpu", prototypes=False)
    chosen = [crystals[name] for name in ("rock salt", "caesium chloride", "zinc blende", "quartz", "rutile")]
    return ScreenMaker.make.original(maker, generation(chosen))


def test_the_best_of_each_composition_are_sent(screening, job_store):
    built = verify_screening(screening, VerifyMaker(backend="forcefield"), top=1)
    built.metadata["dao_flows"] = {"run_id": "r"}
    run_locally(built, store=job_store, log=False, raise_immediately=True)
    documents = [VerificationDoc.model_validate(each) for each in job_store.get_output(built.uuid, load=True)]
    assert {document.candidate_id for document in documents} == {
        candidate.candidate_id for candidate in screening.accepted if candidate.rank == 1
    }
    assert {document.formula for document in documents} == {"NaCl", "SiO2"}
    assert all(document.candidate_science_hash == screening.provenance.science_hash for document in documents)
    relaxed = job_store.query({"name": {"$regex": "^relax"}})
    assert {d["metadata"]["dao_flows"]["run_id"] for d in relaxed} == {"r"}


def test_nothing_accepted_is_nothing_sent(screening, job_store):
    built = verify_screening(screening.model_copy(update={"accepted": []}), VerifyMaker(backend="forcefield"))
    run_locally(built, store=job_store, log=False, raise_immediately=True)
    assert job_store.get_output(built.uuid) == []


def categories(flow) -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for job, _ in flow.iterflow():
        found.setdefault(job.name.split()[0], set()).add(job.config.manager_config.get("_category"))
    return found


WANTED = {"relax": {"dft"}, "static": {"dft"}, "verify": {"cpu"}, "store_inputs": {"cpu"}}


@pytest.mark.parametrize("dynamic", [True, False])
def test_children_keep_their_routes_under_a_parent_of_the_gpu(screening, job_store, dynamic):
    built = verify_screening(screening, VerifyMaker(backend="forcefield"), top=1)
    assert built.config.manager_config == {"_category": "cpu"}
    built.update_config({"manager_config": {"_category": "gpu", "_queueadapter": {"gres": "gpu:1"}}}, dynamic=dynamic)
    response = built.run(job_store)
    assert categories(response.replace) == WANTED
    assert not any("_queueadapter" in job.config.manager_config for job, _ in response.replace.iterflow())


def test_what_is_set_for_jobs_of_a_name_reaches_them(screening, job_store):
    built = verify_screening(screening, VerifyMaker(backend="forcefield"), top=1)
    built.update_config({"manager_config": {"_category": "big"}}, name_filter="relax")
    assert categories(built.run(job_store).replace) == WANTED | {"relax": {"big"}}


def test_routes_in_a_fireworks_workflow(screening, job_store):
    pytest.importorskip("fireworks", reason="FireWorks is not installed")
    from jobflow.managers.fireworks import flow_to_workflow

    built = verify_screening(screening, VerifyMaker(backend="forcefield", category="dft-big"), top=1)
    built.update_config({"manager_config": {"_category": "gpu"}})
    workflow = flow_to_workflow(built.run(job_store).replace)
    routes = {(firework.name.split()[0], firework.spec["_category"]) for firework in workflow.fws}
    assert routes == {(name, "dft-big" if name in ("relax", "static") else "cpu") for name in WANTED}


def test_routing_leaves_other_settings_of_children():
    maker = VerifyMaker(backend="forcefield")
    parent = maker.make(Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]]), "dao-1", "", "Po").jobs[-1]
    parent.update_config({"resolve_references": True})
    route(parent, "gpu")
    keep_routes(parent)
    assert [set(update["config"]) for update in parent.config_updates] == [{"resolve_references"}, {"manager_config"}]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"backend": "quantum-espresso"},
            "there is no backend 'quantum-espresso': take one of forcefield, abinit, cp2k",
        ),
        ({"backend": "abinit:x"}, "there is no backend 'abinit:x'"),
        ({"backend": "forcefield:Nonsense"}, "atomate2 has no force field 'Nonsense': take one of .*CHGNet"),
        ({"backend": "forcefield", "steps": {"relax": None, "static": None}}, "left without a calculation"),
        ({"backend": "forcefield", "top": 0}, "top must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_line(settings, says):
    with pytest.raises(ParameterError, match=says) as caught:
        VerifyMaker(**settings).check(["Si"])
    assert "\n" not in str(caught.value)


def test_presets_and_makers_survive_a_store():
    pytest.importorskip("abipy")
    for name in ("abinit", "cp2k", "vasp", "vasp-r2scan", "forcefield", "forcefield:MACE-MP-0"):
        steps = backend(name).steps
        maker = VerifyMaker(backend=name, steps=dict(steps))
        again = MontyDecoder().process_decoded(json.loads(json.dumps(jsanitize(maker.as_dict(), strict=True))))
        assert isinstance(again, VerifyMaker)
        before, after = (
            {step: calculation_module.settings_of(each) for step, each in m.preset().steps.items()}
            for m in (maker, again)
        )
        assert before == after


def test_cells_are_symmetrised_and_primitive(crystals):
    for name, structure in crystals.items():
        rough = structure.copy()
        rough.perturb(0.005)
        cell = symmetrised_primitive(rough * (1, 1, 2), 0.1)
        found = structure.get_space_group_info(symprec=1e-3)
        assert cell.get_space_group_info(symprec=1e-4) == found, name
        assert len(cell) == len(structure.get_primitive_structure())
        assert cell.composition.reduced_formula == structure.composition.reduced_formula
        assert cell.volume / len(cell) == pytest.approx(structure.volume / len(structure), rel=0.02)


def test_atoms_that_symmetry_would_merge_stay():
    close = Structure(Lattice.cubic(4), ["Na", "Na", "Cl"], [[0, 0, 0], [0.01, 0, 0], [0.5, 0.5, 0.5]])
    assert symmetrised_primitive(close, 0.5).composition == close.composition


def test_a_flow_in_place_of_a_job_is_refused_as_a_failure(crystals):
    from jobflow import Flow, Maker

    class FlowMaker(Maker):
        name = "flow"

        def make(self, structure):
            return Flow([])

    store = JobStore(MemoryStore())
    calculator = CalculateMaker("n", "forcefield", "forcefield", "relax", FlowMaker())
    job = calculator.make("dao-1", crystals["rock salt"])
    run_locally(job, store=store, log=False, raise_immediately=True)
    document = CalculationDoc.model_validate(store.get_output(job.uuid))
    assert document.state == "failed"
    assert "a step is one job" in document.error


def test_the_page_on_verification_runs():
    pytest.importorskip("abipy")
    page = Path(__file__).parents[2] / "docs" / "verification.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        names: dict = {}
        exec(block, names)
    assert names["VerifyMaker"](backend="vasp", steps={"relax 2": None}).preset().steps.keys() == {"relax 1", "static"}
