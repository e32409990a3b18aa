"""`dao-flows dataset`: data to train on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .shared.build_settings import SOURCES, Sources, progress_bar, takes_settings

if TYPE_CHECKING:
    from dao_flows.model.data.shards import Manifest

BUILD_EXAMPLES = f"""{SOURCES}
[bold]Examples[/bold]

dao-flows dataset build mine train.csv 'val.csv?split=val' --held-out test.csv --max-energy 0.5

dao-flows dataset build oxides 'optimade:alexandria?filter=elements HAS "O" AND nsites<=20' --val-share 0.05

MP_API_KEY=… dao-flows dataset build nitrides 'mp:?elements=N&energy_above_hull=0,0.5' --val-share 0.05

The same command goes on where a killed one stopped.
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Data to train on: build, show, verify.")


@app.command("build", epilog=BUILD_EXAMPLES, no_args_is_help=True)
@takes_settings
def build(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new dataset.")],
    sources: Sources,
    settings: dict[str, Any],
    name: Annotated[str | None, typer.Option(help="The dataset's name; by default that of its folder.")] = None,
) -> None:
    """Build a dataset: Niggli cells, each crystal once, without what is held out.

    Rows that are left out are named in OUT/rejects.jsonl, each with its reason.
    """
    from dao_flows.api.datasets import build_config, build_from_settings

    config = build_config(name=name, **settings)
    with progress_bar() as progress:
        manifest = build_from_settings(out, sources, config, progress)
    print_manifest(manifest)
    typer.echo(f"{manifest.rows} crystals in {out}")


@app.command("show")
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of a dataset.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Show what a dataset is made of: its identity, sources, licences and filters."""
    from dao_flows.model.data.shards import read_manifest

    manifest = read_manifest(folder)
    if as_json:
        print(json.dumps({"sha256": manifest.sha256, **asdict(manifest)}, indent=1, ensure_ascii=False))
        return
    print_manifest(manifest)
    settings = {
        name: value for name, value in manifest.filters.items() if name != "held_out" and value not in ([], None)
    }
    print("settings  " + ", ".join(f"{name} {value}" for name, value in settings.items()))
    if manifest.parent:
        print(f"made from {manifest.parent} by {manifest.made_by.get('maker', 'an unknown maker')}")


@app.command("verify")
def verify(folder: Annotated[Path, typer.Argument(help="Folder of a dataset.")]) -> None:
    """Check every byte of a dataset against its manifest."""
    from dao_flows.api.datasets import verify as check

    manifest = check(folder)
    typer.echo(f"{folder} is whole: {manifest.rows} crystals in {len(manifest.shards)} files, {manifest.sha256}")


def print_manifest(manifest: Manifest) -> None:
    """The dataset, and a line for each source and held-out set."""
    from .shared.tables import new_table, plain, stdout

    splits = ", ".join(f"{count} {split}" for split, count in manifest.counts.items())
    print(f"{manifest.name}  {manifest.rows} crystals ({splits}) in {len(manifest.shards)} files")
    print(f"sha256  {manifest.sha256}")
    table = new_table()
    for title in ("source", "licence", "rows", "kept", "left out"):
        table.add_column(title, overflow="fold")
    for source in [*manifest.sources, *manifest.filters.get("held_out", [])]:
        rejected = ", ".join(f"{n} {cause}" for cause, n in source.get("rejected", {}).items()) or "none"
        licence = "(held out)" if source.get("held_out") else source.get("licence") or "not stated"
        row = (source.get("name", "?"), licence, source.get("rows", "?"), source.get("kept", "?"), rejected)
        table.add_row(*(plain(str(cell)) for cell in row))
    stdout().print(table)
    for line in _remarks(manifest):
        typer.echo(plain(line))


def _remarks(manifest: Manifest) -> list[str]:
    """What a user may not have meant: files that were passed over, and splits that training does not read."""
    from dao_flows.model.data.shards import SPLITS

    found = []
    for source in [*manifest.sources, *manifest.filters.get("held_out", [])]:
        if others := source.get("passed_over"):
            kinds = ", ".join(f"{count} {name}" for name, count in others.items())
            found.append(f"passed over in {source.get('name', '?')}, neither CIF nor POSCAR: {kinds}")
    if unknown := {name: count for name, count in manifest.counts.items() if name not in SPLITS}:
        rows = ", ".join(f"{count} {name!r}" for name, count in unknown.items())
        found.append(f"training does not read these splits: {rows}; it learns from 'train' and validates on 'val'")
    return found
