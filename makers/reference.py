"""Reference sets: the known phases that energies above hull are measured from.

A set is a file of ComputedEntries, the Materials Project, or the user's own verifications. Energies of different
functionals, codes, pseudopotentials or correction schemes have different zeros; what would mix them is refused.
"""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import version
from math import isclose, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from monty.json import jsanitize
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from .files import write_whole
from .provenance import digest
from .run_folder import run_root
from .verification_schemas import HullEnergy, Level, VerificationDoc

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

MP2020 = "MaterialsProject2020Compatibility"
NONE = "none"
PER_SYSTEM, STORE = "mp:", "store:"  # mp: the set of each chemical system is fetched, and hashed, on its own
KEY = "MP_API_KEY"
LEVEL = "level"  # among an entry's parameters: the whole level, where the entry is one of ours
SAME_CUTOFF = 1e-4  # relative: codes round differently
FUNCTIONALS = {"gga": "PBE", "gga+u": "PBE", "pbe": "PBE", "pbe+u": "PBE", "r2scan": "r2SCAN", "r2scan+u": "r2SCAN"}
THERMO_TYPES = {"PBE": "GGA_GGA+U", "r2SCAN": "R2SCAN"}  # the Materials Project's names
CHEMICAL_DATA = ("oxide_type", "sulfide_type", "oxidation_states")  # what corrections may depend on


class ReferenceSetError(ValueError):
    """A reference set cannot be read, or cannot be used for these energies; one line that says why."""


@dataclass(frozen=True)
class ReferenceSet:
    """Entries with known energies and where they come from.

    code, functional: those of all entries, None where they do not say; scheme: the corrections that they carry, 'none'
    or names. selects: entries of other levels are passed over (the store holds many), not refused.
    """

    name: str
    entries: tuple[ComputedEntry, ...]
    code: str | None
    functional: str | None
    scheme: str
    scheme_version: str
    selects: bool = False
    _hulls: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def sha256(self) -> str:
        """Over the entries' content in canonical form, whatever their order, their ids and who wrote the file."""
        return digest([self.code, self.functional, sorted({_entry_digest(entry) for entry in self.entries})])

    @cached_property
    def by_system(self) -> dict[frozenset[str], list[ComputedEntry]]:
        """Entries by their elements."""
        found: dict[frozenset[str], list[ComputedEntry]] = {}
        for entry in self.entries:
            found.setdefault(frozenset(element.symbol for element in entry.composition.elements), []).append(entry)
        return found

    def within(self, elements: Collection[str], level: Level) -> ReferenceSet:
        """The set that serves this chemical system at this level: itself."""
        return self


@dataclass(frozen=True)
class MaterialsProject(ReferenceSet):
    """The Materials Project, of which each chemical system is fetched when it is first asked for, and kept.

    system: the one to fetch whole, as in mp:Li-Fe-O; None: that of each structure.
    """

    system: str | None = None

    def within(self, elements: Collection[str], level: Level) -> ReferenceSet:
        """The entries of the chemical system. Raises ReferenceSetError."""
        functional = functional_of(level.functional)
        if level.code != "vasp" or functional not in THERMO_TYPES:
            raise ReferenceSetError(
                f"the Materials Project's energies are VASP's, of PBE or r2SCAN: those of {_described(level)} "
                "have another zero and cannot be put beside them"
            )
        system = self.system or "-".join(sorted(elements))
        return _fetched(system, THERMO_TYPES[functional])


class _Known(NamedTuple):
    """What an entry says of its level; None where it says nothing."""

    code: str | None
    functional: str | None
    pseudopotentials: dict[str, str]
    hubbard_u: dict[str, float] | None
    cutoff: float | None
    code_version: str | None


class _Hull(NamedTuple):
    corrected: PhaseDiagram
    raw: PhaseDiagram


def functional_of(name: str) -> str:
    """The name that a functional has here: 'PBE' for GGA, GGA+U and PBE+U, whose U is a matter of the level."""
    return FUNCTIONALS.get(name.lower(), name)


def entry_of(structure: Structure, energy: float, level: Level, entry_id: str | None = None) -> ComputedStructureEntry:
    """An entry that says its level. energy: of the cell, eV, raw."""
    parameters: dict[str, Any] = {LEVEL: level.model_dump(), "hubbards": dict(level.hubbard_u)}
    functional = functional_of(level.functional)
    if level.code == "vasp":
        plus_u = bool(level.hubbard_u) or level.functional.endswith("+U")
        parameters["run_type"] = ("GGA+U" if plus_u else "GGA") if functional == "PBE" else functional
        parameters["potcar_spec"] = [
            {"titel": name if " " in name else f"PAW_PBE {name}", "hash": None}
            for element, name in level.pseudopotentials.items()
            if element in structure.symbol_set
        ]
    return ComputedStructureEntry(structure, float(energy), parameters=parameters, entry_id=entry_id)


def reference_set(text: str, jobs: JobStore | None = None) -> ReferenceSet:
    """A reference set by what a user writes.

    A file of ComputedEntries or ComputedStructureEntries as monty writes them (.json, .json.gz), with
    `?code=abinit&functional=PBE` behind it if the entries do not say; `mp:` or `mp:Li-Fe-O`, the Materials Project with
    the key in MP_API_KEY; `store:`, the successful verifications of a store. jobs: that store (None: the running job's,
    or that of jobflow's configuration). Raises ReferenceSetError.
    """
    if text.startswith(STORE):
        if text != STORE:
            raise ReferenceSetError(f"store: takes nothing behind it, not {text.removeprefix(STORE)!r}")
        return _of_store(jobs)
    if text.startswith(PER_SYSTEM):
        _key()
        system = text.removeprefix(PER_SYSTEM) or None
        return MaterialsProject("mp:", (), "vasp", None, MP2020, _version(), system=_system(system))
    place, _, query = (text, "", "") if Path(text).expanduser().exists() else text.partition("?")
    path = Path(place).expanduser()
    if not path.is_file():
        raise ReferenceSetError(
            f"there is no file {place}: a reference set is a file of ComputedEntries, mp: or store:"
        )
    options = dict(parse_qsl(query))
    if unknown := set(options) - {"code", "functional"}:
        raise ReferenceSetError(f"a file of entries takes ?code=…&functional=…, not {', '.join(sorted(unknown))}")
    status = path.stat()
    return _of_file(path, status.st_mtime_ns, status.st_size, options.get("code"), options.get("functional"))


def hull_energy(reference: ReferenceSet, structure: Structure, energy: float, level: Level) -> HullEnergy:
    """Where a calculation lies against a reference set. energy: raw total of the cell, eV.

    Both sides carry the Materials Project's corrections of 2020 (Wang et al., Sci. Rep. 11, 15496, 2021) where they
    were made for such calculations: VASP, PBE or PBE+U, its pseudopotentials and U; else neither carries any. An energy
    below 0 means that the structure lies below the set's hull. Elements that have no elemental entry in the set are
    named, and there is no hull then. Raises ReferenceSetError where the two sides have different zeros.
    """
    elements = {element.symbol for element in structure.composition.elements}
    reference = reference.within(elements, level)
    _check_level(reference, level)
    entries = _comparable(reference, elements, level)
    own, reason = _corrected(entry_of(structure, energy, level))
    scheme = NONE
    if reason is None and all(_is_correctable(entry) for entry in entries):
        scheme = MP2020
    elif reference.scheme != NONE:
        reason = reason or "some of its entries say neither run type nor pseudopotentials"
        raise ReferenceSetError(
            f"{reference.name} carries corrections ({reference.scheme}) that cannot be put on this calculation with "
            f"{_described(level)}: {reason}"
        )
    else:
        entries = _of_same_u(reference, entries, level)
        own.energy_adjustments = []
    shared = {
        "reference": reference.name,
        "reference_sha256": reference.sha256,
        "scheme": scheme,
        "scheme_version": _version() if scheme == MP2020 else "",
        "correction_per_atom": own.correction_per_atom,
        "corrected_energy_per_atom": own.energy_per_atom,
    }
    key = (scheme, frozenset(elements), level.model_dump_json(exclude={"kpoints"}) if reference.selects else "")
    if key not in reference._hulls:
        reference._hulls[key] = _hull(entries, scheme, elements)
    built = reference._hulls[key]
    if isinstance(built, list):
        return HullEnergy(**shared, formation_energy_per_atom=None, energy_above_hull=None, missing=built)
    raw = ComputedEntry(own.composition, own.uncorrected_energy)
    return HullEnergy(
        **shared,
        formation_energy_per_atom=float(built.corrected.get_form_energy_per_atom(own)),
        energy_above_hull=_above(built.corrected, own),
        raw_energy_above_hull=_above(built.raw, raw),
    )


def _hull(entries: Sequence[ComputedEntry], scheme: str, elements: Collection[str]) -> _Hull | list[str]:
    """The phase diagrams with and without corrections, or the elements for which there is no entry."""
    used = (
        [corrected for corrected, fault in map(_corrected, entries) if fault is None] if scheme == MP2020 else entries
    )
    bare = [ComputedEntry(entry.composition, entry.uncorrected_energy) for entry in used]
    there = {entry.composition.elements[0].symbol for entry in used if entry.composition.is_element}
    if missing := sorted(set(elements) - there):
        return missing
    return _Hull(PhaseDiagram(used if scheme == MP2020 else bare), PhaseDiagram(bare))


def _above(diagram: PhaseDiagram, entry: ComputedEntry) -> float:
    """eV/atom above the hull, negative below it; 0 within the rounding of the simplex."""
    value = diagram.get_e_above_hull(entry, allow_negative=True)
    assert value is not None  # it is None only where the caller asks for no error
    return 0.0 if abs(value) < PhaseDiagram.numerical_tol else float(value)


def _corrected(entry: ComputedEntry) -> tuple[ComputedEntry, str | None]:
    """A copy with the corrections of 2020, and why it cannot have them, if so."""
    from pymatgen.entries.compatibility import CompatibilityError, MaterialsProject2020Compatibility

    entry = deepcopy(entry)
    if _known(entry).code != "vasp":
        return entry, f"{MP2020} is for VASP"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = MaterialsProject2020Compatibility().process_entry(entry, on_error="raise")
    except CompatibilityError as error:
        return entry, " ".join(str(error).split(" for {")[0].split())
    except (KeyError, ValueError, AttributeError) as error:  # pseudopotentials that are not named as VASP names them
        return entry, f"its parameters cannot be read ({' '.join(str(error).split())[:100]})"
    return (done, None) if done is not None else (entry, f"{MP2020} discards it")


def _is_correctable(entry: ComputedEntry) -> bool:
    """Whether the entry says what corrections depend on; whether it was computed as they ask is another matter."""
    parameters = entry.parameters
    return "run_type" in parameters and bool(parameters.get("potcar_spec") or parameters.get("potcar_symbols"))


def _check_level(reference: ReferenceSet, level: Level) -> None:
    """Raises ReferenceSetError if code or functional differ, or the set does not say."""
    if reference.selects:
        return
    for what, theirs in (("code", reference.code), ("functional", reference.functional)):
        if theirs is None:
            raise ReferenceSetError(
                f"{reference.name} does not say the {what} of its energies: write it behind the file, as in "
                f"{reference.name}?code={level.code}&functional={functional_of(level.functional)}"
            )
    if reference.code != level.code:
        raise ReferenceSetError(
            f"{reference.name} holds energies of {reference.code}, the calculation's are of {_described(level)}: "
            "total energies of different codes have different zeros"
        )
    if reference.functional != functional_of(level.functional):
        raise ReferenceSetError(
            f"{reference.name} holds energies of {reference.functional}, the calculation's are of {_described(level)}: "
            "energies of different functionals cannot be put on one hull"
        )


def _comparable(reference: ReferenceSet, elements: set[str], level: Level) -> list[ComputedEntry]:
    """The entries of the chemical system, all of this level. Raises ReferenceSetError for others, or selects."""
    kept = []
    for entry in (entry for system, own in reference.by_system.items() if system <= elements for entry in own):
        fault = _difference(_known(entry), level)
        if fault is None:
            kept.append(entry)
        elif not reference.selects:
            who = f"{entry.entry_id or ''} {entry.composition.reduced_formula}".strip()
            raise ReferenceSetError(f"{reference.name} cannot be used for {_described(level)}: {who} has {fault}")
    return kept


def _difference(known: _Known, level: Level) -> str | None:
    """What of an entry differs from a level, as far as it says; Hubbard's U apart."""
    if known.code is not None and known.code != level.code:
        return f"the code {known.code}, not {level.code}"
    if known.functional is not None and known.functional != functional_of(level.functional):
        return f"the functional {known.functional}, not {level.functional}"
    for element, name in known.pseudopotentials.items():
        ours = level.pseudopotentials.get(element)
        if ours is not None and _pseudopotential(ours) != _pseudopotential(name):
            return f"the pseudopotential {name} of {element}, not {ours}"
    if known.cutoff and level.cutoff and not isclose(known.cutoff, level.cutoff, rel_tol=SAME_CUTOFF):
        return f"the cut-off {known.cutoff:.1f} eV, not {level.cutoff:.1f} eV"
    is_force_field = level.code == level.functional
    if is_force_field and known.code_version and level.code_version and known.code_version != level.code_version:
        return f"version {known.code_version} of {level.code}, not {level.code_version}"
    return None


def _of_same_u(reference: ReferenceSet, entries: Iterable[ComputedEntry], level: Level) -> list[ComputedEntry]:
    """Those of the level's U: without corrections for it an element has one everywhere. Raises ReferenceSetError."""
    kept = []
    for entry in entries:
        theirs = _known(entry).hubbard_u
        for symbol in sorted(element.symbol for element in entry.composition.elements):
            ours = level.hubbard_u.get(symbol, 0.0)
            other = ours if theirs is None else theirs.get(symbol, 0.0)
            if isclose(ours, other, abs_tol=1e-6):
                continue
            if reference.selects:
                break
            who = f"{entry.entry_id or ''} {entry.composition.reduced_formula}".strip()
            raise ReferenceSetError(
                f"{reference.name} cannot be used for {_described(level)}: {who} has U = {other:g} eV on {symbol}, "
                f"not {ours:g} eV, and {MP2020} does not apply"
            )
        else:
            kept.append(entry)
    return kept


def _known(entry: ComputedEntry) -> _Known:
    """What an entry says: ours say all, VASP's of pymatgen and the Materials Project the most of it."""
    parameters = entry.parameters
    if LEVEL in parameters:
        level = Level.model_validate(parameters[LEVEL])
        functional = functional_of(level.functional)
        return _Known(level.code, functional, level.pseudopotentials, level.hubbard_u, level.cutoff, level.code_version)
    symbols = [spec["titel"] for spec in parameters.get("potcar_spec") or [] if spec and spec.get("titel")]
    symbols = symbols or [symbol for symbol in parameters.get("potcar_symbols") or [] if symbol]
    run_type = parameters.get("functional") or parameters.get("run_type")
    code = parameters.get("code") or parameters.get("software") or ("vasp" if symbols else None)
    u = parameters.get("hubbards")
    return _Known(
        str(code).lower() if symbols else code,
        functional_of(str(run_type)) if run_type else None,
        {_pseudopotential(symbol).split("_")[0]: symbol for symbol in symbols},
        {element: float(value) for element, value in u.items() if value} if u is not None else {} if symbols else None,
        None,
        None,
    )


def _pseudopotential(name: str) -> str:
    """'Fe_pv' of VASP's 'PAW_PBE Fe_pv 02Aug2007' and the Materials Project's 'PBE Fe_pv'; other names as they are."""
    words = name.split()
    return words[1] if len(words) > 1 and words[0] in ("PBE", "PAW_PBE", "PAW") else name


def _described(level: Level) -> str:
    return level.functional if level.code == level.functional else f"{level.code} {level.functional}"


def _entry_digest(entry: ComputedEntry) -> str:
    structure = getattr(entry, "structure", None)
    content: dict[str, Any] = {
        "composition": {element.symbol: amount for element, amount in entry.composition.items()},
        "energy": float(entry.uncorrected_energy),
        "correction": float(entry.correction),
        "level": list(_known(entry)),
        "data": {name: entry.data[name] for name in CHEMICAL_DATA if name in entry.data},
    }
    if structure is not None:
        content["cell"] = structure.lattice.matrix.tolist()
        content["sites"] = [[site.species_string, *map(float, site.frac_coords)] for site in structure]
    return digest(jsanitize(content))


def _set(name: str, entries: Sequence[ComputedEntry], declared: Sequence[str | None] = (None, None)) -> ReferenceSet:
    """A set whose entries agree in code and functional. Raises ReferenceSetError."""
    if not entries:
        raise ReferenceSetError(f"{name} holds no entries")
    found: list[str | None] = []
    for what, said in zip(("code", "functional"), declared, strict=True):
        values: dict[str, str] = {} if said is None else {said: f"?{what}="}
        for entry in entries:
            if (value := getattr(_known(entry), what)) is not None:
                values.setdefault(value, entry.composition.reduced_formula)
        if len(values) > 1:
            kinds = " and ".join(f"{value} ({who})" for value, who in sorted(values.items()))
            raise ReferenceSetError(f"{name} mixes energies of different {what}s: {kinds}")
        found.append(next(iter(values), None))
    carried = {_scheme(adjustment) for entry in entries for adjustment in entry.energy_adjustments if adjustment.value}
    scheme = "+".join(sorted(carried)) or NONE
    return ReferenceSet(name, tuple(entries), found[0], found[1], scheme, _version() if scheme == MP2020 else "")


def _scheme(adjustment: Any) -> str:
    """The name of the scheme that an adjustment is of."""
    scheme = adjustment.cls  # a dictionary, or the scheme itself where a file was read
    named = scheme.get("@class") if isinstance(scheme, dict) else type(scheme).__name__ if scheme else None
    return str(named or adjustment.name)


def _version() -> str:
    """Of the correction scheme: that of the library which holds its figures."""
    return f"pymatgen-core {version('pymatgen-core')}"


@lru_cache(maxsize=4)
def _of_file(path: Path, changed: int, size: int, code: str | None, functional: str | None) -> ReferenceSet:
    """A file of entries, read again when it has changed."""
    try:
        raw = path.read_bytes()
        found = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, ValueError) as error:
        said = " ".join(str(error).split())[:100]
        raise ReferenceSetError(f"{path.name} cannot be read as JSON of ComputedEntries: {said}") from None
    found = found.get("entries", found) if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise ReferenceSetError(f"{path.name} holds no list of ComputedEntries")
    entries = [_entry(item, path.name, place) for place, item in enumerate(found, 1)]
    return _set(path.name, entries, (code, functional_of(functional) if functional else None))


def _entry(item: Any, name: str, place: int) -> ComputedEntry:
    """An entry from its JSON, without importing whatever class the file may name. Raises ReferenceSetError."""
    kinds: dict[str, type[ComputedEntry]] = {c.__name__: c for c in (ComputedEntry, ComputedStructureEntry)}
    kind = kinds.get(str(item.get("@class"))) if isinstance(item, dict) else None
    if kind is None:
        what = item.get("@class", "a plain object") if isinstance(item, dict) else type(item).__name__
        raise ReferenceSetError(f"{name}: entry {place} is no ComputedEntry but {what}")
    try:
        entry = kind.from_dict(item)
        if not isfinite(entry.energy):
            raise ValueError("its energy is not finite")
        _known(entry)
    except Exception as error:  # pymatgen lets through whatever a broken entry causes
        said = " ".join(str(error).split())[:100]
        raise ReferenceSetError(f"{name}: entry {place} cannot be read: {type(error).__name__} {said}") from None
    return entry


def _of_store(jobs: JobStore | None) -> ReferenceSet:
    """The latest successful verification of each id."""
    jobs = jobs or _running_store()
    wanted = ["verification_id", "structure", "energy", "level", "provenance.execution.ended_at"]
    criteria = {"output.@class": VerificationDoc.__name__, "output.state": "successful"}
    latest: dict[str, dict[str, Any]] = {}
    for job in jobs.query(criteria, properties=[f"output.{name}" for name in wanted]):
        output = job["output"]
        ended = output["provenance"]["execution"]["ended_at"]
        held = latest.get(output["verification_id"])
        if held is None or ended > held["provenance"]["execution"]["ended_at"]:
            latest[output["verification_id"]] = output
    entries = []
    for verification_id, output in sorted(latest.items()):
        structure, level = output["structure"], output["level"]
        if structure is None or level is None or output["energy"] is None:
            continue
        structure = structure if isinstance(structure, Structure) else Structure.from_dict(structure)
        entries.append(entry_of(structure, output["energy"], Level.model_validate(level), verification_id))
    if not entries:
        raise ReferenceSetError("store: holds no successful verification yet: there is nothing to make a hull of")
    return ReferenceSet("store", tuple(entries), None, None, NONE, "", selects=True)


def _running_store() -> JobStore:
    """The running job's store, or that of jobflow's configuration."""
    from jobflow.core.state import CURRENT_JOB

    store: JobStore | None = CURRENT_JOB.store
    if store is None:
        from jobflow import SETTINGS

        store = SETTINGS.JOB_STORE
        store.connect()
    return store


def _key() -> str:
    key = os.environ.get(KEY)
    if not key:
        raise ReferenceSetError(f"mp: needs your key of the Materials Project in the environment variable {KEY}")
    return key


def _system(text: str | None) -> str | None:
    """'Fe-Li-O' of 'Li-Fe-O'. Raises ReferenceSetError."""
    if text is None:
        return None
    try:
        return "-".join(sorted(element.symbol for element in Composition("".join(text.split("-"))).elements))
    except ValueError:
        raise ReferenceSetError(f"mp: takes a chemical system, as in mp:Li-Fe-O, not {text!r}") from None


def _fetched(system: str, thermo_type: str) -> ReferenceSet:
    """The entries of a system and all below it, from the disk if this version of the database was asked before."""
    key = _key()
    try:
        from mp_api.client import MPRester
    except ImportError:
        raise ReferenceSetError("mp: needs the Materials Project's client: pip install 'dao-flows[mp]'") from None
    try:
        with warnings.catch_warnings(), MPRester(key, use_document_model=False, mute_progress_bars=True) as client:
            warnings.simplefilter("ignore")
            database = str(client.db_version)
            kept = run_root() / "references" / f"mp-{database}-{thermo_type}-{system}.json.gz"
            if not kept.exists():
                entries = client.get_entries_in_chemsys(
                    system.split("-"), additional_criteria={"thermo_types": [thermo_type]}
                )
                kept.parent.mkdir(parents=True, exist_ok=True)
                content = json.dumps([_plain(entry).as_dict() for entry in entries]).encode()
                write_whole(kept, gzip.compress(content, mtime=0))
    except OSError as error:
        raise ReferenceSetError(
            f"the Materials Project's entries cannot be fetched or kept: {_said(error, key)}"
        ) from None
    except Exception as error:  # the client raises its own, requests' and pydantic's
        raise ReferenceSetError(f"the Materials Project does not answer: {_said(error, key)}") from None
    status = kept.stat()
    found = _of_file(kept, status.st_mtime_ns, status.st_size, "vasp", None)
    return ReferenceSet(
        f"{PER_SYSTEM}{database}/{thermo_type}",
        found.entries,
        found.code,
        found.functional,
        found.scheme,
        found.scheme_version,
        _hulls=found._hulls,
    )


def _plain(entry: ComputedStructureEntry) -> ComputedStructureEntry:
    """The client's entry in types that pymatgen can write and read again, without data that nothing needs."""
    entry.entry_id = str(entry.entry_id)
    entry.data = {name: jsanitize(entry.data[name]) for name in CHEMICAL_DATA if entry.data.get(name) is not None}
    specs = entry.parameters.get("potcar_spec") or []
    named = [spec if isinstance(spec, dict) else spec.model_dump() for spec in specs]
    entry.parameters = {name: entry.parameters.get(name) for name in ("run_type", "hubbards", "is_hubbard")}
    entry.parameters["run_type"] = str(getattr(entry.parameters["run_type"], "value", entry.parameters["run_type"]))
    entry.parameters["potcar_spec"] = [{"titel": spec.get("titel"), "hash": spec.get("hash")} for spec in named]
    return entry


def _said(error: Exception, key: str) -> str:
    return " ".join(str(error).replace(key, "***").split())[:200]
