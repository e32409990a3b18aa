"""TrainMaker: a checkpoint from a dataset, over as many jobs as the queue's wall time asks for."""

from __future__ import annotations

import math
import shutil
import signal
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jobflow.core.job import Response
from jobflow.core.maker import Maker

from dao_flows.makers.schemas.document import Science
from dao_flows.model.files import user_folders
from dao_flows.version import __version__

from .jobs.provenance import execution_record, provenance
from .jobs.reuse import reusable
from .jobs.run_folder import run_folder
from .jobs.stage import stage as stage_job
from .machine import torchrun
from .machine.places import CHECKPOINT, PATH, Places
from .machine.queue_time import queue_seconds_left
from .models.checkpoints import NAMES, ParameterError, pick_device
from .models.register import check_name, register
from .schemas.training import Rollback, TrainingDoc

if TYPE_CHECKING:
    from dao_flows.model.checkpoint.format import Card
    from dao_flows.model.training.config import TrainRequest

MARGIN_S = 120  # of the queue's time that is left for saving and for the store
ONLY_HOW = (
    *("kind", "data", "out", "name", "start", "judge", "device", "threads", "wall_time_s", "save_every_s"),
    *("cuda_graphs", "fused", "fit_wall_time", "labels"),
)
# settings that came later are named where they differ: older science stays the same
AS_EVER = {"store_as": "float32", "pairs": None, "label_batch": 32, "label_weight": 1.0}
AS_EVER |= {"force_weight": 0.0, "stress_weight": 0.0}
OF_THE_MAKER = ("kind", "data", "out", "name", "start", "device", "wall_time_s", "fit_wall_time")


def _config_in_full(config: Any) -> Any:
    """The settings, with the checkpoint that judges and the labelled datasets in full."""
    if not isinstance(config, Mapping):
        return config
    found = dict(config)
    if isinstance(config.get("judge"), str | Path):
        found["judge"] = CHECKPOINT(config["judge"])
    if isinstance(labels := config.get("labels"), list | tuple):
        found["labels"] = [PATH(each) for each in labels]
    return found


@dataclass
class TrainMaker(Maker):
    """Trains DAO-G or DAO-P on a dataset; what is done lies in the run's folder, where a killed job goes on.

    kind: 'dao-g' or 'dao-p'. stage: a label for the documents, as 'stage-1'. config: settings of `python -m
    dao_flows.model.train`, with underscores (steps, batch_size, layers, max_energy, judge, property, …); bf16 is off
    unless it says so, so that the same settings mean the same on every machine. start: checkpoint to train on from, by
    name, path or sha256. wall_time_s: seconds of training in one job; None: without end. In a Slurm job it ends two
    minutes before the time limit in any case. At its end, or at SIGUSR1, the state is saved and a follow-up job takes
    this one's place; SIGTERM saves it too, and ends the process. processes: of torchrun on each node, one for each GPU;
    1 on one node: in the job's own process. nodes: of the queue's job; launcher: what starts a process on each of them
    from the first, where the job runs. Their run folder must be on a file system that they share. register_as: name in
    the user's library of checkpoints.
    """

    PLACES: ClassVar[Places] = {
        "dataset": PATH,
        "start": CHECKPOINT,
        "config": _config_in_full,
        "yielded": _config_in_full,
    }

    name: str = "train"
    kind: str = "dao-g"
    stage: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    wall_time_s: float | None = None
    processes: int = 1
    nodes: int = 1
    launcher: list[str] = field(default_factory=lambda: ["srun", "--nodes={nodes}", "--ntasks-per-node=1"])
    register_as: str | None = None
    device: str = "auto"

    @stage_job(output_schema=TrainingDoc)
    def make(
        self,
        dataset: Any,
        start: Any = None,
        previous_run: str | None = None,
        yielded: Mapping[str, Any] | None = None,
    ) -> TrainingDoc | Response[Any]:
        """Train, or train on, and write the checkpoint.

        dataset: folder of a dataset or a parquet file, or a document with its `path`. start: checkpoint, or the
        document of its training, in place of the maker's own. previous_run: for follow-up jobs, the run's folder.
        yielded: settings beside the maker's config that other jobs yield, as the folders of `labels`. Raises
        ParameterError, TrainingError, DataError and CheckpointError with one line each.
        """
        maker = replace(self, config=self.config | dict(yielded)) if yielded else self
        return maker._train(dataset, start, previous_run)

    def _train(self, dataset: Any, start: Any, previous_run: str | None) -> TrainingDoc | Response[Any]:
        from dao_flows.model.training.run import CHECKPOINT
        from dao_flows.model.training.state import saved_step

        started, device = datetime.now(UTC), pick_device(self.device)
        path, parent, science = self.resolve(dataset, start)
        if (taken := self._taken(science)) is not None:
            return taken
        folder = user_folders.runs() / previous_run if previous_run else run_folder(science, self.kind)
        before = saved_step(folder)
        if not self._launch(self.settings(path, folder, parent, device), folder):
            if saved_step(folder) == before:
                raise ParameterError(f"training stopped without a single step; its folder is {folder}")
            return Response(replace=self.make(str(path), str(parent) if parent else None, folder.name))
        card = self._labelled(folder / CHECKPOINT)
        if self.register_as is not None:
            register(folder / CHECKPOINT, self.register_as)
        return self._document(folder, card, science, started, device)

    def _taken(self, science: Science) -> TrainingDoc | None:
        """A stored training of the same science whose checkpoint is still there, if this job is to take one."""
        from dao_flows.model.checkpoint.format import CheckpointError, verify
        from dao_flows.model.checkpoint.library import find

        if (found := reusable(TrainingDoc, science)) is None or found.stage != self.stage:
            return None
        for reference in (found.path, found.checkpoint_sha256):
            with suppress(CheckpointError, OSError):
                if verify(folder := find(reference)).sha256 != found.checkpoint_sha256:
                    continue
                if self.register_as is not None:
                    register(folder, self.register_as)
                return found.model_copy(update={"path": str(folder.absolute()), "registered_as": self.register_as})
        return None

    def resolve(self, dataset: Any, start: Any = None) -> tuple[Path, Path | None, Science]:
        """The dataset's path, the parent checkpoint's folder, and all that decides the result; call before submission.

        Raises as `make` does.
        """
        path = _dataset(dataset)
        parent = _checkpoint(self.start if start is None else start, self.kind)
        request = self.check(path, parent)
        settings = {k: v for k, v in request.settings().items() if k not in AS_EVER or v != AS_EVER[k]}
        if parent is not None:  # the architecture is the parent's
            settings = {k: v for k, v in settings.items() if k not in _architecture()}
        labels = {"labels": [_sha256(each) for each in request.labels]} if request.labels else {}
        science = Science(
            maker=type(self).__name__,
            parameters={"kind": self.kind, **{k: v for k, v in settings.items() if k not in ONLY_HOW}},
            inputs={"dataset": _sha256(path), **labels},
            checkpoints={
                role: _card(used).sha256
                for role, used in (("start", parent), ("judge", _checkpoint(request.judge, "dao-p")))
                if used is not None
            },
            seed=settings["seed"],
            code_version=__version__,
        )
        return path, parent, science

    def settings(self, path: Path, folder: Path, parent: Path | None, device: str = "cpu") -> dict[str, Any]:
        """All settings by name of a training in this folder, as `TrainRequest.of` takes them."""
        where = {"kind": self.kind, "data": path, "out": folder, "name": self.register_as or folder.name}
        return where | {"start": parent, "device": device, "bf16": False} | self.config

    def check(self, path: Path = Path("data"), parent: Path | None = None) -> TrainRequest:
        """The request of a training from a dataset and a checkpoint. Call before submission.

        Raises ParameterError or TrainingError for one that cannot be, CheckpointError for a start or judge that is
        none.
        """
        from dao_flows.model.training.config import TrainRequest

        if self.kind not in NAMES:
            raise ParameterError(f"kind must be {' or '.join(NAMES)}, not {self.kind!r}")
        for setting in ("processes", "nodes"):
            if getattr(self, setting) < 1:
                raise ParameterError(f"{setting} must be at least 1, not {getattr(self, setting)}")
        if self.nodes > 1 and (not self.launcher or shutil.which(self.launcher[0]) is None):
            raise ParameterError(f"training on {self.nodes} nodes needs a launcher; there is no {self.launcher[:1]}")
        if self.wall_time_s is not None and not self.wall_time_s > 0:
            raise ParameterError(f"wall_time_s must be positive, not {self.wall_time_s}")
        if self.register_as is not None:
            check_name(self.register_as)
        if taken := sorted(set(self.config) & set(OF_THE_MAKER)):
            raise ParameterError(f"config cannot set {', '.join(taken)}: the maker does")
        parent = parent or _checkpoint(self.start, self.kind)
        request = TrainRequest.of(self.settings(path, Path("run"), parent))
        _checkpoint(request.judge, "dao-p")
        return request

    def objective(self) -> str:
        """What the checkpoint will have learned by. Raises CheckpointError for a start that is none."""
        parent = _checkpoint(self.start, self.kind)
        architecture = _card(parent).architecture if parent else self.config
        return str(architecture.get("objective") or "diffusion")

    def _launch(self, settings: dict[str, Any], folder: Path) -> bool:
        """Train until the end, or until this job's time is up: then the state is saved and the answer is False."""
        from dao_flows.model.runtime.deadline import Stop
        from dao_flows.model.train import recorded_command, words
        from dao_flows.model.training.config import TrainRequest
        from dao_flows.model.training.run import train

        seconds = seconds_to_train(self.wall_time_s)
        with Stop(seconds) as stop:
            if self.processes * self.nodes == 1:
                done = train(TrainRequest.of(settings), recorded_command(words(settings)), stop)
            else:
                call = torchrun.command(self.processes, self.nodes, self.launcher, folder.name)
                done = torchrun.train(call, words(settings | {"wall_time_s": seconds}), folder, stop)
        if stop.signal == signal.SIGTERM:  # it was meant for the process, and the state is safe
            signal.raise_signal(signal.SIGTERM)
        return done

    def _labelled(self, checkpoint: Path) -> Card:
        """The card of the checkpoint, with the stage in it."""
        from dao_flows.model.checkpoint.format import read_card, write_card

        card = read_card(checkpoint)
        card = replace(card, training={**card.training, "stage": self.stage})
        write_card(checkpoint, card)
        return card

    def _document(self, folder: Path, card: Card, science: Science, started: datetime, device: str) -> TrainingDoc:
        """The document of a finished run."""
        from dao_flows.model.training.metrics import METRICS, read
        from dao_flows.model.training.plot import PLOT
        from dao_flows.model.training.run import CHECKPOINT

        records = read(folder / METRICS)
        windows = [r for r in records if "rate" in r]
        checked = [r["validation"] for r in records if "validation" in r]
        terms = set(windows[-1]) - {"step", "epoch", "rate", "crystals_per_s", "elapsed_s"}
        training = card.training
        return TrainingDoc(
            kind=card.kind,
            stage=self.stage,
            name=card.name,
            run=folder.name,
            checkpoint_sha256=card.sha256,
            path=str(folder / CHECKPOINT),
            registered_as=self.register_as,
            parent_sha256=card.parent,
            dataset_sha256=training["data"]["sha256"],
            dataset_rows=training["data"]["rows"],
            property_name=training["property"],
            steps=training["config"]["steps"],
            losses={name: windows[-1][name] for name in sorted(terms)},
            validation=checked[-1] if checked else None,
            loss_curve=training["loss_curve"],
            rollbacks=[Rollback(**rollback) for rollback in training["rollbacks"]],
            wall_time_s=training["wall_time_s"],
            crystals_per_s=statistics.median(r["crystals_per_s"] for r in windows),
            processes=training["processes"],
            plot=str(folder / PLOT) if (folder / PLOT).exists() else None,
            provenance=provenance(
                science, execution_record(started, device, {"start": self.start} if self.start else {})
            ),
        )


def seconds_to_train(wall_time_s: float | None) -> float | None:
    """How long a job may train, by the queue's time limit too; None: without end.

    wall_time_s: the most that its maker allows. Raises ParameterError where the queue's time is up.
    """
    left = queue_seconds_left()
    if left is None:
        return wall_time_s
    if left <= MARGIN_S:
        raise ParameterError(
            f"only {left:.0f} s are left of the queue's time limit, too few to train: run the same again in a new "
            "job; it goes on from the saved state"
        )
    return min(left - MARGIN_S, wall_time_s or math.inf)


def _dataset(dataset: Any) -> Path:
    """Where a dataset lies that is given as such, or as a document. Raises ParameterError for neither."""
    found = dataset.get("path") if isinstance(dataset, Mapping) else getattr(dataset, "path", dataset)
    if not isinstance(found, str | Path):
        raise ParameterError("a dataset is given as its folder, a parquet file, or a document with its path")
    path = Path(found).expanduser()
    if not path.is_absolute():
        raise ParameterError(
            f"give the dataset {str(found)!r} with its full path: a job does not run where it is submitted"
        )
    return path


def _sha256(dataset: Path) -> str:
    """The identity of a dataset, or of a parquet file. Raises DataError if there is neither."""
    from dao_flows.model.data.shards import DataError, file_sha256, read_manifest

    if dataset.is_dir():
        return read_manifest(dataset).sha256
    if not dataset.is_file():
        raise DataError(f"there is no dataset or file {dataset}")
    return file_sha256(dataset)


def _checkpoint(reference: Any, kind: str) -> Path | None:
    """The folder of a checkpoint given by reference or as the document of its training, if one is given.

    Raises CheckpointError if there is none, ParameterError for one of another kind.
    """
    from dao_flows.model.checkpoint.library import find
    from dao_flows.model.files.places import CARD

    if reference is None:
        return None
    if isinstance(reference, Mapping):
        reference = TrainingDoc.model_validate(reference)
    if isinstance(reference, TrainingDoc):
        path = Path(reference.path)
        there = (path / CARD).exists() and _card(path).sha256 == reference.checkpoint_sha256
        reference = str(path) if there else reference.checkpoint_sha256
    folder = find(str(reference))
    if (found := _card(folder).kind) != kind:
        raise ParameterError(f"{str(reference)!r} is a {NAMES[found]} checkpoint; a {NAMES[kind]} checkpoint is needed")
    return folder.absolute()


def _card(folder: Path) -> Card:
    from dao_flows.model.checkpoint.format import read_card

    return read_card(folder)


def _architecture() -> set[str]:
    """Settings that a checkpoint to start from decides."""
    from dao_flows.model.network.crysformer import CrysformerConfig

    return {*CrysformerConfig.__dataclass_fields__, "volume_scaling"}
