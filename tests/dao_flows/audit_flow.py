"""A small flow of every stage for the tests of the audit: a dataset is built, relaxed and labelled, a DAO-P and a DAO-G
are trained on it, and the DAO-G's structures are screened and verified with a force field. One job fails.

Run as a script it makes the flow in the workplace that the environment describes: a process of its own, so that it
can be made while other tests run.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from jobflow import Flow, Job, run_locally

from dao_flows.api.local import run_here
from dao_flows.comparison.builder import ComparisonBuilder
from dao_flows.makers.compare_stages import CompareStagesMaker
from dao_flows.makers.evaluate import EvaluateMaker
from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.ingest import IngestMaker
from dao_flows.makers.jobs.provenance import library_versions
from dao_flows.makers.label import LabelMaker, label_jobs
from dao_flows.makers.relax_dataset import RelaxDatasetMaker, relax_jobs
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.train import TrainMaker
from dao_flows.makers.verify import VerifyMaker, verify_screening
from dao_flows.store.candidates import CandidateBuilder
from dao_flows.store.runs import Batch, RunLog
from dao_flows.store.stores import collection, job_store
from dao_flows.store.verifications import VerificationBuilder

CRYSTALS = Path(__file__).parent.parent.parent / "examples" / "data" / "crystals_small.parquet"
NETWORK = {"hidden": 8, "layers": 1, "heads": 2, "frequencies": 2, "time_width": 8, "volume_scaling": True}
TRAINING = {"batch_size": 16, "rate": 2e-3, "warm_up": 4, "save_every_s": 0, "threads": 1, "steps": 10}
LABEL = LabelMaker(steps=(0, 1), chunk_rows=20, device="cpu")


def make(folder: Path) -> None:
    """Make the flow in the user's store, its datasets and figures in `folder`, and lay out all collections."""
    jobs = job_store()
    with RunLog(collection(jobs, "runs"), "a" * 64, {"formulas": ["NaCl"]}, library_versions(), ["dao-flows"]) as log:

        def run(steps: list[Job]) -> None:
            flow = Flow(steps)
            flow.update_metadata({"dao_flows": {"run_id": log.run_id}})
            run_here(flow, jobs, lambda done, total, stage: None)

        run(training(folder))
        predicted = prediction()
        uuids = {"generate_uuid": predicted[0].uuid, "screen_uuid": predicted[1].uuid}
        log.begin(Batch(key="b" * 64, formulas=["NaCl"], **uuids))
        run(predicted)
    checkpoint = os.environ.get("LOST_CHECKPOINT", "no-such-checkpoint")
    run_locally(GenerateMaker("lost", checkpoint=checkpoint).make("NaCl"), store=jobs, log=False)
    stored = {name: collection(jobs, name) for name in ("candidates", "verifications", "comparisons")}
    CandidateBuilder(jobs, stored["candidates"]).build()
    VerificationBuilder(jobs, stored["verifications"]).build()
    ComparisonBuilder(jobs, stored["verifications"], stored["candidates"], stored["comparisons"]).build()


def training(folder: Path) -> list[Job]:
    """From raw crystals to checkpoints in the user's library, and their figures."""
    settings = {"config": NETWORK | TRAINING, "device": "cpu"}
    dataset = IngestMaker(max_atoms=4, rows_per_shard=40).make([str(CRYSTALS)], str(folder / "dataset"))
    judge = TrainMaker("judge", "dao-p", register_as="judge", **settings).make(dataset.output)
    relax = RelaxDatasetMaker(iterations=1, low=0.3, high=0.4, chunk_rows=20, device="cpu")
    relaxed = relax_jobs(dataset.output, str(folder / "relaxed"), relax, predictor=judge.output.path)
    artist = TrainMaker("artist", "dao-g", "stage-1", register_as="artist", **settings).make(relaxed.output)
    evaluate = EvaluateMaker(split="val", limit=2, samples=1, steps=2, device="cpu")
    evaluation = evaluate.make(artist.output.path, dataset.output.path, judge.output.path)
    compared = CompareStagesMaker().make(["stage-1"], [evaluation.output], str(folder / "figures"))
    labelled = [label_jobs(dataset.output, str(folder / "labelled"), LABEL)] if find_spec("chgnet") else []
    return [dataset, judge, relaxed, artist, evaluation, compared, *labelled]


def prediction() -> list[Job]:
    """From a formula to a verification, where a force field is installed, which judges, too."""
    there = find_spec("chgnet") is not None
    judged = {"judge": "CHGNet", "rank_by": "both"} if there else {}
    generated = GenerateMaker(checkpoint="artist", predictor="judge", candidates=6, z=2, steps=4, device="cpu").make(
        "NaCl"
    )
    screened = ScreenMaker(predictor="judge", top_k=2, device="cpu", **judged).make(generated.output)
    if not there:
        return [generated, screened]
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker

    coarse = ForceFieldRelaxMaker(force_field_name="CHGNet", relax_kwargs={"fmax": 2.0})
    verifier = VerifyMaker(backend="forcefield", steps={"relax": coarse}, top=1)
    return [generated, screened, verify_screening(screened.output, verifier)]


if __name__ == "__main__":
    make(Path(sys.argv[1]))
