"""`dao-flows doctor` and `build`: whether all is there, and whether all is laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DOCTOR_EXAMPLES = """[bold]Example[/bold]

dao-flows doctor --json
"""
BUILD_EXAMPLES = """[bold]Example[/bold]

dao-flows build
"""
MARKS = {"ok": "[green]✓[/green]", "missing": "[yellow]–[/yellow]", "broken": "[red]✗[/red]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    aside: Annotated[
        Path | None,
        typer.Option("--set-aside", help="First move stored documents that cannot be read into files of this folder."),
    ] = None,
) -> None:
    """Say what is there, what is not, and how to fix it. Exit code 0 if `predict` can run, else 1."""
    import json

    from dao_flows.api.doctor import examine, set_aside

    from .shared.tables import stderr, stdout

    for path in set_aside(aside) if aside is not None else ():
        stderr().print(f"set aside: {path}", markup=False, highlight=False, soft_wrap=True)

    checks, console = [], stdout()
    for check in examine():
        checks.append(check)
        if as_json:
            continue
        from rich.markup import escape

        console.print(
            f"{MARKS[check.status]} [bold]{escape(check.name)}[/bold]  {escape(check.detail)}", soft_wrap=True
        )
        if check.fix and check.status != "ok":
            console.print(f"    → {check.fix}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps([check.model_dump() for check in checks], indent=1))
    if any(check.status == "broken" for check in checks):
        raise typer.Exit(1)


def build() -> None:
    """Lay out candidates of flows that ran elsewhere on the same store, so that list, show and export find them."""
    from dao_flows.store.candidates import CandidateBuilder
    from dao_flows.store.stores import collection, describe, job_store

    store = job_store()
    candidates = collection(store, "candidates")
    before = candidates.count()
    CandidateBuilder(store, candidates).build()
    print(f"{candidates.count() - before} new candidates in {describe(store)}")
