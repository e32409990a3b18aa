"""From a recorded document to the job that would write it again.

A maker is rebuilt from `provenance.science`. What the science has by hash alone (documents, checkpoints, datasets) is
fetched; where a path or a label stands in the document beside it, that is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from dao_flows.makers.compare_stages import CompareStagesMaker
from dao_flows.makers.crosscheck import CrossCheckMaker
from dao_flows.makers.evaluate import EvaluateMaker, EvaluationDoc
from dao_flows.makers.generate import GenerateMaker, told
from dao_flows.makers.generators.templates import candidate_id, template_id
from dao_flows.makers.ingest import IngestMaker
from dao_flows.makers.label import LabelMaker, MergeLabelsMaker
from dao_flows.makers.merge import MergeShardsMaker
from dao_flows.makers.relax_dataset import RelaxDatasetMaker
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.labels import LabellingDoc
from dao_flows.makers.schemas.prediction import CompositionPlan, GenerationDoc, Origin
from dao_flows.makers.schemas.relaxation import RelaxationDoc
from dao_flows.makers.schemas.shards import ShardDoc
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.train import TrainMaker
from dao_flows.model.data.shards import read_manifest
from dao_flows.model.files.file_names import file_name

from .agreement import TRAINING, Terms
from .calculations import calculation, verification
from .materials import Materials, ReplayError
from .original import Place, Rebuilt, Recorded

Rebuild = Callable[[Recorded, Materials, Place], Rebuilt]


def rebuild(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The job that would write this document. Raises ReplayError for an input that is gone, or a maker unknown."""
    maker = recorded.science.maker
    if maker not in MAKERS:
        raise ReplayError(f"documents of {maker} cannot be replayed: this version knows {', '.join(sorted(MAKERS))}")
    return MAKERS[maker](recorded, materials, place)


def _settings(maker: type, science: Science) -> dict[str, Any]:
    """The science's parameters that are fields of the maker."""
    return {f.name: science.parameters[f.name] for f in fields(maker) if f.name in science.parameters}


def _generation(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    science = recorded.science
    guided, library = "predictor" in science.checkpoints, science.inputs.get("library")
    maker = GenerateMaker(
        checkpoint=materials.checkpoint(science.checkpoints["generator"], "generator"),
        predictor=materials.checkpoint(science.checkpoints["predictor"], "predictor") if guided else None,
        seed=int(science.seed or 0),
        device=place.device,
        library=None if library is None else materials.library(library, place.folder),
        candidates=max(1, int(science.parameters.get("templates", 1))),  # of them the plan says how many are drawn
        **_settings(GenerateMaker, science),
    )
    plan = _plan(science, recorded.document)
    rebuilt = maker.science(plan)
    draws = [(p.formula, c.z, index) for p in plan for c in p.cells for index in range(c.candidates)]
    renamed = {candidate_id(rebuilt, *draw): candidate_id(science, *draw) for draw in draws}
    for each in recorded.document["candidates"]:
        if (origin := each.get("origin")) is not None and origin.get("kind") != "drawn":
            template = (each["formula"], each["z"], Origin.model_validate(origin))
            renamed[template_id(rebuilt, *template)] = template_id(science, *template)
    return Rebuilt(maker.make(plan), Terms(renamed=renamed), rebuilt)


def _plan(science: Science, document: Mapping[str, Any]) -> list[CompositionPlan]:
    """The cells to draw: from the science, in the document's order, where cells without candidates stand too."""
    asked = {entry["formula"]: entry for entry in science.inputs["compositions"]}
    plan = [CompositionPlan.model_validate(entry) for entry in document["compositions"]]
    for entry in plan:
        if told(entry) != asked.get(entry.formula):
            raise ReplayError(f"the document's plan for {entry.formula} is not the one in its science: it was altered")
    if len(plan) != len(asked):
        raise ReplayError("the document's compositions are not those in its science: it was altered")
    return plan


def _screening(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    science = recorded.science
    relaxed = science.parameters["relax_iterations"] > 0
    settings = _settings(ScreenMaker, science)
    if not relaxed:
        del settings["relax_iterations"]  # 0 says that there was none
    predictor = materials.checkpoint(science.checkpoints["predictor"], "predictor")
    maker = ScreenMaker(predictor=predictor, relax=relaxed, device=place.device, **settings)
    job = recorded.document["generation"]["execution"].get("job_uuid")
    generation = GenerationDoc.model_validate(materials.of_science(science.inputs["generation"], "generation", job))
    rebuilt = maker.science(generation.provenance.science_hash)
    return Rebuilt(maker.make(generation), Terms(ignored=("*.energy.model", "*.judgement.model_version")), rebuilt)


def _relaxation(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    science = recorded.science
    predictor = materials.checkpoint(science.checkpoints["predictor"], "predictor")
    maker = RelaxDatasetMaker(predictor=predictor, device=place.device, **_settings(RelaxDatasetMaker, science))
    folder, shard = materials.dataset(science.inputs["dataset"]), int(science.inputs["shard"])
    terms = Terms(ignored=("path", "computation.*"), soft=("relaxed.sha256",))
    rebuilt = maker.science(read_manifest(Path(folder)), shard)
    return Rebuilt(maker.make(folder, shard, str(place.folder / "relaxed")), terms, rebuilt)


def _labelling(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    science = recorded.science
    maker = LabelMaker(device=place.device, **_settings(LabelMaker, science))
    folder, shard = materials.dataset(science.inputs["dataset"]), int(science.inputs["shard"])
    terms = Terms(ignored=("path", "computation.*"), soft=("labelled.sha256",))
    rebuilt = maker.science(read_manifest(Path(folder)), shard)
    return Rebuilt(maker.make(folder, shard, str(place.folder / "labelled")), terms, rebuilt)


def _merge(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    job = MergeShardsMaker(dataset_name=recorded.science.parameters["dataset_name"]).make(
        *_shards(recorded.science, materials, RelaxationDoc), str(place.folder / "merged")
    )
    return Rebuilt(job, Terms(ignored=("path",)))


def _label_merge(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    job = MergeLabelsMaker(dataset_name=recorded.science.parameters["dataset_name"]).make(
        *_shards(recorded.science, materials, LabellingDoc), str(place.folder / "merged")
    )
    return Rebuilt(job, Terms(ignored=("path", "rejects")))


def _shards(science: Science, materials: Materials, kind: type[ShardDoc]) -> tuple[str, list[ShardDoc]]:
    """The folder of the dataset that was merged anew, and the documents of what was made of its shards."""
    shards = []
    for sha256 in science.inputs["shards"]:
        found = materials.jobs.query_one({f"output.{kind.RESULT}.sha256": sha256}, properties=["output"], load=True)
        if found is None:
            raise ReplayError(f"the shard with sha256 {sha256[:12]}… is in no document of the store any more")
        document = kind.model_validate(found["output"])
        where = materials.file(document.path, sha256)
        if where is None:
            raise ReplayError(f"the shard {document.path} is not here: name its folder with --from")
        shards.append(document.model_copy(update={"path": where}))
    return materials.dataset(science.inputs["dataset"]), shards


def _training(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    science, document = recorded.science, recorded.document
    config = {name: value for name, value in science.parameters.items() if name != "kind" and value is not None}
    if place.threads is not None and place.device == "cpu":
        config["threads"] = place.threads
    start = science.checkpoints.get("start")
    if judge := science.checkpoints.get("judge"):
        config["judge"] = materials.checkpoint(judge, "judge of its data")
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
        tolerance=TRAINING,
        ignored=(
            *("path", "run", "name", "registered_as", "plot", "wall_time_s", "crystals_per_s"),
            *("loss_curve.*.elapsed_s", "loss_curve.*.crystals_per_s", "losses.*_s"),
        ),
        soft=("checkpoint_sha256",),
    )
    return Rebuilt(maker.make(dataset), terms, maker.resolve(dataset)[2])


def _evaluation(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    science = recorded.science
    judge = science.checkpoints.get("predictor")
    predictor = materials.checkpoint(judge, "predictor") if judge else None
    maker = EvaluateMaker(
        predictor=predictor, seed=int(science.seed or 0), device=place.device, **_settings(EvaluateMaker, science)
    )
    checkpoint = materials.checkpoint(science.checkpoints["generator"], "generator")
    data = materials.dataset(science.inputs["data"], "held-out data")
    terms = Terms(ignored=("checkpoint", "data", "sampling_seconds"))
    rebuilt = maker.science(checkpoint, predictor, maker.held_out(checkpoint, Path(data)))
    return Rebuilt(maker.make(checkpoint, data, predictor), terms, rebuilt)


def _stages(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    science = recorded.science
    told = [materials.of_science(each, "evaluation") for each in science.inputs["evaluations"]]
    labels = science.parameters["labels"]
    job = CompareStagesMaker().make(labels, [EvaluationDoc.model_validate(each) for each in told], str(place.folder))
    # several evaluations may share a science: what they cost, and what they are called, decides nothing here
    ignored = ("table", "picture", *(f"stages.{label}.{name}" for label in labels for name in OF_AN_EVALUATION))
    return Rebuilt(job, Terms(ignored=ignored, soft=("provenance.files.picture",), files=True))


OF_AN_EVALUATION = ("checkpoint", "data", "sampling_seconds", "provenance.*")


def _crosscheck(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    science = recorded.science
    maker = CrossCheckMaker(seed=int(science.seed or 0), **_settings(CrossCheckMaker, science))
    parent, relaxed = (materials.dataset(science.inputs[name]) for name in ("parent", "dataset"))
    return Rebuilt(maker.make(parent, relaxed), Terms())


def _ingestion(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    science, document = recorded.science, recorded.document
    settings = {name: v for name, v in science.parameters.items() if name in {f.name for f in fields(IngestMaker)}}
    del settings["name"]
    maker = IngestMaker(dataset_name=science.parameters["name"], **settings)
    sources = [_source(each, materials) for each in document["sources"]]
    held = [_source(each, materials) for each in document["filters"]["held_out"]]
    if len(held) == len(maker.held_out):
        maker.held_out = held
    terms = Terms(ignored=("path", "rejects", "sources.*.location", "filters.held_out.*.location", *MOVED), files=True)
    return Rebuilt(maker.make(sources, str(place.folder / file_name(str(document["name"])))), terms)


# the manifest tells where sources lay, and the science what was typed for held-out ones
MOVED = ("provenance.files.path/manifest.json", "provenance.science.parameters.held_out.*")


def _source(told: Mapping[str, Any], materials: Materials) -> str:
    """What would be typed for a source. Raises ReplayError for a query and for a file that is gone."""
    location = str(told["location"])
    if location.startswith(("mp:", "optimade:", "store:")):
        raise ReplayError(f"its source {location} is a query, whose answer may have changed: it cannot be replayed")
    found = materials.file(location, told.get("sha256"))
    if found is None:
        raise ReplayError(f"its source {location} is not here: name it, or a folder with it, with --from")
    options = {**told.get("options", {}), "name": told["name"]}
    return f"{found}?{urlencode(options)}"


MAKERS: dict[str, Rebuild] = {
    "GenerateMaker": _generation,
    "ScreenMaker": _screening,
    "RelaxDatasetMaker": _relaxation,
    "MergeShardsMaker": _merge,
    "LabelMaker": _labelling,
    "MergeLabelsMaker": _label_merge,
    "TrainMaker": _training,
    "EvaluateMaker": _evaluation,
    "CompareStagesMaker": _stages,
    "CrossCheckMaker": _crosscheck,
    "IngestMaker": _ingestion,
    "CalculateMaker": calculation,
    "VerifyMaker": verification,
}
