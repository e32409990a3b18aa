"""Which documents of a store are of finished DFT calculations: those that are known to be, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dao_flows.makers.verify import codes

Document = Mapping[str, Any]

FINISHED = ("successful", "success")
OURS = {"backend", "candidate_id", "provenance"}  # of a verification, or of one of its calculations


def why_not_dft(output: Document) -> str | None:
    """Why an output is not taken for a finished DFT calculation; None if it is one."""
    if field := output.get("forcefield_name"):
        return f"it comes from a force field ({str(field)[:40]}), not from DFT"
    dft = {code.name: code.is_dft for code in codes.every() if code.is_dft is not None}
    if set(output) >= OURS:
        level, backend = output.get("level"), str(output["backend"] or "")
        if (level.get("code") if isinstance(level, Mapping) else backend.split("-")[0]) not in dft:
            return f"it comes from {backend[:40]}, not from DFT that is known here"
    elif not (_aims(output) or any(is_dft(output) for is_dft in dft.values())):
        if calculator := output.get("ase_calculator_name"):
            return f"it comes from a calculator of ASE ({str(calculator)[:40]}), which is not known to be DFT"
        return f"it is no document of a DFT calculation that is known here, but {_kind(output)}"
    state = output.get("state")
    state = state.get("value") if isinstance(state, dict) else state
    if str(state).lower() not in FINISHED:
        return f"the calculation did not finish: {state}" if state is not None else "it does not say that it finished"
    return None


def _aims(output: Document) -> bool:
    """atomate2's AimsTaskDoc: of FHI-aims, with which nothing is verified here."""
    return "aims_objects" in output and output.get("calc_code") == "aims"


def _kind(output: Document) -> str:
    """What an output calls itself."""
    name = output.get("@class")
    return f"a {str(name)[:40]}" if name else "of a kind that it does not state"
