"""DecideMaker: DAO-G learns from what a round has chosen, and the round is kept if it is better for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from jobflow.core.flow import Flow
from jobflow.core.job import Job, Response
from jobflow.core.maker import Maker
from jobflow.core.state import CURRENT_JOB

from dao_flows.makers.evaluate import EvaluateMaker, EvaluationDoc
from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.jobs.stage import stage
from dao_flows.makers.machine.places import PATH, Places, maker_in_full
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.register import check_name, register
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.rounds import ExtendedDatasetDoc, Held, Measure, Measured, RoundDoc, Standing
from dao_flows.makers.train import TrainMaker
from dao_flows.version import __version__

ROLES = {"generator": "dao-g", "predictor": "dao-p"}


@dataclass
class DecideMaker(Maker):
    """Trains DAO-G on from what was before on the extended training set, evaluates it, and compares.

    generator: of its config `max_energy` counts for crystals without an energy by the round's DAO-P, unless it names a
    `judge`. measure: the figure that decides: 'match_rate', 'valid_match_rate' (samples that the published validity
    filter turns away do not count), or 'stable_share', for which `evaluate` needs a predictor. min_gain: a round is
    better if the figure has risen by more than this share of 1. register_as: of a better round the checkpoints become
    the user's NAME-dao-g and NAME-dao-p.
    """

    PLACES: ClassVar[Places] = {"data": PATH, "generator": maker_in_full, "evaluate": maker_in_full}

    name: str = "decide"
    generator: TrainMaker = field(default_factory=lambda: TrainMaker("train DAO-G", "dao-g", "round"))
    evaluate: EvaluateMaker = field(default_factory=lambda: EvaluateMaker(predictor=None))
    measure: Measure = "match_rate"
    min_gain: float = 0.0
    register_as: str | None = None

    @stage  # no output_schema, as of relax_jobs
    def make(
        self,
        before: Standing,
        extended: ExtendedDatasetDoc,
        predictor: Held,
        labels: Held,
        data: str,
        generator: Held | None = None,
        evaluation: EvaluationDoc | None = None,
    ) -> RoundDoc | Response[Any]:
        """Decide on a round. Where candidates were chosen, training and evaluation come first, in this job's place.

        before: what the round began with; predictor, labels: DAO-P's checkpoint and the labelled candidates that it has
        learned from; data: held-out crystals, in full. generator, evaluation: what has come of training. Raises as the
        makers do.
        """
        started = datetime.now(UTC)
        before, extended = Standing.model_validate(before), ExtendedDatasetDoc.model_validate(extended)
        predictor, labels = Held.model_validate(predictor), Held.model_validate(labels)
        after = None
        if extended.chosen:
            if generator is None or evaluation is None:
                return self._first(before, extended, predictor, labels, data)
            evaluation = EvaluationDoc.model_validate(evaluation)
            after = Standing(
                dataset=Held(path=extended.path, sha256=extended.sha256),
                generator=generator,
                predictor=predictor,
                labels=[*before.labels, labels],
                measured=measured(evaluation, self.measure),
            )
        kept, reason = self._decision(before.measured, None if after is None else after.measured)
        science = Science(
            maker=type(self).__name__,
            parameters={"measure": self.measure, "min_gain": float(self.min_gain)},
            inputs={
                "evaluations": [each.measured.evaluation for each in (before, after) if each is not None],
                "dataset": extended.sha256,
                "labels": labels.sha256,
                "round": extended.round,
            },
            checkpoints={
                "start": before.generator.sha256,
                "predictor": predictor.sha256,
                **({"generator": after.generator.sha256} if after else {}),
            },
            code_version=__version__,
        )
        return RoundDoc(
            round=extended.round,
            kept=kept,
            reason=reason,
            before=before,
            after=after,
            candidates=extended.candidates,
            chosen=len(extended.chosen),
            teacher=f"{extended.teacher} {extended.teacher_version}",
            registered=self._register(after) if after is not None and kept else [],
            provenance=provenance(science, execution_record(started, "cpu", {})),
        )

    def check(self, architecture: Mapping[str, Any]) -> None:
        """Raises ParameterError for a setting that cannot be, TrainingError and CheckpointError as the makers do.

        architecture: of the generator to set out from, what is known of it.
        """
        self.generator.check()
        self.evaluate.check(architecture)
        if self.measure == "stable_share" and self.evaluate.predictor is None:
            raise ParameterError("stable_share is of energies: name the predictor of evaluate, always the same")
        if not -1 <= self.min_gain <= 1:
            raise ParameterError(f"min_gain is a share of 1, between -1 and 1, not {self.min_gain}")
        if self.register_as is not None:
            check_name(self.register_as)

    def _first(
        self,
        before: Standing,
        extended: ExtendedDatasetDoc,
        predictor: Held,
        labels: Held,
        data: str,
    ) -> Response[Any]:
        """In place of this job: training, evaluation, and this job again."""
        config = self.generator.config
        judged = config.get("max_energy") is not None and config.get("judge") is None
        yielded = {"judge": predictor.path} if judged else None
        trained = self.generator.make(extended.path, start=before.generator.path, yielded=yielded)
        evaluated = self.evaluate.make(trained.output.path, data)
        decided = self.make(before, extended, predictor, labels, data, checkpoint_of(trained), evaluated.output)
        return in_place(Flow([trained, evaluated, decided], output=decided.output))

    def _decision(self, before: Measured, after: Measured | None) -> tuple[bool, str]:
        """Whether a round is better, and why or why not."""
        if after is None:
            return False, "no candidate was chosen"
        rise = after.value - before.value
        kept = rise > self.min_gain
        told = f"{self.measure} {before.value:.4f} → {after.value:.4f}"
        asked = f", asked for more than {self.min_gain:+g}" if self.min_gain else ""
        return kept, f"{told}{asked}"

    def _register(self, after: Standing) -> list[str]:
        if self.register_as is None:
            return []
        held = {"generator": after.generator, "predictor": after.predictor}
        names = [f"{self.register_as}-{kind}" for kind in ROLES.values()]
        for name, role in zip(names, ROLES, strict=True):
            register(Path(held[role].path), name)
        return names


def measured(evaluation: EvaluationDoc, measure: Measure) -> Measured:
    """The figure of an evaluation that decides. Raises ParameterError for one that it does not have."""
    if measure == "stable_share":
        if evaluation.energies is None:
            raise ParameterError("the evaluation has no energies, so no stable_share: name its predictor")
        value, interval = evaluation.energies.stable_share, evaluation.energies.stable_share_95
    else:
        figures = evaluation.all if measure == "match_rate" else evaluation.valid_only
        value, interval = figures.match_rate, figures.match_rate_95
    return Measured(measure=measure, value=value, interval_95=interval, evaluation=evaluation.provenance.science_hash)


def checkpoint_of(training: Job) -> dict[str, Any]:
    """What a training job will have made, as `Held` has it."""
    return {"path": training.output.path, "sha256": training.output.checkpoint_sha256}


def in_place(flow: Flow) -> Response[Any]:
    """A flow in place of the running job, marked as that is."""
    if (parent := CURRENT_JOB.job) is not None:
        flow.update_metadata(dict(parent.metadata))
    return Response(replace=flow)
