"""A workplace of one's own: tiny checkpoints, an embedded store and a working directory under a temporary folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dao_flows.cli import run
from dao_flows.model.library import FOLDER_VARIABLE

FOREIGN = ("DAO_FLOWS_", "JOBFLOW_")


def environment(home: Path, checkpoints: Path) -> dict[str, str]:
    """The environment of a user whose home is `home`, who has the tiny checkpoints and no jobflow configuration."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return {
        **clean,
        FOLDER_VARIABLE: str(checkpoints),
        "HOME": str(home),
        "DAO_FLOWS_DATA_DIR": str(home / "data"),
        "DAO_FLOWS_CHECKPOINT": "dao-g-tiny",
        "DAO_FLOWS_PREDICTOR": "dao-p-tiny",
        "OMP_NUM_THREADS": "1",
    }


def enter(patch: pytest.MonkeyPatch, home: Path, checkpoints: Path) -> Path:
    """Make this process that user's, in an empty working directory, which is returned."""
    wanted = environment(home, checkpoints)
    for key in set(os.environ) - set(wanted):
        patch.delenv(key)
    for key, value in wanted.items():
        patch.setenv(key, value)
    work = home / "work"
    work.mkdir(exist_ok=True)
    patch.chdir(work)
    return work


@pytest.fixture
def workplace(tmp_path, tiny_checkpoints, monkeypatch) -> Path:
    """The working directory of a user with an empty store."""
    return enter(monkeypatch, tmp_path, tiny_checkpoints)


@pytest.fixture(scope="session")
def stored_home(tmp_path_factory, tiny_checkpoints) -> Path:
    """The home of a user who has predicted NaCl and Cr3Os once; not to be changed."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, home, tiny_checkpoints)
        assert run(["predict", "NaCl", "Cr3Os", "-n", "8", "--z", "2", "--steps", "4", "--out", "cif"]) == 0
    return home


@pytest.fixture
def stored(stored_home, tiny_checkpoints, monkeypatch) -> Path:
    """The working directory of that user."""
    return enter(monkeypatch, stored_home, tiny_checkpoints)


@pytest.fixture
def call(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def start(workplace) -> Callable[..., subprocess.Popen[str]]:
    """Start the real command in a process of its own, in this test's workplace."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
        # a runner in the background starts its children with SIGINT ignored; a terminal does not
        heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        command = [sys.executable, "-c", f"{heed}; from dao_flows.cli import main; main()", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(command, **{**pipes, **options}))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
