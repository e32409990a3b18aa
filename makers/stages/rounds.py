"""The stages of rounds: ProposeMaker, LayOutMaker, ChooseMaker, DecideMaker and RoundsMaker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dao_flows.makers.schemas.labels import LabelledDatasetDoc
from dao_flows.makers.schemas.prediction import GenerationDoc
from dao_flows.makers.schemas.rounds import CandidateSetDoc, ExtendedDatasetDoc, Held, RoundDoc

from .agreement import Terms
from .declaration import CPU, GPU, INPUTS, Made, Parent, Stage
from .rebuilding import Materials, Place, Rebuilt, Recorded, settings

WRITTEN = Terms(ignored=("path", "name"))
STANDINGS = tuple(f"{when}.{what}" for when in ("before", "after") for what in ("*.path", "labels.*.path"))


def rebuild_proposal(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The same proposal from the same training set. Raises ReplayError."""
    from dao_flows.makers.rounds.propose import ProposeMaker

    science = recorded.science
    maker = ProposeMaker(seed=int(science.seed or 0), **settings(ProposeMaker, science))
    job = maker.make(
        materials.dataset(science.inputs["dataset"]),
        materials.checkpoint(science.checkpoints["generator"], "generator"),
        materials.dataset(science.inputs["held_out"], "held-out data"),
        science.inputs["round"],
    )
    return Rebuilt(job, Terms())


def rebuild_candidates(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The stored generation laid out again. Raises ReplayError."""
    from dao_flows.makers.rounds.lay_out import LayOutMaker

    science = recorded.science
    generation = GenerationDoc.model_validate(materials.of_science(science.inputs["generation"], "generation"))
    dataset, folder = materials.dataset(science.inputs["dataset"]), str(place.folder / "candidates")
    maker = LayOutMaker(**settings(LayOutMaker, science))
    return Rebuilt(maker.make(dataset, generation, folder, science.inputs["round"]), WRITTEN)


def rebuild_choice(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The same choice among the same relaxed candidates. Raises ReplayError."""
    from dao_flows.makers.rounds.choose import ChooseMaker

    inputs = recorded.science.inputs
    candidates, labels = (
        kind.model_validate(materials.holding("sha256", inputs[name], name))
        for kind, name in ((CandidateSetDoc, "candidates"), (LabelledDatasetDoc, "labels"))
    )
    dataset, relaxed = (materials.dataset(inputs[name]) for name in ("dataset", "relaxed"))
    maker = ChooseMaker(cross_check=None, **settings(ChooseMaker, recorded.science))
    return Rebuilt(maker.make(dataset, candidates, relaxed, labels, str(place.folder / "dataset")), WRITTEN)


def rebuild_round(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The decision from the stored documents of training and evaluation; no name is registered. Raises ReplayError."""
    from dao_flows.makers.evaluate import EvaluationDoc
    from dao_flows.makers.rounds.decide import DecideMaker

    science, document = recorded.science, RoundDoc.model_validate(recorded.document)
    extended = ExtendedDatasetDoc.model_validate(
        materials.holding("sha256", science.inputs["dataset"], "extended training set")
    )
    predictor, labels, generator = (
        Held(path=str(place.folder), sha256=sha256) if sha256 else None
        for sha256 in (science.checkpoints["predictor"], science.inputs["labels"], science.checkpoints.get("generator"))
    )
    evaluation = None
    if document.after is not None:
        evaluation = EvaluationDoc.model_validate(
            materials.of_science(document.after.measured.evaluation, "evaluation")
        )
    maker = DecideMaker(**settings(DecideMaker, science))
    job = maker.make(document.before, extended, predictor, labels, str(place.folder), generator, evaluation)
    return Rebuilt(job, Terms(ignored=(*STANDINGS, "registered.*")))


def rebuild_rounds(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The summary of the stored rounds. Raises ReplayError."""
    from dao_flows.makers.evaluate import EvaluationDoc
    from dao_flows.makers.rounds.improve import RoundsMaker

    science = recorded.science
    rounds = [RoundDoc.model_validate(materials.of_science(each, "round")) for each in science.inputs["rounds"]]
    evaluation = EvaluationDoc.model_validate(materials.of_science(science.inputs["evaluation"], "evaluation"))
    maker, begun, folder = RoundsMaker(rounds=science.parameters["rounds"]), rounds[0].before, str(place.folder)
    job = maker.make(begun.dataset.path, begun.generator.path, begun.predictor.path, evaluation, folder, folder, rounds)
    paths = ("standing.*.path", "standing.labels.*.path", *(f"rounds.*.{each}" for each in STANDINGS))
    return Rebuilt(job, Terms(ignored=(*paths, "rounds.*.provenance.*")))


def asks(maker: Any) -> Mapping[str, int]:
    """The nodes and GPUs of each that the larger of a round's trainings spreads over."""
    trainers = [getattr(maker, "decide", maker).generator, *([maker.inspector] if hasattr(maker, "inspector") else [])]
    return {"nodes": max(each.nodes for each in trainers), "gpus": max(each.processes for each in trainers)}


IN_A_ROUND = GPU.model_copy(update={"walltime": "24:00:00"})  # what a round starts inherits its route
TRAINING_SET = Parent("training set", (("dataset", f"{INPUTS}.dataset"),))
MADE = Made("dataset", "sha256", (("name", "name"), ("rows", "rows"), ("path", "path")))
PROPOSAL = Stage(
    name="propose",
    maker="dao_flows.makers.rounds.propose:ProposeMaker",
    document="dao_flows.makers.schemas.rounds:ProposalDoc",
    route=CPU,
    colour="#6b8e9f",
    label="proposal of round {round}",
    parents=(TRAINING_SET, Parent("held out", (("dataset", f"{INPUTS}.held_out"),), sought=False)),
    rebuild=rebuild_proposal,
)
CANDIDATES = Stage(
    name="layout",
    maker="dao_flows.makers.rounds.lay_out:LayOutMaker",
    document="dao_flows.makers.schemas.rounds:CandidateSetDoc",
    route=CPU,
    colour="#c9a227",
    label="candidates of round {round}",
    parents=(Parent("generated", (("science", f"{INPUTS}.generation"),)), TRAINING_SET),
    makes=(MADE,),
    rebuild=rebuild_candidates,
)
CHOICE = Stage(
    name="choose",
    maker="dao_flows.makers.rounds.choose:ChooseMaker",
    document="dao_flows.makers.schemas.rounds:ExtendedDatasetDoc",
    route=CPU,
    colour="#c9a227",
    label="choice of round {round}",
    parents=(
        TRAINING_SET,
        Parent("candidates", (("dataset", f"{INPUTS}.candidates"),)),
        Parent("relaxed", (("dataset", f"{INPUTS}.relaxed"),)),
        Parent("labels", (("dataset", f"{INPUTS}.labels"),)),
    ),
    makes=(MADE,),
    rebuild=rebuild_choice,
)
ROUND = Stage(
    name="decide",
    maker="dao_flows.makers.rounds.decide:DecideMaker",
    document="dao_flows.makers.schemas.rounds:RoundDoc",
    route=IN_A_ROUND,
    asks=asks,
    colour="#b0508c",
    label="round {round}",
    parents=(Parent("compared", (("science", f"{INPUTS}.evaluations"),)), TRAINING_SET),
    rebuild=rebuild_round,
)
ROUNDS = Stage(
    name="improve",
    maker="dao_flows.makers.rounds.improve:RoundsMaker",
    document="dao_flows.makers.schemas.rounds:RoundsDoc",
    route=IN_A_ROUND,
    asks=asks,
    colour="#b0508c",
    label="rounds",
    parents=(
        Parent("set out from", (("science", f"{INPUTS}.evaluation"),)),
        Parent("rounds", (("science", f"{INPUTS}.rounds"),)),
    ),
    rebuild=rebuild_rounds,
)
