"""`dao-flows verify`, and what `dao-flows predict --verify` shares with it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dao_flows.api.prediction.request import REFERENCE_HELP
from dao_flows.makers.verify import codes

if TYPE_CHECKING:
    from dao_flows.api.verify import VerificationResult

EXAMPLES = """[bold]Examples[/bold]

dao-flows verify dao-417db4a5ae9c --backend abinit

dao-flows verify dao-417db4 dao-9a2f10 --backend forcefield --reference entries.json.gz

dao-flows predict Si -n 8 --verify abinit --top 2
"""


def verify(
    candidates: Annotated[list[str], typer.Argument(help="Ids of candidates, or their beginnings.")],
    backend: Annotated[str, typer.Option(help=codes.HELP)] = "forcefield",
    reference: Annotated[str | None, typer.Option(help=REFERENCE_HELP)] = None,
    again: Annotated[bool, typer.Option("--again", help="Repeat calculations that the store holds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Relax stored candidates with DFT, or a force field in its place, and store what comes of them.

    Finished calculations are not repeated: what was interrupted goes on when the same command is given again.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's stop is as kind as Ctrl-C
    try:
        result = run(candidates, backend, reference, again)
    except KeyboardInterrupt as interruption:
        from .shared.tables import stderr

        stderr().print(f"dao-flows: interrupted: {interruption}; the same command goes on from there", soft_wrap=True)
        raise typer.Exit(130) from None
    if as_json:
        print(result.model_dump_json(indent=1))
    else:
        show(result)


def run(candidates: Sequence[str], backend: str, reference: str | None, again: bool) -> VerificationResult:
    """Verify with progress on stderr."""
    from dao_flows.api.verify import verify_candidates

    from .shared.progress import stage_progress

    with stage_progress() as listener:
        return verify_candidates(
            candidates,
            backend,
            reference_set=reference,
            again=again,
            on_progress=listener,
            command=["dao-flows", *sys.argv[1:]],
        )


def show(result: VerificationResult) -> None:
    """A table, a line a candidate."""
    from .shared.tables import new_table, stdout

    table = new_table(f"Verified with {result.backend}, run {result.run_id}")
    for name in ("formula", "candidate", "state"):
        table.add_column(name, no_wrap=name == "candidate")
    for name in ("energy\neV/atom", "E_hull\neV/atom", "max force\neV/Å", "core time\ns"):
        table.add_column(name, justify="right")
    for document in result.verifications:
        hull = document.hull.energy_above_hull if document.hull else None
        figures = (document.energy_per_atom, hull, document.max_force)
        table.add_row(
            document.formula,
            document.candidate_id,
            document.state,
            *("–" if figure is None else f"{figure:.4f}" for figure in figures),
            f"{document.core_seconds:.0f}",
        )
    console = stdout()
    console.print(table)
    for document in result.verifications:
        if document.error:
            console.print(f"{document.candidate_id}: {document.error}", markup=False, soft_wrap=True)
    console.print(f"the codes' files are in {result.files}", markup=False, soft_wrap=True)
    console.print("`dao-flows compare` compares them with what DAO predicted", markup=False)
