"""From a request to the makers that do it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.machine.places import REFERENCE
from dao_flows.makers.predict import PredictFlowMaker
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.screening.judge import chosen
from dao_flows.makers.verify import VerifyMaker
from dao_flows.model.files.places import checkpoint_in_full, library_in_full
from dao_flows.settings import Settings

from .request import PredictionRequest


def settled(request: PredictionRequest, config: Settings) -> PredictionRequest:
    """The request with what the settings say where nothing is asked for, and the judge that this comes to (None: none).

    Checkpoints and the library are named as in any folder. Raises ParameterError for a ranking that needs a judge.
    """
    judge, rank_by = chosen(request.judge or config.judge, request.rank_by)
    return replace(
        request,
        checkpoint=checkpoint_in_full(request.checkpoint or config.checkpoint),
        predictor=checkpoint_in_full(request.predictor or config.predictor),
        library=library_in_full(request.library or config.library),
        device=request.device or config.device,
        judge=judge,
        rank_by=rank_by,
    )


def prediction_maker(request: PredictionRequest) -> PredictFlowMaker:
    """The makers of a settled request: each is given what it has a field for, by name."""
    generate = GenerateMaker(**_of(request, GenerateMaker) | {"candidates": request.n, "predictor": None})
    guided = generate.guided if request.guidance is None else request.guidance
    return PredictFlowMaker(
        generate=replace(generate, predictor=str(request.predictor) if guided else None),
        screen=ScreenMaker(**_of(request, ScreenMaker)),
    )


def verifier(request: PredictionRequest, again: bool = False) -> VerifyMaker | None:
    """The maker of the verifications that are asked for, if they are. again: repeat what the store holds."""
    if request.verify_with is None:
        return None
    reference = REFERENCE(request.reference_set)
    return VerifyMaker(backend=request.verify_with, reference=reference, top=request.verify_top, again=again)


def _of(request: PredictionRequest, maker: type) -> dict[str, Any]:
    """What a request says of a maker's fields; what is None is left to the maker."""
    said = {field.name: getattr(request, field.name, None) for field in fields(maker)}
    return {name: value for name, value in said.items() if value is not None}
