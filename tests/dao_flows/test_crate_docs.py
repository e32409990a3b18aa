"""docs/crates.md does what it says, and lists what there is."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dao_flows.crate.archive import Limits
from dao_flows.crate.layout import FOLDERS, place

pytest.importorskip("rocrate", reason="exporting needs the extra `crates`")
pytest.importorskip("prov", reason="exporting needs the extra `crates`")
PAGE = (Path(__file__).parents[2] / "docs" / "crates.md").read_text()


def test_the_page_runs_as_it_is_printed(workplace, monkeypatch):
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, re.M | re.S)
    script = ["set -e"]
    for number, (language, text) in enumerate(blocks):
        if language == "python":
            (workplace / f"block{number}.py").write_text(text)
            script.append(f"python block{number}.py")
        else:
            script.append(f"({text})" if "cd opened" in text else text.replace("--steps 50", "--steps 4"))
    monkeypatch.setenv("COLUMNS", "400")  # so that no line of the output is broken at a long path
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", "\n".join(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("sha256 of its contents", "generate GenerateMaker", "whole: ['candidate:dao-", "records of PROV"):
        assert words in done.stdout
    assert "nothing to do: all" in done.stdout
    assert re.search(r"\d+ runs, 2 jobs, 3 candidates added to .*theirs", done.stdout)
    with zipfile.ZipFile(workplace / "NaCl.zip") as archive:
        for name in archive.namelist():
            assert name.split("/")[0].rstrip("/") in PAGE
            if not name.startswith("manifest"):
                assert place(name) is not None
        readme = archive.read("README.md").decode()
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    (workplace / "opened" / "check.py").write_text(code)
    subprocess.run([sys.executable, "check.py"], cwd=workplace / "opened", check=True)
    changed = workplace / "opened" / "environment" / "requirements.txt"
    changed.write_text(changed.read_text() + "\n")
    assert subprocess.run([sys.executable, "check.py"], cwd=workplace / "opened", capture_output=True).returncode == 1


def test_the_page_names_all_limits_and_folders():
    for name, field in Limits.model_fields.items():
        assert f"DAO_FLOWS_CRATE_{name.upper()}" in PAGE
        if isinstance(field.default, int):
            assert f"{field.default:,}" in PAGE
    for folder in FOLDERS.values():
        assert folder.rpartition("/")[2] in PAGE
