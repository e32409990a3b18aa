"""`dao-flows dataset`: data to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PREPARE_EXAMPLES = """[bold]Example[/bold]

dao-flows dataset prepare raw.parquet crystals.parquet

python -m dao_flows.model.train dao-g crystals.parquet --out runs/mine --steps 20000
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Data to train on.")


@app.callback()
def group() -> None:
    """Data to train on."""


@app.command("prepare", epilog=PREPARE_EXAMPLES)
def prepare(
    source: Annotated[Path, typer.Argument(help="Parquet: numbers, lattice (9, Å), frac (3·n); more is kept.")],
    target: Annotated[Path, typer.Argument(help="Parquet to write, with Niggli-reduced cells.")],
) -> None:
    """Niggli-reduce every cell of a parquet file, as the training expects them."""
    from rich.console import Console
    from rich.progress import Progress

    from ..dataset import prepare as run

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("reducing cells", total=None)
        rows = run(source, target, lambda done, total: bar.update(task, completed=done, total=total))
    typer.echo(f"{rows} crystals in {target}")
