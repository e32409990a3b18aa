"""The stages of VerifyMaker: calculations, and the verifications that sum them up.

Replayed, a verification is put together again from its calculations; a calculation is compared by what went in and
what came out, or is run again where that is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dao_flows.makers.jobs.provenance import digest, science_hash
from dao_flows.makers.machine.places import QUERIES, SHA256
from dao_flows.makers.schemas import decoding
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.verification import CalculationDoc
from dao_flows.makers.verify import codes

from .agreement import CALCULATION as TOLERANCE
from .agreement import Difference, Terms, agree
from .declaration import CPU, INPUTS, Parent, Route, Stage
from .rebuilding import Materials, Place, Rebuilt, Recorded, ReplayError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

ABOUT = ("verification_id", "candidate_id", "candidate_science_hash", "formula", "chemsys", "backend")


def rebuild(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The job that sums up a verification from the stored documents of its calculations. Raises ReplayError."""
    from dao_flows.makers.science.symmetry import LOOSE, symmetrised_primitive
    from dao_flows.makers.verify.verify import summarise, unfit

    document, science = recorded.document, recorded.science
    ran = {each["step"]: each.get("job_uuid") for each in document["calculations"]}
    jobs = list(ran.values())
    calculations = []
    for number, wanted in enumerate(science.inputs["calculations"]):
        found = materials.of_science(wanted, "calculation", jobs[number] if number < len(jobs) else None)
        calculations.append(CalculationDoc.model_validate(found))
    screening = materials.of_science(document["candidate_science_hash"], "screening")
    candidate = next((c for c in screening["accepted"] if c["candidate_id"] == document["candidate_id"]), None)
    if candidate is None:
        raise ReplayError(f"the screening of {document['candidate_id']} did not accept it: a document was altered")
    sent = symmetrised_primitive(decoding.structure(candidate["structure"]), LOOSE)
    reference = science.parameters["reference"]
    note: str | None = None
    ignored: tuple[str, ...] = ("hull.reference",)
    if reference is not None and reference.startswith(QUERIES):
        note = f"the hull is not compared: {reference} is a query, whose answer changes"
        reference, ignored = None, ("hull", "hull.*", "error", "provenance.science.parameters.reference")
    elif reference is not None:
        reference = reference_file(reference, recorded, materials)
        ignored = (*ignored, "provenance.science.parameters.reference")
    about = {name: document[name] for name in ABOUT}
    fault = unfit(sent) if science.inputs["fault"] is not None else None
    job = summarise(about, sent, calculations, reference, fault)
    return Rebuilt(job, Terms(tolerance=TOLERANCE, ignored=ignored), None, note)


def reference_file(told: str, recorded: Recorded, materials: Materials) -> str:
    """The file of a reference set, which the science tells by its name and sha256. Raises ReplayError."""
    named, _, sha256 = told.rpartition(f" {SHA256}")
    if not named:  # an older document has the path that was typed
        return told
    path, _, query = str((recorded.execution.get("checkpoints") or {}).get("reference") or named).partition("?")
    found = materials.file(path, sha256)
    if found is None:
        raise ReplayError(f"its reference set {named} is not here: name it, or a folder with it, with --from")
    return f"{found}?{query}" if query else found


def rebuild_calculation(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The job that calculates it again. Raises ReplayError where its calculator cannot be had."""
    from dao_flows.makers.verify.calculation import CalculateMaker

    document, science = recorded.document, recorded.science
    start = _start(recorded, materials)
    structure = start.structure if isinstance(start, CalculationDoc) else start
    assert structure is not None
    hands_on, calculator, pseudos = _calculator(document["backend"], science, structure, materials.trust)
    maker = CalculateMaker(
        backend=document["backend"],
        code=science.parameters["code"],
        step=document["step"],
        calculator=calculator,
        hands_on=hands_on,
        again=True,
    )
    filled = copy.deepcopy(calculator)
    codes.load(maker.code).fill(filled, structure)
    before = start if isinstance(start, CalculationDoc) else None
    ignored = ("directory", "wall_seconds", "cores", "task", "task.*", "corrections", "corrections.*")
    return Rebuilt(
        maker.make(document["candidate_id"], start),
        Terms(tolerance=TOLERANCE, ignored=ignored),
        maker.science(filled, structure, before, pseudos),
    )


def checked(recorded: Recorded, materials: Materials) -> list[Difference]:
    """A calculation's inputs and outputs against what they follow from, without running it."""
    return list(_checks(recorded, materials))


def _checks(recorded: Recorded, materials: Materials) -> Iterator[Difference]:
    from dao_flows.makers.verify.calculation import geometry

    document, science = recorded.document, recorded.science
    stated = document["provenance"]["science_hash"]
    if (found := science_hash(science)) != stated:
        yield Difference(path="provenance.science_hash", recorded=stated, replayed=found)
    start = _start(recorded, materials)
    structure = start.structure if isinstance(start, CalculationDoc) else start
    assert structure is not None
    went_in = digest(geometry(structure))
    if went_in != science.inputs["structure"]:
        path = "provenance.science.inputs.structure"
        yield Difference(path=path, recorded=science.inputs["structure"], replayed=went_in)
    try:
        _calculator(document["backend"], science, structure, materials.trust)
    except SettingsDifferError as error:
        yield error.difference
    if document["structure"] is None:
        return
    atoms = len(document["structure"]["sites"])
    if document["energy"] is not None:
        each = document["energy"] / atoms
        if each != document["energy_per_atom"]:
            yield Difference(path="energy_per_atom", recorded=document["energy_per_atom"], replayed=each)
        told = (document.get("task") or {}).get("output") or {}
        if (energy := told.get("energy")) is not None and energy != document["energy"]:
            yield Difference(path="energy", recorded=document["energy"], replayed=energy)
        if isinstance(out := told.get("structure"), Mapping) and (
            beyond := agree({"structure": document["structure"]}, {"structure": out}).first
        ):
            yield beyond


class SettingsDifferError(ReplayError):
    """The recorded calculator is not the preset's, nor can it be made from the record."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(f"its calculator is not that of the preset: {difference.line()}")
        self.difference = difference


def _start(recorded: Recorded, materials: Materials) -> Structure | CalculationDoc:
    """What the calculation began from: another one, or the candidate's symmetrised primitive cell."""
    from dao_flows.makers.science.symmetry import LOOSE, symmetrised_primitive
    from dao_flows.makers.verify.calculation import geometry

    science, document = recorded.science, recorded.document
    if previous := science.inputs["previous"]:
        return CalculationDoc.model_validate(materials.of_science(previous, "calculation before"))
    name = document["candidate_id"]
    own = materials.structure(name)
    sent = [] if own is None else [symmetrised_primitive(decoding.structure(own), LOOSE)]
    sent += [decoding.structure(each) for each in materials.sent(name)]
    if not sent:
        raise ReplayError(f"its candidate {name} is not in the store any more")
    return next((each for each in sent if digest(geometry(each)) == science.inputs["structure"]), sent[0])


def _calculator(
    name: str, science: Science, structure: Structure, trust: Sequence[str]
) -> tuple[bool, Any, dict[str, str]]:
    """Whether it is handed the folder of the one before, the calculator, and its pseudopotentials.

    The preset's, if its settings are the recorded ones, else made from these. Raises SettingsDifferError, and
    ReplayError for a maker of a module that is not trusted.
    """
    from dao_flows.makers.verify.backends import backend
    from dao_flows.makers.verify.calculation import settings_of

    parameters = science.parameters
    preset = backend(name)
    first: Difference | None = None
    untrusted: decoding.UntrustedError | None = None
    options: tuple[Callable[[], Any], ...] = (
        lambda: preset.steps.get(parameters["step"]),
        lambda: decoding.maker(parameters["settings"], trust),
    )
    for made in options:
        try:
            calculator = made()
        except decoding.DecodingError as error:
            untrusted = error if isinstance(error, decoding.UntrustedError) else None
            continue
        if calculator is None:
            continue
        filled = copy.deepcopy(calculator)
        pseudos = codes.load(parameters["code"]).fill(filled, structure.copy())
        found = agree({"settings": parameters["settings"]}, {"settings": settings_of(filled)}).first
        if found is None:
            return preset.hands_on, calculator, pseudos
        first = first or found
    differs = SettingsDifferError(
        first or Difference(path="settings", recorded=parameters["calculator"], replayed=None)
    )
    if untrusted is not None:
        raise ReplayError(f"{differs}; {untrusted}: {untrusted.options} makes it as it was recorded")
    raise differs


CALCULATION = Stage(
    name="calculate",
    maker="dao_flows.makers.verify.calculation:CalculateMaker",
    document="dao_flows.makers.schemas.verification:CalculationDoc",
    route=Route(category="dft", walltime="24:00:00"),
    colour="#4c9f50",
    label="{backend} {step}",
    parents=(
        Parent("goes on from", (("science", f"{INPUTS}.previous"),)),
        Parent("calculated", (("candidate", "candidate_id"),), sought=False),
    ),
    rebuild=rebuild_calculation,
    check=checked,
)
VERIFICATION = Stage(
    name="verify",
    maker="dao_flows.makers.verify.verify:VerifyMaker",
    document="dao_flows.makers.schemas.verification:VerificationDoc",
    route=CPU,
    functions=("verify_candidates", "summarise"),
    colour="#2e7d32",
    label="{formula} {verification_id}",
    id="verification_id",
    parents=(
        Parent("verified", (("candidate", "candidate_id"),), sought=False),
        Parent("ranked by", (("science", "candidate_science_hash"), ("science", f"{INPUTS}.screening"))),
        Parent("calculated", (("job", "calculations[].job_uuid"), ("science", f"{INPUTS}.calculations"))),
        Parent("energies against", (("reference", "hull.reference_sha256"),), (("name", "hull.reference"),)),
    ),
    rebuild=rebuild,
)
