"""The stage of ScreenMaker."""

from __future__ import annotations

from dao_flows.makers.schemas.prediction import GenerationDoc

from .agreement import Terms
from .declaration import GPU, INPUTS, Names, Parent, Stage
from .rebuilding import Materials, Place, Rebuilt, Recorded, settings


def rebuild(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
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
    rebuild=rebuild,
)
