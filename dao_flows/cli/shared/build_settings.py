"""What `dataset build` and `library build` share: their settings as options, and a bar of progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import Annotated, Any

import typer

from .options import with_parameters

SOURCES = """[bold]Sources[/bold]

a file (.parquet, .csv, .extxyz, .db, .cif), a folder of CIF or POSCAR, a dataset, mp:, optimade:PROVIDER, store:
"""

Sources = Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Where the crystals come from, in order.")]


def options(
    held_out: Annotated[
        list[str] | None,
        typer.Option("--held-out", help="Source whose crystals are left out, by id and structure."),
    ] = None,
    held_out_formulas: Annotated[
        bool, typer.Option("--held-out-formulas", help="Leave out every crystal of a held-out formula.")
    ] = False,
    properties: Annotated[
        list[str] | None, typer.Option("--property", help="Numeric column to take along, as in band_gap.")
    ] = None,
    min_atoms: Annotated[int, typer.Option(help="Atoms per cell, at least.")] = 1,
    max_atoms: Annotated[int, typer.Option(help="Atoms per cell, at most.")] = 64,
    min_energy: Annotated[float | None, typer.Option(help="Energy above hull, at least (eV/atom).")] = None,
    max_energy: Annotated[float | None, typer.Option(help="Energy above hull, at most (eV/atom).")] = None,
    keep_unlabelled: Annotated[
        bool, typer.Option("--keep-unlabelled", help="Keep crystals of unknown energy where a window is set.")
    ] = False,
    min_distance: Annotated[float, typer.Option(help="Shortest distance between atoms (Å).")] = 0.5,
    primitive: Annotated[bool, typer.Option("--primitive", help="Reduce cells to primitive ones first.")] = False,
    keep_duplicates: Annotated[bool, typer.Option("--keep-duplicates", help="Do not look for duplicates.")] = False,
    val_share: Annotated[
        float, typer.Option(help="Share of formulas to validate on, for rows whose source has no split.")
    ] = 0.0,
    rows_per_shard: Annotated[int, typer.Option(help="Rows in one file.")] = 10_000,
    licence: Annotated[str | None, typer.Option(help="Licence of sources that state none, as in CC-BY-4.0.")] = None,
) -> None:
    """The settings of a build, as a command line has them: the fields of BuildConfig but for the name."""


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `options` in place of its argument `settings`, which has those that were given."""
    shared = signature(options, eval_str=True).parameters
    own = [each for name, each in signature(command, eval_str=True).parameters.items() if name != "settings"]

    @wraps(command)
    def call(**given: Any) -> None:
        asked = {name: given.pop(name) for name in shared}
        settings = {name: tuple(v) if isinstance(v, list) else v for name, v in asked.items() if v is not None}
        command(**given, settings=settings)

    return with_parameters(call, [*own, *shared.values()])


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int | None, str], None]]:
    """A bar on stderr; what it gives is told the rows that are done, those in all, and of what they are."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    rows = TextColumn("{task.completed:.0f} rows")
    with Progress(*Progress.get_default_columns(), rows, console=Console(stderr=True)) as bar:
        task = bar.add_task("opening the sources", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=f"reading {what}")
