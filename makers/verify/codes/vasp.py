"""VASP: the Materials Project's PBE (+U) and r2SCAN, by atomate2's makers of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jobflow.core.maker import Maker

from dao_flows.makers.schemas.verification import Level

from .code import Code, Preset, Steps
from .installed import Program, Requirement
from .results import KILOBAR, Outcome, bare, matrix, number, successful


def pbe() -> dict[str, Maker]:
    """The Materials Project's PBE (+U): relaxed twice, then static."""
    from atomate2.vasp.flows.mp import MPGGADoubleRelaxStaticMaker

    return _double_relax(MPGGADoubleRelaxStaticMaker())


def r2scan() -> dict[str, Maker]:
    """The Materials Project's r2SCAN: relaxed with PBEsol, then with r2SCAN, then static."""
    from atomate2.vasp.flows.mp import MPMetaGGADoubleRelaxStaticMaker

    return _double_relax(MPMetaGGADoubleRelaxStaticMaker())


def potcars() -> Requirement:
    """The folder of POTCARs that pymatgen knows."""
    from pymatgen.core import SETTINGS

    folder = SETTINGS.get("PMG_VASP_PSP_DIR")
    found = str(folder) if folder and Path(str(folder)).expanduser().is_dir() else None
    fix = "`pmg config -p YOUR_POTCARS FOLDER`, then `pmg config --add PMG_VASP_PSP_DIR FOLDER`"
    return Requirement("vasp: POTCARs", found, fix)


def check(steps: Steps, elements: Collection[str]) -> None:
    """Raises ParameterError without POTCARs, which all makers take."""
    potcars().demand()


def read(task: Any, directory: Path) -> Outcome:
    """The figures of emmet's TaskDoc."""
    last = task.calcs_reversed[0]
    incar = {key.upper(): value for key, value in (last.input.incar or {}).items()}
    parameters = {key.upper(): value for key, value in (last.input.parameters or {}).items()}
    names = last.input.potcar_spec or []
    symbols = [re.split(r"[_.\s]", spec.titel.split()[1])[0] for spec in names if spec.titel]
    grid = getattr(last.input.kpoints, "kpts", None)
    run_type = str(getattr(task.run_type, "value", task.run_type))
    level = Level(
        code="vasp",
        code_version=last.vasp_version,
        functional={"GGA": "PBE", "GGA+U": "PBE+U", "R2SCAN": "r2SCAN", "r2SCAN": "r2SCAN"}.get(run_type, run_type),
        pseudopotentials={symbol: spec.titel for symbol, spec in zip(symbols, names, strict=False)},
        hubbard_u={symbol: float(u) for symbol, u in (last.input.hubbards or {}).items() if u},
        cutoff=number(incar.get("ENCUT", parameters.get("ENMAX"))),
        kpoints=[int(n) for n in grid[0]] if grid is not None and len(grid) == 1 else None,
        spin_polarised=int(incar.get("ISPIN", parameters.get("ISPIN", 1))) == 2,
    )
    steps = last.output.ionic_steps
    return Outcome(
        structure=bare(task.structure or task.output.structure),
        energy=float(task.output.energy),
        forces=matrix(task.output.forces),
        stress=matrix(task.output.stress, KILOBAR),
        converged=successful(task),
        ionic_steps=len(steps) if steps else None,
        level=level,
    )


def is_dft(output: Mapping[str, Any]) -> bool:
    """VASP's document of emmet, of a run whose forces are those of DFT: VASP has force fields of its own."""
    inputs = [part for name in ("input", "orig_inputs") if isinstance(part := output.get(name), Mapping)]
    settings = [given for part in inputs for name in ("incar", "parameters") if (given := part.get(name))]
    if any(given.get("ML_LMLFF") or given.get("ML_FF_LMLFF") for given in settings if isinstance(given, Mapping)):
        return False
    return {"vasp_objects", "orig_inputs"} <= set(output)


def _double_relax(flow: Any) -> dict[str, Maker]:
    """The three makers of one of atomate2's flows; files pass between them as there."""
    relax = flow.relax_maker
    return {"relax 1": relax.relax_maker1, "relax 2": relax.relax_maker2, "static": flow.static_maker}


CODE = Code(
    name="vasp",
    presets={"vasp": Preset(pbe, hands_on=True), "vasp-r2scan": Preset(r2scan, hands_on=True)},
    document="emmet.core.tasks.TaskDoc",
    read=read,
    install="pip install 'dao-flows[dft]'",
    packages=("atomate2", "custodian"),
    program=Program(
        setting="VASP_CMD",
        default="vasp_std",
        fix="VASP is licensed: put your vasp_std on the PATH, or set ATOMATE2_VASP_CMD='srun vasp_std'",
        tells_version=False,
    ),
    supplies=potcars,
    check=check,
    is_dft=is_dft,
)
