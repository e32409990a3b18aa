"""What is there, what is not, and the line that fixes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from dao_flows.errors import StoreError, UserError, configuration_guard, explain
from dao_flows.makers.machine.masking import one_line
from dao_flows.settings import Settings, settings

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

Status = Literal["ok", "missing", "broken"]

SLURM = "run on a login node of a cluster with Slurm; elsewhere jobs run on this machine"


class Check(BaseModel):
    """One line of the report. missing: optional, and not there; broken: the main job cannot run; fix: what to do."""

    name: str
    status: Status
    detail: str
    fix: str | None = None


def examine() -> Iterator[Check]:
    """All checks, one after another."""
    try:
        config = settings()
    except UserError as error:
        yield Check(name="settings", status="broken", detail=str(error), fix="unset or correct it")
        config = Settings.model_construct()  # the defaults
    yield from check_store(config)
    yield check_device(config)
    yield from check_checkpoints(config)
    yield from check_libraries(config)
    yield check_judge(config)
    yield from check_plugins()
    yield from check_backends()
    yield check_slurm()


def check_store(config: Settings) -> Iterator[Check]:
    """The store can be reached and written, and what it holds."""
    try:
        with configuration_guard():
            from dao_flows.store.stores import collection, job_store, result_store
        store = job_store(config)
        candidates, runs = collection(store, "candidates").count(), collection(store, "runs").count({"event": "start"})
    except UserError as error:
        fix = (error.fix if isinstance(error, StoreError) else None) or "correct your jobflow configuration"
        yield Check(name="store", status="broken", detail=str(error), fix=fix)
        return
    held = result_store(store)
    where = f"{held.describe()}: {store.count():,} jobs, {candidates:,} candidates, {runs:,} runs"
    if held.read_only:
        fix = f"correct its permissions, or {held.remedy}"
        yield Check(name="store", status="broken", detail=f"{where}; it cannot be written", fix=fix)
        return
    yield Check(name="store", status="ok", detail=where)
    yield from _damage(store)
    if not held.shared:
        fix = "name a MongoStore in ~/.jobflow.yaml"
        yield Check(name="store for several machines", status="missing", detail="one machine at a time", fix=fix)


def _damage(jobs: JobStore) -> Iterator[Check]:
    """Stored documents that cannot be read, each by its name, and files of the store that are damaged."""
    from dao_flows.store.collections import KEYS
    from dao_flows.store.stores import collection, result_store

    for name in ("jobs", *KEYS):
        try:
            held = jobs if name == "jobs" else collection(jobs, name)
            for key, reason, fix in result_store(held).damage():
                fix = fix or "`dao-flows doctor --set-aside FOLDER` moves it into a file there; the others stay"
                yield Check(name=f"store, {name} {key}".rstrip(), status="broken", detail=reason, fix=fix)
        except UserError as error:
            yield Check(name=f"store, {name}", status="broken", detail=str(error), fix="as it says")


def set_aside(folder: Path) -> list[Path]:
    """Move stored documents that cannot be read into files of a folder. Raises StoreError, OSError."""
    from dao_flows.store.collections import KEYS
    from dao_flows.store.stores import collection, job_store, result_store

    jobs = job_store()
    held = [jobs, *(collection(jobs, name) for name in KEYS)]
    return [path for each in held for path in result_store(each).set_aside(folder)]


def check_device(config: Settings) -> Check:
    """The device that jobs run on."""
    import torch

    from dao_flows.makers.models.checkpoints import pick_device

    try:
        device = pick_device(config.device)
    except ValueError as error:
        return Check(name="device", status="broken", detail=one_line(error), fix="unset DAO_FLOWS_DEVICE")
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        detail = f"{device}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        return Check(name="device", status="ok", detail=f"{detail}, torch {torch.__version__}")
    threads = torch.get_num_threads()
    detail = f"{device}: {threads} thread{'s' * (threads != 1)}, torch {torch.__version__}"
    return Check(name="device", status="ok", detail=detail)


def check_checkpoints(config: Settings) -> Iterator[Check]:
    """Every checkpoint is what its card says; those that `predict` takes by default are there."""
    from dao_flows.model.checkpoint.format import verify
    from dao_flows.model.checkpoint.library import available, find

    folders = available()
    for reference, kind in ((config.checkpoint, "dao-g"), (config.predictor, "dao-p")):
        try:
            folder = find(reference)
            folders.setdefault(reference, folder)
            found = verify(folder).kind
        except ValueError:
            found = None
            if reference in folders:
                continue  # damaged: said below
        if found != kind:
            fix = "`dao-flows checkpoint import FILE.ckpt`, or install the package again: checkpoints ship with it"
            what = "is of another kind" if found else "is not there"
            yield Check(name=f"checkpoint {reference}", status="broken", detail=what, fix=fix)
    for name, folder in sorted(folders.items()):
        try:
            card = verify(folder)
        except ValueError as error:
            needed = name in (config.checkpoint, config.predictor)
            status: Status = "broken" if needed else "missing"
            yield Check(name=f"checkpoint {name}", status=status, detail=explain(error) or one_line(error))
        else:
            detail = f"{card.kind}, {card.sha256[:12]}, {len(card.elements)} elements, up to {card.max_atoms} atoms"
            yield Check(name=f"checkpoint {name}", status="ok", detail=detail)


def check_judge(config: Settings) -> Check:
    """The force field that judges candidates, as the settings name it."""
    from dao_flows.makers.models.atomate import INSTALL
    from dao_flows.makers.models.energy_model import energy_model
    from dao_flows.makers.screening.judge import AUTO, chosen

    name, ranking = chosen(config.judge, None)
    if name is None:
        detail = f"none: candidates are ranked by {ranking}"
        if config.judge == AUTO:
            return Check(name="judge", status="missing", detail=detail, fix=INSTALL)
        return Check(name="judge", status="ok", detail=detail)
    try:
        model = energy_model(name)
        version = model.version
    except ValueError as error:
        fix = "correct or unset DAO_FLOWS_JUDGE"
        return Check(name="judge", status="broken", detail=one_line(error), fix=fix)
    except Exception as error:  # of the settings that a library reads when it is imported
        if (said := explain(error)) is None:
            raise
        return Check(name="judge", status="broken", detail=said, fix="correct it, or take it away")
    return Check(name="judge", status="ok", detail=f"{name} {version}")


def check_plugins() -> Iterator[Check]:
    """Generators and energy models of installed packages: each can be opened."""
    from dao_flows.makers.generators import generator, registry
    from dao_flows.makers.models import energy_model, plugins

    for name in plugins.names(generator.GROUP):
        yield _opened("generator", name, lambda name: registry.installed(name).sha256[:12])
    for name in plugins.names(energy_model.GROUP):
        yield _opened("energy model", name, lambda name: energy_model.energy_model(name).version)


def _opened(what: str, name: str, identity: Callable[[str], str]) -> Check:
    try:
        return Check(name=f"{what} {name}", status="ok", detail=identity(name))
    except ValueError as error:
        fix = "correct its package, or uninstall it"
        return Check(name=f"{what} {name}", status="missing", detail=one_line(error), fix=fix)


def check_libraries(config: Settings) -> Iterator[Check]:
    """Every library of crystals can be opened; the one that `predict` takes by default is there."""
    from dao_flows.model.templates.places import available, open_library

    for name in sorted({*available(), config.library}):
        try:
            library = open_library(name)
        except ValueError as error:
            status: Status = "broken" if name == config.library else "missing"
            yield Check(name=f"library {name}", status=status, detail=explain(error) or one_line(error))
        else:
            detail = f"{len(library)} crystals, {library.sha256[:12]}"
            yield Check(name=f"library {name}", status="ok", detail=detail)


def check_backends() -> Iterator[Check]:
    """What `--verify` can run here: each code with its version, its pseudopotentials and data, and what it lacks."""
    with configuration_guard():
        from dao_flows.makers.verify import codes

    seen = set()
    for name in codes.names():
        try:
            code = codes.load(name)
            if code.name in seen:
                continue
            seen.add(code.name)
            found = list(code.requirements())
        except Exception as error:  # of the settings that a library reads when it is asked
            if (said := explain(error)) is None:
                raise
            yield Check(name=name, status="missing", detail=said, fix="correct it, or take it away")
            continue
        for needed in found:
            if needed.found is not None:
                yield Check(name=needed.name, status="ok", detail=needed.found)
            else:
                yield Check(name=needed.name, status="missing", detail="not found", fix=needed.fix)


def check_slurm() -> Check:
    """Slurm's commands on the PATH."""
    if found := shutil.which("sbatch"):
        return Check(name="slurm", status="ok", detail=found)
    return Check(name="slurm", status="missing", detail="sbatch is not on the PATH", fix=SLURM)
