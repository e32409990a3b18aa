"""One request: an option is one field, which the command line, Python, submissions, makers and the log all see."""

import inspect
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

from dao_flows import predict
from dao_flows.api.prediction.request import OF_VERIFICATION, PredictionRequest, help_texts
from dao_flows.errors import InputError
from dao_flows.makers.science import chemistry
from dao_flows.store.runs import read
from dao_flows.store.stores import collection, job_store

WIDER = """
import inspect, json, sys
from dataclasses import dataclass
from typing import Annotated

import typer

from dao_flows.api.prediction import request

@dataclass(frozen=True, kw_only=True)
class Wider(request.PredictionRequest):
    require_neutral: Annotated[bool, typer.Option("--neutral", help="Only what can be neutral.")] = False

request.PredictionRequest = Wider  # as if its file had one field more
from dao_flows.cli import run

for command in (["predict"], ["submit", "predict"]):
    assert run([*command, "--help"]) == 0
assert run(["predict", "NaCl", "-n", "1", "--z", "1", "--steps", "2", "--neutral", "--json", "--out", "cif"]) == 0

from dao_flows import predict
from dao_flows.api.prediction.inputs import Entry
from dao_flows.launch.flows import predict_flows
from dao_flows.settings import settings
from dao_flows.store.stores import collection, job_store

assert "require_neutral: Only what can be neutral." in inspect.getdoc(predict)
predict("NaCl", n=1, z=1, steps=2, require_neutral=True)
jobs = job_store()
logged = [run["request"] for run in collection(jobs, "runs").query({"event": "start"})]
screened = [d["output"]["provenance"] for d in jobs.query({"output.@class": "ScreeningDoc"})]
[planned] = predict_flows([Entry("NaCl")], settings(), Wider(n=1, z=1, steps=2, require_neutral=True))
assert [each["require_neutral"] for each in logged] == [True, True]
assert [each["science"]["parameters"]["require_neutral"] for each in screened] == [True, True]
assert {each["science_hash"] for each in screened} == {planned.key}
"""


def test_a_new_option_is_one_field(workplace, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WIDER], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("--neutral") == done.stdout.count("Only what can be neutral.") == 2


@pytest.mark.parametrize("command", [("predict",), ("submit", "predict")])
def test_every_field_is_an_option_with_its_help(call, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "400")
    code, out, _ = call(*command, "--help")
    assert code == 0
    texts = help_texts(PredictionRequest)
    assert {field.name for field in fields(PredictionRequest)} - texts.keys() == {"verify_top"}
    for text in texts.values():
        assert all(part.strip() in out for part in text.split("'auto':"))


def test_python_takes_every_field_by_name(workplace):
    given = inspect.signature(predict).parameters
    for field in fields(PredictionRequest):
        assert given[field.name].default == field.default
        assert field.name == "verify_top" or f"\n    {field.name}: " in predict.__doc__
    with pytest.raises(TypeError, match="nonsense"):
        predict("NaCl", nonsense=1)


def test_the_log_of_runs_tells_every_field(workplace):
    predict("NaCl", n=1, z="1", steps=2, device="auto")
    [run] = read(collection(job_store(), "runs"))
    names = {field.name for field in fields(PredictionRequest)} - set(OF_VERIFICATION)
    assert run.request.keys() == {"formulas", *names}
    asked = {"n": 1, "z": 1, "steps": 2, "device": "cpu", "judge": None, "rank_by": "agreement", "guidance": None}
    asked |= {"checkpoint": "dao-g-tiny", "predictor": "dao-p-tiny", "library": "known", "bf16": False}
    assert asked.items() <= run.request.items()


def test_a_request_stays_as_it_is_and_knows_what_is_no_z():
    request = PredictionRequest(z="2")
    assert request == PredictionRequest(z=2)
    with pytest.raises(FrozenInstanceError):
        request.n = 3
    with pytest.raises(InputError, match="positive whole number"):
        PredictionRequest(z=0)


@pytest.mark.parametrize("bf16", [False, "auto"])
def test_a_formula_is_parsed_once_before_the_run_and_once_by_its_job(workplace, monkeypatch, bf16, call_takes):
    call_takes(1.0, 1.0)
    parsed = []
    plain_text = chemistry.plain_text
    monkeypatch.setattr(chemistry, "plain_text", lambda text: parsed.append(text) or plain_text(text))
    predict(["NaCl", "NaCl", "ClNa"], n=1, z=1, steps=2, bf16=bf16)
    assert sorted(parsed) == ["ClNa", "ClNa", "NaCl", "NaCl"]
