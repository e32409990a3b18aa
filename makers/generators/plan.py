"""What a generation will do, worked out before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymatgen.core.composition import Composition

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.prediction import CompositionPlan

if TYPE_CHECKING:
    from .source import Source
    from .templates import TemplateGenerator


@dataclass(frozen=True)
class GenerationPlan:
    """Made once, by `GenerateMaker.plan`, for whoever checks, names, looks for or computes the generation.

    compositions: for each reduced formula, in the order typed, its cells and candidates. sources: what draws; two where
    bf16 is 'auto', in fp32 and in bf16. templates: known crystals of a library, where one takes part. sciences: all
    that decides the result, of each source.
    """

    compositions: list[CompositionPlan]
    sources: Sequence[Source]
    templates: TemplateGenerator | None
    sciences: list[Science]

    @property
    def science(self) -> Science:
        """The one science. Raises ParameterError where bf16 is 'auto': it is not known before the run."""
        if len(self.sciences) > 1:
            raise ParameterError("bf16 must be settled as true or false by now, not 'auto'")
        return self.sciences[0]

    @property
    def elements(self) -> set[str]:
        """Symbols of all elements."""
        return {symbol for each in self.compositions for symbol in Composition(each.formula).get_el_amt_dict()}
