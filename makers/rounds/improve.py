"""RoundsMaker: one round after the other, each in place of the job that asked for it, until one is not better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from jobflow.core.flow import Flow
from jobflow.core.job import Response
from jobflow.core.maker import Maker

from dao_flows.makers.evaluate import EvaluationDoc
from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.generators.sampler import check_sampling
from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.jobs.stage import stage
from dao_flows.makers.label import LabelMaker, label_jobs
from dao_flows.makers.machine.places import CHECKPOINT, PATH, Places, maker_in_full
from dao_flows.makers.merge import in_full
from dao_flows.makers.models.checkpoints import ParameterError, card
from dao_flows.makers.relax_dataset import RelaxDatasetMaker, relax_jobs
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.rounds import Held, RoundDoc, RoundsDoc, Standing
from dao_flows.makers.train import TrainMaker
from dao_flows.version import __version__

from .choose import ChooseMaker
from .decide import DecideMaker, checkpoint_of, in_place, measured
from .lay_out import LayOutMaker
from .propose import ProposeMaker


@dataclass
class RoundsMaker(Maker):
    """Rounds: propose → generate → lay out → label → train DAO-P → relax → choose → train DAO-G → evaluate → decide.

    rounds: at most; the first that is not better is the last. Every stage is a maker of its own. Checkpoints of
    `generate`, `relax` and the trainings are those of the round; `generate` leaves known crystals of the very
    composition out, unless it is told otherwise; `relax` takes crystals without a known energy. DAO-P learns from the
    labels of all rounds.
    """

    PLACES: ClassVar[Places] = {
        **dict.fromkeys(("dataset", "data", "out"), PATH),
        **dict.fromkeys(("generator", "predictor"), CHECKPOINT),
        **dict.fromkeys(("generate", "inspector", "decide"), maker_in_full),
    }

    name: str = "improve"
    rounds: int = 3
    propose: ProposeMaker = field(default_factory=ProposeMaker)
    generate: GenerateMaker = field(default_factory=lambda: GenerateMaker(known=False))
    lay_out: LayOutMaker = field(default_factory=LayOutMaker)
    label: LabelMaker = field(default_factory=LabelMaker)
    inspector: TrainMaker = field(default_factory=lambda: TrainMaker("train DAO-P", "dao-p", "round"))
    relax: RelaxDatasetMaker = field(default_factory=lambda: RelaxDatasetMaker(unlabelled=True))
    choose: ChooseMaker = field(default_factory=ChooseMaker)
    decide: DecideMaker = field(default_factory=DecideMaker)

    @stage  # no output_schema, as of relax_jobs
    def make(
        self,
        dataset: str,
        generator: str,
        predictor: str,
        evaluation: EvaluationDoc,
        data: str,
        out: str,
        rounds: Sequence[RoundDoc] = (),
    ) -> RoundsDoc | Response[Any]:
        """The next round and this job again; the summary, where no round is to follow.

        dataset: the training set; data: held-out crystals; out: folder for datasets; all in full. generator, predictor:
        checkpoints to set out from; evaluation: of that generator on the held-out crystals. rounds: those that were.
        Raises as the makers do.
        """
        started, held = datetime.now(UTC), [RoundDoc.model_validate(each) for each in rounds]
        evaluation = EvaluationDoc.model_validate(evaluation)
        standing = self._standing(dataset, generator, predictor, evaluation, held)
        if len(held) < self.rounds and all(each.kept for each in held):
            flow, decided = self._round(standing, data, in_full(out), len(held) + 1)
            more = self.make(dataset, generator, predictor, evaluation, data, out, [*held, decided.output])
            return in_place(Flow([*flow, more], output=more.output))
        science = Science(
            maker=type(self).__name__,
            parameters={"rounds": self.rounds},
            inputs={
                "rounds": [each.provenance.science_hash for each in held],
                "evaluation": evaluation.provenance.science_hash,
            },
            checkpoints={"generator": standing.generator.sha256, "predictor": standing.predictor.sha256},
            code_version=__version__,
        )
        return RoundsDoc(
            rounds=held,
            kept=sum(each.kept for each in held),
            standing=standing,
            provenance=provenance(science, execution_record(started, "cpu", {})),
        )

    def check(self, architecture: Mapping[str, Any]) -> None:
        """Raises ParameterError for a setting of any stage that cannot be, and as the makers' own checks do.

        architecture: of the generator to set out from, what is known of it.
        """
        if self.rounds < 1:
            raise ParameterError(f"rounds must be at least 1, not {self.rounds}")
        if not self.relax.unlabelled:
            raise ParameterError("relax: candidates have no known energy: leave unlabelled out")
        if self.generate.candidates < 1:
            raise ParameterError(f"candidates must be at least 1, not {self.generate.candidates}")
        if self.generate.max_atoms is not None and self.propose.max_atoms > self.generate.max_atoms:
            raise ParameterError(
                f"propose: formulas of {self.propose.max_atoms} atoms do not fit into cells of "
                f"{self.generate.max_atoms}, the max_atoms of generate: set that of propose, too"
            )
        check_sampling(self.generate, architecture)
        for each in (self.propose, self.lay_out, self.label, self.inspector, self.relax, self.choose):
            each.check()
        self.decide.check(architecture)

    def _standing(
        self, dataset: str, generator: str, predictor: str, evaluation: EvaluationDoc, rounds: Sequence[RoundDoc]
    ) -> Standing:
        """What there is after these rounds, the last of which may not have been better."""
        from dao_flows.model.data.shards import read_manifest

        if rounds:
            last = rounds[-1]
            return last.after if last.kept and last.after is not None else last.before
        return Standing(
            dataset=Held(path=dataset, sha256=read_manifest(Path(dataset)).sha256),
            generator=Held(path=generator, sha256=card(generator, "dao-g").sha256),
            predictor=Held(path=predictor, sha256=card(predictor, "dao-p").sha256),
            measured=measured(evaluation, self.decide.measure),
        )

    def _round(self, before: Standing, data: str, out: Path, number: int) -> tuple[list[Any], Any]:
        """The jobs of a round, and the one that decides on it."""
        folder, training = out / f"round-{number}", before.dataset.path
        proposed = self.propose.make(training, before.generator.path, data, number)
        drawing = replace(self.generate, checkpoint=before.generator.path)
        generated = drawing.make(proposed.output.formulas)
        candidates = self.lay_out.make(training, generated.output, str(folder / "candidates"), number)
        labelled = label_jobs(candidates.output, str(folder / "labels"), self.label)
        labels = [*(each.path for each in before.labels), labelled.output.path]
        trained = self.inspector.make(training, start=before.predictor.path, yielded={"labels": labels})
        relaxed = relax_jobs(candidates.output, str(folder / "relaxed"), self.relax, predictor=trained.output.path)
        chosen = self.choose.make(training, candidates.output, relaxed.output, labelled.output, str(folder / "dataset"))
        learned = {"path": labelled.output.path, "sha256": labelled.output.sha256}
        decided = self.decide.make(before, chosen.output, checkpoint_of(trained), learned, data)
        jobs = [proposed, generated, candidates, labelled, trained, relaxed, chosen, decided]
        for job in jobs:
            job.name = f"{job.name}, round {number}"
        return jobs, decided
