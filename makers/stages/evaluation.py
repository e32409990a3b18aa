"""The stages of EvaluateMaker and CompareStagesMaker."""

from __future__ import annotations

from pathlib import Path

from .agreement import Terms
from .declaration import CPU, GPU, INPUTS, Names, Parent, Stage
from .rebuilding import Materials, Place, Rebuilt, Recorded, settings

OF_AN_EVALUATION = ("checkpoint", "data", "sampling_seconds", "provenance.*")


def rebuild(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The same samples of the same held-out crystals. Raises ReplayError."""
    from dao_flows.makers.evaluate import EvaluateMaker

    science = recorded.science
    judge = science.checkpoints.get("predictor")
    predictor = materials.checkpoint(judge, "predictor") if judge else None
    maker = EvaluateMaker(
        predictor=predictor, seed=int(science.seed or 0), device=place.device, **settings(EvaluateMaker, science)
    )
    checkpoint = materials.checkpoint(science.checkpoints["generator"], "generator")
    data = materials.dataset(science.inputs["data"], "held-out data")
    terms = Terms(ignored=("checkpoint", "data", "sampling_seconds"))
    rebuilt = maker.science(checkpoint, predictor, maker.held_out(checkpoint, Path(data)))
    return Rebuilt(maker.make(checkpoint, data, predictor), terms, rebuilt)


def rebuild_comparison(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The table and picture of the stored evaluations. Raises ReplayError."""
    from dao_flows.makers.compare_stages import CompareStagesMaker
    from dao_flows.makers.evaluate import EvaluationDoc

    science = recorded.science
    told = [materials.of_science(each, "evaluation") for each in science.inputs["evaluations"]]
    labels = science.parameters["labels"]
    job = CompareStagesMaker().make(labels, [EvaluationDoc.model_validate(each) for each in told], str(place.folder))
    # several evaluations may share a science: what they cost, and what they are called, decides nothing here
    ignored = ("table", "picture", *(f"stages.{label}.{name}" for label in labels for name in OF_AN_EVALUATION))
    return Rebuilt(job, Terms(ignored=ignored, soft=("provenance.files.picture",), files=True))


MEASURED_ON: Names = (("dataset", f"{INPUTS}.data"), ("dataset", "data_sha256"))
EVALUATION = Stage(
    name="evaluate",
    maker="dao_flows.makers.evaluate:EvaluateMaker",
    document="dao_flows.makers.evaluate:EvaluationDoc",
    route=GPU,
    colour="#b0508c",
    label="evaluation of {checkpoint} on {data}",
    parents=(Parent("measured on", MEASURED_ON, (("name", "data"),), sought=False),),  # it may be a file of any kind
    rebuild=rebuild,
)
COMPARISON = Stage(
    name="compare",
    maker="dao_flows.makers.compare_stages:CompareStagesMaker",
    document="dao_flows.makers.compare_stages:StagesDoc",
    route=CPU,
    colour="#b0508c",
    label="stages",
    parents=(Parent("compared", (("science", f"{INPUTS}.evaluations"),)),),
    rebuild=rebuild_comparison,
)
