"""`dao-flows audit replay`: a result is computed again and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dao_flows.audit.replay.results import Replay

REPLAY_EXAMPLES = """[bold]Examples[/bold]

dao-flows audit replay dao-6d5d49f3a1c2

dao-flows audit replay ver-be2f5be4b9f7 --dft

dao-flows audit replay stage-1 --yes --from /data/crystals.parquet --json
"""
CODES = {"identical": 0, "equal": 0, "different": 1, "not replayed": 2}
SAID = {
    "identical": "identical, bit for bit",
    "equal": "equal within the tolerance",
    "different": "different",
    "not replayed": "not replayed",
}
CHANGES = 8


def replay(
    wanted: Annotated[str, typer.Argument(metavar="ID", help="Any id that `audit graph` takes.")],
    dft: Annotated[bool, typer.Option("--dft", help="Run DFT and force-field calculations again, too.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.", show_default="the recorded kind")] = None,
    places: Annotated[
        list[Path] | None,
        typer.Option("--from", exists=True, help="File or folder with checkpoints or data that lie elsewhere now."),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE", help="Module of makers of your own, which replaying a calculation imports and calls."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replay also what took more than five minutes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Compute a result again from its recorded inputs, beside the store, and compare the two.

    Exit code 0: identical, or equal within the stated tolerance; 1: different; 2: it cannot be replayed.
    """
    from dao_flows.audit.replay.replay import Options
    from dao_flows.audit.replay.replay import replay as run
    from dao_flows.cli.shared.progress import stage_progress
    from dao_flows.settings import settings
    from dao_flows.store.stores import job_store

    with stage_progress() as listener:
        options = Options(device=device, places=places or [], dft=dft, yes=yes, trust=trust or [])
        found = run(job_store(settings()), wanted, options, listener)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        _show(found)
    raise typer.Exit(CODES[found.outcome])


def _show(found: Replay) -> None:
    from dao_flows.cli.shared.tables import stderr, stdout

    def tell(line: str) -> None:
        stdout().print(line, markup=False, highlight=False, soft_wrap=True)

    for step in (*found.documents, *found.steps):
        if step.how == "sources" and step.outcome == "identical":
            tell(f"{step.kind} {step.id}: its document is as it was laid out")
            continue
        how = "" if step.how == "run" else f" by {step.how}"
        took = f"{step.seconds:.1f} s, recorded {step.recorded_seconds:.1f} s"
        tell(f"{step.kind} {step.id} ({step.maker}): {SAID[step.outcome]}{how} ({took})")
        if step.own is not None:
            tell(f"  its document is not what was written: {step.own.line('written', 'held now')}")
            if step.recomputed is not None:
                tell(f"  what was computed again, beside this document: {SAID[step.recomputed]}")
        if step.beyond or step.first:
            tell(f"  {(step.beyond or step.first).line()}")  # type: ignore[union-attr]
        if step.largest:
            largest = ", ".join(f"{name} {size:.2g}" for name, size in step.largest.items())
            tell(f"  {step.differences} figures differ, at most: {largest}; tolerance: {step.tolerance}")
        if step.changes:
            told = "; ".join(change.line() for change in step.changes[:CHANGES])
            tell(f"  not as recorded: {told}" + (" …" if len(step.changes) > CHANGES else ""))
        if step.note:
            tell(f"  {step.note}")
        if step.reason:
            stderr().print(f"dao-flows: {step.reason}", markup=False, soft_wrap=True)
    tell(f"{found.node}: {SAID[found.outcome]}")
