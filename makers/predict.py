"""PredictFlowMaker: from formulas to ranked structures."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobflow.core.flow import Flow
from jobflow.core.maker import Maker

from .generate import Compositions, GenerateMaker
from .generators.plan import GenerationPlan
from .schemas.prediction import CompositionPlan
from .science.chemistry import parse_batch
from .screen import ScreenMaker
from .verify import VerifyMaker, verify_screening


@dataclass
class PredictFlowMaker(Maker):
    """Generates candidates and screens them. The flow's output is the ScreeningDoc.

    verify: sends the best of each composition through DFT, or a force field, in jobs of their own routes (None: no).
    """

    name: str = "predict"
    generate: GenerateMaker = field(default_factory=GenerateMaker)
    screen: ScreenMaker = field(default_factory=ScreenMaker)
    verify: VerifyMaker | None = None

    def make(self, compositions: str | list[str]) -> Flow:
        """A flow for one formula or a batch of them.

        Raises CompositionError for what is no formula; what the checkpoints cover is checked by `plan`, which needs
        them, and again where the jobs run.
        """
        parse_batch(compositions)
        return self.flow(compositions)

    def flow(self, compositions: str | list[str]) -> Flow:
        """The same flow, for compositions that `plan` has checked."""
        generation = self.generate.make(compositions)
        screening = self.screen.make(generation.output)
        jobs = [generation, screening]
        if self.verify is not None:
            jobs.append(verify_screening(screening.output, self.verify))
        return Flow(jobs, output=screening.output, name=self.name)

    def plan(self, compositions: Compositions) -> GenerationPlan:
        """What would be generated; raises all that is wrong with compositions, settings and checkpoints, up front."""
        plan = self.generate.plan(compositions)
        self.screen.check(plan.compositions)
        if self.verify is not None:
            self.verify.check(plan.elements)
        return plan

    def check(self, compositions: Compositions) -> list[CompositionPlan]:
        """What each composition would get. Raises as `plan` does."""
        return self.plan(compositions).compositions
