"""Two-stage pretraining from one file: what it says, the flow that it means, and running that here.

What other flows of trainings say in their files likewise stands here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from jobflow.core.flow import Flow
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dao_flows.errors import InputError
from dao_flows.makers.compare_stages import StagesDoc
from dao_flows.makers.evaluate import EvaluateMaker
from dao_flows.makers.ingest import IngestMaker
from dao_flows.makers.jobs.progress import Reporter
from dao_flows.makers.machine.places import source
from dao_flows.makers.pretrain import PretrainFlowMaker
from dao_flows.makers.relax_dataset import RelaxDatasetMaker
from dao_flows.makers.schemas.training import TrainingDoc
from dao_flows.makers.train import TrainMaker
from dao_flows.model.files import user_folders
from dao_flows.model.files.file_names import file_name
from dao_flows.model.files.places import absolute, checkpoint_in_full

from .local import run_logged

NAMING = ("predictor", "stage_one", "relax", "stage_two", "evaluate")  # sections that may name checkpoints
CHECKPOINTS = ("start", "judge", "predictor")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"

Settings = TypeVar("Settings", bound=BaseModel)


def _with_steps(settings: dict[str, Any]) -> dict[str, Any]:
    if "steps" not in settings:
        raise ValueError("steps is missing")
    return settings


Training = Annotated[dict[str, Any], AfterValidator(_with_steps)]  # settings of one


class Data(BaseModel):
    """What configurations say of data, and of where and how all of it runs; relative paths count from their file."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=f"^{NAME}$", description="checkpoints are registered as NAME-…")
    sources: list[str] = Field(min_length=1, description="as for `dao-flows dataset build`")
    out: Path | None = Field(None, description="folder for datasets and figures; default: in the runs' folder")
    seed: int = Field(0, ge=0)
    network: dict[str, Any] = Field(default_factory=dict)
    dataset: dict[str, Any] = Field(default_factory=dict)
    held_out: Path | None = Field(None, description="crystals to evaluate on; default: the dataset's validation split")
    processes: int = Field(1, ge=1, description="of each training on each node, one for each GPU")
    nodes: int = Field(1, ge=1, description="of the queue's job of each training")
    device: str = "auto"

    def with_network(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a stage; a checkpoint to start from brings its network."""
        return dict(stage) if "start" in stage else {**self.network, **stage}

    def without_network(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a stage that trains on from another one, whose network it is."""
        return {key: value for key, value in stage.items() if key not in self.network}

    def trainer(
        self, name: str, kind: str, stage: str, config: Mapping[str, Any], register_as: str | None
    ) -> TrainMaker:
        """The maker of a training, with settings as they stand in the file."""
        return TrainMaker(
            name=name,
            kind=kind,
            stage=stage,
            config={"seed": self.seed, **{key: value for key, value in config.items() if key != "start"}},
            start=config.get("start"),
            processes=self.processes,
            nodes=self.nodes,
            register_as=register_as,
            device=self.device,
        )


class PretrainConfig(Data):
    """A pretraining, as its YAML file describes it; relative paths count from the file's folder.

    network: sizes that all three trainings share (hidden, layers, volume_scaling, …). predictor, stage_one, stage_two:
    settings of `python -m dao_flows.model.train`, with underscores, and for the first two `start`, a checkpoint to
    train on from, whose network it then is; dataset, relax and evaluate: fields of IngestMaker, RelaxDatasetMaker and
    EvaluateMaker. evaluate: null leaves the evaluation out. control: train Stage I on by Stage II's settings on the
    crystals as they were too, which tells what the relaxation does from what longer training does.
    """

    predictor: Training
    stage_one: Training
    relax: dict[str, Any] = Field(default_factory=dict)
    stage_two: Training
    control: bool = False
    evaluate: dict[str, Any] | None = Field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where datasets and figures go."""
        return self.out or user_folders.runs() / f"pretrain-{file_name(self.name)}"

    def maker(self) -> PretrainFlowMaker:
        """The flow's maker. Raises InputError for a setting that a stage does not have."""
        ours = {"device": self.device}
        if "start" in self.stage_two:
            raise InputError("stage_two: Stage II trains on from Stage I, leave start out")
        first = {name: self.with_network(getattr(self, name)) for name in ("predictor", "stage_one")}
        two = self.without_network(self.stage_two)
        return PretrainFlowMaker(
            ingest=maker_of(IngestMaker, "dataset", self.dataset),
            predictor=self._stage("train DAO-P", "dao-p", "predictor", first["predictor"], "dao-p"),
            stage_one=self._stage("train DAO-G, Stage I", "dao-g", "stage-1", first["stage_one"], "stage-1"),
            relax=maker_of(RelaxDatasetMaker, "relax", ours | self.relax),
            stage_two=self._stage("train DAO-G, Stage II", "dao-g", "stage-2", two, "stage-2"),
            control=self._stage("train DAO-G, control", "dao-g", "control", two, "control") if self.control else None,
            evaluate=None if self.evaluate is None else maker_of(EvaluateMaker, "evaluate", self._evaluation()),
        )

    def _stage(self, name: str, kind: str, stage: str, config: Mapping[str, Any], suffix: str) -> TrainMaker:
        return self.trainer(name, kind, stage, config, f"{self.name}-{suffix}")

    def _evaluation(self) -> dict[str, Any]:
        split = {"split": None} if self.held_out else {}
        return {"device": self.device, "seed": self.seed, **split, **(self.evaluate or {})}

    def flow(self) -> Flow:
        """The flow that does it, all checked. Raises InputError, SourceError, ParameterError or TrainingError."""
        maker = self.maker()
        maker.check(self.sources)
        held_out = str(self.held_out) if self.held_out else None
        return maker.make(self.sources, str(self.folder), held_out)


def read_config(path: Path) -> PretrainConfig:
    """A pretraining's configuration, with its paths in full. Raises InputError with one line for what is wrong."""
    config = read_settings(path, PretrainConfig)
    here = path.absolute().parent
    named = {name: checkpoints_in_full(getattr(config, name), here) for name in NAMING}
    return config.model_copy(update=data_in_full(config, here) | named)


def read_settings(path: Path, kind: type[Settings]) -> Settings:
    """The settings in a YAML file. Raises InputError with one line for what is wrong."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not text in UTF-8'}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is to hold settings, as `name: mine`")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {key}: {first['msg']}") from None


def data_in_full(config: Data, here: Path) -> dict[str, Any]:
    """Of a configuration what names data, by paths in full. here: the folder from which they count."""
    dataset = dict(config.dataset)
    if isinstance(held_out := dataset.get("held_out"), list):
        dataset["held_out"] = [source(str(each), here) for each in held_out]
    return {
        "dataset": dataset,
        "sources": [source(each, here) for each in config.sources],
        "out": config.out and Path(absolute(config.out, here)),
        "held_out": config.held_out and Path(absolute(config.held_out, here)),
    }


def pretrain(
    config: PretrainConfig, on_progress: Reporter | None = None, command: Sequence[str] = (), reuse: bool = False
) -> StagesDoc | TrainingDoc:
    """Run a pretraining here, one job after another, and return its last document.

    What an earlier attempt finished is not computed again: each stage goes on where it was. reuse: stages take stored
    results of the same science too, whichever run made them. Raises one-line ValueErrors
    of all stages, and KeyboardInterrupt on Ctrl-C.
    """
    output = run_logged(config.flow(), {"pretrain": config.model_dump(mode="json")}, on_progress, command, reuse)
    document: StagesDoc | TrainingDoc
    document = (TrainingDoc if config.evaluate is None else StagesDoc).model_validate(output)
    return document


def maker_of(cls: Any, section: str, settings_: Mapping[str, Any]) -> Any:
    """A maker from its settings in the file. Raises InputError for one that it does not have."""
    known = [entry.name for entry in fields(cls) if entry.name != "name"]
    if unknown := sorted(set(settings_) - set(known)):
        raise InputError(f"{section}: there is no setting {unknown[0]!r}; there are: {', '.join(known)}")
    return cls(**settings_)


def checkpoints_in_full(section: dict[str, Any] | None, here: Path) -> dict[str, Any] | None:
    """A section of the file, with the checkpoints that it names by their folders in full."""
    named = {key: section[key] for key in CHECKPOINTS if isinstance(section.get(key), str)} if section else {}
    return section and section | {key: checkpoint_in_full(value, here) for key, value in named.items()}
