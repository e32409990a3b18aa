"""Every stage declares itself once, and what it declares is so."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest
from pydantic import BaseModel

from dao_flows.makers.jobs.stage import stage as job_of_ours
from dao_flows.makers.stages.declaration import PARAMETERS, Parent, in_words, told_in, values
from dao_flows.makers.stages.registry import OURS, Stages, stages

MAKERS = Path(inspect.getfile(job_of_ours)).parents[1]
LAID_OUT = {"CandidateDoc"}  # which a builder writes, and no stage


def sources() -> dict[str, ast.Module]:
    """The modules of the makers' floor, by the name they are imported under."""
    found = {}
    for path in sorted(MAKERS.rglob("*.py")):
        parts = path.relative_to(MAKERS).with_suffix("").parts
        found[".".join(["dao_flows.makers", *parts])] = ast.parse(path.read_text())
    return found


def decorated(node: ast.FunctionDef) -> bool:
    names = {ast.unparse(each).partition("(")[0] for each in node.decorator_list}
    return bool(names & {"stage", "stage_job"})


def test_every_job_of_ours_goes_the_way_of_a_declared_stage():
    makers, functions = set(), set()
    for module, tree in sources().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                jobs = [each for each in node.body if isinstance(each, ast.FunctionDef) and decorated(each)]
                makers |= {f"{module}:{node.name}"} if jobs else set()
            elif isinstance(node, ast.FunctionDef) and decorated(node):
                functions.add(node.name)
    declared = {each.maker for each in OURS}
    assert makers <= declared
    assert {each.partition(":")[2] for each in declared - makers} == {"VerifyMaker"}  # it writes its documents by one
    assert functions == {name for each in OURS for name in each.functions}


def test_every_class_of_documents_is_declared_once():
    written = {
        f"{module}:{node.name}"
        for module, tree in sources().items()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Doc")
    }
    written = {each for each in written if "provenance" in resolve_name(each).model_fields}
    abstract = {"dao_flows.makers.schemas.shards:ShardDoc"} & written
    assert {each.document for each in OURS} == {
        each for each in written - abstract if each.partition(":")[2] not in LAID_OUT
    }
    assert len({each.document for each in OURS}) == len(OURS) == len(list(Stages(OURS)))


@pytest.mark.parametrize("stage", OURS, ids=lambda each: each.kind)
def test_what_a_stage_declares_is_there(stage):
    assert inspect.isclass(resolve_name(stage.maker))
    document = stage.document_class
    for place in stage.places:
        holder = place.replace("[]", "").split(".")[0]
        assert holder in document.model_fields, place
        if not place.startswith("provenance.science"):
            assert reachable(document, place.replace("[]", "").split(".")), place
    assert stage.rebuild is not None


def reachable(kind: object, place: list[str]) -> bool:
    """Whether a place may be in a document of this class; below a plain mapping anything may."""
    for name in place:
        models = list(models_in(kind))
        if not models:
            return "dict" in str(kind) or "Mapping" in str(kind) or "Any" in str(kind)
        found = [model.model_fields[name].annotation for model in models if name in model.model_fields]
        if not found:
            return False
        kind = found[0]
    return True


def models_in(kind: object) -> list[type[BaseModel]]:
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        return [kind]
    return [model for each in getattr(kind, "__args__", ()) for model in models_in(each)]


def test_values_go_through_lists():
    held = {"calculations": [{"job": "a"}, {"job": "b"}, {}], "one": {"name": "n"}}
    assert values(held, "calculations[].job") == ["a", "b", None]
    assert values(held, "one.name") == ["n"]
    assert values(held, "one.name.more") == [None]
    assert told_in(held, (("name", "gone"), ("name", "one.name"))) == {"name": "n"}
    assert PARAMETERS.startswith("provenance.")


def test_the_best_name_of_a_parent_counts_and_a_worse_one_only_without_it():
    parent = Parent("calculated", (("job", "ran[].job"), ("science", "asked")))
    whole = {"ran": [{"job": "a"}, {"job": "b"}], "asked": ["s"]}
    assert list(parent.claims(whole)) == [("job", "a"), ("job", "b")]
    assert list(parent.claims({**whole, "ran": [{"job": "a"}, {}]})) == [("job", "a"), ("science", "s")]
    assert list(parent.claims({"ran": 3, "asked": {"s": 1}})) == []


def test_kinds_are_words():
    assert [in_words(name) for name in ("GenerationDoc", "CrossCheckDoc", "DFTDoc", "StagesDoc")] == [
        *("generation", "cross_check", "dft", "stages")
    ]


def test_two_stages_of_one_name_are_one(caplog):
    kept = Stages([OURS[0], OURS[0]])
    assert list(kept) == [OURS[0]]
    assert "is left out" in caplog.text
    assert list(stages())[: len(OURS)] == list(OURS)
    assert import_module("dao_flows.makers.stages.registry").stages() is stages()
