"""`dao-flows predict`."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dao_flows.api.prediction.inputs import Entry, read_formulas
from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.errors import InputError
from dao_flows.model.files.file_names import file_name

from .shared.options import spread
from .shared.streams import talkative
from .verify import show

if TYPE_CHECKING:
    from dao_flows.api.predict import Interrupted, PredictionResult, Progress

REUSE_HELP = "Take results of the same science from the store, whichever run made them, in place of computing."
EXAMPLES = """[bold]Examples[/bold]

dao-flows predict Cr3Os

dao-flows predict TiO2 Al2O3 -n 50 --z 2 --seed 7 --out structures

dao-flows predict Cr3Os --templates 0

dao-flows predict Si -n 8 --verify abinit --top 2

dao-flows predict --input formulas.csv --json > results.json
"""


@spread
def predict(
    formulas: Annotated[list[str] | None, typer.Argument(help="Formulas, such as Cr3Os.", show_default=False)] = None,
    *,
    request: PredictionRequest,
    source: Annotated[
        Path | None, typer.Option("--input", help="File of formulas: one a line, or csv with a column formula.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for CIF files.", show_default="dao-<formula>, or dao-<run>")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help=REUSE_HELP)] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' log and warnings.")] = False,
) -> None:
    """Generate crystal structures for formulas, rank them, write CIF files and store everything.

    Some come from known crystals with their elements exchanged, the others are drawn by DAO-G. A run that was
    interrupted goes on where it stopped when the same command is given again.
    """
    if verbose:
        _talkative()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's stop is as kind as Ctrl-C
    entries, request = typed(formulas, source, request)
    from .shared.tables import stderr

    errors = stderr()
    try:
        with errors.status("loading …") if errors.is_terminal else nullcontext():
            from dao_flows.api.export import free_folder, writable
            from dao_flows.api.predict import predict as run
        if out is None and not writable(Path.cwd()):
            raise InputError(f"CIF files cannot be written to {Path.cwd()}: choose a folder with --out")
        with _Bar() as bar:
            result = run(
                entries,
                **vars(request),
                out=out,
                reuse=reuse,
                on_progress=bar.show,
                on_notice=lambda line: errors.print(line, highlight=False, soft_wrap=True),
                command=["dao-flows", *sys.argv[1:]],
            )
        if out is None and (texts := result.cif_files()):
            named = result.compositions[0].formula if len(result.compositions) == 1 else result.run_id
            result.write(free_folder(Path(f"dao-{file_name(named)}"), texts))
    except KeyboardInterrupt as interruption:
        errors.print(_go_on(interruption), soft_wrap=True)
        raise typer.Exit(130) from None
    if as_json:
        print(result.model_dump_json(indent=1))
    else:
        _print(result)


def typed(
    formulas: list[str] | None, source: Path | None, request: PredictionRequest
) -> tuple[list[Entry], PredictionRequest]:
    """What is typed: all formulas, and the request, in which --top is of what is verified, if that is asked for.

    Raises InputError where there is no formula, and for a reference set that nothing is compared with.
    """
    if request.verify_with is not None:
        request = replace(request, top_k=None, verify_top=request.top_k or request.verify_top)
    elif request.reference_set is not None:
        raise InputError("--reference is for verifications: give --verify BACKEND too")
    entries = [Entry(formula) for formula in formulas or []] + (read_formulas(source) if source else [])
    if not entries:
        raise InputError("no formula given: write one such as Cr3Os, or --input FILE")
    return entries, request


def _print(result: PredictionResult) -> None:
    from .shared.tables import ranking, remarks, stdout

    console = stdout()
    if any(composition.ranked for composition in result.compositions):
        console.print(ranking(result.compositions, result.run_id))
    else:
        console.print("No candidate passed the screen: try more of them (-n), or another seed.")
    for remark in remarks(result):
        console.print(remark, markup=False, soft_wrap=True)
    if result.reused_batches:
        console.print(f"{result.reused_batches} batches were taken over from the store")
    if result.verification is not None:
        show(result.verification)
    if result.files:
        console.print(f"CIF files: {result.files[0].parent}/ ({len(result.files)})", markup=False, soft_wrap=True)
    console.print(f"Stored in {result.store} (`dao-flows list`)", markup=False, soft_wrap=True)


def _go_on(interruption: KeyboardInterrupt) -> str:
    if hasattr(interruption, "finished"):
        done: Interrupted = interruption  # type: ignore[assignment]
        return f"dao-flows: interrupted: {done}; the same command goes on from there"
    return "dao-flows: interrupted; what is finished is stored (`dao-flows list`)"


def _talkative() -> None:
    """Let the libraries talk on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr, force=True)
    talkative()


class _Bar:
    """Progress on stderr: a bar with an estimate on a terminal, a line a batch in a log file."""

    def __init__(self) -> None:
        from .shared.progress import bar_on
        from .shared.tables import stderr

        self.console = stderr()
        self.bar = bar_on(self.console)
        self.all: Any = None
        self.stage: Any = None
        self.shown: tuple[int, str] = (0, "")

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, progress: Progress) -> None:
        """Take a report."""
        several = progress.batches > 1
        if (progress.batch, progress.stage) != self.shown:
            if several and self.all is None:
                self.all = self.bar.add_task("batches", total=progress.batches)
            if several and progress.batch != self.shown[0] and not self.console.is_terminal:
                self.console.print(f"batch {progress.batch} of {progress.batches}: started")
            if self.stage is not None:
                self.bar.remove_task(self.stage)
            self.stage = self.bar.add_task(progress.stage, total=progress.total)
            self.shown = (progress.batch, progress.stage)
        self.bar.update(self.stage, completed=progress.done, total=progress.total)
        if several:
            part = progress.done / progress.total if progress.stage == "generate" else 1.0  # screening is short
            self.bar.update(self.all, completed=progress.batch - 1 + part)
