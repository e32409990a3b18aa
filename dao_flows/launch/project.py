"""The project folder: what FireWorks and jobflow need to know on a cluster, written once by `dao-flows init`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import yaml

from dao_flows.errors import InputError, explain
from dao_flows.makers.machine.environment import NAMED
from dao_flows.makers.machine.masking import remember_uri
from dao_flows.makers.stages.declaration import Category
from dao_flows.model.files.places import absolute
from dao_flows.model.files.user_folders import CHECKPOINTS, LIBRARIES, RUNS, folder_of
from dao_flows.store.collections import DATABASE, JOBS

from .routes import CATEGORIES, TYPICAL, Queue, defaults, queue_keys

PRIVATE, PLAIN, SCRIPT = 0o600, 0o644, 0o755
JOBFLOW, LAUNCHPAD, CONFIG, ROUTES, ENVIRONMENT, LAUNCH = (
    "jobflow.yaml",
    "my_launchpad.yaml",
    "FW_config.yaml",
    "routes.yaml",
    "env.sh",
    "launch.sh",
)
LSF = "lsf_template.txt"
TYPES: dict[Queue, str] = {"slurm": "SLURM", "pbs": "PBS", "lsf": "LoadSharingFacility"}
PING_S, LOST_S = 60, 600  # a sign of life of each running job; silence after which it counts as lost
LOCK_S = 60  # after which the lock that a killed worker left on a flow is broken: one is held for moments only
ANSWER_MS = 10_000  # in which a server must answer; how long workers wait for one that does not, see patience.py
LSF_TEMPLATE = """#!/bin/bash
#BSUB -n $${ntasks}
#BSUB -W $${walltime}
#BSUB -q $${queue}
#BSUB -P $${account}
#BSUB -gpu num=$${gpus}
#BSUB -J $${job_name}
#BSUB -o $${job_name}-%J.out
#BSUB -e $${job_name}-%J.error

$${pre_rocket}
cd $${launch_dir}
$${rocket_launch}
$${post_rocket}
"""  # FireWorks' own knows no project and no GPU


@dataclass(frozen=True)
class Project:
    """What a user says about a cluster. queues: of each route (None: the system's default); cores: of a DFT job.

    gpus: of this machine, where workers run here (queue 'none'): a worker for each; 0: one worker, which sees them all.
    """

    folder: Path
    uri: str
    queue: Queue = "none"
    queues: dict[Category, str | None] = field(default_factory=dict)
    account: str | None = None
    database: str | None = None
    cores: int = 1
    walltimes: dict[Category, str] = field(default_factory=dict)
    gpus: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(absolute(self.folder)))  # its files name each other

    @property
    def database_name(self) -> str:
        """Of the jobs and the LaunchPad: as given, else the one in the URI."""
        return self.database or unquote(urlsplit(self.uri).path.strip("/")) or DATABASE


def write(project: Project, force: bool = False) -> list[Path]:
    """Write the folder's files, all or none, and return them.

    Those with credentials are readable for their owner alone from the first byte on. Raises InputError for a URI that
    is none, for files that are there already unless `force`, and for a folder that cannot be written.
    """
    remember_uri(project.uri)
    if not project.uri.startswith(("mongodb://", "mongodb+srv://")):
        raise InputError("the MongoDB URI must begin with mongodb:// or mongodb+srv://")
    folder = project.folder
    texts = contents(project)
    there = sorted(name for name in texts if (folder / name).exists())
    if there and not force:
        raise InputError(f"{folder} holds {', '.join(there)} already: choose another folder, or --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".init-", dir=folder) as scratch:
            for name, (mode, text) in texts.items():
                handle = os.open(Path(scratch) / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(text)
                (Path(scratch) / name).chmod(mode)
            for name in texts:
                (Path(scratch) / name).replace(folder / name)
        for name in {LSF, *map(adapter_file, CATEGORIES)} - set(texts):  # of another queue system
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {explain(error)}") from error
    return [folder / name for name in texts]


def contents(project: Project) -> dict[str, tuple[int, str]]:
    """Mode and text of each file, those with credentials first."""
    folder = project.folder
    few = {"maxPoolSize": 4}  # connections of each process: thousands of workers share a server
    docs = {
        "type": "MongoStore",
        "database": project.database_name,
        "collection_name": JOBS,
        "uri": project.uri,
        "mongoclient_kwargs": few,
    }
    pad = {
        "host": project.uri,
        "uri_mode": True,
        "name": project.database_name,
        "mongoclient_kwargs": {**few, "serverSelectionTimeoutMS": ANSWER_MS},
    }
    files: dict[str, tuple[int, str]] = {
        JOBFLOW: (PRIVATE, _yaml({"JOB_STORE": {"docs_store": docs}})),
        LAUNCHPAD: (PRIVATE, _yaml(pad)),
        CONFIG: (
            PLAIN,
            _yaml(
                {
                    "LAUNCHPAD_LOC": str(folder / LAUNCHPAD),
                    "PING_TIME_SECS": PING_S,
                    "RUN_EXPIRATION_SECS": LOST_S,
                    "WFLOCK_EXPIRATION_SECS": LOCK_S,
                    "WFLOCK_EXPIRATION_KILL": True,
                }
            ),
        ),
        ROUTES: (PLAIN, _routes(project)),
        ENVIRONMENT: (PLAIN, _environment(project)),
    }
    for category in CATEGORIES:
        worker = {"name": f"dao-flows {category}", "category": category, "query": "{}"}
        files[worker_file(category)] = (PLAIN, _yaml(worker))
        if project.queue != "none":
            files[adapter_file(category)] = (PLAIN, _yaml(_adapter(project, category)))
    if project.queue == "lsf":
        files[LSF] = (PLAIN, LSF_TEMPLATE)
    files[LAUNCH] = (SCRIPT, _launch(project))
    return files


def commands(project: Project) -> list[str]:
    """The three commands that lead from the folder to results."""
    folder = project.folder
    return [
        f". {shlex.quote(str(folder / ENVIRONMENT))}",
        "dao-flows submit predict Cr3Os",
        shlex.quote(str(folder / LAUNCH)),
    ]


def worker_file(category: Category) -> str:
    """Name of the FWorker of a route."""
    return f"fworker_{category}.yaml"


def adapter_file(category: Category) -> str:
    """Name of the queue adapter of a route."""
    return f"qadapter_{category}.yaml"


def program(name: str) -> str:
    """A program of FireWorks beside this Python, else on the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def worker(name: Literal["rlaunch", "qlaunch"]) -> list[str]:
    """The beginning of a command that runs one of FireWorks' launchers as a worker of ours."""
    return [sys.executable, "-m", "dao_flows.launch.worker", name]


def _adapter(project: Project, category: Category) -> dict[str, Any]:
    """Jobs of ours bring what they ask for along; what stands here is for others."""
    folder = project.folder
    route = defaults()[TYPICAL[category]]
    if category == "dft":
        route = route.model_copy(update={"cores": project.cores})
    template = {"_fw_template_file": str(folder / LSF)} if project.queue == "lsf" else {}
    run = [*worker("rlaunch"), "-l", str(folder / LAUNCHPAD), "-w", str(folder / worker_file(category)), "singleshot"]
    return {
        "_fw_name": "CommonAdapter",
        "_fw_q_type": TYPES[project.queue],
        **template,
        "rocket_launch": shlex.join(run),
        "pre_rocket": f". {shlex.quote(str(folder / ENVIRONMENT))}",
        "queue": project.queues.get(category),
        "account": project.account,
        "job_name": f"dao-flows-{category}",
        **queue_keys(route, project.queue),
    }


def _routes(project: Project) -> str:
    comment = (
        "# What differs from the routes of dao_flows: a line for each stage, as\n"
        "# calculate: {cores: 16, walltime: '24:00:00'}\n"
        "# screen: {category: cpu}\n"
        f"# Stages: {', '.join(defaults())}; settings: category, walltime, nodes, cores, gpus.\n"
    )
    changed: dict[str, dict[str, Any]] = {}
    for stage, route in defaults().items():
        entry: dict[str, Any] = {}
        if route.category == "dft" and project.cores != route.cores:
            entry["cores"] = project.cores
        if (limit := project.walltimes.get(route.category)) is not None:
            entry["walltime"] = limit
        if entry:
            changed[stage] = entry
    return comment + (_yaml(changed) if changed else "")


def _environment(project: Project) -> str:
    folder = project.folder
    variables = {
        "JOBFLOW_CONFIG_FILE": str(folder / JOBFLOW),
        "FW_CONFIG_FILE": str(folder / CONFIG),
        "DAO_FLOWS_QUEUE": project.queue,
        "DAO_FLOWS_ROUTES": str(folder / ROUTES),
        RUNS: str(folder / "runs"),
    }
    variables |= {name: str(own) for name in (CHECKPOINTS, LIBRARIES) if (own := folder_of(name)) is not None}
    for name, in_full in NAMED.items():
        if name in os.environ:
            variables[name] = in_full(os.environ[name])
    if "DAO_FLOWS_JUDGE" in os.environ:
        variables["DAO_FLOWS_JUDGE"] = os.environ["DAO_FLOWS_JUDGE"]
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    places = ":".join(dict.fromkeys(str(Path(program(name)).parent) for name in ("dao-flows", "rlaunch")))
    lines.append(f'export PATH={shlex.quote(places)}:"$PATH"')
    if project.queue == "slurm":  # jobs that share a node keep to the cores that they asked for
        lines.append('if [ -n "$SLURM_JOB_ID" ]; then export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"; fi')
    about = "# Sourced in your shell and by every job; it holds no credentials. Load your site's modules here, too."
    return "\n".join([about, *lines, ""])


def _launch(project: Project) -> str:
    """A script that keeps all three routes supplied."""
    folder = shlex.quote(str(project.folder))
    files = '-l "$here/my_launchpad.yaml" -w "$here/fworker_$route.yaml"'
    if project.queue == "none":
        start = f"{shlex.join(worker('rlaunch'))} --loglvl WARNING {files} rapidfire"
        about = "Runs the jobs of all three routes here, one worker each"
        if project.gpus:
            about = f"Runs the jobs of all three routes here, {project.gpus} GPU workers with a GPU each"
    else:
        start = f'{shlex.join(worker("qlaunch"))} --loglvl WARNING -r {files} -q "$here/qadapter_$route.yaml" rapidfire'
        about = "Hands the jobs of all three routes to their queues as they become ready"
    return f"""#!/bin/bash
# {about}, until Ctrl-C.
# Arguments go to FireWorks' `rapidfire` in place of the endless loop, as --timeout 600.
here={folder}
. "$here/env.sh"
set -m  # a process group for each route, so that all of it ends with this script
route() {{
    route=$1
    place="$here/launches/$1${{gpu:+-$gpu}}"
    shift
    mkdir -p "$place" && cd "$place" || exit 1
    if [ $# -gt 0 ]; then
        {start} "$@"
        return
    fi
    while :; do  # what ends it, as a server that is away, is waited out
        {start} --nlaunches infinite --sleep 10
        sleep 30
    done
}}
stop() {{
    for group in $(jobs -p); do kill -- "-$group"; done 2>/dev/null
}}
trap 'stop; exit 130' INT TERM
{_workers(project)}
wait
"""


def _workers(project: Project) -> str:
    """The lines that start them: one for each route, or for each of several GPUs here one that sees no other."""
    if not project.gpus or project.queue != "none":
        return f'for name in {" ".join(CATEGORIES)}; do\n    route "$name" "$@" &\ndone'
    numbers = ",".join(str(number) for number in range(project.gpus))
    others = " ".join(category for category in CATEGORIES if category != "gpu")
    return f"""IFS=, read -ra gpus <<< "${{CUDA_VISIBLE_DEVICES:-{numbers}}}"  # given to this script, else all
cores=$(nproc) workers=$((${{#gpus[@]}} + 2))
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$((cores > workers ? cores / workers : 1))}}"
for gpu in "${{gpus[@]}}"; do
    CUDA_VISIBLE_DEVICES=$gpu route gpu "$@" &
done
gpu=
for name in {others}; do
    CUDA_VISIBLE_DEVICES='' route "$name" "$@" &
done"""


def _yaml(content: Any) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text
