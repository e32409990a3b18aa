"""Fuzzes what reads documents: whatever they name, at any depth, is neither imported nor called.

Each input is a document of a store, an entry of a reference set, a structure or a calculator's settings, in which up
to three objects that monty (or FireWorks, or ASE) would make stand at random places: in the place of a value, beside
it, or around it. Hashes that a document states are made to fit, as whoever altered it would. It goes through all
readers that could take it. What they accept is then decoded by monty, as jobflow does with all that one job hands to
the next. Meanwhile nothing may be imported, compiled, started, connected or written: an audit hook of Python's watches.

Example: python benchmarks/fuzz_documents.py --inputs 100000 --seed 1
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import platform
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobflow.core.reference import find_and_get_references
from monty.json import MontyDecoder, MontyEncoder, jsanitize
from pydantic import BaseModel, ValidationError
from pymatgen.core import Lattice, Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry, ConstantEnergyAdjustment

from dao_flows.crate import Limits
from dao_flows.crate.documents import DocumentError, check, written
from dao_flows.makers.jobs import reuse
from dao_flows.makers.jobs.provenance import content_hash, digest, execution_record, provenance
from dao_flows.makers.reference import entry_decoding
from dao_flows.makers.reference.entry_files import read_file
from dao_flows.makers.reference.sets import ReferenceSetError
from dao_flows.makers.schemas import decoding
from dao_flows.makers.schemas.dataset import DatasetDoc
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import (
    CandidateDoc,
    Energy,
    GeneratedCandidate,
    GenerationDoc,
    ScreenedCandidate,
    ScreeningDoc,
    Validity,
)
from dao_flows.makers.schemas.verification import CalculationDoc, Level, VerificationDoc

CANARY = "hostile_canary"  # a module that is there to be imported
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir", "os.chmod")
STARTS += ("subprocess.Popen", "socket.connect", "socket.getaddrinfo", "shutil.rmtree", "ctypes.dlopen", "import")
STARTS += ("exec", "compile", "pickle.find_class", "marshal.loads", "code.__new__", "pty.spawn", "sqlite3.connect")
BOUNDS = Limits()
SALT = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]], site_properties={"magmom": [0.0, 1.0]})
THING = {"@module": CANARY, "@class": "Thing"}
CALCULATOR = {"@module": "atomate2.forcefields.jobs", "@class": "ForceFieldRelaxMaker", "force_field_name": "CHGNet"}
SYSTEM = {"@module": "os", "@callable": "system"}
HOSTILE: list[Any] = [
    THING,
    {"@module": CANARY, "@callable": "call"},
    {"@module": CANARY, "@callable": "Thing.call", "@bound": THING},
    {"@module": CANARY, "@class": "Colour", "value": "red"},
    {"@module": CANARY, "@class": "Fields", "inner": THING},
    {"@module": CANARY + ".deeper", "@class": "Thing", "@version": "1"},
    SYSTEM,
    {"@module": "subprocess", "@class": "Popen", "args": ["true"]},
    {"@module": "builtins", "@callable": "exec"},
    {"@module": "pathlib", "@class": "Path", "string": "/"},
    {"@module": "torch", "@class": "Tensor", "dtype": "torch.FloatTensor", "data": [THING]},
    {"@module": "pandas", "@class": "DataFrame", "data": json.dumps({"a": [THING]})},
    {"@module": "pint", "@class": "Quantity", "data": "1 m"},
    {"@module": "bson.dbref", "@class": "DBRef", "collection": "x", "id": THING},
    {"@module": "numpy", "@class": "array", "dtype": "object", "data": [THING]},
    {"@module": "jobflow.core.reference", "@class": "OutputReference", "uuid": "x", "attributes": [], "schema": THING},
    {"@module": "jobflow.core.job", "@class": "Job", "function": SYSTEM, "function_args": ["true"]},
    {"@module": "maggma.stores.mongolike", "@class": "MemoryStore", "collection_name": THING},
    {"@module": "monty.json", "@callable": "load"},
    {"@object_reference": "x"},
    {"_fw_name": "{{" + CANARY + ".Thing}}"},
    {"__ase_objtype__": "atoms", "numbers": [1]},
    {**CALCULATOR, "force_field_name": "os.system"},
    {**CALCULATOR, "calculator_meta": f"{CANARY}.call", "calculator_kwargs": {"model": "/x"}},
    {**CALCULATOR, "force_field_name": {"@module": CANARY, "@callable": "call"}},
    {"@module": CALCULATOR["@module"], "@callable": "ForceFieldRelaxMaker.make", "@bound": CALCULATOR},
    {"@module": "pymatgen.core.structure", "@class": "Structure", "lattice": THING, "sites": [THING]},
    {"@module": "pymatgen.entries.computed_entries", "@class": "ComputedEntry", "energy": 1, "parameters": THING},
    {"@module": "dao_flows.makers.schemas.prediction", "@class": "Science", "parameters": THING},
    {"@module": [CANARY], "@class": {"@module": CANARY, "@callable": "call"}},
    {"@module": CANARY, "@class": "Thing", "@callable": "call", "@bound": {"@class": "Thing"}},
]
WORDS = ("x", "settings", "properties", "parameters", "data", "structure", "@module", "@class", "@bound", "cls", "uuid")


class _Lone:
    """A store of one document, as `reuse.stored` asks it."""

    def __init__(self, output: dict[str, Any]) -> None:
        self.job = {"uuid": "job-1", "index": 1, "completed_at": "", "output": output}

    def query(self, criteria: dict[str, Any], **_: Any) -> Iterator[dict[str, Any]]:
        """That document, if it states the science hash that is asked for."""
        if criteria[reuse.SCIENCE_HASH] == _hash_of(self.job["output"]):
            yield self.job


def bases() -> list[tuple[str, Any]]:
    """Documents as they stand in a database or file, by kind."""

    def of(maker: str, **parameters: Any) -> Any:
        science = Science(
            maker=maker, parameters=parameters, inputs={"of": {"a": [1]}}, checkpoints={}, code_version="0"
        )
        return provenance(science, execution_record(datetime.now(UTC), "cpu", {}))

    names = {"candidate_id": "dao-1", "formula": "NaCl", "z": 1}
    energy = Energy(value=0.0, model="judge", model_sha256="0" * 64)
    validity = Validity(
        shortest_distance=2, shortest_pair="Cl-Na", distance_ratio=1, volume_per_atom=20, charge_neutral=True
    )
    screened = ScreenedCandidate(
        **names, rank=1, structure=SALT, generated_structure=SALT, refined_structure=None, energy=energy,
        validity=validity, symmetry_tight=None, symmetry_loose=None,
    )  # fmt: skip
    generation, screening = of("GenerateMaker", steps=4), of("ScreenMaker", rank_by="energy")
    about = {"candidate_id": "dao-1", "backend": "forcefield"}
    documents: list[BaseModel] = [
        GenerationDoc(
            compositions=[], candidates=[GeneratedCandidate(**names, index=0, structure=SALT)], provenance=generation
        ),
        ScreeningDoc(accepted=[screened], rejected=[], generation=generation, provenance=screening),
        CandidateDoc(
            **{name: getattr(screened, name) for name in ScreenedCandidate.model_fields},
            n_atoms=2, elements=["Cl", "Na"], chemsys="Cl-Na", seed=0, generation=generation, screening=screening,
        ),
        CalculationDoc(
            **about, state="successful", step="relax", directory="here:/", structure=SALT, energy=-1.0, wall_seconds=1,
            cores=1, task={"output": {"energy": -1.0}}, provenance=of("CalculateMaker", settings=CALCULATOR),
        ),
        VerificationDoc(
            **about, verification_id="ver-1", state="successful", candidate_science_hash="0", formula="NaCl",
            chemsys="Cl-Na", sent=SALT, structure=SALT, energy=-1.0, calculations=[], core_seconds=1.0,
            level=Level(code="CHGNet", functional="CHGNet"), provenance=of("VerifyMaker"),
        ),
        DatasetDoc(
            path="/data", sha256="0" * 64, name="set", rows=1, shards=1, counts={"train": 1}, columns={"frac": "list"},
            sources=[{"name": "a"}], filters={"max_atoms": 20}, rejects="/r", provenance=of("IngestMaker"),
        ),
    ]  # fmt: skip
    scheme = MaterialsProject2020Compatibility().as_dict()
    entries = [
        ComputedEntry("NaCl", -7, parameters={"run_type": "GGA", "potcar_spec": [{"titel": "Na"}]}, data={"a": 1}),
        ComputedStructureEntry(SALT, -7, energy_adjustments=[ConstantEnergyAdjustment(-0.1, cls=scheme)]),
    ]  # fmt: skip
    found: list[tuple[str, Any]] = [("document", jsanitize(document, strict=True)) for document in documents]
    found += [("entry", json.loads(json.dumps(entry, cls=MontyEncoder))) for entry in entries]
    found.append(("structure", SALT.as_dict()))
    relax = {"relax_kwargs": {"fmax": 0.1}, "calculator_kwargs": {}, "steps": 5}
    found.append(("settings", {**CALCULATOR, **relax}))
    own = {"@module": "dao_flows.makers.screen", "@class": "ScreenMaker", "top_k": 1}
    return [*found, ("settings", own)]


KINDS: dict[str, type[BaseModel]] = {
    kind.__name__: kind
    for kind in (GenerationDoc, ScreeningDoc, CandidateDoc, CalculationDoc, VerificationDoc, DatasetDoc)
}
COLLECTIONS = {"CandidateDoc": "candidates", "VerificationDoc": "verifications"}


def planted(kind: str, base: Any, draw: random.Random) -> Any:
    """The base with up to three hostile objects in it, or around it; hashes fit where a document states them."""
    value = copy.deepcopy(base)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 2, 3))):
        each = copy.deepcopy(draw.choice(HOSTILE))
        for _ in range(draw.choice((0, 0, 0, 1, 3, 40))):  # objects in objects, lists and fields
            each = draw.choice(([each], {draw.choice(WORDS): each}, {**THING, "inner": each}, [0, {"deep": each}]))
        spots = list(_spots(value)) if isinstance(value, dict | list) else []
        if not spots or draw.random() < 0.01:
            value = draw.choice((each, {**each, "inner": value} if isinstance(each, dict) else [each, value]))
            continue
        holder, key = draw.choice(spots)
        match draw.randrange(4):
            case 0 if isinstance(holder, dict):
                holder[draw.choice(WORDS)] = each
            case 1 if isinstance(holder[key], dict) and isinstance(each, dict):
                holder[key] = {**holder[key], **each}
            case 2:
                holder[key] = [holder[key], each]
            case _:
                holder[key] = each
    return _sealed(value, sciences=draw.random() < 0.5) if kind == "document" else value


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    pending = [value]
    while pending:
        held = pending.pop()
        for key in list(held) if isinstance(held, dict) else range(len(held)):
            yield held, key
            if isinstance(held[key], dict | list):
                pending.append(held[key])


def _sealed(value: Any, sciences: bool) -> Any:
    """With the content hash that a document would have, where it is one still, and those of its sciences."""
    try:
        for part in ("provenance", "generation", "screening") if sciences else ():
            if isinstance(held := value.get(part), dict):
                held["science_hash"] = digest(held["science"])
        held = value.get("provenance")
        (held if isinstance(held, dict) else value)["content_hash"] = content_hash(value)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        pass
    return value


def readers(kind: str, value: Any, wanted: str, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What could read this, by name; documents and values that are returned may be handed to jobs.

    wanted: the science hash that a running job would look for.
    """
    yield "structure", lambda: decoding.structure(value)
    yield "entry", lambda: entry_decoding.entry(value)
    yield "maker", lambda: decoding.maker(value)
    if kind == "settings":
        yield "trusted maker", lambda: decoding.maker(value, ["dao_flows.makers.screen"])
    if kind == "entry":
        yield "entry file", lambda: _entries(value, folder / "entries.json")
    if kind != "document":
        return
    name = value.get("@class") if isinstance(value, dict) else None
    model = KINDS.get(name) if isinstance(name, str) else None
    for each in (model,) if model is not None else KINDS.values():
        yield "document", lambda each=each: bool(each.model_validate(value))  # type: ignore[misc]
    if model is not None:
        if wanted:
            yield "reuse", lambda: reuse.stored(_Lone(value), model, wanted)  # type: ignore[arg-type]
        yield "crate", lambda: _imported(str(name), value)


def _hash_of(value: Any) -> str:
    """The science hash that a document states; '' where there is none."""
    held = value.get("provenance") if isinstance(value, dict) else None
    said = held.get("science_hash") if isinstance(held, dict) else None
    return said if isinstance(said, str) else ""


def _entries(value: Any, path: Path) -> Any:
    path.write_text(json.dumps([value]))
    status = path.stat()
    return list(read_file(path, time.monotonic_ns(), status.st_size, None, None).entries)


def _imported(name: str, value: Any) -> bool:
    collection = COLLECTIONS.get(name, "jobs")
    stored = value
    if collection == "jobs":
        stored = {"uuid": "job-1", "index": 1, "output": value, "completed_at": "2026-11-23T10:00:00"}
    return bool(check(collection, written(stored), BOUNDS))


REFUSALS = (decoding.DecodingError, ValidationError, ReferenceSetError, DocumentError)


class Watch:
    """What Python's audit hook sees while it is on; `own` is a file that may be written."""

    def __init__(self) -> None:
        self.on = False
        self.own: str | None = None
        self.seen: Counter[str] = Counter()
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and str(arguments[0]) != self.own:
            if isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
                self.seen[f"open {arguments[0]}"] += 1
        elif event in STARTS:
            self.seen[f"{event} {str(arguments[:1])[:200]}"] += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        """On."""
        self.on = True
        try:
            yield
        finally:
            self.on = False


@contextmanager
def silent() -> Iterator[None]:
    """Without what the package logs, warnings and stderr, which say what each reader refuses."""
    log = logging.getLogger("dao_flows")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def run(inputs: int, seed: int, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Read this many documents: how many each reader took and refused, and whatever should not have been."""
    draw, watch = random.Random(seed), Watch()
    outcomes: dict[str, Counter[str]] = {}
    findings: list[str] = []
    known, began = bases(), time.monotonic()
    with tempfile.TemporaryDirectory() as name, silent():
        folder = Path(name)
        watch.own = str(folder / "entries.json")
        (folder / f"{CANARY}.py").write_text(
            "import os\nfrom enum import Enum\nos.mkdir(os.path.join(os.path.dirname(__file__), 'ran'))\n"
            "def call(*_, **__): pass\nclass Thing:\n    call = call\nclass Colour(Enum):\n    red = 'red'\n"
        )
        sys.path.insert(0, name)
        try:
            _warm_up(known, folder)
            done = 0
            for number in range(inputs):
                done += 1
                kind, base = known[number % len(known)]
                value = planted(kind, base, draw)
                for reader, read in readers(kind, value, _hash_of(base), folder):
                    with watch.watching():
                        outcome = _outcome(read)
                    outcomes.setdefault(reader, Counter())[outcome] += 1
                    if outcome not in ("taken", "refused"):
                        findings.append(f"input {number}, {reader}: {outcome}")
                if watch.seen:
                    findings += [f"input {number}: {what}" for what in watch.seen]
                    watch.seen.clear()
                if len(findings) > 20:
                    break
                if (number + 1) % 10_000 == 0:
                    tell(f"{number + 1} inputs, {time.monotonic() - began:.0f} s, {len(findings)} findings")
            if CANARY in sys.modules:
                findings.append(f"{CANARY} was imported")
        finally:
            sys.path.remove(name)
    return {
        "inputs": done,
        "seed": seed,
        "seconds": time.monotonic() - began,
        "outcomes": {reader: dict(found) for reader, found in outcomes.items()},
        "findings": findings,
    }


def _outcome(read: Callable[[], Any]) -> str:
    """'taken', or 'refused' in one line; anything else is a finding."""
    try:
        found = read()
    except REFUSALS as error:
        return "refused" if isinstance(error, ValidationError) or "\n" not in str(error) else "refused in several lines"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    if found is None:
        return "refused"
    try:
        return _handed_on(found)
    except Exception as error:
        return f"taken, and then {type(error).__name__}: {str(error)[:100]}"


def _handed_on(found: Any) -> str:
    """Decode what was taken as jobflow does with what it hands to a job."""
    if not isinstance(found, list | BaseModel | Structure | ComputedEntry):  # a maker, or no value at all
        return "taken"
    stored = jsanitize(found, strict=True)
    if find_and_get_references(stored):
        return "a reference to the output of a job was taken"
    if isinstance(found, CalculationDoc):  # its settings, which its science hash seals, name atomate2's makers
        del stored["provenance"]["science"]
        stored.pop("@class")
    MontyDecoder().process_decoded(stored)
    return "taken"


def _warm_up(known: list[tuple[str, Any]], folder: Path) -> None:
    """Import what the readers need, by reading what is as it should be, and what is not."""
    from atomate2.forcefields import jobs  # noqa: F401

    for kind, base in known:
        for value in (copy.deepcopy(base), {"x": 1}, {**copy.deepcopy(base), "x": THING}):
            for _, read in readers(kind, _sealed(value, sciences=True), _hash_of(base), folder):
                _outcome(read)


def main() -> None:
    """Fuzz, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    given = parser.parse_args()
    stderr = sys.stderr
    found = run(given.inputs, given.seed, lambda text: print(text, file=stderr, flush=True))
    result = {"python": platform.python_version(), "machine": platform.machine(), **found}
    text = json.dumps(result, indent=1, ensure_ascii=False)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)
    print(f"{found['inputs']} documents, {len(found['findings'])} findings")
    sys.exit(1 if found["findings"] else 0)


if __name__ == "__main__":
    main()
