"""`dao-flows library`: known crystals that predictions begin from."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .shared.build_settings import SOURCES, Sources, progress_bar, takes_settings
from .shared.readable import readable

BUILD_EXAMPLES = f"""{SOURCES}
[bold]Examples[/bold]

dao-flows library build ours store: crystals/

dao-flows library build nitrides 'mp:?elements=N&energy_above_hull=0,0.1'

dao-flows library build mine known.parquet --max-energy 0.1 --keep-unlabelled --held-out test.csv

The same command goes on where a killed one stopped.
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Known crystals that predictions begin from: build, list, show, verify.",
    epilog="Libraries of your own live in $DAO_FLOWS_LIBRARY_DIR, by default in your data folder.",
)

Reference = Annotated[str, typer.Argument(metavar="NAME", help="Name, path or sha256.")]


@app.command("build", epilog=BUILD_EXAMPLES, no_args_is_help=True)
@takes_settings
def build(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new library.")],
    sources: Sources,
    settings: dict[str, Any],
) -> None:
    """Build a library among your own, as `dataset build` does, with an index for lookups.

    Rows that are left out are named in its rejects.jsonl, each with its reason.
    """
    from dao_flows.api.datasets import build_config
    from dao_flows.api.libraries import build_library

    from .dataset import print_manifest

    config = build_config(**settings)
    with progress_bar() as progress:
        library = build_library(name, sources, config, progress)
    print_manifest(library.manifest)
    typer.echo(f"{len(library)} crystals in {len(library.groups)} groups, in {library.folder}")


@app.command("list")
def list_libraries(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the libraries that ship with the package, and your own."""
    from dao_flows.api.libraries import available, licences, open_library
    from dao_flows.model.data.shards import DataError

    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    folders = available()
    for name, library in readable(sorted(folders), lambda name: open_library(folders[name]), DataError, problems):
        counts = {"crystals": len(library), "groups": len(library.groups)}
        told = {"sha256": library.sha256, "licences": licences(library), "folder": str(folders[name])}
        rows.append({"name": name, **counts, **told})
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        from .shared.tables import new_table, plain, stdout

        table = new_table()
        for title in ("name", "crystals", "groups", "sha256", "licences", "folder"):
            table.add_column(title, overflow="fold")
        for row in rows:
            words = (row["name"], str(row["crystals"]), str(row["groups"]), row["sha256"][:12])
            table.add_row(*map(plain, (*words, "; ".join(row["licences"]), row["folder"])))
        stdout().print(table if rows else "no libraries; `dao-flows library build NAME SOURCE…` makes one")
    for problem in problems:
        typer.echo(f"dao-flows: {problem}", err=True)


@app.command()
def show(
    reference: Reference, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all volumes.")] = False
) -> None:
    """Show what a library holds: its identity, sources, licences, elements and energies."""
    from dao_flows.api.libraries import open_library, summary

    from .dataset import print_manifest
    from .shared.tables import plain

    library = open_library(reference)
    found = summary(library)
    if as_json:
        print(json.dumps({**found, "built_from": library.manifest.sources}, indent=1, ensure_ascii=False))
        return
    print_manifest(library.manifest)
    typer.echo(
        f"{found['crystals']} crystals can be templates: {found['formulas']} formulas in {found['groups']} groups of "
        f"like multiplicities, {found['elements']} elements"
    )
    typer.echo(plain("from    " + ", ".join(f"{count} {name}" for name, count in found["sources"].items())))
    highest = "" if found["highest_energy"] is None else f", up to {found['highest_energy']:.3f} eV/atom above hull"
    typer.echo(f"energy  known of {found['energies_known']}{highest}")
    volumes = sorted(found["volumes"].items(), key=lambda each: each[1])
    small, large = (f"{volume:.1f} ({symbol})" for symbol, volume in (volumes[0], volumes[-1]))
    typer.echo(f"volume  {small} to {large} Å³ an atom")
    typer.echo(plain(f"folder  {library.folder}"))


@app.command()
def verify(
    references: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Names, paths or sha256; all if left out.")
    ] = None,
) -> None:
    """Check every byte of libraries against their manifests, and derive their indexes again."""
    from dao_flows.api.libraries import available
    from dao_flows.api.libraries import verify as check
    from dao_flows.model.data.shards import DataError

    problems: list[str] = []
    for reference, library in readable(references or sorted(available()), check, DataError, problems):
        told = f"{len(library)} crystals, and its index follows from them, {library.sha256}"
        typer.echo(f"{reference} is whole: {told}")
    if problems:
        raise DataError("\n".join(problems))
