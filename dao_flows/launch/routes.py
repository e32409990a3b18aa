"""Which stage of a flow goes to which workers, and what it asks of the queue: as stages declare, or users say.

A job's category decides which workers take it; a worker of ours always has one, for a worker without takes every job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml
from pydantic import ValidationError

from dao_flows.errors import InputError, SettingsError
from dao_flows.makers.stages.declaration import CPU, STORING, Category, Route
from dao_flows.makers.stages.registry import stages

if TYPE_CHECKING:
    from jobflow.core.flow import Flow
    from jobflow.core.job import Job

Queue = Literal["slurm", "pbs", "lsf", "none"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
QUEUES: tuple[Queue, ...] = get_args(Queue)
Routes = dict[str, Route]

# the stage whose route stands for others of its category
TYPICAL: Mapping[Category, str] = {"gpu": "generate", "dft": "calculate", "cpu": "compare"}


def defaults() -> Routes:
    """The route of each stage, as it declares it, and of jobflow's own jobs."""
    return {**{stage.name: stage.route for stage in stages()}, "store": CPU}


def queue_keys(route: Route, queue: Queue) -> dict[str, Any]:
    """The keys of FireWorks' queue adapter that ask for what a route does."""
    hours, minutes, seconds = (int(part) for part in route.walltime.split(":"))
    if queue == "slurm":
        mpi = route.category == "dft"
        shape = {"ntasks": route.cores} if mpi else {"ntasks": route.nodes, "cpus_per_task": route.cores}
        gres = {"gres": f"gpu:{route.gpus}"} if route.gpus else {}
        return {"nodes": route.nodes, "walltime": route.walltime, **shape, **gres}
    if queue == "pbs":
        gpus = f":gpus={route.gpus}" if route.gpus else ""
        return {"nnodes": route.nodes, "ppnode": f"{route.cores}{gpus}", "walltime": route.walltime}
    if queue == "lsf":  # -W takes no seconds
        minutes += seconds > 0
        clock = f"{hours + minutes // 60}:{minutes % 60:02d}"
        gpus_asked = {"gpus": route.gpus} if route.gpus else {}
        return {"ntasks": route.cores * route.nodes, "walltime": clock, **gpus_asked}
    return {}


def stage_of(function: str) -> str:
    """The stage of a job by its function's qualified name, 'GenerateMaker.make' or 'verify_candidates'.

    One that is not known is its own stage.
    """
    name = function.split(".")[0]
    known = stages().by_function
    return "store" if name == STORING else known[name].name if name in known else name


def function_of(job: Job) -> str:
    """The name by which `stage_of` knows a job's function."""
    return type(job.maker).__name__ if job.maker is not None else str(job.function.__name__)


def read_routes(path: Path | None, changes: Sequence[str] = ()) -> Routes:
    """The routes: defaults, what the file changes of them, and over it changes as `screen.category=cpu`.

    Raises SettingsError for the file, InputError for a change, one line each.
    """
    routes = defaults()
    if path is not None:
        try:
            content = yaml.safe_load(path.expanduser().read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = getattr(error, "strerror", None) or "not YAML"
            raise SettingsError(f"the routes in {path} cannot be read: {reason}") from None
        if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
            raise SettingsError(f"{path}: write `stage: {{walltime: 04:00:00, cores: 8}}`, a line for each stage")
        for stage, entry in content.items():
            try:
                routes[stage] = _changed(routes, stage, entry)
            except InputError as error:
                raise SettingsError(f"{path}: {error}") from None
    for change in changes:
        target, equals, value = change.partition("=")
        stage, dot, name = target.partition(".")
        if not (equals and dot):
            raise InputError(f"--route {change}: write STAGE.WHAT=VALUE, as in --route screen.category=cpu")
        routes[stage] = _changed(routes, stage, {name: value})
    return routes


def _changed(routes: Routes, stage: str, entry: Mapping[str, Any]) -> Route:
    if stage not in routes:
        raise InputError(f"there is no stage {stage!r}; there are: {', '.join(routes)}")
    now = routes[stage].model_dump()
    if entry.get("category", now["category"]) != now["category"]:  # a GPU is asked for where there is one
        now["gpus"] = int(entry["category"] == "gpu")
    try:
        return Route.model_validate({**now, **entry})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InputError(f"route {stage}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def apply_routes(flow: Flow, routes: Routes, queue: Queue) -> None:
    """Send every job of a flow, and those that its jobs will start, to its workers.

    What relaxation and labelling jobs start inherits their route. What verification jobs start has a route of its own,
    its category set by the maker; what it asks of the queue goes along by the names of the calculations.
    """
    for job, _ in flow.iterflow():  # type: ignore[no-untyped-call]
        function = function_of(job)
        route = routes.get(stage_of(function), CPU)
        declared = stages().by_maker.get(function)
        if declared is not None and declared.asks is not None and route.category == "gpu":
            asked = {name: max(getattr(route, name), least) for name, least in declared.asks(job.maker).items()}
            route = route.model_copy(update=asked)
        _send(job, route, queue)
        if function == "verify_candidates":
            _send_calculations(job, routes["calculate"], queue)


def _send(job: Job, route: Route, queue: Queue) -> None:
    config: dict[str, Any] = {"_category": route.category}
    if asked := queue_keys(route, queue):
        config["_queueadapter"] = asked
    job.update_config(_set(config), dynamic=False, dict_mod=True)


def _send_calculations(job: Job, route: Route, queue: Queue) -> None:
    """Tell a job that starts verifications what its calculations ask for."""
    maker = next(argument for argument in job.function_args if hasattr(argument, "preset"))
    maker.category = route.category
    if asked := queue_keys(route, queue):
        for step in maker.preset().steps:
            job.update_config(_set({"_queueadapter": asked}), name_filter=f"{step} dao-", dict_mod=True)


def _set(manager_config: Mapping[str, Any]) -> dict[str, Any]:
    return {"_set": {f"manager_config->{key}": value for key, value in manager_config.items()}}
