"""The stages of GenerateMaker and ScreenMaker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import CompositionPlan, GenerationDoc, Origin

from .agreement import Terms
from .declaration import GPU, INPUTS, Names, Parent, Stage
from .rebuilding import Materials, Place, Rebuilt, Recorded, ReplayError, settings


def rebuild(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The same draws and templates, in the same plan of cells. Raises ReplayError."""
    from dao_flows.makers.generate import GenerateMaker
    from dao_flows.makers.generators.templates import candidate_id, template_id

    science = recorded.science
    used = {"generator": "checkpoint", "predictor": "predictor"}
    checkpoints: dict[str, Any] = {
        used[role]: materials.checkpoint(sha256, role) for role, sha256 in science.checkpoints.items()
    }
    library = science.inputs.get("library")
    maker = GenerateMaker(
        **checkpoints,
        seed=int(science.seed or 0),
        device=place.device,
        library=None if library is None else materials.library(library, place.folder),
        candidates=max(1, int(science.parameters.get("templates", 1))),  # of them the plan says how many are drawn
        **settings(GenerateMaker, science),
    )
    plan = _plan(science, recorded.document)
    rebuilt = maker.science(plan)
    if rebuilt.parameters.get("generator_sha256") != science.parameters.get("generator_sha256"):
        raise ReplayError(f"the generator {maker.generator!r} that is installed is not the one that drew it")
    draws = [(p.formula, c.z, index) for p in plan for c in p.cells for index in range(c.candidates)]
    renamed = {candidate_id(rebuilt, *draw): candidate_id(science, *draw) for draw in draws}
    for each in recorded.document["candidates"]:
        if (origin := each.get("origin")) is not None and origin.get("kind") != "drawn":
            template = (each["formula"], each["z"], Origin.model_validate(origin))
            renamed[template_id(rebuilt, *template)] = template_id(science, *template)
    return Rebuilt(maker.make(plan), Terms(renamed=renamed), rebuilt)


def _plan(science: Science, document: Mapping[str, Any]) -> list[CompositionPlan]:
    """The cells to draw: from the science, in the document's order, where cells without candidates stand too."""
    from dao_flows.makers.generate import told

    asked = {entry["formula"]: entry for entry in science.inputs["compositions"]}
    plan = [CompositionPlan.model_validate(entry) for entry in document["compositions"]]
    for entry in plan:
        if told(entry) != asked.get(entry.formula):
            raise ReplayError(f"the document's plan for {entry.formula} is not the one in its science: it was altered")
    if len(plan) != len(asked):
        raise ReplayError("the document's compositions are not those in its science: it was altered")
    return plan


def rebuild_screening(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """Screens the stored generation again. Raises ReplayError."""
    from dao_flows.makers.screen import ScreenMaker

    science = recorded.science
    relaxed = science.parameters["relax_iterations"] > 0
    given = settings(ScreenMaker, science)
    if not relaxed:
        del given["relax_iterations"]  # 0 says that there was none
    predictor = materials.checkpoint(science.checkpoints["predictor"], "predictor")
    maker = ScreenMaker(predictor=predictor, relax=relaxed, device=place.device, **given)
    job = recorded.document["generation"]["execution"].get("job_uuid")
    generation = GenerationDoc.model_validate(materials.of_science(science.inputs["generation"], "generation", job))
    rebuilt = maker.science(generation.provenance.science_hash)
    return Rebuilt(maker.make(generation), Terms(ignored=("*.energy.model", "*.judgement.model_version")), rebuilt)


GENERATION = Stage(
    name="generate",
    maker="dao_flows.makers.generate:GenerateMaker",
    document="dao_flows.makers.schemas.prediction:GenerationDoc",
    route=GPU,
    colour="#2f7ed8",
    label=f"generation of {{{INPUTS}.compositions[].formula}}",
    parents=(Parent("known crystals", (("dataset", f"{INPUTS}.library"),)),),
    rebuild=rebuild,
)
SCREENED: Names = (
    ("job", "generation.execution.job_uuid"),
    ("science", f"{INPUTS}.generation"),
    ("content", "generation.content_hash"),
)
SCREENING = Stage(
    name="screen",
    maker="dao_flows.makers.screen:ScreenMaker",
    document="dao_flows.makers.schemas.prediction:ScreeningDoc",
    route=GPU,  # DAO-P's energies and relaxation; DAO_FLOWS_ROUTES may send it to cpu
    colour="#1f9bb5",
    label="screening",
    parents=(Parent("screened", SCREENED),),
    rebuild=rebuild_screening,
)
