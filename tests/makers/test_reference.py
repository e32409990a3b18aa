"""Energies above hull agree with linear programming, and what has another zero is refused with a line that says why."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobflow import JobStore, run_locally
from monty.json import MontyEncoder, jsanitize
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
from scipy.optimize import linprog

from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.reference import MP2020, ReferenceSetError, entry_of, hull_energy, reference_set
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.verification import CalculationDoc, HullEnergy, Level, VerificationDoc
from dao_flows.makers.verify.verify import summarise

CHGNET = Level(code="CHGNet", code_version="0.4.2", functional="CHGNet")
ABINIT = Level(code="abinit", functional="PBE", pseudopotentials={"Na": "d/Na.psp8", "Cl": "d/Cl.psp8"}, cutoff=600.0)
VASP = Level(
    code="vasp",
    functional="PBE+U",
    pseudopotentials={"Fe": "PAW_PBE Fe_pv 02Aug2007", "O": "PAW_PBE O 08Apr2002"},
    hubbard_u={"Fe": 5.3},
    cutoff=520.0,
)
METAL = VASP.model_copy(update={"functional": "PBE", "hubbard_u": {}})
NA = Structure(Lattice.cubic(4.29), ["Na", "Na"], [[0] * 3, [0.5] * 3])
CL = Structure(Lattice.orthorhombic(6.2, 4.5, 8.2), ["Cl"] * 2, [[0, 0, 0.05], [0, 0, 0.29]])
FE = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0] * 3, [0.5] * 3])
O2 = Structure(Lattice.cubic(6), ["O", "O"], [[0] * 3, [0, 0, 1.22 / 6]])
WUSTITE = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(4.33), ["Fe", "O"], [[0] * 3, [0.5] * 3]
).get_primitive_structure()


def binary(sodium: int, chlorine: int) -> Structure:
    """A cell of these atoms; where they sit does not matter here."""
    count = sodium + chlorine
    frac = [[(i + 0.5) / count, 0, 0] for i in range(count)]
    return Structure(Lattice.orthorhombic(3 * count, 3, 3), ["Na"] * sodium + ["Cl"] * chlorine, frac)


def write(path: Path, entries: list[ComputedEntry]) -> str:
    text = json.dumps(entries, cls=MontyEncoder)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("references")


def salts(energies: dict[tuple[int, int], float], level: Level = CHGNET) -> list[ComputedEntry]:
    """Entries of NaxCly with these energies per atom."""
    return [
        entry_of(binary(*counts), energy * sum(counts), level, f"{counts[0]}-{counts[1]}")
        for counts, energy in energies.items()
    ]


def above_hull(energies: dict[tuple[int, int], float], counts: tuple[int, int], energy: float) -> float:
    """eV/atom above the cheapest mixture of the entries, by linear programming."""
    shares = np.array([[a / (a + b), b / (a + b)] for a, b in energies])
    wanted = np.array(counts) / sum(counts)
    return energy - float(linprog(list(energies.values()), A_eq=shares.T, b_eq=wanted, method="highs").fun)


ENERGY = st.floats(-4, 0).map(lambda value: round(value, 3))
COUNTS = st.tuples(st.integers(1, 4), st.integers(1, 4))
PHASES = st.dictionaries(COUNTS, ENERGY, max_size=5)


@settings(max_examples=40, deadline=None)
@given(phases=PHASES, elements=st.tuples(ENERGY, ENERGY), counts=COUNTS, energy=ENERGY, seed=st.integers())
def test_hull_energies_agree_with_linear_programming(folder, phases, elements, counts, energy, seed):
    energies = {(1, 0): elements[0], (0, 1): elements[1], **phases}
    entries = salts(energies)
    found = reference_set(write(folder / "set.json", entries))
    hull = hull_energy(found, binary(*counts), energy * sum(counts), CHGNET)
    assert hull.energy_above_hull == pytest.approx(above_hull(energies, counts, energy), abs=1e-6)
    assert hull.raw_energy_above_hull == hull.energy_above_hull
    ideal = float(np.dot(elements, counts)) / sum(counts)
    assert hull.formation_energy_per_atom == pytest.approx(energy - ideal, abs=1e-9)
    assert (hull.scheme, hull.correction_per_atom, hull.missing) == ("none", 0, [])
    for (a, b), known in energies.items():  # nothing in the set lies below its hull, and what is on it is at 0
        own = hull_energy(found, binary(a, b), known * (a + b), CHGNET).energy_above_hull
        assert own >= 0
        if above_hull(energies, (a, b), known) < 1e-9:
            assert own == 0
    Random(seed).shuffle(entries)
    for number, entry in enumerate(entries):
        entry.entry_id = f"other-{number}"
    shuffled = reference_set(write(folder / "shuffled.json.gz", entries))
    assert shuffled.sha256 == found.sha256
    assert hull_energy(shuffled, binary(*counts), energy * sum(counts), CHGNET).energy_above_hull == pytest.approx(
        hull.energy_above_hull, abs=1e-9
    )


@settings(max_examples=20, deadline=None)
@given(
    counts=COUNTS,
    energy=ENERGY,
    offsets=st.tuples(st.floats(-900, 900), st.floats(-900, 900)),
    copies=st.integers(1, 3),
)
def test_neither_the_zero_of_each_element_nor_the_size_of_the_cell_changes_a_hull_energy(
    folder, counts, energy, offsets, copies
):
    energies = {(1, 0): -1.3, (0, 1): -1.8, (1, 1): -3.4}

    def shifted(pair: tuple[int, int], value: float) -> float:
        return value + float(np.dot(pair, offsets)) / sum(pair)

    plain = hull_energy(
        reference_set(write(folder / "plain.json", salts(energies))), binary(*counts), energy * sum(counts), CHGNET
    )
    moved = reference_set(write(folder / "moved.json", salts({k: shifted(k, v) for k, v in energies.items()})))
    cell = binary(*counts) * (copies, 1, 1)
    hull = hull_energy(moved, cell, shifted(counts, energy) * len(cell), CHGNET)
    assert hull.energy_above_hull == pytest.approx(plain.energy_above_hull, abs=1e-6)
    assert hull.formation_energy_per_atom == pytest.approx(plain.formation_energy_per_atom, abs=1e-6)


def test_the_hash_tells_energies_levels_and_structures_apart_and_nothing_else(tmp_path):
    energies = {(1, 0): -1.3, (0, 1): -1.8, (1, 1): -3.4}
    first = reference_set(write(tmp_path / "a.json", salts(energies)))
    doubled = reference_set(write(tmp_path / "twice.json", salts(energies) * 2))
    (tmp_path / "wrapped.json").write_text(json.dumps({"entries": [entry.as_dict() for entry in first.entries]}))
    assert {doubled.sha256, reference_set(str(tmp_path / "wrapped.json")).sha256} == {first.sha256}
    others = [
        salts({**energies, (1, 1): -3.4001}),
        salts(energies, ABINIT),
        salts(energies)[:2],
        [*salts(energies)[:2], entry_of(binary(1, 1).scale_lattice(60), -6.8, CHGNET)],
    ]
    hashes = {reference_set(write(tmp_path / f"{i}.json", entries)).sha256 for i, entries in enumerate(others)}
    assert len(hashes | {first.sha256}) == len(others) + 1


def test_a_file_that_changes_is_read_again(tmp_path):
    first = reference_set(write(tmp_path / "set.json", salts({(1, 0): -1.3}))).sha256
    assert reference_set(write(tmp_path / "set.json", salts({(1, 0): -1.25}))).sha256 != first


def test_elements_without_an_entry_are_named_and_nothing_is_guessed(tmp_path):
    found = reference_set(write(tmp_path / "set.json", salts({(1, 0): -1.3, (1, 1): -3.4})))
    hull = hull_energy(found, binary(1, 1), -6.8, CHGNET)
    assert hull.missing == ["Cl"]
    assert (hull.energy_above_hull, hull.raw_energy_above_hull, hull.formation_energy_per_atom) == (None, None, None)
    assert hull_energy(found, NA, -2.6, CHGNET).energy_above_hull == 0


def changed(level: Level, **values: object) -> Level:
    return level.model_copy(update=values)


@pytest.mark.parametrize(
    ("level", "says"),
    [
        (changed(ABINIT, functional="PBEsol"), "energies of PBE.*abinit PBEsol.*functionals"),
        (changed(ABINIT, code="cp2k"), "energies of abinit.*cp2k PBE.*different codes"),
        (changed(ABINIT, pseudopotentials={"Na": "e/Na.psp8"}), "Na has the pseudopotential d/Na.psp8 of Na, not e/Na"),
        (changed(ABINIT, cutoff=700.0), "Na has the cut-off 600.0 eV, not 700.0"),
        (changed(ABINIT, hubbard_u={"Na": 2.0}), "Na has U = 0 eV on Na, not 2 eV"),
        (CHGNET, "energies of abinit"),
    ],
)
def test_other_levels_are_refused(tmp_path, level, says):
    found = reference_set(write(tmp_path / "set.json", salts({(1, 0): -1.3, (0, 1): -1.8}, ABINIT)))
    with pytest.raises(ReferenceSetError, match=says) as caught:
        hull_energy(found, binary(1, 1), -6.8, level)
    assert "\n" not in str(caught.value)
    near = changed(ABINIT, cutoff=600.01, kpoints=[4, 4, 4], code_version="9", spin_polarised=True)
    assert hull_energy(found, binary(1, 1), -6.8, near).energy_above_hull is not None


def test_force_fields_of_another_version_are_refused(tmp_path):
    found = reference_set(write(tmp_path / "set.json", salts({(1, 0): -1.3})))
    with pytest.raises(ReferenceSetError, match=r"version 0\.4\.2 of CHGNet, not 0\.5"):
        hull_energy(found, NA, -2.6, changed(CHGNET, code_version="0.5"))


def test_entries_that_do_not_say_their_level_are_believed_only_when_the_user_says_it(tmp_path):
    plain = [ComputedEntry("Na", -1.3), ComputedEntry("Cl", -1.8)]
    path = write(tmp_path / "plain.json", plain)
    with pytest.raises(ReferenceSetError, match=r"plain\.json\?code=abinit&functional=PBE"):
        hull_energy(reference_set(path), binary(1, 1), -6.8, ABINIT)
    said = reference_set(f"{path}?code=abinit&functional=PBE")
    assert hull_energy(said, binary(1, 1), -6.8, ABINIT).energy_above_hull == pytest.approx(-3.4 + 1.55)
    own = write(tmp_path / "own.json", salts({(1, 0): -1.3}, ABINIT))
    with pytest.raises(ReferenceSetError, match="different functionals"):
        reference_set(f"{own}?functional=PBEsol")


def test_corrections_that_cannot_be_put_on_the_other_side_are_refused(tmp_path):
    entry = salts({(1, 0): -1.3, (0, 1): -1.8}, ABINIT)
    entry[0].correction = -0.2
    with pytest.raises(ReferenceSetError, match=r"carries corrections .Manual energy adjustment.*VASP"):
        hull_energy(reference_set(write(tmp_path / "set.json", entry)), binary(1, 1), -6.8, ABINIT)


def irons() -> list[ComputedEntry]:
    """Iron, oxygen and a made-up hull phase, as VASP with the Materials Project's settings would have them."""
    oxide = Structure(
        Lattice.cubic(4.3), ["Fe", "Fe", "O", "O", "O"], [[0] * 3, [0.5] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    )
    return [entry_of(FE, -16.9, METAL, "fe"), entry_of(O2, -9.9, METAL, "o"), entry_of(oxide, -33.4, VASP, "fe2o3")]


def test_the_corrections_of_2020_stand_on_both_sides_whether_or_not_the_set_carries_them(tmp_path):
    raw = irons()
    processed = MaterialsProject2020Compatibility().process_entries([entry.copy() for entry in raw])
    assert len(processed) == 3
    own = MaterialsProject2020Compatibility().process_entry(entry_of(WUSTITE, -13.1, VASP))
    hulls = []
    for name, entries in (("raw.json", raw), ("processed.json", processed)):
        hull = hull_energy(reference_set(write(tmp_path / name, entries)), WUSTITE, -13.1, VASP)
        assert (hull.scheme, hull.correction_per_atom) == (MP2020, pytest.approx(own.correction / 2))
        assert hull.corrected_energy_per_atom == pytest.approx(own.energy / 2)
        expected = own.energy - processed[0].energy / 2 - processed[1].energy / 2
        assert hull.formation_energy_per_atom == pytest.approx(expected / 2)
        hulls.append(hull)
    assert hulls[0].energy_above_hull == pytest.approx(hulls[1].energy_above_hull)
    assert abs(hulls[0].energy_above_hull - hulls[0].raw_energy_above_hull) > 0.05
    assert hulls[0].scheme_version.startswith("pymatgen-core ")
    carried = reference_set(str(tmp_path / "processed.json"))
    assert (carried.scheme, reference_set(str(tmp_path / "raw.json")).scheme) == (MP2020, "none")


def test_a_calculation_with_other_settings_is_not_put_on_a_corrected_hull(tmp_path):
    processed = MaterialsProject2020Compatibility().process_entries(irons())
    found = reference_set(write(tmp_path / "set.json", processed))
    with pytest.raises(ReferenceSetError, match=r"Invalid U value of 0.0 on Fe") as caught:
        hull_energy(found, WUSTITE, -13.1, METAL)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    raw = reference_set(write(tmp_path / "raw.json", irons()))
    with pytest.raises(ReferenceSetError, match=r"fe2o3 Fe4?2?O3? has U = 5\.3 eV on Fe, not 0 eV"):
        hull_energy(raw, WUSTITE, -13.1, METAL)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json.gz", "plain", "cannot be read as JSON"),
        ("a.json", "[]", "holds no entries"),
        ("a.json", "3", "no list of ComputedEntries"),
        ("a.json", '[{"a": 1}]', "entry 1 is no ComputedEntry but a plain object"),
        ("a.json", '[{"@module": "os", "@class": "system"}]', "entry 1 is no ComputedEntry but system"),
        ("a.json", '[{"@class": "ComputedEntry", "composition": {"Na": 1}}]', "entry 1 cannot be read"),
        (
            "a.json",
            '[{"@class": "ComputedEntry", "composition": {"Na": 1}, "correction": 0, "energy": NaN}]',
            "not finite",
        ),
    ],
)
def test_broken_files_are_told_in_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(ReferenceSetError, match=says) as caught:
        reference_set(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nowhere.json", "no file nowhere.json"),
        ("store:mine", "takes nothing behind it"),
        ("mp:", "MP_API_KEY"),
        ("store:", "no successful verification"),
    ],
)
def test_what_names_no_set_is_told_in_one_line(text, says, monkeypatch, job_store):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    job_store.connect()
    with pytest.raises(ReferenceSetError, match=says):
        reference_set(text, job_store)


def test_entries_with_oxidation_states_and_isotopes_count_as_their_elements(tmp_path):
    said = {"code": "CHGNet", "functional": "CHGNet"}

    def above(*entries: tuple[Composition, float], name: str) -> HullEnergy:
        held = [ComputedEntry(composition, energy, parameters=said) for composition, energy in entries]
        return hull_energy(reference_set(write(tmp_path / name, held)), binary(1, 1), -6.7, CHGNET)

    elements = (Composition("Na"), -1.3), (Composition("Cl2"), -3.6)
    plain = above(*elements, (Composition("NaCl"), -6.8), name="plain.json")
    told = above(*elements, (Composition({"Na+": 1, "Cl-": 1}), -6.8), name="told.json")
    assert told == plain.model_copy(update={"reference": told.reference}) and not told.missing
    charged = binary(1, 1)
    charged.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    entry = ComputedStructureEntry(charged, -6.8, parameters=said)
    (read,) = reference_set(write(tmp_path / "structure.json", [entry])).entries
    assert read.structure == binary(1, 1) and read.energy == entry.energy
    assert hull_energy(reference_set(str(tmp_path / "plain.json")), charged, -6.7, CHGNET) == plain
    mixed = ComputedEntry(Composition({"Fe2+": 1, "Fe3+": 2, "O2-": 4}), -40.0, parameters=said, correction=-1.5)
    heavy = ComputedEntry(Composition("D2O"), -14.0, parameters=said)
    read = reference_set(write(tmp_path / "mixed.json", [mixed, heavy])).entries
    assert [each.composition.formula for each in read] == ["Fe3 O4", "H2 O1"]
    assert [each.energy for each in read] == [-41.5, -14.0]
    dummy = ComputedEntry(Composition({"X": 1, "Na": 1}), -1.0, parameters=said, entry_id="number-7")
    with pytest.raises(ReferenceSetError, match=r"dummy\.json: the entry number-7 cannot be used: X0\+ is no element"):
        reference_set(write(tmp_path / "dummy.json", [heavy, dummy]))


def test_a_file_that_mixes_functionals_is_refused(tmp_path):
    entries = [*salts({(1, 0): -1.3}, ABINIT), *salts({(0, 1): -1.8}, changed(ABINIT, functional="PBEsol"))]
    with pytest.raises(ReferenceSetError, match=r"different functionals: PBE \(Na\) and PBEsol \(Cl"):
        reference_set(write(tmp_path / "set.json", entries))


def verification(name: str, structure: Structure, energy: float, level: Level, **values: object) -> VerificationDoc:
    """A verification with what a hull needs of it."""
    science = Science(maker="VerifyMaker", parameters={}, inputs={"id": name}, checkpoints={}, code_version="0")
    return VerificationDoc(
        verification_id=name,
        candidate_id="dao-0",
        candidate_science_hash="0",
        formula=structure.composition.reduced_formula,
        chemsys=structure.composition.chemical_system,
        backend=level.code,
        level=level,
        sent=structure,
        structure=structure,
        energy=energy,
        energy_per_atom=energy / len(structure),
        calculations=[],
        core_seconds=1.0,
        provenance=provenance(science, execution_record(datetime.now(UTC), "cpu", {})),
        **{"state": "successful", **values},
    )


@pytest.fixture
def verified(job_store) -> Callable[..., None]:
    """Puts verifications into a job store as finished jobs do."""
    job_store.connect()

    def put(*documents: VerificationDoc) -> JobStore:
        for document in documents:
            number = job_store.count()
            output = jsanitize(document, strict=True)
            stamp = f"2026-11-23T10:00:{number:02d}+00:00"
            output["provenance"]["execution"]["ended_at"] = stamp
            job_store.update({"uuid": f"job-{number}", "index": 1, "completed_at": stamp, "output": output})
        return job_store

    return put


def test_the_store_serves_each_level_with_what_was_verified_at_it(verified):
    jobs = verified(
        verification("na", NA, -2.0, CHGNET),
        verification("na", NA, -2.6, CHGNET),  # verified again: the later one counts
        verification("cl", CL, -3.6, CHGNET),
        verification("broken", binary(1, 1), -80.0, CHGNET, state="failed"),
        verification("na-dft", NA, -2000.0, ABINIT),
    )
    found = reference_set("store:", jobs)
    hull = hull_energy(found, binary(1, 1), -6.8, CHGNET)
    assert hull.energy_above_hull == pytest.approx(-3.4 + 1.55) and hull.missing == []
    assert hull_energy(found, binary(1, 1), -6.8, ABINIT).missing == ["Cl"]
    assert hull_energy(found, binary(1, 1), -6.8, changed(ABINIT, cutoff=700.0)).missing == ["Cl", "Na"]
    before = found.sha256
    more = reference_set("store:", verified(verification("nacl", binary(1, 1), -6.9, CHGNET)))
    assert more.sha256 != before
    assert hull_energy(more, binary(1, 1), -6.8, CHGNET).energy_above_hull == pytest.approx(0.05)


def test_a_running_job_takes_its_own_store(verified):
    jobs = verified(verification("na", NA, -2.6, CHGNET), verification("cl", CL, -3.6, CHGNET))
    about = {
        "verification_id": "ver-1",
        "candidate_id": "dao-1",
        "candidate_science_hash": "0",
        "formula": "NaCl",
        "chemsys": "Cl-Na",
        "backend": "forcefield",
    }
    last = CalculationDoc(
        state="successful",
        candidate_id="dao-1",
        backend="forcefield",
        step="static",
        directory="here:/tmp",
        structure=binary(1, 1),
        energy=-6.8,
        energy_per_atom=-3.4,
        converged=True,
        level=CHGNET,
        wall_seconds=1,
        cores=1,
        provenance=verification("0", NA, -2.6, CHGNET).provenance,
    )
    summary = summarise(about, binary(1, 1), [last], "store:", None)
    summary.config.expose_store = True  # as VerifyMaker does
    responses = run_locally(summary, store=jobs, ensure_success=True, log=False)
    document = VerificationDoc.model_validate(responses[summary.uuid][1].output)
    assert document.error is None and document.hull is not None
    assert document.hull.energy_above_hull == pytest.approx(-1.85)


@pytest.fixture
def materials_project(monkeypatch, tmp_path, materials_project_at) -> Iterator[list[str]]:
    """A server that answers as the Materials Project's does, for iron and oxygen. Gives the paths asked for."""
    asked: list[str] = []
    entries = MaterialsProject2020Compatibility().process_entries(irons())
    for number, entry in enumerate(entries):
        entry.entry_id = f"mp-{number + 1}-{entry.parameters['run_type']}"
        del entry.parameters["level"]  # which the Materials Project's do not have
    documents = [{"entries": {"GGA": entry.as_dict()}, "thermo_type": "GGA_GGA+U"} for entry in entries]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status = 500 if "thermo" in self.path and "broken" in self.server.state else 200
            answer = (
                {"db_version": "2026.1", "version": "0.87.3", "access_controlled_batch_ids": []}
                if "heartbeat" in self.path
                else {"data": documents, "meta": {"total_doc": len(documents)}}
            )
            body = json.dumps(answer, cls=MontyEncoder).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.state = set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    materials_project_at(f"http://127.0.0.1:{server.server_address[1]}/")
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path / "runs"))
    yield asked
    server.shutdown()
    server.server_close()


def test_the_materials_project_is_asked_once_for_a_chemical_system(materials_project, tmp_path):
    hull = hull_energy(reference_set("mp:"), WUSTITE, -13.1, VASP)
    own = hull_energy(reference_set(write(tmp_path / "own.json", irons())), WUSTITE, -13.1, VASP)
    assert hull.energy_above_hull == pytest.approx(own.energy_above_hull) and hull.scheme == MP2020
    assert hull.reference == "mp:2026.1/GGA_GGA+U"
    searches = [path for path in materials_project if "thermo" in path]
    assert searches and any("Fe-O" in path for path in searches)
    again = hull_energy(reference_set("mp:Fe-O"), WUSTITE, -13.0, VASP)
    assert [path for path in materials_project if "thermo" in path] == searches
    assert again.reference_sha256 == hull.reference_sha256
    assert again.energy_above_hull == pytest.approx(hull.energy_above_hull + 0.05)
    with pytest.raises(ReferenceSetError, match="functional"):  # the server's entries are PBE's, whatever is asked
        hull_energy(reference_set("mp:"), WUSTITE, -13.1, changed(METAL, functional="r2SCAN"))
    assert "thermo_types=r2scan" in materials_project[-1].lower()
    for path in tmp_path.rglob("*.gz"):
        assert b"k" * 32 not in gzip.decompress(path.read_bytes())


def test_energies_of_other_codes_are_never_put_beside_the_materials_projects(materials_project):
    for level in (CHGNET, ABINIT, changed(VASP, functional="PBEsol")):
        with pytest.raises(ReferenceSetError, match="another zero"):
            hull_energy(reference_set("mp:"), WUSTITE, -13.1, level)
    assert not materials_project
    with pytest.raises(ReferenceSetError, match="mp:Li-Fe-O"):
        reference_set("mp:Water!")


def test_a_materials_project_that_does_not_answer_is_told_without_the_key(monkeypatch, tmp_path, materials_project_at):
    monkeypatch.setenv("MP_API_KEY", "s" * 32)
    materials_project_at("http://127.0.0.1:9/")
    monkeypatch.setenv("DAO_FLOWS_RUN_DIR", str(tmp_path))
    with pytest.raises(ReferenceSetError, match="Materials Project") as caught:
        hull_energy(reference_set("mp:"), WUSTITE, -13.1, VASP)
    assert "\n" not in str(caught.value) and "s" * 32 not in str(caught.value)
    assert not list(tmp_path.rglob("*.json*"))
