"""`dao-flows pretrain` and `dao-flows improve`: flows of several trainings, from one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .predict import REUSE_HELP

if TYPE_CHECKING:
    from rich.table import Table

    from dao_flows.api.plan import Plan

EXAMPLES = """[bold]Examples[/bold]

dao-flows pretrain examples/pretrain_small.yaml --plan

dao-flows pretrain examples/pretrain_small.yaml

dao-flows checkpoint show small-stage-2 --tree
"""
IMPROVE_EXAMPLES = """[bold]Examples[/bold]

dao-flows improve examples/improve_small.yaml --plan

dao-flows improve examples/improve_small.yaml

dao-flows checkpoint show small-dao-g --tree
"""


def pretrain(
    config: Annotated[Path, typer.Argument(help="YAML file, as examples/pretrain_small.yaml.", show_default=False)],
    plan: Annotated[bool, typer.Option("--plan", help="Print jobs, routes and an estimate, and run nothing.")] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help=REUSE_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Train DAO-P and DAO-G in two stages on a dataset of your own, and compare the stages.

    What was interrupted, by Ctrl-C, a kill or the queue, goes on where it was when the same command is given again.
    """
    from dao_flows.api.pretrain import read_config

    settings = read_config(config)
    if plan:
        from dao_flows.api.plan import plan_pretraining

        from .shared.tables import stderr

        with stderr().status("measuring this device …"):
            plans = plan_pretraining(settings)
        print_plans(plans, as_json)
        return
    from dao_flows.api.pretrain import pretrain as run
    from dao_flows.makers.compare_stages import StagesDoc, table

    from .shared.progress import stage_progress

    with stage_progress() as listener:
        document = run(settings, listener, ["dao-flows", *sys.argv[1:]], reuse)
    if as_json:
        print(document.model_dump_json(indent=1))
        return
    if isinstance(document, StagesDoc):
        print(table(document.stages))
        print(f"figures: {document.picture}")
    print(f"registered: {', '.join(f'{settings.name}-{stage}' for stage in ('dao-p', 'stage-1', 'stage-2'))}")


def improve(
    config: Annotated[Path, typer.Argument(help="YAML file, as examples/improve_small.yaml.", show_default=False)],
    plan: Annotated[bool, typer.Option("--plan", help="Print jobs, routes and an estimate, and run nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Let DAO-G and DAO-P make each other better, in rounds that a teacher labels, until one is not better.

    What was interrupted, by Ctrl-C, a kill or the queue, goes on where it was when the same command is given again.
    """
    from dao_flows.api.rounds.improve import read_config

    from .shared.tables import stderr

    settings = read_config(config)
    if plan:
        from dao_flows.api.rounds.plan import plan_rounds

        with stderr().status("measuring this device …"):
            planned = plan_rounds(settings)
        print_plans([planned], as_json)
        return
    from dao_flows.api.rounds.improve import improve as run

    from .shared.progress import stage_progress

    stderr().print(settings.cost(), highlight=False, soft_wrap=True)
    with stage_progress() as listener:
        document = run(settings, listener, ["dao-flows", *sys.argv[1:]])
    if as_json:
        print(document.model_dump_json(indent=1))
        return
    for each in document.rounds:
        print(f"round {each.round}: {each.chosen} of {each.candidates} candidates joined; {each.reason}: ", end="")
        print("kept" if each.kept else "not kept")
    if not document.kept:
        print("no round was better: nothing is registered")
    else:
        print(f"registered: {', '.join(dict.fromkeys(name for each in document.rounds for name in each.registered))}")


def print_plans(plans: Sequence[Plan], as_json: bool) -> None:
    """Print plans that were measured on the same device."""
    from .shared.tables import stdout

    if as_json:
        print(f"[{', '.join(plan.model_dump_json() for plan in plans)}]")
        return
    for plan in plans:
        stdout().print(_table(plan))
    rates = ", ".join(f"{task} {rate:,.1f}" for task, rate in plans[0].throughput.items())
    stdout().print(f"crystals per second, measured on {plans[0].device}: {rates}", soft_wrap=True)
    stdout().print("Queues, start-up and what the database holds come on top.", soft_wrap=True)


def _table(plan: Plan) -> Table:
    from .shared.tables import new_table

    table = new_table(f"{plan.crystals:,} crystals")
    for name in ("job", "route", "jobs", "device time", "stored"):
        table.add_column(name, justify="left" if name in ("job", "route") else "right")
    for job in plan.jobs:
        table.add_row(job.name, job.route, f"{job.jobs:,}", duration(job.seconds), size(job.stored))
    table.add_section()
    table.add_row("together", "", "", f"{plan.gpu_hours:,.2f} h", size(plan.stored))
    return table


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if not seconds:
        return "–"
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def size(stored: int) -> str:
    """Bytes as a person would say them."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if stored >= length:
            return f"{stored / length:,.1f} {unit}"
    return f"{stored / 1e3:,.1f} kB"
