"""How a job says how far it is: jobs report, whoever runs them in the same process may listen.

A worker of another process has no listener, and reporting costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

Reporter = Callable[[int, int, str], None]

reporter: ContextVar[Reporter | None] = ContextVar("dao_flows_progress", default=None)


def report(done: int, total: int, stage: str) -> None:
    """Tell the listener, if there is one, that `done` of `total` steps of a stage ('generate', 'screen') are done."""
    listener = reporter.get()
    if listener is not None:
        listener(done, total, stage)
