"""Progress of a flow's jobs on stderr: a bar for the stage that reports, with an estimate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dao_flows.makers.jobs.progress import Reporter


@contextmanager
def stage_progress() -> Iterator[Reporter]:
    """A listener that shows done of total for each stage; training shows its own line."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from .tables import stderr

    console = stderr()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        Remaining(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

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
