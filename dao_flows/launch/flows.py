"""The flows that the local commands run, one at a time, each with the hash of all that decides its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dao_flows.api.prediction.batches import plan_batches
from dao_flows.api.prediction.makers import prediction_maker, settled, verifier
from dao_flows.api.reuse import stored_batches, whole
from dao_flows.errors import InputError
from dao_flows.makers.generators.generator import DAO_G
from dao_flows.makers.jobs.provenance import digest
from dao_flows.makers.machine.places import maker_in_full, told
from dao_flows.makers.models.checkpoints import card
from dao_flows.makers.science.symmetry import symmetrised_primitive
from dao_flows.makers.verify import VerifyMaker
from dao_flows.model.checkpoint.format import verify as verify_checkpoint
from dao_flows.model.checkpoint.library import available
from dao_flows.model.checkpoint.library import find as find_checkpoint
from dao_flows.model.files.places import library_in_full
from dao_flows.model.templates.places import available as libraries
from dao_flows.model.templates.places import open_library
from dao_flows.store.candidates import find as find_candidate
from dao_flows.version import __version__

if TYPE_CHECKING:
    from jobflow.core.flow import Flow
    from jobflow.core.store import JobStore
    from maggma.core import Store

    from dao_flows.api.prediction.inputs import Entry
    from dao_flows.api.prediction.request import PredictionRequest
    from dao_flows.api.pretrain import PretrainConfig
    from dao_flows.api.rounds.improve import ImproveConfig
    from dao_flows.settings import Settings


@dataclass(frozen=True)
class Planned:
    """A flow to submit. key: science hash, the same for the same result; label: what it is about, in a few words.

    reuse: its jobs take stored results of the same science.
    """

    kind: str
    key: str
    label: str
    flow: Flow
    reuse: bool = False


def predict_flows(
    entries: Sequence[Entry], config: Settings, request: PredictionRequest, again: bool = False
) -> list[Planned]:
    """A flow for each batch of formulas, with the same makers as `dao_flows.predict`, all checked.

    again: repeat verifications that the store holds. Checkpoints and libraries that are installed go by their sha256,
    for a name may mean another where the job runs; the device is looked for there. Raises InputError, CompositionError,
    ParameterError, CheckpointError and DataError.
    """
    asked = settled(request, config)
    asked = replace(
        asked,
        checkpoint=pinned(str(asked.checkpoint), "dao-g") if asked.generator == DAO_G else asked.checkpoint,
        predictor=pinned(str(asked.predictor), "dao-p"),
        library=_pinned_library(str(asked.library), asked.templates),
    )
    verifying = verifier(asked, again)
    if verifying is not None:
        verifying = _checked(verifying)
    planned = []
    for batch in plan_batches(list(entries), prediction_maker(asked), config.batch_candidates):
        flow = replace(batch.maker, verify=verifying).flow(batch.formulas)
        key = batch.key if verifying is None else digest([batch.key, _verification(verifying)])
        planned.append(Planned("predict", key, _names(batch.formulas), flow))
    return planned


def not_stored(planned: Sequence[Planned], jobs: JobStore) -> list[Planned]:
    """Those whose result is not in the store yet, marked so that their jobs take what there is of their parts."""
    there = stored_batches(jobs, [each.key for each in planned if each.kind == "predict"])
    return [replace(each, reuse=True) for each in planned if each.key not in there or not whole(jobs, there[each.key])]


def verify_flows(references: Sequence[str], candidates: Store, maker: VerifyMaker) -> list[Planned]:
    """A flow for each stored candidate, given by id or the beginning of one. Raises InputError and ParameterError."""
    if not references:
        raise InputError("no candidate given: `dao-flows list` shows their ids")
    found = {c.candidate_id: c for c in (find_candidate(candidates, reference) for reference in references)}
    maker = _checked(maker)
    preset = maker.preset()
    planned = []
    for candidate in found.values():
        sent = symmetrised_primitive(candidate.structure, maker.symprec)
        key = digest(["verify", maker.verification_id(preset, sent, candidate.candidate_id), __version__])
        screening = candidate.screening.science_hash
        flow = maker.make(candidate.structure, candidate.candidate_id, screening, candidate.formula)
        planned.append(Planned("verify", key, f"{candidate.candidate_id} {maker.backend}", flow))
    return planned


def pretrain_flows(config: PretrainConfig) -> list[Planned]:
    """The one flow of a pretraining. Raises what `PretrainConfig.flow` does."""
    key = digest(["pretrain", config.model_dump(mode="json"), __version__])
    return [Planned("pretrain", key, config.name, config.flow())]


def improve_flows(config: ImproveConfig) -> list[Planned]:
    """The one flow of rounds. Raises what `ImproveConfig.flow` does."""
    key = digest(["improve", config.model_dump(mode="json"), __version__])
    return [Planned("improve", key, config.name, config.flow())]


def pinned(reference: str, kind: str) -> str:
    """The sha256 of a checkpoint of this kind that is there and whole; its path in full if it is in no library."""
    sha256: str = card(reference, kind).sha256
    folder = find_checkpoint(reference)
    verify_checkpoint(folder)
    return sha256 if folder in available().values() else str(folder)


def _pinned_library(reference: str, templates: int | None) -> str:
    """The sha256 of an installed library; the path in full of another; as it is where no templates are wanted."""
    if templates == 0:
        return library_in_full(reference)
    library = open_library(reference)
    return library.sha256 if library.folder in libraries().values() else str(library.folder)


def _checked(maker: VerifyMaker) -> VerifyMaker:
    """The maker with its files named in full, all there. Whether the backend's program is shows where the job runs."""
    maker = maker_in_full(maker)
    maker.preset()
    maker.check_reference()
    return maker


def _verification(maker: VerifyMaker) -> dict[str, Any]:
    described: dict[str, Any] = maker.as_dict()
    kept = {name: described[name] for name in ("backend", "steps", "reference", "top", "symprec")}
    return kept if maker.reference is None else kept | {"reference": told(maker.reference)}


def _names(formulas: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(formulas) - shown} more" if len(formulas) > shown else ""
    return ", ".join(formulas[:shown]) + more
