"""When a run is to save its state and leave: its time is up, or it was told to by a signal."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

UNFINISHED = 75  # exit code: the state is saved, run the same command again (EX_TEMPFAIL of sysexits.h)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # what Slurm sends at the time limit, and before it where asked to


class Stop:
    """A context in which SIGTERM and SIGUSR1 ask the run to stop, as does the end of its time.

    wall_time_s: counts from now; None: without end. Outside the main thread signals are left alone.
    """

    def __init__(self, wall_time_s: float | None = None) -> None:
        self.deadline = None if wall_time_s is None else time.monotonic() + wall_time_s
        self.signal: int | None = None  # the one that came
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether the run is to stop now."""
        return self.signal is not None or (self.deadline is not None and time.monotonic() >= self.deadline)

    def left(self) -> float:
        """Seconds until the time is up."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
