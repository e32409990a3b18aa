"""Candidates as files: CIF, POSCAR or JSON, each written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dao_flows.errors import InputError, explain
from dao_flows.model.files.file_names import file_name as plain_name

if TYPE_CHECKING:
    from dao_flows.makers.schemas.prediction import CandidateDoc, Origin, ScreenedCandidate

Format = Literal["cif", "poscar", "json"]
REFINED_SYMPREC = 0.01  # Å: what is symmetrised needs no slack
FORMATS: tuple[Format, ...] = get_args(Format)


def render(candidate: CandidateDoc | ScreenedCandidate, file_format: Format, refined: bool = False) -> str:
    """The text of a file. CIF and POSCAR: the structure as it was ranked, in P1; JSON: the whole document.

    refined: the symmetrised conventional cell instead, with its symmetry in the CIF. CIF files say in a comment which
    candidate they hold. Raises InputError if no symmetry was found.
    """
    if file_format == "json":
        from monty.json import jsanitize

        return json.dumps(jsanitize(candidate, strict=True), indent=1, ensure_ascii=False) + "\n"
    structure = candidate.refined_structure if refined else candidate.structure
    if structure is None:
        raise InputError(f"{candidate.candidate_id} has no refined structure: export it without --refined")
    structure = structure.copy()
    for name in structure.site_properties:  # whatever a document holds there: candidates have none
        structure.remove_site_property(name)
    if file_format == "poscar":
        from pymatgen.io.vasp.inputs import Poscar

        poscar = Poscar(structure.get_sorted_structure(), comment=title(candidate))
        return poscar.get_str(significant_figures=10)
    from pymatgen.io.cif import CifWriter

    symprec = REFINED_SYMPREC if refined else None
    return f"# {title(candidate)}\n{CifWriter(structure, symprec=symprec, significant_figures=8)}"


def title(candidate: CandidateDoc | ScreenedCandidate) -> str:
    """One line that says which candidate it is, and what its energy is."""
    energy = candidate.energy
    told = (
        f"{candidate.candidate_id} {candidate.formula} Z={candidate.z}, predicted energy above hull "
        f"{energy.value:.4f} {energy.unit} ({energy.model} {energy.model_sha256[:12]}), {_origin(candidate.origin)}"
    )
    if candidate.judgement is not None:
        told += f", total energy {candidate.judgement.told()}"
    return " ".join(told.split())  # no name in a document may begin a line of its own


def _origin(origin: Origin | None) -> str:
    """Where a candidate comes from. The licence of the crystal's source is the library's to tell."""
    if origin is None or origin.kind == "drawn":
        return "drawn by DAO-G"
    taken = "known crystal" if origin.kind == "known" else f"from {origin.formula}"
    return (
        f"{taken} {origin.material_id} of {origin.source} (library {origin.library_name} {(origin.library or '')[:12]})"
    )


def file_name(candidate: CandidateDoc | ScreenedCandidate, file_format: Format, ranked: bool = False) -> str:
    """For example Cr3Os_01_dao-0123456789ab.cif; POSCAR files end in .vasp, which viewers know."""
    suffix = {"cif": "cif", "poscar": "vasp", "json": "json"}[file_format]
    place = f"_{candidate.rank:02d}" if ranked else ""
    return f"{plain_name(candidate.formula)}{place}_{plain_name(candidate.candidate_id)}.{suffix}"


def write_files(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write texts by file name: all are complete before the first gets its name. Raises InputError for a full disk."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dao-flows-", dir=folder) as staging:
            for name, text in texts.items():
                with (Path(staging) / name).open("w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            for name in texts:
                (Path(staging) / name).replace(folder / name)
    except OSError as error:
        if new:
            with suppress(OSError):
                folder.rmdir()
        raise InputError(f"files cannot be written to {folder}: {explain(error)}") from error
    return [folder / name for name in texts]


def free_folder(wanted: Path, texts: Mapping[str, str]) -> Path:
    """`wanted`, or with -2, -3 … where a folder of that name holds other files than these."""
    number, folder = 1, wanted
    while folder.exists() and not holds(folder, texts):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def holds(folder: Path, texts: Mapping[str, str]) -> bool:
    """True if the folder holds exactly these files."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != set(texts):
        return False
    return all((folder / name).read_text(encoding="utf-8") == text for name, text in texts.items())


def writable(folder: Path) -> bool:
    """True if files can be written here, or the folder can be made. Tries it: permissions do not tell all."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return True
    except OSError:
        return False
