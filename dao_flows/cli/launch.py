"""`dao-flows init`, `submit`, `status`, `rerun`, `cancel` and `logs`: flows on a cluster."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.errors import InputError

from . import predict, pretrain, verify
from .shared.options import spread, with_parameters

if TYPE_CHECKING:
    from dao_flows.launch.flows import Planned
    from dao_flows.launch.progress import Stage, Status

INIT_EXAMPLES = """[bold]Examples[/bold]

dao-flows init project

dao-flows init project --queue slurm --gpu-queue gpu --dft-queue cpu --cpu-queue cpu --dft-cores 16 --yes

dao-flows init project --check
"""
SUBMIT_EXAMPLES = """[bold]Examples[/bold]

dao-flows submit predict Cr3Os SiO2 -n 200

dao-flows submit predict --input formulas.txt --route screen.category=cpu

dao-flows submit verify dao-417db4 --backend abinit --route calculate.cores=16 --route calculate.walltime=48:00:00

dao-flows submit pretrain pretraining.yaml

dao-flows submit improve rounds.yaml
"""
STATUS_EXAMPLES = """[bold]Examples[/bold]

dao-flows status

dao-flows status 12
"""
LOCAL_ONLY = {"out", "as_json", "verbose", "plan", "again"}  # of the local commands: what does not go to a LaunchPad

URI_VARIABLE = "DAO_FLOWS_MONGO_URI"
AGAIN = typer.Option("--again", help="Submit also what was submitted before.")
ROUTE = typer.Option("--route", metavar="STAGE.WHAT=VALUE", help="Change a route, as screen.category=cpu.")
JSON = typer.Option("--json", help="Print JSON, and nothing else, on stdout.")
FLOW = typer.Argument(help="A job's id, a run's id, or the beginning of a science hash.", show_default=False)

submit_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", epilog=SUBMIT_EXAMPLES)


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write, which every node sees.", show_default=False)],
    mongo_uri: Annotated[
        str | None,
        typer.Option(
            envvar=URI_VARIABLE, help="Of your MongoDB. Better by the variable: others see options.", show_envvar=True
        ),
    ] = None,
    database: Annotated[str | None, typer.Option(help="Its database.", show_default="the URI's, or dao_flows")] = None,
    queue: Annotated[
        Literal["slurm", "pbs", "lsf", "none"] | None, typer.Option(help="Queue system; none: workers run here.")
    ] = None,
    gpu_queue: Annotated[str | None, typer.Option(help="Queue or partition of GPU jobs.")] = None,
    dft_queue: Annotated[str | None, typer.Option(help="Of DFT jobs.")] = None,
    cpu_queue: Annotated[str | None, typer.Option(help="Of what takes little time.")] = None,
    account: Annotated[str | None, typer.Option(help="Account or project that pays.")] = None,
    dft_cores: Annotated[int | None, typer.Option(min=1, help="Cores of each DFT calculation.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs here, without a queue: a worker for each.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take defaults for what is not given.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over the files of an earlier init.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Write nothing: check a folder that was written.")] = False,
) -> None:
    """Write a folder with all that FireWorks and jobflow need to know here, and check it."""
    from dao_flows.launch.project import Project, commands, write

    place = folder.expanduser().absolute()
    if check:
        raise typer.Exit(0 if _report(place) else 1)
    if not yes:
        mongo_uri = mongo_uri or typer.prompt("URI of your MongoDB, as mongodb://user:password@host/", hide_input=True)
        queue = queue or typer.prompt("Queue system (slurm, pbs, lsf, none)", default="slurm")
        if queue in ("slurm", "pbs", "lsf"):
            gpu_queue = gpu_queue or _ask("Queue of GPU jobs (empty: the default)")
            dft_queue = dft_queue or _ask("Queue of DFT jobs (empty: the default)")
            cpu_queue = cpu_queue or _ask("Queue of small jobs (empty: the default)")
            account = account or _ask("Account (empty: none)")
            dft_cores = dft_cores or typer.prompt("Cores of a DFT calculation", default=1, type=int)
    if not mongo_uri:
        raise InputError(f"no MongoDB is given: set {URI_VARIABLE}, or --mongo-uri")
    if queue not in ("slurm", "pbs", "lsf", "none", None):
        raise InputError(f"the queue system is slurm, pbs, lsf or none, not {queue!r}")
    if gpus and queue not in ("none", None):
        raise InputError(f"--gpus is for workers that run here (--queue none); {queue} gives each job its own")
    project = Project(
        folder=place,
        uri=mongo_uri,
        queue=queue or "none",
        queues={"gpu": gpu_queue or None, "dft": dft_queue or None, "cpu": cpu_queue or None},
        account=account or None,
        database=database,
        cores=dft_cores or 1,
        gpus=gpus,
    )
    for path in write(project, force):
        print(f"wrote {path}")
    well = _report(place)
    print("\nThen:" if well else "\nOnce that is put right (`dao-flows init FOLDER --check`):")
    for command in commands(project):
        print(f"    {command}")
    if not well:
        raise typer.Exit(1)


def _ask(question: str) -> str:
    answer: str = typer.prompt(question, default="", show_default=False)
    return answer


def _report(folder: Path) -> bool:
    from dao_flows.launch.check import check_project

    well = True
    for finding in check_project(folder):
        print(f"{'ok   ' if finding.ok else 'WRONG'} {finding.name}: {finding.detail}")
        well = well and finding.ok
    return well


def _like(local: Callable[..., None], body: Callable[..., list[Planned]]) -> Callable[..., None]:
    """A command with the arguments of a local one that plans its flows, and submits them."""
    extra = {
        "again": (bool, AGAIN, False),
        "route": (list[str] | None, ROUTE, None),
        "as_json": (bool, JSON, False),
    }

    def command(**given: Any) -> None:
        own = {name: given.pop(name) for name in extra}
        reuse = given.pop("reuse", False)
        _submit(lambda: body(again=own["again"], **given), reuse=reuse, **own)

    signature = inspect.signature(local, eval_str=True)
    kept = [p for name, p in signature.parameters.items() if name not in LOCAL_ONLY]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        for name, (kind, option, default) in extra.items()
    ]
    return with_parameters(command, kept + added)


def _submit(
    plan: Callable[[], list[Planned]], again: bool, route: list[str] | None, as_json: bool, reuse: bool
) -> None:
    from dao_flows.launch.flows import not_stored
    from dao_flows.launch.routes import read_routes
    from dao_flows.launch.submit import open_for_submission, submit
    from dao_flows.settings import settings
    from dao_flows.store.stores import job_store

    from .shared.tables import stderr

    config = settings()
    routes = read_routes(config.routes, route or [])
    pad = open_for_submission(config)
    asked = plan()
    wanted = not_stored(asked, job_store(config))
    if there := len(asked) - len(wanted):
        how = "and not submitted" if reuse else "already: --reuse takes them"
        stderr().print(f"{there} of {len(asked)} flows are in the store {how}", highlight=False, soft_wrap=True)
    result = submit(wanted if reuse else asked, pad, routes, config.queue, again)
    if as_json:
        print(result.model_dump_json(indent=1))
        return
    for flow in result.flows:
        if flow.new:
            print(f"{flow.flow}  {flow.kind} {flow.label}: jobs {', '.join(map(str, flow.jobs))}")
        else:
            when = flow.submitted_at[:16].replace("T", " ")
            print(f"{flow.flow}  {flow.kind} {flow.label}: submitted {when}, {flow.state} (--again submits it anew)")
    if result.flows:
        print(f"`dao-flows status {result.flows[0].flow}` tells how far it is")


@spread
def _predict(
    formulas: list[str] | None = None, *, request: PredictionRequest, source: Path | None, again: bool
) -> list[Any]:
    from dao_flows.launch.flows import predict_flows
    from dao_flows.settings import settings

    entries, request = predict.typed(formulas, source, request)
    return predict_flows(entries, settings(), request, again)


def _verify(candidates: list[str], backend: str, reference: str | None, again: bool) -> list[Planned]:
    from dao_flows.launch.flows import verify_flows
    from dao_flows.makers.verify import VerifyMaker
    from dao_flows.store.stores import collection, job_store

    maker = VerifyMaker(backend=backend, reference=reference, again=again)
    return verify_flows(candidates, collection(job_store(), "candidates"), maker)


def _pretrain(config: Path, again: bool) -> list[Planned]:
    """What an earlier submission finished lies in the run's folders, and is taken over."""
    from dao_flows.api.pretrain import read_config
    from dao_flows.launch.flows import pretrain_flows

    return pretrain_flows(read_config(config))


def _improve(config: Path, again: bool) -> list[Planned]:
    """What an earlier submission finished lies in the run's folders, and is taken over."""
    from dao_flows.api.rounds.improve import read_config
    from dao_flows.launch.flows import improve_flows

    return improve_flows(read_config(config))


@submit_app.callback()
def submit() -> None:
    """Submit what the local command of the same name would run to the LaunchPad, with the same arguments."""


submit_app.command("predict", help="Submit predictions.", no_args_is_help=True)(_like(predict.predict, _predict))
submit_app.command("verify", help="Submit verifications.", no_args_is_help=True)(_like(verify.verify, _verify))
submit_app.command("pretrain", help="Submit a pretraining.", no_args_is_help=True)(_like(pretrain.pretrain, _pretrain))
submit_app.command("improve", help="Submit rounds.", no_args_is_help=True)(_like(pretrain.improve, _improve))


def status(
    flow: Annotated[str | None, FLOW] = None,
    limit: Annotated[int, typer.Option(min=0, help="Flows to look at, latest first; 0: all.")] = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Tell how far submitted flows are, by stage, and what failed."""
    from dao_flows.launch.launchpad import launchpad
    from dao_flows.launch.progress import status as look

    found = look(launchpad(), flow, limit)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        _show(found)


def rerun(
    flow: Annotated[str | None, FLOW] = None,
    everything: Annotated[bool, typer.Option("--all", help="What failed or was lost in any flow.")] = False,
) -> None:
    """Run failed and lost jobs again; of one flow, cancelled ones, too. Finished jobs are not repeated."""
    from dao_flows.launch.control import rerun as run
    from dao_flows.launch.launchpad import launchpad
    from dao_flows.settings import settings

    if (flow is None) != everything:
        raise InputError("name a flow, or give --all")
    jobs = run(launchpad(), flow, settings().queue)
    print(f"again: jobs {', '.join(map(str, jobs))}" if jobs else "nothing failed, was lost or cancelled")


def cancel(flow: Annotated[str, FLOW]) -> None:
    """Cancel what is not finished of a flow; `dao-flows rerun` takes it up again."""
    from dao_flows.launch.control import cancel as stop
    from dao_flows.launch.launchpad import launchpad

    done = stop(launchpad(), flow)
    print(f"cancelled: jobs {', '.join(map(str, done.jobs))}" if done.jobs else "nothing is left to cancel")
    if done.queue_jobs:
        print(f"the queue holds jobs of it still: scancel (qdel, bkill) {' '.join(done.queue_jobs)}")


def logs(
    flow: Annotated[str, FLOW],
    lines: Annotated[int, typer.Option("-n", min=1, help="Last lines of each file.")] = 30,
) -> None:
    """Show a job's traceback and the ends of its log files; given a number, of that job alone."""
    from dao_flows.launch.control import logs as read
    from dao_flows.launch.launchpad import launchpad

    found = read(launchpad(), flow, lines)
    if not found:
        print("no job of it has run yet")
    for log in found:
        print(f"== {log.job} {log.name}: {log.state}, {log.directory}")
        if log.traceback:
            print(log.traceback.rstrip())
        for name, text in log.files.items():
            print(f"-- {name}\n{text}")


def _show(found: Status) -> None:
    from .shared.tables import new_table, stdout

    console = stdout()
    if not found.flows:
        console.print("nothing was submitted yet")
        return
    if len(found.flows) == 1:
        flow = found.flows[0]
        title = f"{flow.flow}  {flow.kind} {flow.label}: {flow.state}, {flow.done} of {flow.jobs} jobs done"
    else:
        done = sum(flow.done == flow.jobs for flow in found.flows)
        title = f"{len(found.flows):,} flows, {done:,} of them done"
    table = new_table(title)
    names = ("stage", "route", "done", "running", "queued", "ready", "waiting", "failed", "cancelled", "mean", "left")
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number < 2 else "right")
    for stage in found.stages:
        table.add_row(*_cells(stage))
    console.print(table)
    for failure in found.failures:
        console.print(f"job {failure.job} {failure.name} failed in {failure.directory}", markup=False, soft_wrap=True)
        for line in failure.lines:
            console.print(f"    {line}", markup=False, soft_wrap=True)
        if failure.advice:
            console.print(f"  {failure.advice}", markup=False, soft_wrap=True)
    if found.failures or any(stage.lost for stage in found.stages):
        console.print("`dao-flows logs JOB` shows more, `dao-flows rerun FLOW` runs it again", markup=False)


def _cells(stage: Stage) -> list[str]:
    def count(*states: str) -> str:
        return str(sum(stage.states.get(state, 0) for state in states) or "–")

    running = count("RUNNING") + (f" ({stage.lost} lost)" if stage.lost else "")
    states = [count("RESERVED"), count("READY"), count("WAITING", "PAUSED"), count("FIZZLED"), count("DEFUSED")]
    mean = "–" if stage.seconds is None else pretrain.duration(stage.seconds)
    left = "–" if stage.left is None else f"~{pretrain.duration(stage.left)}" if stage.left else "–"
    return [stage.stage, stage.category, count("COMPLETED"), running, *states, mean, left]
