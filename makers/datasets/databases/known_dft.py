"""Which documents of a store are of finished DFT calculations: those that are known to be, and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Document = Mapping[str, Any]

FINISHED = ("successful", "success")
CODES = ("abinit", "cp2k", "vasp")  # of our own verifications and their calculations


def why_not_dft(output: Document) -> str | None:
    """Why an output is not taken for a finished DFT calculation; None if it is one."""
    if field := output.get("forcefield_name"):
        return f"it comes from a force field ({str(field)[:40]}), not from DFT"
    backend = str(output.get("backend") or "")
    if backend.startswith("forcefield"):
        return f"it comes from a force field ({backend[:40]}), not from DFT"
    if calculator := output.get("ase_calculator_name"):
        return f"it comes from a calculator of ASE ({str(calculator)[:40]}), which is not known to be DFT"
    if not any(known(output) for known in KNOWN):
        return f"it is no document of a DFT calculation that is known here, but {_kind(output)}"
    state = output.get("state")
    state = state.get("value") if isinstance(state, dict) else state
    if str(state).lower() not in FINISHED:
        return f"the calculation did not finish: {state}" if state is not None else "it does not say that it finished"
    return None


def _vasp(output: Document) -> bool:
    """VASP's document of emmet, of a run whose forces are those of DFT: VASP has force fields of its own."""
    inputs = [part for name in ("input", "orig_inputs") if isinstance(part := output.get(name), Mapping)]
    settings = [given for part in inputs for name in ("incar", "parameters") if (given := part.get(name))]
    if any(given.get("ML_LMLFF") or given.get("ML_FF_LMLFF") for given in settings if isinstance(given, Mapping)):
        return False
    return {"vasp_objects", "orig_inputs"} <= set(output)


def _abinit(output: Document) -> bool:
    """atomate2's AbinitTaskDoc."""
    return {"abinit_objects", "event_report"} <= set(output)


def _cp2k(output: Document) -> bool:
    """atomate2's CP2K document of a calculation with a functional: CP2K has force fields, too."""
    inputs = output.get("input")
    return "cp2k_objects" in output and isinstance(inputs, Mapping) and bool(inputs.get("xc"))


def _aims(output: Document) -> bool:
    """atomate2's AimsTaskDoc."""
    return "aims_objects" in output and output.get("calc_code") == "aims"


def _ours(output: Document) -> bool:
    """A verification, or one of its calculations."""
    level = output.get("level")
    code = level.get("code") if isinstance(level, Mapping) else str(output.get("backend") or "").split("-")[0]
    return {"backend", "candidate_id", "provenance"} <= set(output) and code in CODES


KNOWN: tuple[Callable[[Document], bool], ...] = (_vasp, _abinit, _cp2k, _aims, _ours)


def _kind(output: Document) -> str:
    """What an output calls itself."""
    name = output.get("@class")
    return f"a {str(name)[:40]}" if name else "of a kind that it does not state"
