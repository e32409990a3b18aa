"""Ctrl-C, also where a library makes an error of its own of it, as torch does while it reads a file, or loses it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _Listener:
    """Python's own handler of a signal, with a memory, in the place of that handler or of another listener."""

    def __init__(self, number: int) -> None:
        self.number, self.heard = number, False
        self.before = signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
        signal.default_int_handler(number, frame)


@contextmanager
def interruptible() -> Iterator[None]:
    """A signal within that raises KeyboardInterrupt comes out as one, at the end at the latest."""
    listeners: list[_Listener] = []
    if threading.current_thread() is threading.main_thread():  # others neither receive signals nor set handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler is signal.default_int_handler or isinstance(handler, _Listener):
                listeners.append(_Listener(number))
    try:
        yield
    except Exception as error:
        if any(listener.heard for listener in listeners):
            raise KeyboardInterrupt from error
        raise
    finally:
        for listener in listeners:
            signal.signal(listener.number, listener.before)
    if any(listener.heard for listener in listeners):
        raise KeyboardInterrupt
