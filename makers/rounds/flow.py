"""ImproveFlowMaker: from sources of crystals to the generator and inspector of the best round."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobflow.core.flow import Flow
from jobflow.core.maker import Maker

from dao_flows.makers.datasets.sources import open_source
from dao_flows.makers.ingest import IngestMaker
from dao_flows.makers.models.checkpoints import card
from dao_flows.makers.train import TrainMaker
from dao_flows.model.files.places import absolute

from .improve import RoundsMaker


@dataclass
class ImproveFlowMaker(Maker):
    """Ingest → (DAO-G, DAO-P, where there is none to set out from) → evaluate → rounds.

    generator, predictor: checkpoints to set out from, or the makers that train them on the dataset first. Each round is
    a part of this one flow that comes to be when the one before was better. Finished work lies in the run's folders
    (DAO_FLOWS_RUN_DIR) and in `out`, so that the same flow made again goes on there.
    """

    name: str = "improve"
    ingest: IngestMaker = field(default_factory=IngestMaker)
    generator: str | TrainMaker = "dao-g-flow"
    predictor: str | TrainMaker = "dao-p-flow"
    rounds: RoundsMaker = field(default_factory=RoundsMaker)

    def check(self, sources: list[str]) -> None:
        """Raises SourceError, ParameterError, CheckpointError or TrainingError for what cannot be, in any stage."""
        properties = self.ingest.config().properties
        for source in sources:
            if not source.startswith("store:"):  # the store of the job, which does not run yet
                open_source(source, properties)
        if isinstance(self.predictor, TrainMaker):
            self.predictor.check()
        else:
            card(self.predictor, "dao-p")
        if isinstance(self.generator, TrainMaker):
            self.generator.check()
            architecture: dict[str, Any] = {"objective": self.generator.objective()}
        else:
            architecture = card(self.generator, "dao-g").architecture
        self.rounds.check(architecture)

    def make(self, sources: list[str], out: str, held_out: str | None = None) -> Flow:
        """The flow for these sources; datasets go to the folder `out`. Its output is the document of the rounds.

        held_out: parquet file or dataset to evaluate on; None: the validation split of the dataset.
        """
        folder = Path(absolute(out))
        dataset = self.ingest.make(sources, str(folder / "dataset"))
        jobs: list[Any] = [dataset]

        def begun(start: str | TrainMaker) -> Any:
            if isinstance(start, str):
                return start
            jobs.append(start.make(dataset.output))
            return jobs[-1].output.path

        generator, predictor = begun(self.generator), begun(self.predictor)
        data = absolute(held_out) if held_out else dataset.output.path
        evaluation = self.rounds.decide.evaluate.make(generator, data)
        rounds = self.rounds.make(dataset.output.path, generator, predictor, evaluation.output, data, str(folder))
        return Flow([*jobs, evaluation, rounds], output=rounds.output, name=self.name)
