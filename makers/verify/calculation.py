"""One calculation as one job, whose failure is a document and no exception."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jobflow.core.job import Job, JobConfig, Response
from jobflow.core.maker import Maker
from jobflow.core.state import CURRENT_JOB
from monty.json import jsanitize
from pymatgen.core.structure import Structure

from dao_flows.makers.jobs.provenance import (
    canonical_json,
    digest,
    execution_record,
    installed_version,
    provenance,
    science_hash,
)
from dao_flows.makers.jobs.reuse import stored
from dao_flows.makers.jobs.run_folder import run_folder
from dao_flows.makers.jobs.stage import stage
from dao_flows.makers.machine.folder_hashes import PREFIX, folder_hashes
from dao_flows.makers.machine.masking import mask
from dao_flows.makers.machine.places import Places
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.decoding import CALLS
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.verification import CalculationDoc
from dao_flows.model.files.places import absolute
from dao_flows.version import __version__

from . import codes
from .codes import results

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

MAX_RESTARTS = 8  # ABINIT's own limit in atomate2 is 5
LONGEST_ERROR = 400  # characters
PRINTED = "printed.txt"
PATIENCE = 5.0  # s, that a code is given to end itself
LONGEST_SETTING = 8_000  # characters; of longer ones the hash is told
# how and where a code is called, and what a job is called, decide no result
EXECUTION = {"name", "wall_time", "task_document_kwargs", *CALLS}


def calculator_in_full(calculator: Any) -> Any:
    """The maker, with the pseudopotentials that a user gave it as files in full."""
    held = getattr(calculator, "input_set_generator", None)
    pseudos = getattr(held, "pseudos", None)
    if not isinstance(pseudos, list | tuple):
        return calculator
    full = [absolute(each) if isinstance(each, str | Path) and Path(each).is_file() else each for each in pseudos]
    if full == list(pseudos):
        return calculator
    calculator = copy.deepcopy(calculator)
    calculator.input_set_generator.pseudos = full
    return calculator


@dataclass
class CalculateMaker(Maker):
    """Runs one of atomate2's makers on one structure, in a folder of its own under DAO_FLOWS_RUN_DIR.

    backend, code: as in Backend; step: its name in the backend; calculator: a maker whose `make(structure, ...)` gives
    one job. hands_on: give it the directory of the step before. cores: that the code runs on (None: what Slurm or
    OMP_NUM_THREADS says). again: compute even if the store has the result.
    """

    PLACES: ClassVar[Places] = {"calculator": calculator_in_full}

    name: str = "calculate"
    backend: str = ""
    code: str = ""
    step: str = ""
    calculator: Maker | None = None
    hands_on: bool = False
    cores: int | None = None
    again: bool = False

    def make(self, candidate_id: str, start: Structure | CalculationDoc) -> Job:
        """A job that begins at a structure, or where another calculation ended. Its output is a CalculationDoc."""
        built: Job = self.calculate(candidate_id, start)
        built.config = JobConfig(expose_store=True)  # one of its own: routing changes it in place
        return built

    @stage(output_schema=CalculationDoc)
    def calculate(self, candidate_id: str, start: Structure | CalculationDoc) -> CalculationDoc:
        """The calculation, or what the store holds of the same one; a failed start is passed on as it is.

        Whatever goes wrong becomes a document of a failed calculation; an interrupt or a kill does not.
        """
        before = start if isinstance(start, CalculationDoc) else None
        if before is not None and before.state == "failed":
            return before
        structure = before.structure if before is not None else start
        assert isinstance(structure, Structure)
        structure = structure.copy()  # abipy changes the class of what it is given
        began = datetime.now(UTC)
        calculator = copy.deepcopy(self.calculator)
        assert calculator is not None
        error: str | None = None
        pseudos: dict[str, str] = {}
        try:
            pseudos = codes.load(self.code).fill(calculator, structure)
        except ParameterError as lacking:
            error = str(lacking)
        science = self.science(calculator, structure, before, pseudos)
        known = {"candidate_id": candidate_id, "backend": self.backend, "step": self.step}
        if not self.again and (found := finished(CURRENT_JOB.store, science_hash(science))) is not None:
            return found.model_copy(update=known)
        folder = _new_folder(run_folder(science, f"{self.backend}-{self.step}".replace(" ", "-").replace(":", "-")))
        outcome, task, last = None, None, folder
        if error is None:
            try:
                with _contained(folder):
                    task, last = self._run(calculator, structure, before, folder)
                outcome = codes.of_document(task, self.code).read(task, last)
                if not outcome.converged:
                    raise results.UnconvergedError("the calculation ended without converging")
            except Exception as raised:
                error = self._one_line(raised, last if last != folder else _latest(folder))
        wall = (datetime.now(UTC) - began).total_seconds()
        sealed = provenance(science, execution_record(began, "cpu", {}))
        top = "" if last == folder else "../" * len(last.relative_to(folder).parts)
        sealed.files = {f"{PREFIX}{top}{name}": sha256 for name, sha256 in folder_hashes(folder).items()}
        return CalculationDoc(
            state="failed" if error else "successful",
            error=error,
            corrections=[c for place in _places(folder) for c in results.corrections(place)],
            directory=f"{platform.node()}:{last}",
            **(_figures(outcome) if outcome is not None else {}),
            task=results.task_dict(task) if task is not None else None,
            wall_seconds=wall,
            cores=self.cores or cores(),
            provenance=sealed,
            **known,
        )

    def science(
        self, calculator: Maker, structure: Structure, before: CalculationDoc | None, pseudos: Mapping[str, str]
    ) -> Science:
        """All that decides the result. calculator: with all that depends on the structure filled in."""
        return Science(
            maker=type(self).__name__,
            parameters={
                "step": self.step,
                "code": self.code,
                "program_version": self._version(calculator),
                "calculator": f"{type(calculator).__module__}.{type(calculator).__qualname__}",
                "settings": settings_of(calculator),
                "atomate2": installed_version("atomate2"),
            },
            inputs={
                "structure": digest(geometry(structure)),
                "previous": before.provenance.science_hash if before is not None else None,
                "pseudopotentials": dict(pseudos),
            },
            checkpoints={},
            code_version=__version__,
        )

    def _version(self, calculator: Maker) -> str | None:
        """Of the code's program, or of the package in which the maker computes, whichever code's it is."""
        program = codes.load(self.code).program
        if program is not None and (told := program.version()) is not None:
            return told
        return next(filter(None, (code.version(calculator) for code in codes.every(self.code))), None)

    def _one_line(self, error: BaseException, directory: Path) -> str:
        """What went wrong: the code's own words where it has any, then the exception."""
        raised = " ".join(mask(f"{type(error).__name__}: {error}").split())
        said = next(filter(None, (code.complaint(directory) for code in codes.every(self.code))), None)
        text = f"{said} ({raised})" if said else raised
        return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 1] + "…"

    def _run(
        self, calculator: Maker, structure: Structure, before: CalculationDoc | None, folder: Path
    ) -> tuple[Any, Path]:
        """The code's document and its directory. A code that asks for a restart gets it, each in its own subfolder."""
        handed: dict[str, Any] = {}
        if self.hands_on and before is not None and (there := Path(before.directory.partition(":")[2])).is_dir():
            handed["prev_dir"] = str(there)
        built = calculator.make(structure, **handed)
        for restart in range(MAX_RESTARTS + 1):
            if not isinstance(built, Job):
                raise TypeError(f"{type(calculator).__name__} gives a flow: a step is one job")
            place = folder if restart == 0 else folder / f"restart-{restart}"
            place.mkdir(exist_ok=True)
            with contextlib.chdir(place):
                response = _respond(built)
            if response.replace is None:
                stopped = response.stored_data.get("error") if response.stored_data else None
                if stopped is not None:
                    raise results.UnconvergedError(str(stopped))
                return response.output, place
            built = response.replace
        raise results.UnconvergedError(f"not converged after {MAX_RESTARTS} restarts")


@contextlib.contextmanager
def _contained(folder: Path) -> Iterator[None]:
    """What libraries print goes to a file, for stdout is the user's; an interrupt ends the code's processes too."""
    import psutil  # type: ignore[import-untyped]

    with (folder / PRINTED).open("a") as printed, contextlib.redirect_stdout(printed):
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception):
                started = psutil.Process().children(recursive=True)
                for process in started:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.terminate()
                for process in psutil.wait_procs(started, timeout=PATIENCE)[1]:
                    process.kill()
            raise


def cores() -> int:
    """Cores that a code called here runs on: Slurm's allocation, or OMP_NUM_THREADS, or 1."""
    if nodes := os.environ.get("SLURM_NTASKS"):
        return int(nodes) * int(os.environ.get("SLURM_CPUS_PER_TASK") or 1)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() and int(threads) else 1


def finished(store: JobStore | None, wanted: str) -> CalculationDoc | None:
    """A successful calculation of this science hash in a job store."""
    return None if store is None else stored(store, CalculationDoc, wanted, {"output.state": "successful"})


def _respond(built: Job) -> Response[Any]:
    """What a job's function returns, called here and now, as jobflow would call it."""
    function = getattr(built.function, "original", built.function)
    bound = getattr(built.function, "__self__", None)
    if bound is not None and not isinstance(bound, types.ModuleType):
        function = types.MethodType(function, bound)
    returned = function(*built.function_args, **built.function_kwargs)
    return returned if isinstance(returned, Response) else Response(output=returned)


def _figures(outcome: results.Outcome) -> dict[str, Any]:
    return {
        "structure": outcome.structure,
        "energy": outcome.energy,
        "energy_per_atom": outcome.energy / len(outcome.structure),
        "forces": outcome.forces,
        "stress": outcome.stress,
        "converged": outcome.converged,
        "ionic_steps": outcome.ionic_steps,
        "level": outcome.level,
        "forcefield_name": outcome.forcefield_name,
    }


def geometry(structure: Structure) -> dict[str, Any]:
    """Lattice, species, fractional coordinates and moments, as plain numbers."""
    return {
        "lattice": structure.lattice.matrix.tolist(),
        "species": [site.species_string for site in structure],
        "frac_coords": structure.frac_coords.tolist(),
        "magmom": jsanitize(structure.site_properties.get("magmom")),
    }


def settings_of(calculator: Maker) -> Any:
    """A maker's settings as plain data: no versions of libraries, no paths, the longest as hashes."""

    def plain(value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            kept = {str(k): plain(v, str(k)) for k, v in value.items() if k != "@version" and k not in EXECUTION}
            if isinstance(kept.get("pseudos"), list):
                kept["pseudos"] = [_content(each) for each in kept["pseudos"]]
            value = kept
        elif isinstance(value, list | tuple):
            value = [plain(item) for item in value]
        if isinstance(value, dict | list) and len(canonical_json(value)) > LONGEST_SETTING:
            return {"sha256": digest(value)}
        return value

    return plain(json.loads(json.dumps(jsanitize(calculator.as_dict(), strict=True, enum_values=True))))


def _content(pseudo: Any) -> Any:
    """A pseudopotential's file by its name and content: where it lies decides nothing."""
    path = Path(str(pseudo))
    return [path.name, hashlib.sha256(path.read_bytes()).hexdigest()] if path.is_file() else pseudo


def _new_folder(base: Path) -> Path:
    """The next attempt's folder, there and empty; earlier attempts stay for whoever wants to see what failed."""
    base.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            (base / f"attempt-{number}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return base / f"attempt-{number}"


def _places(folder: Path) -> list[Path]:
    """An attempt's folder and those of its restarts, in their order."""
    return [folder, *sorted(folder.glob("restart-*"))]


def _latest(folder: Path) -> Path:
    return _places(folder)[-1]
