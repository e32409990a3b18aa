"""PredictFlowMaker: from formulas to ranked structures."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobflow.core.flow import Flow
from jobflow.core.maker import Maker

from .generate import GenerateMaker
from .schemas.prediction import CompositionPlan
from .science.chemistry import parse_batch, parse_composition
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

        Raises CompositionError for what is no formula; what the checkpoints cover is checked by `check`, which needs
        them, and again where the jobs run.
        """
        parse_batch(compositions)
        generation = self.generate.make(compositions)
        screening = self.screen.make(generation.output)
        jobs = [generation, screening]
        if self.verify is not None:
            jobs.append(verify_screening(screening.output, self.verify))
        return Flow(jobs, output=screening.output, name=self.name)

    def check(self, compositions: str | list[str]) -> list[CompositionPlan]:
        """What would be generated; raises all that is wrong with compositions, settings and checkpoints, up front."""
        plan = self.generate.check(compositions)
        self.screen.check(plan)
        if self.verify is not None:
            self.verify.check({str(e) for entry in plan for e in parse_composition(entry.formula).elements})
        return plan
