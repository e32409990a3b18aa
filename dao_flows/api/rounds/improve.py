"""Rounds of improvement from one file: what it says, the flow that it means, and running that here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobflow.core.flow import Flow
from pydantic import Field

from dao_flows.api.local import run_logged
from dao_flows.api.pretrain import Data, Training, checkpoints_in_full, data_in_full, maker_of, read_settings
from dao_flows.errors import InputError
from dao_flows.makers.crosscheck import CrossCheckMaker
from dao_flows.makers.evaluate import EvaluateMaker
from dao_flows.makers.generate import MAX_CANDIDATES, GenerateMaker
from dao_flows.makers.ingest import IngestMaker
from dao_flows.makers.jobs.progress import Reporter
from dao_flows.makers.label import LabelMaker
from dao_flows.makers.models.atomate import CHGNET
from dao_flows.makers.relax_dataset import RelaxDatasetMaker
from dao_flows.makers.rounds.choose import ChooseMaker
from dao_flows.makers.rounds.decide import DecideMaker
from dao_flows.makers.rounds.flow import ImproveFlowMaker
from dao_flows.makers.rounds.improve import RoundsMaker
from dao_flows.makers.rounds.lay_out import LayOutMaker
from dao_flows.makers.rounds.propose import ProposeMaker
from dao_flows.makers.schemas.rounds import Measure, RoundsDoc
from dao_flows.makers.train import TrainMaker
from dao_flows.model.files import user_folders
from dao_flows.model.files.file_names import file_name
from dao_flows.model.files.places import library_in_full

NAMING = ("generator", "predictor", "evaluate")  # sections that may name checkpoints
OF_THE_ROUND = {  # what a section cannot set, for the round does
    "propose": ("split",),
    "generate": ("checkpoint",),
    "relax": ("predictor", "unlabelled"),
    "choose": ("cross_check",),
    "generator": ("labels",),
    "predictor": ("labels",),
}


class ImproveConfig(Data):
    """Rounds of improvement, as their YAML file describes them; relative paths count from the file's folder.

    generator, predictor: settings of `python -m dao_flows.model.train`, with underscores, by which each round trains
    DAO-G and DAO-P, and `start`, the checkpoint to set out from. Without it there is a training on the dataset first,
    with the same settings and `network`. teacher: an energy model, as `--judge` takes it. dataset, propose, generate,
    lay_out, label, relax, choose, cross_check and evaluate: fields of IngestMaker, ProposeMaker, GenerateMaker,
    LayOutMaker, LabelMaker, RelaxDatasetMaker, ChooseMaker, CrossCheckMaker and EvaluateMaker; cross_check: null leaves
    it out. measure, min_gain: as DecideMaker says.
    """

    rounds: int = Field(3, ge=1, description="at most; the first that is not better is the last")
    generator: Training
    predictor: Training
    teacher: str = CHGNET
    propose: dict[str, Any] = Field(default_factory=dict)
    generate: dict[str, Any] = Field(default_factory=dict)
    lay_out: dict[str, Any] = Field(default_factory=dict)
    label: dict[str, Any] = Field(default_factory=dict)
    relax: dict[str, Any] = Field(default_factory=dict)
    choose: dict[str, Any] = Field(default_factory=dict)
    cross_check: dict[str, Any] | None = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)
    measure: Measure = "match_rate"
    min_gain: float = 0.0

    @property
    def folder(self) -> Path:
        """Where datasets go."""
        return self.out or user_folders.runs() / f"improve-{file_name(self.name)}"

    def maker(self) -> ImproveFlowMaker:
        """The flow's maker. Raises InputError for a setting that a stage does not have."""
        for section, taken in OF_THE_ROUND.items():
            if found := sorted(set(taken) & set(getattr(self, section))):
                raise InputError(f"{section}: leave {found[0]} out: each round sets its own")
        ours, seed = {"device": self.device}, {"seed": self.seed}
        drawing = maker_of(GenerateMaker, "generate", ours | seed | {"known": False} | self.generate)
        split = {"split": None} if self.held_out else {}
        evaluate = maker_of(EvaluateMaker, "evaluate", ours | seed | {"predictor": None} | split | self.evaluate)
        teacher = {"force_field": self.teacher}
        return ImproveFlowMaker(
            ingest=maker_of(IngestMaker, "dataset", self.dataset),
            generator=self._begun("DAO-G", "dao-g", self.generator),
            predictor=self._begun("DAO-P", "dao-p", self.predictor),
            rounds=RoundsMaker(
                rounds=self.rounds,
                propose=maker_of(ProposeMaker, "propose", seed | self.propose | {"split": evaluate.split}),
                generate=drawing,
                lay_out=maker_of(LayOutMaker, "lay_out", self.lay_out),
                label=maker_of(LabelMaker, "label", ours | teacher | self.label),
                inspector=self._within("DAO-P", "dao-p", self.predictor),
                relax=maker_of(RelaxDatasetMaker, "relax", ours | self.relax | {"unlabelled": True}),
                choose=maker_of(ChooseMaker, "choose", self.choose | {"cross_check": self._cross_check()}),
                decide=DecideMaker(
                    generator=self._within("DAO-G", "dao-g", self.generator),
                    evaluate=evaluate,
                    measure=self.measure,
                    min_gain=self.min_gain,
                    register_as=self.name,
                ),
            ),
        )

    def _begun(self, name: str, kind: str, section: dict[str, Any]) -> str | TrainMaker:
        """What to set out from: a checkpoint, or a training on the dataset."""
        if (start := section.get("start")) is not None:
            return str(start)
        return self.trainer(f"train {name} first", kind, "before rounds", self.with_network(section), None)

    def _within(self, name: str, kind: str, section: dict[str, Any]) -> TrainMaker:
        """The training of each round, on from what was before."""
        settings = {key: value for key, value in self.without_network(section).items() if key != "start"}
        return self.trainer(f"train {name}", kind, "round", settings, None)

    def _cross_check(self) -> CrossCheckMaker | None:
        if self.cross_check is None:
            return None
        ours = {"force_field": self.teacher, "seed": self.seed}
        checking: CrossCheckMaker = maker_of(CrossCheckMaker, "cross_check", ours | self.cross_check)
        return checking

    def checked(self) -> ImproveFlowMaker:
        """The flow's maker, all checked. Raises InputError, SourceError, ParameterError or TrainingError."""
        maker = self.maker()
        maker.check(self.sources)
        propose, each = maker.rounds.propose, maker.rounds.generate.candidates
        if (asked := (propose.known + propose.new) * each) > MAX_CANDIDATES:
            raise InputError(f"{asked} candidates of a round are too many: {MAX_CANDIDATES} fit into one generation")
        return maker

    def flow(self) -> Flow:
        """The flow that does it. Raises as `checked` does."""
        held_out = str(self.held_out) if self.held_out else None
        return self.checked().make(self.sources, str(self.folder), held_out)

    def cost(self) -> str:
        """What it takes at most, in one line. Raises as `checked` does."""
        maker = self.checked()
        rounds, formulas = maker.rounds.rounds, maker.rounds.propose.known + maker.rounds.propose.new
        candidates, frames = formulas * maker.rounds.generate.candidates, max(maker.rounds.label.steps) + 1
        first = {
            name: self.rounds + isinstance(start, TrainMaker)
            for name, start in (("DAO-P", maker.predictor), ("DAO-G", maker.generator))
        }
        trainings = ", ".join(
            f"{first[name]} × {section['steps']:,} steps of {name}"
            for name, section in (("DAO-P", self.predictor), ("DAO-G", self.generator))
        )
        return (
            f"{rounds} rounds at most, each {formulas} formulas with {candidates:,} candidates and at most "
            f"{candidates * frames:,} calculations by {self.teacher}; in all {trainings}"
        )


def read_config(path: Path) -> ImproveConfig:
    """The configuration of rounds, with its paths in full. Raises InputError with one line for what is wrong."""
    config = read_settings(path, ImproveConfig)
    here = path.absolute().parent
    named = {name: checkpoints_in_full(getattr(config, name), here) for name in NAMING}
    if isinstance(library := config.generate.get("library"), str):
        named["generate"] = config.generate | {"library": library_in_full(library, here)}
    return config.model_copy(update=data_in_full(config, here) | named)


def improve(config: ImproveConfig, on_progress: Reporter | None = None, command: Sequence[str] = ()) -> RoundsDoc:
    """Run rounds here, one job after another, and return their last document.

    What an earlier attempt finished is not computed again: each stage goes on where it was, and takes stored results of
    the same science. Raises one-line ValueErrors of all stages, and KeyboardInterrupt on Ctrl-C.
    """
    request = {"improve": config.model_dump(mode="json")}
    return RoundsDoc.model_validate(run_logged(config.flow(), request, on_progress, command, reuse=True))
