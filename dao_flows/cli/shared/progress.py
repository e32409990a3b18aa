"""Progress of a flow's jobs on stderr: a bar for the stage that reports, with an estimate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from dao_flows.makers.jobs.progress import Reporter


def bar_on(console: Console) -> Progress:
    """A bar with an estimate, where the console is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        Remaining(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def stage_progress() -> Iterator[Reporter]:
    """A listener that shows done of total for each stage; training shows its own line."""
    from .tables import stderr

    console = stderr()
    tasks: dict[str, TaskID] = {}
    with bar_on(console) as bar:

        def listen(done: int, total: int, stage: str) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bar.remove_task(task)
                tasks.clear()
                tasks[stage] = bar.add_task(stage, total=total)
                if not console.is_terminal:
                    console.print(stage)
            bar.update(tasks[stage], completed=done, total=total)

        yield listen
