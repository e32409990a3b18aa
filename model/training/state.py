"""The files that a run resumes from: one saved now and then, and the last two good ones, which it may go back to."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import TrainingError

STATE = "state.safetensors"
LOCK = "lock"
STOPPED = "stopped"  # a file that is there while a run was stopped before its end
PATIENCE_S = 30.0  # a killed run of several processes takes a while to leave


def good_state(step: int) -> str:
    """Name of the file that keeps the good state of this step."""
    return f"good-{step:09d}.safetensors"


def write_state(path: Path, tensors: dict[str, Tensor], run: dict[str, Any]) -> None:
    """Replace a state in one step."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # it may be a link that `duplicate` left when it was killed
    save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, partial, metadata={"run": json.dumps(run)})
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)


def read_run(path: Path) -> dict[str, Any]:
    """What a state says of its run. Raises TrainingError for one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as header:
            run: dict[str, Any] = json.loads((header.metadata() or {})["run"])
        return run
    except FileNotFoundError as error:
        raise TrainingError(f"{path} is missing: delete the folder to begin anew") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}): delete it to begin anew") from error


def saved_step(folder: Path) -> int | None:
    """The step from which a run would go on; None for one that has not begun. Raises as `read_run` does."""
    return int(read_run(folder / STATE)["step"]) if (folder / STATE).exists() else None


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state and what it says of its run. Raises TrainingError for one that cannot be read."""
    run = read_run(path)
    try:
        return load_file(path), run
    except SafetensorError as error:
        raise TrainingError(f"{path} cannot be read ({error}): delete it to begin anew") from error


def duplicate(source: Path, target: Path) -> None:
    """Make target the same file as source, in one step; a copy where the file system has no hard links."""
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)
    partial.unlink(missing_ok=True)  # renaming a link onto the same file does nothing


def drop_good_states(folder: Path, kept: Collection[int]) -> None:
    """Remove the good states of all other steps."""
    names = {good_state(step) for step in kept}
    for path in folder.glob("good-*.safetensors"):
        if path.name not in names:
            path.unlink()


@contextmanager
def locked(folder: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """A context in which no other process may train in this folder.

    Raises TrainingError if one still does after the time given.
    """
    import fcntl

    deadline = time.monotonic() + patience_s
    with (folder / LOCK).open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise TrainingError(
                        f"another process is training in {folder}: wait for it, or give another --out"
                    ) from error
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield
