"""A generator of an installed package: predicted with, traced, replayed, exported, and its faults found."""

import json
import re
import sys
import tomllib
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path

import pytest

from dao_flows.makers.generators.generator import GROUP
from dao_flows.makers.jobs.provenance import content_hash
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.plugins import points
from dao_flows.makers.schemas.prediction import GenerationDoc
from dao_flows.store.stores import collection, job_store
from dao_flows.testing.generator import conformance

PLUGINS = Path(__file__).parents[2] / "examples" / "plugins"
PYXTAL = PLUGINS / "dao_pyxtal"
PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
CUBES = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]  # the generator that the page shows
FAULTS = {  # in place of a line of CUBES -> the check that finds it
    'name = "cubes"  #': ('name = "spheres"  #', None),
    'hashlib.sha256(b"cubes 1").hexdigest()': ("'0' * 10", None),
    "range(1, 84)": ("[]", None),
    "default_rng([seed, *request.key])": ("default_rng()", "the same seed gives the same crystals"),
    "[seed, *request.key]": ("[seed, *request.key, len(drawn)]", "they do not depend on the order"),
    "*request.key])": ("*request.key, len(requests)])", "they do not depend on the batch"),
    "seed, *request.key": ("seed, *request.key[:2]", "draws of one cell differ"),
    "Crystal(request.numbers,": (
        "Crystal(request.numbers[::-1] + 1,",
        "it gives a crystal, or None, for each request in their order",
    ),
    "return drawn": ("return drawn[1:]", "it gives a crystal, or None, for each request in their order"),
    "np.eye(3)": ("np.zeros((3, 3))", "its crystals are finite cells with a volume"),
    "/ 3 +": ("/ 0 +", "its crystals are finite cells with a volume"),
    "progress(len(drawn), len(requests))": ("pass", "it tells how far it is"),
    "drawn = []": ("drawn = []; np.random.seed(0)", "it leaves numpy's shared random stream alone"),
}


@pytest.fixture
def cubes(install) -> None:
    """A package with the generator `cubes` is installed."""
    install("lab_cubes", CUBES, f"[{GROUP}]\ncubes = lab_cubes:Cubes\n")


@pytest.fixture
def predicted(workplace, cubes, call) -> dict:
    """What `predict --generator cubes` printed, in a store of its own."""
    code, out, err = call("predict", "NaCl", "--generator", "cubes", "-n", "6", "--z", "2", "--json")
    assert code == 0, err
    return json.loads(out)


def a_drawn_one() -> str:
    """The id of a candidate that is no known crystal."""
    held = collection(job_store(), "candidates").query({"origin.kind": "drawn"})
    return next(each["candidate_id"] for each in held)


def test_its_candidates_are_told_apart_from_known_crystals(predicted, call):
    [found] = job_store().query({"output.@class": "GenerationDoc"}, load=True)
    document = GenerationDoc.model_validate(found["output"])
    science = document.provenance.science
    assert science.checkpoints == {} and science.parameters["generator"] == "cubes"
    drawn = [each for each in document.candidates if each.origin.kind == "drawn"]
    known = [each for each in document.candidates if each.origin.kind != "drawn"]
    assert drawn and known and {each.origin.generator for each in drawn} == {"cubes"}
    assert {each.origin.generator for each in known} == {None}
    told = {check["name"]: check for check in json.loads(call("doctor", "--json")[1])}
    assert told["generator cubes"]["status"] == "ok"
    listed = call("list", "--json")[1]
    origins = [each.get("origin") for each in json.loads(listed)]
    assert any(each["kind"] == "drawn" and each["generator"] == "cubes" for each in origins)
    first = next(each.candidate_id for each in drawn if each.candidate_id in listed)
    assert "drawn by cubes" in call("show", first)[1]


def test_it_is_verified_replayed_and_exported(predicted, call, tmp_path, monkeypatch):
    assert call("audit", "verify", "--all")[0] == 0
    one = next(
        c["candidate_id"] for c in collection(job_store(), "candidates").query() if c["origin"]["kind"] == "drawn"
    )
    code, out, err = call("audit", "replay", one)
    assert (code, "identical" in out) == (0, True), out + err
    crate = tmp_path / "cubes.zip"
    assert call("export-crate", one, str(crate))[0] == 0
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert call("import-crate", str(crate))[0] == 0
    code, out, err = call("audit", "replay", one)
    assert (code, "identical" in out) == (0, True), out + err


@pytest.mark.parametrize(("path", "value"), [("generator", "other"), ("kind", "template")])
def test_who_drew_it_cannot_be_changed_unseen(predicted, call, path, value):
    jobs = job_store()
    [found] = jobs.query({"output.@class": "GenerationDoc"})
    output = found["output"]
    next(each for each in output["candidates"] if each["origin"]["kind"] == "drawn")["origin"][path] = value
    output["provenance"]["content_hash"] = content_hash(output)
    jobs.docs_store.update([found], key="uuid")
    code, out, _ = call("audit", "verify", "--all")
    assert code == 1 and "GenerationDoc" not in out and found["uuid"] in out


def test_another_version_of_it_does_not_replay(predicted, install, call, tmp_path):
    one = next(
        c["candidate_id"] for c in collection(job_store(), "candidates").query() if c["origin"]["kind"] == "drawn"
    )
    site = tmp_path / "site" / "lab_cubes.py"
    site.write_text(CUBES.replace("cubes 1", "cubes 2.0"))
    sys.modules.pop("lab_cubes")
    invalidate_caches()
    code, _, err = call("audit", "replay", one)
    assert code != 0 and "'cubes' that is installed is not the one that drew it" in err


def test_without_its_package_one_line_says_so(predicted, call, tmp_path, monkeypatch):
    one = next(
        c["candidate_id"] for c in collection(job_store(), "candidates").query() if c["origin"]["kind"] == "drawn"
    )
    for left in (tmp_path / "site").rglob("entry_points.txt"):
        left.unlink()
    points.cache_clear()
    code, _, err = call("predict", "NaCl", "--generator", "cubes")
    assert (code, err.count("\n")) == (2, 1) and "there is no generator 'cubes': take one of dao-g, templates" in err
    code, _, err = call("audit", "replay", one)
    assert code != 0 and "there is no generator 'cubes'" in err
    assert call("audit", "verify", "--all")[0] == 0


@pytest.mark.parametrize("options", [("--steps", "5"), ("--guidance",), ("--bf16",), ("--sampler", "heun")])
def test_settings_of_dao_g_are_refused(workplace, cubes, call, options):
    code, _, err = call("predict", "NaCl", "--generator", "cubes", *options)
    assert (code, err.count("\n")) == (2, 1) and "DAO-G's sampler" in err


def test_what_it_does_not_cover_is_told(workplace, cubes, call):
    code, _, err = call("predict", "PuO2", "--generator", "cubes")
    assert (code, err.count("\n")) == (2, 1) and "cubes has not seen Pu" in err
    code, _, err = call("predict", "NaCl", "--generator", "cubes", "--z", "20")
    assert code == 2 and "cubes covers cells of at most 20 atoms" in err


@pytest.mark.parametrize(
    "change", ["raise RuntimeError('out of order')", "return drawn[1:]", "return [drawn[-1]] * len(drawn)"]
)
def test_one_that_fails_stops_the_job_in_one_line(workplace, install, call, change):
    source = CUBES.replace("        return drawn", f"        {change}")
    install("lab_cubes", source, f"[{GROUP}]\ncubes = lab_cubes:Cubes\n")
    code, _, err = call("predict", "NaCl", "MgO", "--generator", "cubes", "--templates", "0", "-n", "2")
    assert code == 2 and "the generator 'cubes'" in err and "Traceback" not in err


def test_templates_alone_are_a_generator(workplace, call):
    code, out, err = call("predict", "NaCl", "--generator", "templates", "-n", "4", "--json")
    assert code == 0, err
    [found] = job_store().query({"output.@class": "GenerationDoc"}, load=True)
    document = GenerationDoc.model_validate(found["output"])
    assert document.candidates and all(each.origin.kind != "drawn" for each in document.candidates)
    assert call("audit", "verify", "--all")[0] == 0
    code, out, err = call("audit", "replay", document.candidates[0].candidate_id)
    assert (code, "identical" in out) == (0, True), out + err
    code, _, err = call("predict", "NaCl", "--generator", "templates", "--templates", "0")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["dao-g", "templates"])
def test_ours_conform(workplace, monkeypatch, name):
    monkeypatch.setenv("DAO_FLOWS_CHECKPOINT", "dao-g-tiny")
    checks = list(conformance(name))
    assert len(checks) >= 9 and [check for check in checks if check.fault] == []


@pytest.mark.skipif(find_spec("pyxtal") is None, reason="needs pyxtal")
def test_random_structures_by_pyxtal(workplace, install, call):
    told = tomllib.loads((PYXTAL / "pyproject.toml").read_text())["project"]["entry-points"]
    entries = "".join(
        f"[{group}]\n{name} = {value}\n" for group, points in told.items() for name, value in points.items()
    )
    install("dao_pyxtal", (PYXTAL / "dao_pyxtal.py").read_text(), entries)
    checks = list(conformance("pyxtal"))
    assert len(checks) == 10 and [check for check in checks if check.fault] == []
    code, out, err = call(
        "predict", "NaCl", "--generator", "pyxtal", "--templates", "0", "-n", "3", "--z", "1", "--json"
    )
    assert code == 0, err
    one = json.loads(out)["compositions"][0]["ranked"][0]["candidate_id"]
    code, out, err = call("audit", "replay", one)
    assert (code, "identical" in out) == (0, True), out + err


@pytest.mark.parametrize("fault", FAULTS)
def test_the_suite_finds_faults(workplace, install, fault):
    change, check = FAULTS[fault]
    assert fault in CUBES
    install("lab_cubes", CUBES.replace(fault, change), f"[{GROUP}]\ncubes = lab_cubes:Cubes\n")
    if check is None:
        with pytest.raises(ParameterError, match="the generator 'cubes' cannot be used"):
            list(conformance("cubes"))
    else:
        assert check in {each.what for each in conformance("cubes") if each.fault}


@pytest.mark.parametrize("plugin", sorted(path.parent.name for path in PLUGINS.glob("*/pyproject.toml")))
def test_an_example_is_short(plugin):
    (module,) = (PLUGINS / plugin).glob("*.py")
    assert len(module.read_text().splitlines()) < 100
