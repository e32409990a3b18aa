"""The tutorial and the example run as they are printed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dao_flows.makers.evaluate import EvaluateMaker
from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.screen import ScreenMaker
from dao_flows.model.checkpoint.library import SHIPPED
from dao_flows.model.files.user_folders import CHECKPOINTS
from dao_flows.settings import Settings

ROOT = Path(__file__).parents[2]
DEFAULTS = [Settings.model_fields[field].default for field in ("checkpoint", "predictor")]
SHIPS = all((SHIPPED / name).exists() for name in DEFAULTS)
UNTRAINED_STEPS = "4"  # an untrained network's cells explode when it takes more


@pytest.fixture
def shell(workplace, tmp_path, tiny_checkpoints, monkeypatch):
    """Run a command in the workplace with the shipped checkpoints, or tiny ones of the same names where none ship."""
    for variable in ("DAO_FLOWS_CHECKPOINT", "DAO_FLOWS_PREDICTOR", "DAO_FLOWS_JUDGE"):
        monkeypatch.delenv(variable)
    library = tmp_path / "checkpoints"
    library.mkdir()
    if not SHIPS:
        for kind, name in zip(("dao-g", "dao-p"), DEFAULTS, strict=True):
            shutil.copytree(tiny_checkpoints / f"{kind}-tiny", library / name)
    monkeypatch.setenv(CHECKPOINTS, str(library))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.skipif(not SHIPS, reason="the default checkpoints do not ship")
def test_the_default_predictor_may_guide_the_default_generator():
    generator, predictor = DEFAULTS
    assert GenerateMaker.checkpoint == generator
    assert ScreenMaker.predictor == EvaluateMaker.predictor == predictor
    GenerateMaker(checkpoint=generator, predictor=predictor).check("NaCl")


def quick(text: str) -> str:
    return text if SHIPS else re.sub(r"(steps[ =\":]+)20", rf"\g<1>{UNTRAINED_STEPS}", text)


def test_the_tutorial(shell, workplace):
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(), re.M | re.S)
    assert {language for language, _ in blocks} == {"bash", "python"}
    script = ["set -e"]
    for number, (language, text) in enumerate(blocks):
        file = workplace / f"block{number}.py"
        file.write_text(quick(text))
        script.append(quick(text) if language == "bash" else f"python {file.name}")
    out = shell("bash", "-c", "\n".join(script))
    for words in ("Run ", "E_hull", "finished", "science hash", "new candidates"):
        assert words in out
    for name in ("dao-Cr3Os", "POSCAR", "structures", "candidate.json", "results.json", "report.html"):
        assert (workplace / name).exists()
    assert re.search(r"dao-[0-9a-f]{12}", out)


def test_the_example(shell, workplace):
    script = workplace / "predict.py"
    script.write_text(quick((ROOT / "examples" / "predict.py").read_text()))
    out = shell(sys.executable, str(script), "NaCl")
    assert "NaCl: stored in" in out
    assert re.search(r"NaCl: \d+ structures, \d+ rejected", out)
    assert [path.name for path in workplace.iterdir()] == ["predict.py"]
