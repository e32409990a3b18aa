"""A backend: a code's preset by name, an ordered set of atomate2's own makers. Every one of them can be replaced."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jobflow.core.maker import Maker

from dao_flows.makers.models.checkpoints import ParameterError

from . import codes


@dataclass
class Backend:
    """A way to verify. code: name of the code; steps: name -> maker, in their order.

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

    def check(self, elements: Collection[str]) -> None:
        """Raises ParameterError, one line, for the first thing that is lacking here for these elements.

        Call it where the jobs are to run. Makers of the user's with pseudopotentials of their own are taken at their
        word.
        """
        code = codes.load(self.code)
        for requirement in code.needs():
            requirement.demand()
        code.check(self.steps, elements)


def backend(name: str, **settings: Any) -> Backend:
    """A preset by its name. settings: of the preset, such as ABINIT's ecut; its code's file has them (`codes`).

    Raises ParameterError if there is no such backend, or what it is made of is not installed.
    """
    preset_name, _, option = name.partition(":")
    code = codes.load(preset_name)
    preset = code.presets[preset_name]
    if option and preset.option is None:
        raise ParameterError(f"there is no backend {name!r}: {preset_name} takes no option")
    try:
        option = preset.option(option) if option and preset.option is not None else ""
        steps = preset.steps(*([option] if option else []), **settings)
    except ImportError as error:
        missing = getattr(error, "name", None)
        said = f"needs {missing}" if missing else f"cannot be used: {str(error).splitlines()[0]}"
        raise ParameterError(f"the backend {name!r} {said}: {code.install}") from None
    return Backend(f"{preset_name}:{option}" if option else preset_name, code.name, steps, preset.hands_on)
