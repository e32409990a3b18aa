"""PretrainFlowMaker: the two-stage pretraining of DAO, from sources of crystals to a registered checkpoint.

Stage I trains DAO-G on all crystals, stable and unstable; DAO-P, trained on the same, relaxes the unstable ones; Stage
II trains DAO-G on from Stage I on what has become of them (arXiv 2503.10471, Methods).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobflow.core.flow import Flow
from jobflow.core.job import Job
from jobflow.core.maker import Maker

from dao_flows.model.files.places import absolute

from .compare_stages import CompareStagesMaker
from .datasets.sources import open_source
from .evaluate import EvaluateMaker
from .ingest import IngestMaker
from .relax_dataset import RelaxDatasetMaker, relax_jobs
from .train import TrainMaker

GPU, CPU = "gpu", "cpu"  # categories of workers, FireWorks' routes
STAGE_ONE, CONTROL, STAGE_TWO = "Stage I", "Stage I, longer", "Stage I+II"


@dataclass
class PretrainFlowMaker(Maker):
    """Ingest → DAO-P ∥ Stage I → relax → merge → Stage II → evaluate both stages → compare.

    Each stage is a maker of its own; predictor of `relax` and start of `stage_two` are what the flow trains. Finished
    work lies in the run's folders (DAO_FLOWS_RUN_DIR) and in `out`, so that the same flow made again goes on there.
    control: trains on from Stage I too, on the crystals as they were (None: nothing does): with Stage II's settings it
    tells what the relaxation is good for from what more training is. evaluate: None leaves the evaluation out.
    """

    name: str = "pretrain"
    ingest: IngestMaker = field(default_factory=IngestMaker)
    predictor: TrainMaker = field(default_factory=lambda: TrainMaker("train DAO-P", "dao-p", "predictor"))
    stage_one: TrainMaker = field(default_factory=lambda: TrainMaker("train DAO-G, Stage I", "dao-g", "stage-1"))
    relax: RelaxDatasetMaker = field(default_factory=RelaxDatasetMaker)
    stage_two: TrainMaker = field(default_factory=lambda: TrainMaker("train DAO-G, Stage II", "dao-g", "stage-2"))
    control: TrainMaker | None = None
    evaluate: EvaluateMaker | None = field(default_factory=EvaluateMaker)
    compare: CompareStagesMaker = field(default_factory=CompareStagesMaker)

    def check(self, sources: list[str]) -> None:
        """Raises SourceError, ParameterError or TrainingError for a source or a setting of any stage that cannot be."""
        properties = self.ingest.config().properties
        for source in sources:
            if not source.startswith("store:"):  # the store of the job, which does not run yet
                open_source(source, properties)
        for trainer in (self.predictor, self.stage_one, self.stage_two, self.control):
            if trainer is not None:
                trainer.check()
        self.relax.check()
        if self.evaluate is not None:
            self.evaluate.check({"objective": self.stage_one.objective()})

    def make(self, sources: list[str], out: str, held_out: str | None = None) -> Flow:
        """The flow for these sources; datasets and figures go to the folder `out`.

        held_out: parquet file or dataset to evaluate on; None: the validation split of the dataset. The
        flow's output is the comparison's document, or without evaluation that of Stage II's training.
        """
        folder = Path(absolute(out))
        dataset = self.ingest.make(sources, str(folder / "dataset"))
        predictor = self.predictor.make(dataset.output)
        one = self.stage_one.make(dataset.output)
        relaxed = relax_jobs(dataset.output, str(folder / "relaxed"), self.relax, predictor=predictor.output.path)
        relaxed.name = "relax dataset"
        two = self.stage_two.make(relaxed.output, start=one.output)
        jobs = [_routed(dataset, CPU), *(_routed(job, GPU) for job in (predictor, one, relaxed, two))]
        stages = {STAGE_ONE: one, STAGE_TWO: two}
        if self.control is not None:
            longer = _routed(self.control.make(dataset.output, start=one.output), GPU)
            jobs.append(longer)
            stages = {STAGE_ONE: one, CONTROL: longer, STAGE_TWO: two}
        if self.evaluate is None:
            return Flow(jobs, output=two.output, name=self.name)
        data = absolute(held_out) if held_out else dataset.output.path
        evaluations = []
        for label, trained in stages.items():
            evaluation = self.evaluate.make(trained.output.path, data, predictor.output.path)
            evaluation.name = f"{self.evaluate.name} {label}"
            evaluations.append(_routed(evaluation, GPU))
        compared = self.compare.make(list(stages), [job.output for job in evaluations], str(folder / "figures"))
        return Flow([*jobs, *evaluations, _routed(compared, CPU)], output=compared.output, name=self.name)


def _routed(job: Job, category: str) -> Job:
    """The job, for workers of this category; those that it starts itself inherit it."""
    job.update_config({"manager_config": {"_category": category}})
    return job
