"""Stored data become objects in one place, from a closed list; what they name is neither imported nor called."""

import ast
import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monty.json import MontyEncoder, MSONable
from pydantic import BaseModel
from pymatgen.core import DummySpecies, Lattice, Species, Structure
from pymatgen.electronic_structure.core import Magmom
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import (
    CompositionEnergyAdjustment,
    ComputedEntry,
    ComputedStructureEntry,
    ConstantEnergyAdjustment,
    ManualEnergyAdjustment,
    TemperatureEnergyAdjustment,
)

import dao_flows.makers
from dao_flows.makers.datasets.cleaning import Rejected, clean
from dao_flows.makers.datasets.config import BuildConfig
from dao_flows.makers.datasets.readers.raw import Raw
from dao_flows.makers.reference import entry_decoding
from dao_flows.makers.schemas import decoding, document
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import GeneratedCandidate
from dao_flows.makers.stages import agreement
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
    mixed = Structure(
        Lattice.cubic(5), [{"Na": 0.5, "K": 0.5}, DummySpecies("X", 1)], [[0] * 3, [0.5] * 3], labels=["a", "b"]
    )
    for structure in (
        salt(),
        magnetic,
        ions,
        mixed,
        Structure(Lattice.cubic(3), ["Na"], [[0] * 3], properties={"a": 1}),
    ):
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


def test_properties_are_plain_data_whatever_they_name(hostile):
    for planted in hostile:
        data = told(salt(magmom=[1.0, 2.0], tag=["a", "b"]))
        data["sites"][1]["properties"]["tag"] = [{"deep": planted}]
        data["properties"] = {"name": planted}
        for structure in (
            decoding.structure(data),
            GeneratedCandidate(candidate_id="dao-1", formula="NaCl", z=1, index=0, structure=data).structure,
        ):
            assert decoding.named([structure.properties, structure.site_properties]) is None
            assert structure.site_properties["tag"][0] == "a"
        data["sites"][0]["properties"]["magmom"] = planted
        with pytest.raises(decoding.DecodingError):
            decoding.structure(data)


def test_moments_are_numbers():
    data = told(salt(magmom=[Magmom(2.5), Magmom([0, 0, 1])], velocities=[None, [0, 0, 0]]))
    assert decoding.structure(data).site_properties["magmom"] == [[0, 0, 2.5], [0, 0, 1]]
    for moment in ("up", {"moment": 1}, [1, 2], [[1, 2, 3]], {}):
        data["sites"][0]["properties"]["magmom"] = moment
        with pytest.raises(decoding.DecodingError):
            decoding.structure(data)


def test_arrays_among_properties_are_their_numbers():
    data = told(salt(forces=np.array([[0.0, 0.5, 1.0], [1.0, 2.0, 3.0]])))
    data["sites"][0]["properties"] = json.loads(json.dumps({"forces": np.array([0.0, 0.5, 1.0])}, cls=MontyEncoder))
    assert decoding.structure(data).site_properties["forces"][0] == [0.0, 0.5, 1.0]


def test_an_object_is_no_part_of_a_structure(hostile):
    for planted in hostile:
        for data in (
            planted,
            *({**told(salt()), name: planted} for name in ("lattice", "sites", "charge", "properties")),
        ):
            if data.get("properties") == planted:
                assert decoding.named(decoding.structure(data).properties) is None
                continue
            with pytest.raises(decoding.DecodingError):
                decoding.structure(data)
            with pytest.raises(ValueError, match="structure"):
                GeneratedCandidate(candidate_id="dao-1", formula="NaCl", z=1, index=0, structure=data)


@pytest.mark.parametrize(
    "axes",
    [
        "'9**9**9**9*a,b,c;0,0,0'",
        "'9*x*9*x*9*x*9,b,c;0,0,0'",  # pymatgen leaves the letters out
        '"a,b,c;0,0,1e999999999"',
        "\n;9**9**9**9*a,b,c\n;0,0,0\n;",
        "\n;\n9**9**9**9*a,b,c;0,0,0\n;",
        '\'a,b,__import__("os").system("true");0,0,0\'',
    ],
)
def test_an_expression_in_a_magnetic_cif_is_not_evaluated(axes):
    for tag in ("_space_group_magn.transform_BNS_Pp_abc", "_magnetic_space_group.transform_to_standard_Pp_abc"):
        cif = f"{salt().to(fmt='cif')}\n_space_group_magn.number_BNS 62.448\n{tag} {axes}\n"
        found = clean(Raw(0, "cif", cif, {}), BuildConfig(), compare=False)
        assert isinstance(found, Rejected)
        assert "change of axes" in found.reason


@pytest.mark.parametrize(
    "axes", ["'a,b,c;0,0,0'", '"1/2a-1/2b,c,a+b;1/4,0,0"', "a,b,c;0,0,0", "'-a-c,b,1/2c;0, 0.25, 0'"]
)
def test_a_change_of_axes_is_left_alone(axes):
    cif = f"data_x\n_space_group_magn.transform_BNS_Pp_abc   {axes}\n"
    assert decoding.unevaluated(cif) == cif


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
    again = entry_decoding.entry(told(entry))
    assert type(again) is type(entry)
    assert (again.energy, again.correction, again.composition) == (entry.energy, entry.correction, entry.composition)
    assert (again.parameters, again.data, again.entry_id) == (entry.parameters, entry.data, entry.entry_id)
    assert [type(a) for a in again.energy_adjustments] == [type(a) for a in entry.energy_adjustments]
    assert [a.name for a in again.energy_adjustments] == [a.name for a in entry.energy_adjustments]
    schemes = [[a.cls.get("@class") for a in each.energy_adjustments] for each in (again, entry)]
    assert schemes[0] == schemes[1]


def test_objects_in_an_entry_are_plain_data_or_refused(hostile):
    for planted in hostile:
        for entry in adjusted():
            data = told(entry) | {"parameters": {"run_type": planted, "deep": [[planted]]}, "data": {"oxide": planted}}
            assert decoding.named([(again := entry_decoding.entry(data)).parameters, again.data]) is None
            for name in ("composition", "energy", "energy_adjustments", "structure", "entry_id", "correction"):
                broken = told(entry) | {name: [planted] if name == "energy_adjustments" else planted}
                try:
                    entry_decoding.entry(broken)
                except decoding.DecodingError as refused:
                    assert "\n" not in str(refused)
            with pytest.raises(decoding.DecodingError):
                entry_decoding.entry(planted)


def test_only_settings_of_a_calculator_name_classes(hostile):
    asked = {"maker": "CalculateMaker", "parameters": {}, "inputs": {}, "checkpoints": {}, "code_version": "1"}
    for planted in hostile:
        for name, value in (("parameters", {"a": [{"b": planted}]}), ("inputs", {"c": planted})):
            with pytest.raises(ValueError, match="it names"):
                Science.model_validate({**asked, name: value})
    Science.model_validate(
        {**asked, "parameters": {"settings": hostile[0]}}
    )  # plain data, which nothing of ours decodes
    with pytest.raises(ValueError, match="reference to the output of a job"):
        Science.model_validate({**asked, "parameters": {"settings": {"a": [hostile[3]]}}})


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
        ({"force_field_name": {"@module": "os", "@callable": "system"}}, "no force field"),
        ({"force_field_name": None}, "no force field"),
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
@pytest.mark.parametrize("field", ["force_field_name", "calculator_meta"])
@pytest.mark.parametrize("named", ["os.system", {"@module": "os", "@callable": "system"}])
def test_a_trusted_maker_may_still_not_name_its_calculator_by_a_path(field, named, tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(
        "from dataclasses import dataclass\nfrom atomate2.forcefields.jobs import ForceFieldRelaxMaker\n\n"
        "@dataclass\nclass OwnMaker(ForceFieldRelaxMaker):\n    own: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = settings_of(backend("forcefield").steps["relax"]) | {"@module": "my_lab", "@class": "OwnMaker"}
    assert decoding.maker(settings, ["my_lab"]).own == 1
    with pytest.raises(decoding.DecodingError, match="no force field"):
        decoding.maker(settings | {field: named}, ["my_lab", "os"])


@FORCE_FIELD
def test_what_the_calculator_is_called_with_by_default_may_stand_in_a_record():
    from atomate2.forcefields.jobs import ForceFieldStaticMaker

    maker = ForceFieldStaticMaker(force_field_name="MACE-MP-0b3", calculator_kwargs={"dispersion": True})
    assert maker.calculator_kwargs["model"] == "medium-0b3"
    assert settings_of(decoding.maker(settings_of(maker))) == settings_of(maker)


def test_a_record_does_not_say_how_a_code_is_called():
    settings = {"@module": "my_lab", "@class": "OwnMaker", "inner": {"run_vasp_kwargs": {"vasp_cmd": "true"}}}
    with pytest.raises(decoding.DecodingError, match="how a code is called"):
        decoding.maker(settings, ["my_lab"])


def test_a_maker_of_ones_own_needs_trust(hostile):
    for planted in hostile[:3]:
        for recorded in (planted, {"@module": "jobflow.core.maker", "@class": "Maker", "name": planted}):
            for trusted in ((), ("jobflow", "hostile")):
                with pytest.raises(decoding.DecodingError):
                    decoding.maker(recorded, trusted)
    inner = {"@module": "my_lab.sets", "@class": "OwnSet"}
    for trusted, wanted in (
        ((), "--trust my_lab.makers --trust my_lab.sets"),
        (("my_lab",), "--trust my_lab.makers --trust my_lab.sets"),  # not what lies below: data would choose among it
        (("my_lab.makers",), "--trust my_lab.sets"),
    ):
        with pytest.raises(decoding.UntrustedError) as refused:
            decoding.maker({"@module": "my_lab.makers", "@class": "OwnMaker", "input": inner}, trusted)
        assert refused.value.options == wanted


def test_a_trusted_maker_is_what_its_record_says(tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(
        "from dataclasses import dataclass\nfrom jobflow.core.maker import Maker\n\n"
        "@dataclass\nclass OwnMaker(Maker):\n    name: str = 'own'\n    steps: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = decoding.maker({"@module": "my_lab", "@class": "OwnMaker", "steps": 7}, ["my_lab"])
    assert (type(made).__name__, made.steps) == ("OwnMaker", 7)


def unguarded(annotation, guards=()) -> Iterator[str]:
    """What of a field's type lets objects in: any content, unchecked, or a class that monty decodes for pydantic."""
    if get_origin(annotation) is Annotated:
        annotation, *marks = get_args(annotation)
        guards = (*guards, *(getattr(mark, "func", None) for mark in marks))
    if annotation is Any and not {decoding.unnamed, document.settings_apart} & set(guards):
        yield "Any"
    if isinstance(annotation, type) and issubclass(annotation, MSONable) and decoding.structure not in guards:
        yield annotation.__name__
    for part in get_args(annotation):
        yield from unguarded(part, guards)


def test_no_document_lets_objects_in():
    """pydantic has monty decode fields of monty's classes; fields of any content reach jobflow's decoder."""
    found, seen = {}, []
    for module in pkgutil.walk_packages(dao_flows.makers.__path__, "dao_flows.makers."):
        seen += [
            each
            for each in vars(importlib.import_module(module.name)).values()
            if isinstance(each, type) and issubclass(each, BaseModel) and each.__module__ == module.name
        ]
    for model in seen:
        if model.__module__ in (decoding.__name__, agreement.__name__):  # read there, it is inert; none is stored
            continue
        for name, kind in get_type_hints(model, include_extras=True).items():
            if name in model.model_fields and (wrong := list(unguarded(kind))):
                found[f"{model.__name__}.{name}"] = wrong
    assert {Science, GeneratedCandidate} <= set(seen)
    assert found == {}
    assert list(unguarded(dict[str, list[Any]])) == ["Any"]
    assert list(unguarded(Structure | None)) == ["Structure"]


FOLDERS = ("dao_flows", "makers", "model", "benchmarks", "examples")
DECODERS = {"MontyDecoder", "process_decoded", "loadfn", "get_output", "from_dict", "from_dict_spec", "from_file"}
DECODERS |= {"__import__", "import_module", "load_object", "pickle", "read_pickle", "dill", "cloudpickle", "marshal"}
DECODERS |= {"unsafe_load", "full_load", "unsafe_load_all", "read_json", "get_entries_in_chemsys"}
BUILTINS = {"eval", "exec", "compile"}  # as functions: a network has an eval, too
MEANT = {  # what decodes nothing that came from others, by file
    "makers/schemas/decoding.py": {"MontyDecoder", "process_decoded", "from_dict"},
    "makers/verify/codes/abinit.py": {"from_file"},  # a pseudopotential of this machine, which abipy reads as text
    "makers/reference/materials_project.py": {
        "get_entries_in_chemsys"
    },  # the database's own client decodes its answers
    "makers/jobs/renamed.py": {"import_module"},  # modules of ours, by a list of ours
    "makers/verify/__init__.py": {"import_module"},  # likewise
    "makers/verify/codes/__init__.py": {"import_module"},  # likewise; entry points are what the user installed
    "dao_flows/launch/launchpad.py": {"from_dict"},  # the user's own my_launchpad.yaml, read as plain YAML
    "dao_flows/launch/check.py": {"from_dict"},  # the project's own queue adapter, likewise
    "dao_flows/audit/graph/graph.py": {"from_dict"},  # the definition of a graph's own
    "examples/predict.py": {"get_output"},  # of a store in memory that it has just filled
    "benchmarks/fuzz_documents.py": {
        "MontyDecoder",
        "process_decoded",
    },  # what jobflow does, to see that nothing happens
    "benchmarks/launching.py": {"import_module"},  # what they import stands in them
    "benchmarks/peers/__init__.py": {"import_module"},
    "benchmarks/peers/stand_ins.py": {"import_module"},
}


def decoders_in(source: str) -> set[str]:
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            used |= {node.attr} & DECODERS
        elif isinstance(node, ast.Name):
            used |= {node.id} & (DECODERS | BUILTINS)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            used |= {part for alias in node.names for part in alias.name.split(".")} & DECODERS
        elif isinstance(node, ast.Call):
            allowed = [keyword for keyword in node.keywords if keyword.arg == "allow_pickle"]
            used |= {"allow_pickle"} if allowed and getattr(allowed[0].value, "value", True) is not False else set()
    return used


def test_nothing_else_decodes():
    found = {}
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("dao_flows/makers", "dao_flows/model")):  # links
            continue
        if beyond := decoders_in(path.read_text()) - MEANT.get(name, set()):
            found[name] = beyond
    assert found == {}


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("from monty.json import MontyDecoder as D", "MontyDecoder"),
        ("import monty.serialization as m; m.loadfn('x')", "loadfn"),
        ("Structure.from_dict({})", "from_dict"),
        ("store.get_output('x', load=True)", "get_output"),
        ("import pickle", "pickle"),
        ("eval('1')", "eval"),
        ("np.load('x', allow_pickle=True)", "allow_pickle"),
    ],
)
def test_the_check_sees_what_decodes(source, seen):
    assert seen in decoders_in(source)
    assert decoders_in("model.eval(); re.compile('x'); np.load('x', allow_pickle=False)") == set()
