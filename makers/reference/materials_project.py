"""The Materials Project as a reference set: each chemical system is fetched once, and kept on the disk."""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass

from monty.json import jsanitize
from pymatgen.core.composition import Composition
from pymatgen.entries.computed_entries import ComputedStructureEntry

from dao_flows.makers.machine.whole_files import write_whole
from dao_flows.makers.schemas.verification import Level
from dao_flows.model.files import user_folders

from .entry_files import read_file
from .levels import described, functional_of
from .sets import CHEMICAL_DATA, ReferenceSet, ReferenceSetError

PER_SYSTEM = "mp:"  # the set of each chemical system is fetched, and hashed, on its own
KEY = "MP_API_KEY"
THERMO_TYPES = {"PBE": "GGA_GGA+U", "r2SCAN": "R2SCAN"}  # the Materials Project's names


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
                f"the Materials Project's energies are VASP's, of PBE or r2SCAN: those of {described(level)} "
                "have another zero and cannot be put beside them"
            )
        system = self.system or "-".join(sorted(elements))
        return fetched(system, THERMO_TYPES[functional])


def api_key() -> str:
    """The user's key. Raises ReferenceSetError where there is none."""
    key = os.environ.get(KEY)
    if not key:
        raise ReferenceSetError(f"mp: needs your key of the Materials Project in the environment variable {KEY}")
    return key


def chemical_system(text: str | None) -> str | None:
    """'Fe-Li-O' of 'Li-Fe-O'. Raises ReferenceSetError."""
    if text is None:
        return None
    try:
        return "-".join(sorted(element.symbol for element in Composition("".join(text.split("-"))).elements))
    except ValueError:
        raise ReferenceSetError(f"mp: takes a chemical system, as in mp:Li-Fe-O, not {text!r}") from None


def fetched(system: str, thermo_type: str) -> ReferenceSet:
    """The entries of a system and all below it, from the disk if this version of the database was asked before."""
    key = api_key()
    try:
        from mp_api.client import MPRester
    except ImportError:
        raise ReferenceSetError("mp: needs the Materials Project's client: pip install 'dao-flows[mp]'") from None
    try:
        with warnings.catch_warnings(), MPRester(key, use_document_model=False, mute_progress_bars=True) as client:
            warnings.simplefilter("ignore")
            database = str(client.db_version)
            kept = user_folders.references() / f"mp-{database}-{thermo_type}-{system}.json.gz"
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
    found = read_file(kept, status.st_mtime_ns, status.st_size, "vasp", None)
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
