"""FireWorks' rlaunch and qlaunch as a project's workers run them: `python -m dao_flows.launch.worker rlaunch ...`.

The arguments are FireWorks' own. What differs: a database that is away is waited for; a worker that the queue ends
(SIGTERM, as at the end of its wall time) says so of its job, which then counts as failed at once and not after ten
minutes of silence; and one whose disk is full takes no job, where FireWorks' would fail all that are ready.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dao_flows.errors import explain

from .launchpad import require_fireworks
from .patience import be_patient, hurry

ROOM = 1 << 16  # bytes that must fit into a job's directory


class Stopped(BaseException):
    """Raised in a job whose worker is ended. Not an Exception: no job may take it for a failure of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two programs with the rest of the arguments."""
    name, *rest = sys.argv[1:] if arguments is None else arguments
    try:
        require_fireworks()
        from fireworks.scripts.qlaunch_run import qlaunch
        from fireworks.scripts.rlaunch_run import rlaunch
    except Exception as error:
        if (text := explain(error)) is None:
            raise
        print(f"dao-flows: {text}", file=sys.stderr)
        return 2

    warnings.filterwarnings("ignore", "cd is deprecated", FutureWarning)  # monty's, which FireWorks raises at every job
    be_patient()
    if name == "rlaunch":
        _take_care()
    program = {"rlaunch": rlaunch, "qlaunch": qlaunch}[name]
    return int(program(rest) or 0)


def _take_care() -> None:
    """On SIGTERM end the job at hand as failed, let what is being reported be reported, and take no other job.

    Take none either that could not be written down. A job that the queue reserved is taken all the same: it shows why.
    """
    from fireworks import LaunchPad

    claim = LaunchPad.checkout_fw
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True
        hurry()
        signal.signal(number, signal.SIG_DFL)  # the second is for real
        if _within(frame, "run_task"):
            raise Stopped("the worker was ended (SIGTERM), as a queue does when the wall time is over")
        if not _within(frame, "run", "rocket.py"):  # which claims, runs and reports a job
            raise SystemExit(128 + number)

    def checkout_fw(self: Any, fworker: Any, launch_dir: str, fw_id: int | None = None, **options: Any) -> Any:
        if ended:
            raise SystemExit(128 + signal.SIGTERM)
        if fw_id is None:
            _check_room(Path(launch_dir))
        return claim(self, fworker, launch_dir, fw_id, **options)

    LaunchPad.checkout_fw = checkout_fw
    signal.signal(signal.SIGTERM, end)


def _check_room(directory: Path) -> None:
    """Raises SystemExit with a line that says why the directory cannot take a job's records."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(ROOM))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise SystemExit(f"dao-flows: no job is taken: {directory}: {explain(error)}") from None


def _within(frame: FrameType | None, function: str, place: str = "") -> bool:
    """Whether a function of this name, of a file whose path has `place` in it, is running."""
    while frame is not None:
        if frame.f_code.co_name == function and place in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    sys.exit(main())
