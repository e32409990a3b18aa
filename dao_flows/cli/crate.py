"""`dao-flows export-crate` and `import-crate`: results with their whole history, as one file for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dao_flows.crate.exporting import Exported
    from dao_flows.crate.importing import Imported

EXPORT_EXAMPLES = """[bold]Examples[/bold]

dao-flows export-crate dao-417db4a5ae9c NaCl.zip

dao-flows export-crate dao-417db4 ver-9a2f10 paper.zip --license CC-BY-4.0 --author 'Ada Lovelace <0000-0002-1825-0097>'

dao-flows export-crate dao-g-mine model.zip --weights --shards
"""
IMPORT_EXAMPLES = """[bold]Examples[/bold]

dao-flows import-crate paper.zip --dry-run

dao-flows import-crate paper.zip
"""


def export_crate(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Candidates, verifications, checkpoints, …")],
    out: Annotated[Path, typer.Argument(metavar="OUT.zip", help="File to write.")],
    name: Annotated[str | None, typer.Option(help="Title of the crate.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is about, in a sentence.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Licence of the crate: SPDX name, as in CC-BY-4.0, or address.")
    ] = None,
    authors: Annotated[
        list[str] | None, typer.Option("--author", help="'Name' or 'Name <ORCID>'; may be given several times.")
    ] = None,
    date: Annotated[str | None, typer.Option(help="Date of publication; by default that of the last job.")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Take the weights of checkpoints along.")] = False,
    shards: Annotated[bool, typer.Option("--shards", help="Take the rows of datasets along.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write results and all that they were made from as an RO-Crate (Provenance Run Crate)."""
    from dao_flows.crate.exporting import UNSTATED
    from dao_flows.crate.exporting import export_crate as export
    from dao_flows.store.stores import job_store

    done = export(
        job_store(),
        ids,
        out,
        name=name,
        description=description,
        licence=licence or UNSTATED,
        authors=authors or (),
        published=date,
        weights=weights,
        shards=shards,
        force=force,
    )
    if as_json:
        print(json.dumps({"path": str(done.path), "sha256": done.sha256, "documents": done.documents}, indent=1))
        return
    _say_exported(done)
    if licence is None:
        typer.echo("no licence is stated: --license CC-BY-4.0, for example, says what others may do with it", err=True)


def _say_exported(done: Exported) -> None:
    print(f"{done.path}: {done.members} files; documents: {_counts(done.documents)}")
    print(f"sha256 of its contents {done.sha256}")
    if done.unsealed:
        print(f"{done.unsealed} documents are from before documents carried a hash of their content")
    for line in done.left:
        print(f"not in it: {line}")


def import_crate(
    file: Annotated[Path, typer.Argument(metavar="CRATE.zip", help="A crate that export-crate wrote.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring a crate into your store, ids and hashes intact. Nothing in it is executed; a changed one is refused.

    Safe to repeat. Limits: DAO_FLOWS_CRATE_MEMBERS, _DOCUMENT_MIB, _FILE_MIB, _TOTAL_MIB, _RATIO, _DEPTH.
    """
    from dao_flows.crate.importing import import_crate as bring_in
    from dao_flows.crate.reader import open_crate
    from dao_flows.store.stores import describe, job_store

    with open_crate(file) as crate:
        store = job_store()
        done = bring_in(crate, store, dry_run)
    if as_json:
        folders = {**done.checkpoints, **done.datasets}
        told = {"sha256": done.sha256, "added": done.added, "present": done.present, "left": done.left}
        print(json.dumps({**told, "folders": {key: str(path) for key, path in folders.items()}}, indent=1))
        return
    _say_imported(done, describe(store), dry_run)


def _say_imported(done: Imported, where: str, dry_run: bool) -> None:
    print(f"the crate is whole; sha256 of its contents {done.sha256}")
    verb = "would be added to" if dry_run else "added to"
    added = _counts(done.added)
    present = sum(done.present.values())
    if not done.changes:
        print(f"nothing to do: all {present} documents are in {where}")
    else:
        print(f"{added or 'no documents'} {verb} {where}" + (f"; {present} were there already" if present else ""))
    for kind, folders in (("checkpoint", done.checkpoints), ("dataset", done.datasets)):
        for sha256, folder in folders.items():
            print(f"{kind} {sha256[:12]} {'would go' if dry_run else 'is'} in {folder}")
    if done.files:
        print(f"{len(done.files)} figures and tables {'would go' if dry_run else 'are'} in your data folder")
    for line in done.left:
        print(f"not in the crate: {line}")


def _counts(documents: dict[str, int]) -> str:
    """As in '2 jobs, 1 candidate'."""
    return ", ".join(f"{n} {name.removesuffix('s') if n == 1 else name}" for name, n in documents.items() if n)
