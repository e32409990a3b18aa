"""`dao-flows predict`."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dao_flows.errors import InputError
from dao_flows.model.files.file_names import file_name
from dao_flows.model.sampling.names import SamplerName

from .shared.streams import talkative
from .verify import BACKEND_HELP, REFERENCE_HELP, show

if TYPE_CHECKING:
    from dao_flows.api.predict import Interrupted, PredictionResult, Progress
    from dao_flows.makers.generators.sampler import Bf16

TEMPLATES = typer.Option(
    "--templates", min=0, help="Candidates that may come from known crystals; 0: all drawn.", show_default="half"
)
LIBRARY = typer.Option("--library", help="Library of known crystals: name, path or sha256.")
KNOWN = typer.Option("--known/--no-known", help="Offer crystals of the very composition, too.")
REUSE_HELP = "Take results of the same science from the store, whichever run made them, in place of computing."
STEPS_HELP = "Steps of the sampler (otherwise 50, or 100 if the checkpoint learned by diffusion)."
JUDGE_HELP = "Force field of atomate2 whose energies judge candidates; auto: CHGNet, if installed."
RANK_HELP = (
    "What comes first: what came most often (agreement), the lowest energy by DAO-P (energy) or by the judge (judge), "
    "or both agreement and the judge, which is the default with a judge; without one it is agreement."
)
SAMPLER = typer.Option("--sampler", help="Way from noise to a crystal; the default finds most in fewest steps.")
BF16 = typer.Option("--bf16", help="Matrix products in bfloat16.")
AUTO_BF16 = typer.Option("--auto-bf16", help="In bfloat16 if the job measures that to be faster where it runs.")
EXAMPLES = """[bold]Examples[/bold]

dao-flows predict Cr3Os

dao-flows predict TiO2 Al2O3 -n 50 --z 2 --seed 7 --out structures

dao-flows predict Cr3Os --templates 0

dao-flows predict Si -n 8 --verify abinit --top 2

dao-flows predict --input formulas.csv --json > results.json
"""


def predict(
    formulas: Annotated[list[str] | None, typer.Argument(help="Formulas, such as Cr3Os.", show_default=False)] = None,
    n: Annotated[int, typer.Option("-n", "--candidates", min=1, help="Candidates for each formula.")] = 20,
    z: Annotated[str, typer.Option("--z", help="Formula units per cell, or auto for all that fit.")] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed gives the same candidates.")] = 0,
    guidance: Annotated[
        bool | None, typer.Option("--guidance/--no-guidance", help="Steer by DAO-P's energy.", show_default=False)
    ] = None,
    relax: Annotated[
        bool | None, typer.Option("--relax/--no-relax", help="Relax in DAO-P's energy.", show_default=False)
    ] = None,
    judge: Annotated[str | None, typer.Option(metavar="NAME|none|auto", help=JUDGE_HELP)] = None,
    judge_steps: Annotated[int, typer.Option(min=0, help="Steps of relaxation before the judge's energy.")] = 0,
    rank_by: Annotated[
        Literal["agreement", "energy", "judge", "both"] | None, typer.Option(help=RANK_HELP, show_default=False)
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, help="Structures to keep for each formula; with --verify, to verify (3)."),
    ] = None,
    verify_with: Annotated[
        str | None, typer.Option("--verify", metavar="BACKEND", help="Verify the best of each formula: " + BACKEND_HELP)
    ] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE_HELP)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=STEPS_HELP)] = None,
    sampler: Annotated[SamplerName, SAMPLER] = "renoising",
    max_atoms: Annotated[
        int | None,
        typer.Option(min=1, help="Most atoms in a cell (otherwise 20, or a formula unit if it has more)."),
    ] = None,
    bf16: Annotated[bool, BF16] = False,
    auto_bf16: Annotated[bool, AUTO_BF16] = False,
    templates: Annotated[int | None, TEMPLATES] = None,
    library: Annotated[str | None, LIBRARY] = None,
    known: Annotated[bool, KNOWN] = True,
    checkpoint: Annotated[str | None, typer.Option(help="DAO-G: name, path or sha256.")] = None,
    predictor: Annotated[str | None, typer.Option(help="DAO-P: name, path or sha256.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:0.")] = None,
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
    from dao_flows.api.inputs import Entry, parse_z, read_formulas

    if verbose:
        _talkative()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's stop is as kind as Ctrl-C
    if reference is not None and verify_with is None:
        raise InputError("--reference is for verifications: give --verify BACKEND too")
    entries = [Entry(formula) for formula in formulas or []] + (read_formulas(source) if source else [])
    if not entries:
        raise InputError("no formula given: write one such as Cr3Os, or --input FILE")
    cell, precision = parse_z(z), bf16_setting(bf16, auto_bf16)
    from .shared.tables import stderr

    errors = stderr()
    try:
        with errors.status("loading …") if errors.is_terminal else nullcontext():
            from dao_flows.api.export import free_folder, writable
            from dao_flows.api.predict import predict as run
            from dao_flows.api.verify import VERIFY_TOP
        if out is None and not writable(Path.cwd()):
            raise InputError(f"CIF files cannot be written to {Path.cwd()}: choose a folder with --out")
        with _Bar() as bar:
            result = run(
                entries,
                n=n,
                z=cell,
                seed=seed,
                guidance=guidance,
                out=out,
                steps=steps,
                sampler=sampler,
                relax=relax,
                judge=judge,
                judge_steps=judge_steps,
                rank_by=rank_by,
                top_k=None if verify_with else top,
                verify_with=verify_with,
                verify_top=top or VERIFY_TOP,
                reference_set=reference,
                max_atoms=max_atoms,
                bf16=precision,
                templates=templates,
                library=library,
                known=known,
                checkpoint=checkpoint,
                predictor=predictor,
                device=device,
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


def bf16_setting(bf16: bool, auto: bool) -> Bf16:
    """The makers' bf16 from both options. Raises InputError where both are given."""
    if bf16 and auto:
        raise InputError("--bf16 and --auto-bf16 exclude each other")
    return "auto" if auto else bf16


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
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        from .shared.tables import stderr

        self.console = stderr()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            Remaining(),
        )
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
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
