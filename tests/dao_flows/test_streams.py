"""No command ends by printing: whatever a terminal, a pipe or a disk does not take, the work is done and told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dao_flows.cli.shared.streams import readable
from dao_flows.cli.shared.tables import NARROWEST, stdout

MAIN = "from dao_flows.cli import main; main()"
PREDICT = ("predict", "NaCl", "-n", "5", "--z", "2", "--steps", "4", "--out", "cif")
SCRIPT = """
import errno, os, sys
from dao_flows.cli import streams
streams.set_up()
print(sys.argv[1])
print("é → Å", os.fsdecode(b"\\xff"))
os.system("")
sys.exit(streams.finish(0))
"""


def shell(command: str, *arguments: str, code: str = MAIN, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run Python with these arguments in a shell's command, in which it is `dao`."""
    program = f'dao() {{ "{sys.executable}" -c "$CODE" "$@"; }}; {command}'
    environment = {**os.environ, "CODE": code, **env}
    return subprocess.run(["bash", "-c", program, "bash", *arguments], env=environment, capture_output=True)


@pytest.mark.parametrize(
    ("command", "returned", "says"),
    [
        ('dao "$@" >/dev/full', 2, "stdout cannot be written: No space left on device"),
        ('dao "$@" >&-', 2, "stdout cannot be written: it is closed"),
        ('dao "$@" | true; exit ${PIPESTATUS[0]}', 0, ""),
        ('dao "$@" 2>/dev/full >/dev/null', 0, ""),
        ('dao "$@" 2>&- >/dev/null', 0, ""),
        ('dao "$@" >&- 2>&-', 2, ""),
        ('dao "$@" <&- >/dev/null', 0, ""),
    ],
)
def test_what_a_stream_does_not_take_is_lost_and_told(command, returned, says):
    done = shell(command, "x" * 100_000, code=SCRIPT)
    assert done.returncode == returned
    told = done.stderr.decode().splitlines()
    assert (len(told) == 1 and says in told[0]) if says else told == []


def test_a_finished_prediction_stays_one(workplace):
    done = shell('dao "$@" >/dev/full', *PREDICT)
    assert done.returncode == 2 and b"stdout cannot be written" in done.stderr and b"report it" not in done.stderr
    assert list((workplace / "cif").iterdir())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_lacks_is_replaced(encoding):
    for text, expected in (("x", None), ('{"a": "→ Å 𝒳"}', {"a": "→ Å 𝒳"})):
        done = shell('dao "$@"', text, code=SCRIPT, PYTHONIOENCODING=encoding)
        assert done.returncode == 0 and done.stderr == b""
        first, second = done.stdout.decode(encoding).splitlines()
        assert expected is None or json.loads(first) == expected
        assert second in ("e -> A \\xff", "é -> Å \\xff")


@given(st.text(st.characters(min_codepoint=128), min_size=1), st.sampled_from(["ascii", "latin-1", "koi8-r"]))
def test_json_stays_what_it_was_in_every_encoding(text, encoding):
    import codecs

    codecs.register_error("test-readable", readable)
    written = f'{{"x": "{text}"}}' if not any(c in text for c in '"\\') and text.isprintable() else "{}"
    read = json.loads(written.encode(encoding, "test-readable").decode(encoding))
    assert read == json.loads(written)
    text.encode(encoding, "test-readable")


def test_a_name_that_is_no_utf8_ends_no_prediction(workplace, call):
    out = os.fsdecode(b"cif\xff")
    code, printed, err = call("predict", "NaCl", "-n", "5", "--z", "2", "--steps", "4", "--json", "--out", out)
    assert code == 0, err
    assert list(Path(out).iterdir()) and "cif\\\\udcff/" in printed
    assert call("list", "--runs")[0] == 0
    for option in ("--checkpoint", "--predictor"):
        code, _, err = call("predict", "NaCl", option, os.fsdecode(b"./mine\xff"))
        assert code == 2 and "is not UTF-8" in err and err.count("\n") == 1


def test_a_terminal_of_no_width_gets_a_table_all_the_same(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for columns, expected in (("1", NARROWEST), ("0", None), ("120", 120)):
        monkeypatch.setenv("COLUMNS", columns)
        assert expected is None or stdout().width == expected


def test_home_is_meant_by_a_tilde_in_any_option(workplace, call, tmp_path):
    assert call("predict", "NaCl", "-n", "5", "--z", "2", "--steps", "4", "--out=~/cif")[0] == 0
    assert list((tmp_path / "cif").iterdir())
    assert not Path("~").exists()


def test_libraries_keep_to_themselves_in_other_processes_too():
    code = """
import os, subprocess, sys
from dao_flows.cli import streams
streams.set_up()
import warnings
warnings.simplefilter("always")
warnings.warn("one")
child = "import warnings; warnings.warn('two')"
subprocess.run([sys.executable, "-c", child])
import numpy as np, spglib
cell = (np.eye(3) * 4, [[0, 0, 0], [0.51, 0.5, 0.5], [0.49, 0.5, 0.5]], [1, 2, 2])
rng = np.random.default_rng(0)
for _ in range(203):  # the last writes to stderr
    k = int(rng.integers(2, 9))
    places = np.round(rng.random((k, 3)) * 4) / 4 + rng.normal(size=(k, 3)) * 0.03
    lattice = np.eye(3) * 4 + rng.normal(size=(3, 3)) * 0.2
    try:
        spglib.get_symmetry_dataset((lattice, places, rng.integers(1, 3, k)), symprec=0.5)
    except Exception:
        pass
if len(sys.argv) > 1:
    streams.talkative()
    warnings.warn("three")
"""
    done = shell('dao "$@"', code=code)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"three" in shell('dao "$@"', "loud", code=code).stderr
