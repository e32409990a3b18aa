"""`dao-flows dataset`: data to train on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dao_flows.model.dataset import Manifest

BUILD_EXAMPLES = """[bold]Sources[/bold]

a file (.parquet, .csv, .extxyz, .db, .cif), a folder of CIF or POSCAR, a dataset, mp:, optimade:PROVIDER, store:

[bold]Examples[/bold]

dao-flows dataset build mine train.csv 'val.csv?split=val' --held-out test.csv --max-energy 0.5

dao-flows dataset build oxides 'optimade:alexandria?filter=elements HAS "O" AND nsites<=20' --val-share 0.05

MP_API_KEY=… dao-flows dataset build nitrides 'mp:?elements=N&energy_above_hull=0,0.5' --val-share 0.05

The same command goes on where a killed one stopped.
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Data to train on: build, show, verify.")


@app.command("build", epilog=BUILD_EXAMPLES, no_args_is_help=True)
def build(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new dataset.")],
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Where the crystals come from, in order.")],
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
    name: Annotated[str | None, typer.Option(help="The dataset's name; by default that of its folder.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of sources that state none, as in CC-BY-4.0.")] = None,
) -> None:
    """Build a dataset: Niggli cells, each crystal once, without what is held out.

    Rows that are left out are named in OUT/rejects.jsonl, each with its reason.
    """
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    from ..datasets import build_config, build_from_settings

    config = build_config(
        name=name,
        licence=licence,
        properties=tuple(properties or ()),
        min_atoms=min_atoms,
        max_atoms=max_atoms,
        min_energy=min_energy,
        max_energy=max_energy,
        keep_unlabelled=keep_unlabelled,
        min_distance=min_distance,
        primitive=primitive,
        keep_duplicates=keep_duplicates,
        held_out=tuple(held_out or ()),
        held_out_formulas=held_out_formulas,
        val_share=val_share,
        rows_per_shard=rows_per_shard,
    )
    rows = TextColumn("{task.completed:.0f} rows")
    with Progress(*Progress.get_default_columns(), rows, console=Console(stderr=True)) as bar:
        task = bar.add_task("opening the sources", total=None)
        manifest = build_from_settings(
            out,
            sources,
            config,
            lambda done, total, what: bar.update(task, completed=done, total=total, description=f"reading {what}"),
        )
    _print(manifest)
    typer.echo(f"{manifest.rows} crystals in {out}")


@app.command("show")
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of a dataset.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Show what a dataset is made of: its identity, sources, licences and filters."""
    from dao_flows.model.dataset import read_manifest

    manifest = read_manifest(folder)
    if as_json:
        print(json.dumps({"sha256": manifest.sha256, **asdict(manifest)}, indent=1, ensure_ascii=False))
        return
    _print(manifest)
    settings = {
        name: value for name, value in manifest.filters.items() if name != "held_out" and value not in ([], None)
    }
    print("settings  " + ", ".join(f"{name} {value}" for name, value in settings.items()))
    if manifest.parent:
        print(f"made from {manifest.parent} by {manifest.made_by.get('maker', 'an unknown maker')}")


@app.command("verify")
def verify(folder: Annotated[Path, typer.Argument(help="Folder of a dataset.")]) -> None:
    """Check every byte of a dataset against its manifest."""
    from ..datasets import verify as check

    manifest = check(folder)
    typer.echo(f"{folder} is whole: {manifest.rows} crystals in {len(manifest.shards)} files, {manifest.sha256}")


def _print(manifest: Manifest) -> None:
    """The dataset, and a line for each source and held-out set."""
    from .tables import new_table, plain, stdout

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
    from dao_flows.model.dataset import SPLITS

    found = []
    for source in [*manifest.sources, *manifest.filters.get("held_out", [])]:
        if others := source.get("passed_over"):
            kinds = ", ".join(f"{count} {name}" for name, count in others.items())
            found.append(f"passed over in {source.get('name', '?')}, neither CIF nor POSCAR: {kinds}")
    if unknown := {name: count for name, count in manifest.counts.items() if name not in SPLITS}:
        rows = ", ".join(f"{count} {name!r}" for name, count in unknown.items())
        found.append(f"training does not read these splits: {rows}; it learns from 'train' and validates on 'val'")
    return found
