"""The presets: each an ordered set of atomate2's own makers. Every one of them can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from jobflow.core.maker import Maker

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.force_field import CHGNET, known_name
from dao_flows.makers.models.force_field import INSTALL as OF_FORCE_FIELDS

DENSITY = 64  # k-points per Å⁻³ of the reciprocal cell: the Materials Project's for PBE
CP2K_DENSITY = 20  # CP2K uses no symmetry but inversion: 32 k-points for diamond, where the above would be 172


@dataclass
class Backend:
    """A way to verify. code: 'abinit', 'cp2k', 'vasp' or 'forcefield'; steps: name -> maker, in their order.

    hands_on: whether a step is given the directory of the one before it.
    """

    name: str
    code: str
    steps: dict[str, Maker]
    hands_on: bool = False

    def replaced(self, steps: Mapping[str, Maker | None]) -> Backend:
        """With makers of the user's: those of a known name replace, None leaves out, others are added at the end.

        Raises ParameterError if nothing is left.
        """
        merged = {name: maker for name, maker in {**self.steps, **steps}.items() if maker is not None}
        if not merged:
            raise ParameterError(f"the backend {self.name!r} is left without a calculation: keep one of its steps")
        return Backend(self.name, self.code, merged, self.hands_on)


def backend(name: str) -> Backend:
    """A preset by its name. Raises ParameterError if there is none, or atomate2 is not installed."""
    preset, _, option = name.partition(":")
    if preset not in PRESETS or (option and preset != "forcefield"):
        raise ParameterError(f"there is no backend {name!r}: take one of {', '.join(PRESETS)}, or forcefield:NAME")
    if find_spec("atomate2") is None:
        raise ParameterError(f"the backend {name!r} needs atomate2: {INSTALL[preset.split('-')[0]]}")
    try:
        return PRESETS[preset](option) if option else PRESETS[preset]()
    except ImportError as error:
        line = str(error).splitlines()[0]
        raise ParameterError(f"the backend {name!r} cannot be used: {line}; {INSTALL[preset.split('-')[0]]}") from None


def vasp() -> Backend:
    """The Materials Project's PBE (+U): relaxed twice, then static."""
    from atomate2.vasp.flows.mp import MPGGADoubleRelaxStaticMaker

    return Backend("vasp", "vasp", _double_relax(MPGGADoubleRelaxStaticMaker()), hands_on=True)


def vasp_r2scan() -> Backend:
    """The Materials Project's r2SCAN: relaxed with PBEsol, then with r2SCAN, then static."""
    from atomate2.vasp.flows.mp import MPMetaGGADoubleRelaxStaticMaker

    return Backend("vasp-r2scan", "vasp", _double_relax(MPMetaGGADoubleRelaxStaticMaker()), hands_on=True)


def _double_relax(flow: Any) -> dict[str, Maker]:
    """The three makers of one of atomate2's flows; files pass between them as there."""
    relax = flow.relax_maker
    return {"relax 1": relax.relax_maker1, "relax 2": relax.relax_maker2, "static": flow.static_maker}


def abinit(ecut: float | None = None, density: int = DENSITY) -> Backend:
    """PBE: cell and atoms relaxed together, then static. ecut: Ha (None: what the pseudopotentials recommend).

    The relaxation may leave the cell that its plane waves were chosen for (dilatmx); the static calculation, in the
    plane waves of the final cell, has the energy that counts.
    """
    from atomate2.abinit.jobs.core import RelaxMaker, StaticMaker
    from atomate2.abinit.sets.core import StaticSetGenerator

    def common() -> dict[str, Any]:
        return {
            "pseudos": None,  # found where the job runs
            "factory_kwargs": {"smearing": "marzari4: 0.1 eV"} | ({} if ecut is None else {"ecut": ecut}),
            "user_kpoints_settings": {"reciprocal_density": density},
        }

    relax: Any = RelaxMaker.full_relaxation(user_abinit_settings={"dilatmx": 1.1, "chkdilatmx": 0}, **common())
    static = StaticMaker(input_set_generator=StaticSetGenerator(**common()))
    return Backend("abinit", "abinit", {"relax": relax, "static": static})


def cp2k(basis: str = "DZVP-MOLOPT-SR-GTH", cutoff: float = 400, density: int = CP2K_DENSITY) -> Backend:
    """PBE with GTH potentials under custodian: cell and atoms optimised together, then static. cutoff: Ry."""
    from atomate2.cp2k.jobs.core import CellOptMaker, StaticMaker
    from atomate2.cp2k.run import _DEFAULT_HANDLERS
    from atomate2.cp2k.sets.core import CellOptSetGenerator, StaticSetGenerator

    def settings() -> dict[str, Any]:
        names = {"basis_type": basis, "potential": "GTH-PBE"}  # looked up where the job runs
        return {
            "user_input_settings": {"basis_and_potential": names, "xc_functionals": "PBE", "cutoff": cutoff},
            "user_kpoints_settings": {"reciprocal_density": density},
        }

    def run() -> dict[str, Any]:
        # UnconvergedRelaxationErrorHandler raises KeyError on a cell optimisation that reaches its last step
        kept = [
            handler for handler in _DEFAULT_HANDLERS if type(handler).__name__ != "UnconvergedRelaxationErrorHandler"
        ]
        return {"handlers": kept}

    steps: dict[str, Maker] = {
        "relax": CellOptMaker(input_set_generator=CellOptSetGenerator(**settings()), run_cp2k_kwargs=run()),
        "static": StaticMaker(input_set_generator=StaticSetGenerator(**settings()), run_cp2k_kwargs=run()),
    }
    return Backend("cp2k", "cp2k", steps)


def forcefield(name: str = CHGNET) -> Backend:
    """A force field in DFT's place: the cheap rehearsal. name: as atomate2 calls it."""
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker

    known = known_name(name)
    steps: dict[str, Maker] = {
        "relax": ForceFieldRelaxMaker(force_field_name=known),
        "static": ForceFieldStaticMaker(force_field_name=known),
    }
    label = "forcefield" if known == CHGNET else f"forcefield:{known}"
    return Backend(label, "forcefield", steps)


PRESETS: dict[str, Callable[..., Backend]] = {
    "abinit": abinit,
    "cp2k": cp2k,
    "vasp": vasp,
    "vasp-r2scan": vasp_r2scan,
    "forcefield": forcefield,
}
INSTALL = {
    "abinit": "pip install 'dao-flows[dft]'",
    "cp2k": "pip install 'dao-flows[dft]'",
    "vasp": "pip install 'dao-flows[dft]'",
    "forcefield": OF_FORCE_FIELDS,
}
