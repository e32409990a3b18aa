"""The stage of TrainMaker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .agreement import TRAINING as TOLERANCE
from .agreement import Terms
from .declaration import GPU, INPUTS, Made, Names, Parent, Stage
from .rebuilding import Materials, Place, Rebuilt, Recorded


def rebuild(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The same training from its first step. Raises ReplayError."""
    from dao_flows.makers.train import TrainMaker

    science, document = recorded.science, recorded.document
    config = {name: value for name, value in science.parameters.items() if name != "kind" and value is not None}
    if place.threads is not None and place.device == "cpu":
        config["threads"] = place.threads
    start = science.checkpoints.get("start")
    if judge := science.checkpoints.get("judge"):
        config["judge"] = materials.checkpoint(judge, "judge of its data")
    if labels := science.inputs.get("labels"):
        config["labels"] = [materials.dataset(sha256, "labelled dataset") for sha256 in labels]
    maker = TrainMaker(
        kind=science.parameters["kind"],
        stage=document["stage"],
        config=config,
        start=materials.checkpoint(start, "checkpoint to start from") if start else None,
        processes=int(document["processes"]),
        device=place.device,
    )
    dataset = materials.dataset(science.inputs["dataset"])
    terms = Terms(
        tolerance=TOLERANCE,
        ignored=(
            *("path", "run", "name", "registered_as", "plot", "wall_time_s", "crystals_per_s"),
            *("loss_curve.*.elapsed_s", "loss_curve.*.crystals_per_s", "losses.*_s"),
        ),
        soft=("checkpoint_sha256",),
    )
    return Rebuilt(maker.make(dataset), terms, maker.resolve(dataset)[2])


def asks(maker: Any) -> Mapping[str, int]:
    """The nodes and GPUs of each that a TrainMaker spreads over."""
    return {"nodes": maker.nodes, "gpus": maker.processes}


TRAINED_ON: Names = (("dataset", f"{INPUTS}.dataset"), ("dataset", "dataset_sha256"))
TRAINING = Stage(
    name="train",
    maker="dao_flows.makers.train:TrainMaker",
    document="dao_flows.makers.schemas.training:TrainingDoc",
    route=GPU.model_copy(update={"walltime": "24:00:00"}),
    asks=asks,
    colour="#8e7cc3",
    label="training of {name}",
    parents=(
        Parent(
            "dataset", (("dataset", f"{INPUTS}.dataset"), ("dataset", "dataset_sha256")), (("rows", "dataset_rows"),)
        ),
        Parent("labels", (("dataset", f"{INPUTS}.labels[]"),)),
    ),
    makes=(
        Made("checkpoint", "checkpoint_sha256", (("name", "name"), ("model", "kind"), ("registered", "registered_as"))),
    ),
    rebuild=rebuild,
)
