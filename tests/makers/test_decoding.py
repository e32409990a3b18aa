"""Stored data become objects in one place, from a closed list; what they name is neither imported nor called."""

import ast
import json
import random
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monty.json import MontyEncoder
from pymatgen.core import Lattice, Species, Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import (
    CompositionEnergyAdjustment,
    ComputedEntry,
    ComputedStructureEntry,
    ConstantEnergyAdjustment,
    ManualEnergyAdjustment,
    TemperatureEnergyAdjustment,
)

from dao_flows.makers import decoding
from dao_flows.makers.schemas import GeneratedCandidate, Science
from dao_flows.makers.verify.backends import backend
from dao_flows.makers.verify.calculation import settings_of

ROOT = Path(__file__).parents[2]
FORCE_FIELD = pytest.mark.skipif(find_spec("atomate2") is None, reason="atomate2 is not installed")


def salt(**properties) -> Structure:
    return Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]], site_properties=properties)


def told(item) -> dict:
    """As it stands in a database."""
    return json.loads(json.dumps(item.as_dict(), cls=MontyEncoder))


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Ways to name a module whose import leaves a file, by name; and whether it was imported."""
    (tmp_path / "hostile_module.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Thing:\n    pass\ndef call():\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield planted_objects()
    ran = (tmp_path / "ran").exists()
    sys.modules.pop("hostile_module", None)
    assert not ran, "data chose what was imported"


def planted_objects() -> list[dict]:
    module = "hostile_module"
    bound = {"@module": module, "@class": "Thing"}
    return [
        bound,
        {"@module": module, "@callable": "call"},
        {"@module": module, "@callable": "Thing.as_dict", "@bound": bound},
        {"@module": "jobflow.core.reference", "@class": "OutputReference", "uuid": bound, "attributes": []},
        {
            "@module": "atomate2.forcefields.jobs",
            "@class": "ForceFieldStaticMaker",
            "force_field_name": f"{module}.call",
        },
        {"@module": "atomate2.forcefields.jobs", "@class": "ForceFieldStaticMaker", "force_field_name": bound},
    ]


def test_a_structure_comes_back_as_it_was():
    magnetic = salt(magmom=[1.0, -1.0], forces=[[0.0, 0.0, 0.1]] * 2)
    ions = Structure(Lattice.cubic(4.2), [Species("Mg", 2), Species("O", -2, spin=1)], [[0, 0, 0], [0.5] * 3], charge=0)
    for structure in (salt(), magnetic, ions):
        again = decoding.structure(told(structure))
        assert json.dumps(told(again)) == json.dumps(told(structure))  # 1 stays 1, and 1.0 is 1.0
        assert decoding.structure(structure) is structure


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(allow_nan=False), st.lists, max_leaves=5))
@settings(max_examples=200, deadline=None)
def test_what_is_no_structure_is_refused_in_one_line(value):
    for data in (value, {"lattice": value, "sites": []}, {**told(salt()), "sites": value}):
        with pytest.raises(decoding.DecodingError) as refused:
            decoding.structure(data)
        assert "\n" not in str(refused.value)


def test_objects_in_a_structure_are_refused(hostile):
    for planted in hostile:
        in_site, at_root = told(salt(magmom=[1.0, 2.0])), told(salt())
        in_site["sites"][1]["properties"]["magmom"] = [{"deep": planted}]
        at_root["properties"] = {"name": planted}
        for data in (in_site, at_root, planted, {**told(salt()), "lattice": planted}):
            with pytest.raises(decoding.DecodingError):
                decoding.structure(data)
            with pytest.raises(ValueError, match="structure"):
                GeneratedCandidate(candidate_id="dao-1", formula="NaCl", z=1, index=0, structure=data)


def adjusted() -> list[ComputedEntry]:
    scheme = MaterialsProject2020Compatibility().as_dict()
    adjustments = [
        ConstantEnergyAdjustment(-0.5, uncertainty=0.1, cls=scheme),
        ManualEnergyAdjustment(0.25),
        CompositionEnergyAdjustment(-0.1, 2, uncertainty_per_atom=0.0, name="anion", cls=scheme),
        TemperatureEnergyAdjustment(-0.001, 300, 2, uncertainty_per_deg=0.0),
    ]
    parameters = {"run_type": "GGA", "hubbards": {"Fe": 5.3}, "potcar_spec": [{"titel": "PAW_PBE Na_pv", "hash": None}]}
    return [
        ComputedEntry("Na", -1.5, entry_id="a"),
        ComputedEntry("NaCl", -7.0, correction=-0.3, parameters=parameters, data={"oxide_type": "None"}),
        ComputedEntry({"Na": 1, "Cl": 1}, -7.0, energy_adjustments=adjustments[:3]),
        ComputedStructureEntry(salt(), -7.0, energy_adjustments=adjustments[2:], parameters=parameters),
        ComputedStructureEntry(salt(magmom=[0.0, 1.0]), -7.0, correction=0.2),
    ]


@pytest.mark.parametrize("number", range(5))
def test_an_entry_comes_back_as_it_was(number):
    entry = adjusted()[number]
    again = decoding.entry(told(entry))
    assert type(again) is type(entry)
    assert (again.energy, again.correction, again.composition) == (entry.energy, entry.correction, entry.composition)
    assert (again.parameters, again.data, again.entry_id) == (entry.parameters, entry.data, entry.entry_id)
    assert [type(a) for a in again.energy_adjustments] == [type(a) for a in entry.energy_adjustments]
    assert [a.name for a in again.energy_adjustments] == [a.name for a in entry.energy_adjustments]


def test_objects_in_an_entry_are_plain_data_or_refused(hostile):
    for planted in hostile:
        for entry in adjusted():
            data = told(entry) | {"parameters": {"run_type": planted, "deep": [[planted]]}, "data": {"oxide": planted}}
            assert decoding.named([(again := decoding.entry(data)).parameters, again.data]) is None
            for name in ("composition", "energy", "energy_adjustments", "structure", "entry_id", "correction"):
                broken = told(entry) | {name: [planted] if name == "energy_adjustments" else planted}
                try:
                    decoding.entry(broken)
                except decoding.DecodingError as refused:
                    assert "\n" not in str(refused)
            with pytest.raises(decoding.DecodingError):
                decoding.entry(planted)


def test_a_reference_to_a_job_is_no_data(hostile):
    reference = hostile[3]
    asked = {
        "maker": "M",
        "parameters": {"a": [{"b": reference}]},
        "inputs": {},
        "checkpoints": {},
        "code_version": "1",
    }
    with pytest.raises(ValueError, match="reference to the output of a job"):
        Science.model_validate(asked)
    Science.model_validate({**asked, "parameters": {"a": hostile[0]}})  # plain data, which nothing decodes


@FORCE_FIELD
@pytest.mark.parametrize("step", ["relax", "static"])
def test_a_force_fields_maker_is_made_from_its_fields(step):
    calculator = backend("forcefield").steps[step]
    settings = settings_of(calculator)
    assert settings_of(decoding.maker(settings)) == settings


@FORCE_FIELD
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"force_field_name": "os.system"}, "no force field os.system"),
        ({"force_field_name": "MLFF.os.system"}, "no force field os.system"),
        ({"force_field_name": {"@module": "os", "@callable": "system"}}, "not known here"),
        ({"calculator_kwargs": {"model": "/tmp/weights.pt"}}, "not known here"),
        ({"optimizer_kwargs": {"logfile": "/tmp/log"}}, "not known here"),
        ({"run_kwargs": {}}, "not known here"),
    ],
)
@pytest.mark.parametrize("trusted", [(), ("chgnet",)])
def test_a_force_fields_maker_takes_no_other_code_or_file(changes, message, trusted):
    settings = settings_of(backend("forcefield").steps["relax"]) | changes
    with pytest.raises(decoding.DecodingError, match=message):
        decoding.maker(settings, trusted)


@FORCE_FIELD
def test_a_trusted_maker_may_still_not_name_its_calculator_by_a_path():
    settings = settings_of(backend("forcefield").steps["relax"]) | {"force_field_name": "os.system"}
    with pytest.raises(decoding.DecodingError, match="no force field"):
        decoding.maker(settings, ["atomate2"])


def test_a_maker_of_ones_own_needs_trust(hostile):
    for planted in hostile[:3]:
        for recorded in (planted, {"@module": "jobflow.core.maker", "@class": "Maker", "name": planted}):
            for trusted in ((), ("jobflow", "hostile")):
                with pytest.raises(decoding.DecodingError):
                    decoding.maker(recorded, trusted)
    with pytest.raises(decoding.UntrustedError) as refused:
        decoding.maker({"@module": "my_lab.makers", "@class": "OwnMaker"})
    assert refused.value.module == "my_lab.makers"


def test_a_trusted_maker_is_what_its_record_says(tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(
        "from dataclasses import dataclass\nfrom jobflow.core.maker import Maker\n\n"
        "@dataclass\nclass OwnMaker(Maker):\n    name: str = 'own'\n    steps: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = decoding.maker({"@module": "my_lab", "@class": "OwnMaker", "steps": 7}, ["my_lab"])
    assert (type(made).__name__, made.steps) == ("OwnMaker", 7)


def planted_document(draw: random.Random, depth: int = 0):
    """A document of random nesting with hostile objects at any depth."""
    kind = draw.random()
    if kind < 0.3 or depth > 5:
        return draw.choice(planted_objects())
    if kind < 0.5:
        return [planted_document(draw, depth + 1) for _ in range(draw.randint(1, 3))]
    names = ("structure", "sites", "lattice", "properties", "parameters", "data", "science", "@class", "@module", "x")
    held = {draw.choice(names): planted_document(draw, depth + 1) for _ in range(draw.randint(1, 3))}
    return held | ({"@class": draw.choice(("Structure", "ComputedEntry"))} if kind > 0.8 else {})


def test_hostile_documents_import_nothing(hostile):
    draw = random.Random(0)
    readers = (decoding.structure, decoding.entry, decoding.maker, Science.model_validate)
    readers += (GeneratedCandidate.model_validate,)
    for _ in range(2000):
        document = planted_document(draw)
        for base in (document, told(salt()) | {"properties": document}, told(adjusted()[0]) | {"data": document}):
            for read in readers:
                with suppress(ValueError):
                    read(base)


DECODERS = {"MontyDecoder", "process_decoded", "loadfn", "get_output", "from_dict", "from_dict_spec", "read_pickle"}
DECODERS |= {"exec", "pickle", "__import__", "unsafe_load", "full_load"}
MEANT = {  # attribute accesses that decode nothing which came from others, by file
    "makers/decoding.py": {"MontyDecoder", "process_decoded", "from_dict"},
    "dao_flows/launch/launchpad.py": {"from_dict"},  # the user's own my_launchpad.yaml, read as plain YAML
    "dao_flows/launch/check.py": {"from_dict"},  # the project's own queue adapter, likewise
    "dao_flows/audit/graph.py": {"from_dict"},  # the definition of a graph's own
}


def test_nothing_else_decodes():
    found = {}
    for path in sorted(ROOT.glob("*/**/*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0] not in ("dao_flows", "makers", "model") or name.startswith(
            ("dao_flows/makers", "dao_flows/model")
        ):
            continue
        used = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                used |= {alias.name for alias in node.names}
        if beyond := (used & DECODERS) - MEANT.get(name, set()):
            found[name] = beyond
    assert found == {}
