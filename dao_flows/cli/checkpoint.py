"""`dao-flows checkpoint`: the trained weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dao_flows.errors import InputError

from .shared.readable import readable

IMPORT_EXAMPLES = """[bold]Example[/bold]

dao-flows checkpoint import dao_g.ckpt --name dao-g-published --kind dao-g
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Trained weights: list, show, verify, import.",
    epilog="Checkpoints of your own live in $DAO_FLOWS_CHECKPOINT_DIR, by default in your data folder.",
)


@app.command("list")
def list_checkpoints(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the checkpoints that ship with the package, and your own."""
    from dao_flows.model.checkpoint.format import CheckpointError, read_card
    from dao_flows.model.checkpoint.library import available

    problems: list[str] = []
    folders = available()
    cards = readable(sorted(folders), lambda name: read_card(folders[name]), CheckpointError, problems)
    rows = [(name, folders[name], card) for name, card in cards]
    if as_json:
        keys = ("kind", "sha256", "elements", "max_atoms", "code_version")
        print(
            json.dumps(
                [{"name": n, "folder": str(f), **{k: getattr(c, k) for k in keys}} for n, f, c in rows], indent=1
            )
        )
    else:
        from .shared.tables import new_table, plain, stdout

        table = new_table()
        for title in ("name", "kind", "sha256", "elements", "atoms up to", "folder"):
            table.add_column(title, overflow="fold")
        for name, folder, card in rows:
            table.add_row(
                name, card.kind, card.sha256[:12], str(len(card.elements)), str(card.max_atoms), plain(str(folder))
            )
        stdout().print(table if rows else "no checkpoints; `dao-flows checkpoint import FILE.ckpt` brings one in")
    for problem in problems:
        typer.echo(f"dao-flows: {problem}", err=True)


@app.command()
def show(
    reference: Annotated[str, typer.Argument(metavar="NAME", help="Name, path or sha256.")],
    tree: Annotated[bool, typer.Option("--tree", help="Show its ancestry: data and checkpoints before it.")] = False,
) -> None:
    """Show a checkpoint's card: what it was trained on, how, and what was measured."""
    from dao_flows.model.checkpoint.library import card_of

    if tree:
        from dao_flows.model.checkpoint.lineage import checkpoint_lineage

        from .shared.tables import stdout
        from .shared.tree import lineage_tree

        stdout().print(lineage_tree(checkpoint_lineage(reference)))
        return
    print(json.dumps(asdict(card_of(reference)), indent=1, ensure_ascii=False))


@app.command()
def verify(
    references: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Names, paths or sha256; all if left out.")
    ] = None,
) -> None:
    """Check that weights are byte for byte what their card says."""
    from dao_flows.model.checkpoint.format import CheckpointError
    from dao_flows.model.checkpoint.format import verify as check
    from dao_flows.model.checkpoint.library import available, find

    problems: list[str] = []
    wanted = references or sorted(available())
    for reference, card in readable(wanted, lambda name: check(find(name)), CheckpointError, problems):
        print(f"{reference}: intact, {card.kind}, sha256 {card.sha256}")
    if problems:
        raise CheckpointError("\n".join(problems))


@app.command("import", epilog=IMPORT_EXAMPLES)
def import_published(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the published code (PyTorch Lightning).")],
    name: Annotated[str | None, typer.Option(help="Its name here.", show_default="the file's")] = None,
    kind: Annotated[str | None, typer.Option(help="dao-g or dao-p, where the file does not say.")] = None,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads, which the file does not say.")] = 8,
    max_atoms: Annotated[int, typer.Option(min=1, help="Largest cell that it was trained on.")] = 30,
    energy_scale: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="MEAN STD", help="Of DAO-P's training energies (eV/atom), where the file has no scaler."),
    ] = None,
) -> None:
    """Convert a published checkpoint. Nothing of the file is executed."""
    from dao_flows.model.checkpoint.lightning_import import STANDARDISED, import_checkpoint
    from dao_flows.model.files import user_folders

    chosen = name or file.stem
    if Path(chosen).name != chosen or chosen.startswith("."):
        raise InputError(f"{chosen!r} cannot be the name of a checkpoint: leave out slashes and a leading dot")
    folder = user_folders.checkpoints() / chosen
    scale = energy_scale
    card = import_checkpoint(file, folder, chosen, kind, heads=heads, max_atoms=max_atoms, energy_scale=scale)
    print(f"{chosen}: {card.kind}, sha256 {card.sha256}, in {folder}")
    if card.training.get("energy_scaler") == STANDARDISED:
        typer.echo(
            "dao-flows: the file holds no energy scaler, so that energies come in standard deviations, not eV/atom: "
            "import it again with --energy-scale MEAN STD of its training energies",
            err=True,
        )
