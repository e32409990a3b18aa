"""VerifyMaker: a candidate through a backend's calculations to one document."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
from jobflow.core.flow import Flow
from jobflow.core.job import Job, JobConfig, Response
from jobflow.core.maker import Maker
from jobflow.core.reference import OutputReference
from jobflow.core.state import CURRENT_JOB
from pymatgen.core.structure import Structure

from dao_flows.makers.jobs.provenance import digest, execution_record, provenance
from dao_flows.makers.jobs.stage import stage
from dao_flows.makers.machine.places import QUERIES, REFERENCE, Places, told
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import ScreenedCandidate, ScreeningDoc
from dao_flows.makers.schemas.verification import CalculationDoc, CalculationRecord, HullEnergy, VerificationDoc
from dao_flows.makers.science.symmetry import LOOSE, symmetrised_primitive
from dao_flows.makers.science.validity import Rules, contact_fault, contacts, volume_fault
from dao_flows.version import __version__

from .backends import Backend, backend
from .calculation import CalculateMaker, calculator_in_full, geometry, settings_of

CPU = "cpu"  # category of workers for what takes no time


def steps_in_full(steps: Any) -> Any:
    """Makers by their step, with the files that they name in full."""
    return {step: calculator_in_full(maker) for step, maker in steps.items()} if isinstance(steps, Mapping) else steps


@dataclass
class VerifyMaker(Maker):
    """Sends candidates through a DFT code, or a force field, one job a calculation.

    backend: one of `codes.names()`, or 'forcefield:NAME'. steps: makers in place of the preset's, by the names of its
    steps; None leaves a step out, another name adds one at the end. reference: what the hull is made of, as in
    reference_set; None: no hull. category: of the workers that run the calculations (FireWorks' _category). cores,
    again: as in CalculateMaker. top: best-ranked candidates of each composition that verify_screening takes. symprec:
    Å, at which the cells that go in are symmetrised.
    """

    PLACES: ClassVar[Places] = {"reference": REFERENCE, "steps": steps_in_full}

    name: str = "verify"
    backend: str = "abinit"
    steps: dict[str, Maker | None] = field(default_factory=dict)
    reference: str | None = None
    category: str = "dft"
    cores: int | None = None
    again: bool = False
    top: int = 3
    symprec: float = LOOSE

    def make(self, structure: Structure, candidate_id: str, science_hash: str, formula: str) -> Flow:
        """A flow of the calculations of one candidate, whose output is a VerificationDoc.

        science_hash: of the screening that ranked the candidate. Raises ParameterError for a backend or step that
        cannot be. A candidate that cannot be a crystal is not sent: the flow only writes the document that says so.
        """
        preset = self.preset()
        sent = symmetrised_primitive(structure, self.symprec)
        fault = unfit(sent)
        jobs: list[Job] = []
        start: Any = sent
        for step, calculator in preset.steps.items() if fault is None else ():
            maker = CalculateMaker(
                name=f"{step} {candidate_id}",
                backend=preset.name,
                code=preset.code,
                step=step,
                calculator=calculator,
                hands_on=preset.hands_on,
                cores=self.cores,
                again=self.again,
            )
            jobs.append(maker.make(candidate_id, start))
            route(jobs[-1], self.category)
            start = jobs[-1].output
        about = {
            "verification_id": self.verification_id(preset, sent, candidate_id),
            "candidate_id": candidate_id,
            "candidate_science_hash": science_hash,
            "formula": formula,
            "chemsys": structure.composition.chemical_system,
            "backend": preset.name,
        }
        summary = summarise(about, sent, [each.output for each in jobs], self.reference, fault)
        summary.config = JobConfig(expose_store=True)  # a reference set may be of that store
        summary.name = f"{self.name} {candidate_id}"
        route(summary, CPU)
        return Flow([*jobs, summary], output=summary.output, name=f"{self.name} {candidate_id}")

    def preset(self) -> Backend:
        """The backend with the user's makers in it. Raises ParameterError."""
        return backend(self.backend).replaced(self.steps)

    def check(self, elements: Collection[str]) -> None:
        """Raises ParameterError, one line, if the calculations could not run on this machine for these elements.

        And ReferenceSetError for a reference set that cannot be read.
        """
        if self.top < 1:
            raise ParameterError(f"top must be at least 1, not {self.top}")
        self.preset().check(elements)
        if self.reference is not None and not self.reference.startswith("store:"):  # that is the job's, not there yet
            from dao_flows.makers.reference import reference_set

            reference_set(self.reference)

    def check_reference(self) -> None:
        """Raises ReferenceSetError for a file of entries that is not there or cannot be read, before a submission."""
        if self.reference is not None and not self.reference.startswith(QUERIES):
            from dao_flows.makers.reference import reference_set

            reference_set(self.reference)

    def verification_id(self, preset: Backend, sent: Structure, candidate_id: str) -> str:
        """An id that the same verification has in every run, failed or not."""
        makers = {step: settings_of(maker) for step, maker in preset.steps.items()}
        reference = None if self.reference is None else told(self.reference)
        return "ver-" + digest([candidate_id, geometry(sent), preset.name, makers, reference])[:12]


def unfit(structure: Structure) -> str | None:
    """Why a structure is not worth a calculation, or None: screening's own rules, on the cell that would be sent."""
    return volume_fault(structure, Rules()) or contact_fault(contacts(structure), Rules())


def best(screening: ScreeningDoc, top: int) -> list[ScreenedCandidate]:
    """The best-ranked candidates of each composition, in the document's order."""
    return [candidate for candidate in screening.accepted if candidate.rank <= top]


def verify_screening(
    screening: ScreeningDoc | OutputReference, maker: VerifyMaker | None = None, top: int | None = None
) -> Job:
    """A job that sends the best-ranked candidates of a screening (or of the output of its job) through a VerifyMaker.

    top: of each composition (None: the maker's). Its output is a list of VerificationDocs.
    """
    maker = maker or VerifyMaker()
    built: Job = verify_candidates(screening, maker, maker.top if top is None else top)
    built.name = maker.name
    route(built, CPU)
    return built


@stage
def verify_candidates(screening: ScreeningDoc, maker: VerifyMaker, top: int) -> Response[Any]:
    """A flow for each of the best-ranked candidates; every job keeps its own route, whatever this one's is."""
    chosen = best(screening, top)
    if not chosen:
        return Response(output=[])
    flows = [maker.make(c.structure, c.candidate_id, screening.provenance.science_hash, c.formula) for c in chosen]
    flow = Flow(flows, output=[each.output for each in flows], name=maker.name)
    if (parent := CURRENT_JOB.job) is not None:
        flow.update_metadata(dict(parent.metadata))
        keep_routes(parent)
    return Response(replace=flow)


@stage(output_schema=VerificationDoc, places={"reference": REFERENCE})
def summarise(
    about: Mapping[str, str],
    sent: Structure,
    calculations: list[CalculationDoc],
    reference: str | None,
    fault: str | None,
) -> VerificationDoc:
    """The document of one candidate from those of its calculations, with its energy against a reference set."""
    began = datetime.now(UTC)
    ran = list({calculation.provenance.science_hash: calculation for calculation in calculations}.values())
    failed = next((calculation for calculation in ran if calculation.state == "failed"), None)
    science = Science(
        maker="VerifyMaker",
        parameters={"backend": about["backend"], "reference": None if reference is None else told(reference)},
        inputs={
            "candidate": about["candidate_id"],
            "screening": about["candidate_science_hash"],
            "calculations": [calculation.provenance.science_hash for calculation in ran],
            "fault": fault,
        },
        checkpoints={},
        code_version=__version__,
    )
    error: str | None = None
    if fault is not None:
        error = f"not sent: {fault}"
    elif failed is not None:
        error = f"{failed.step}: {failed.error}"
    last = ran[-1] if ran and failed is None else None
    figures: dict[str, Any] = {}
    if last is not None:
        stress = next((each.stress for each in reversed(ran) if each.stress is not None), None)
        figures = {
            "structure": last.structure,
            "energy": last.energy,
            "energy_per_atom": last.energy_per_atom,
            "max_force": float(np.linalg.norm(last.forces, axis=1).max()) if last.forces else None,
            "stress": stress,
            "converged": all(each.converged for each in ran),
        }
        figures["hull"], error = _hull(reference, last)
    return VerificationDoc(
        **about,
        state="successful" if last is not None else "failed",
        error=error,
        level=next((each.level for each in reversed(ran) if each.level is not None), None),
        sent=sent,
        calculations=[_record(each) for each in ran],
        core_seconds=sum(each.wall_seconds * each.cores for each in ran),
        provenance=provenance(science, execution_record(began, "cpu", {"reference": reference} if reference else {})),
        **figures,
    )


def _hull(reference: str | None, last: CalculationDoc) -> tuple[HullEnergy | None, str | None]:
    """Against the reference set, if one is asked for; or why not: that undoes no calculation."""
    if reference is None or last.structure is None or last.energy is None or last.level is None:
        return None, None
    from dao_flows.makers.reference import hull_energy, reference_set

    try:
        return hull_energy(reference_set(reference, CURRENT_JOB.store), last.structure, last.energy, last.level), None
    except Exception as error:  # its own errors, and those of the network
        return None, "no hull: " + " ".join(f"{error or type(error).__name__}".split())


def _record(calculation: CalculationDoc) -> CalculationRecord:
    shared = set(CalculationRecord.model_fields) & set(CalculationDoc.model_fields)
    return CalculationRecord(
        **{name: getattr(calculation, name) for name in shared},
        job_uuid=calculation.provenance.execution.job_uuid or "",
    )


def route(built: Job, category: str) -> None:
    """Send a job to the workers of a category, and leave its children to their own."""
    built.config.manager_config = {**built.config.manager_config, "_category": category}
    built.config.pass_manager_config = False


def keep_routes(parent: Job) -> None:
    """Let a running job's children keep their routes: neither its own nor one set for all is passed on to them.

    What was set for jobs of certain names goes on to them. jobflow adds a job that stores the flow's output: it needs a
    route too, for workers of a category take no job without one.
    """
    parent.config.pass_manager_config, parent.config.response_manager_config = False, {}
    chosen = [
        update
        for update in parent.config_updates
        if update.get("name_filter") or update.get("function_filter") or not _sets_route(update["config"])
    ]
    storing = {"config": {"manager_config": {"_category": CPU}}, "name_filter": "store_inputs"}
    parent.config_updates = [*chosen, storing]


def _sets_route(config: JobConfig | Mapping[str, Any]) -> bool:
    return not isinstance(config, Mapping) or "manager_config" in config
