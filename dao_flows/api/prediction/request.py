"""What a prediction is asked for: the one place where an option, its help text and its default stand.

The command line (`predict`, `submit predict`), the Python function, the makers and the log of runs are given this
request, or are made from its fields. It loads nothing heavy, for the command line reads it to show its help.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer
from typer.models import OptionInfo

from dao_flows.makers.generators.generator import DAO_G, HELP
from dao_flows.makers.generators.settings import Bf16
from dao_flows.makers.screening.ranking import Ranking
from dao_flows.makers.verify import codes
from dao_flows.model.sampling.names import SamplerName

from .inputs import Z, parse_z

REFERENCE_HELP = "For hulls: file of ComputedEntries, mp: (Materials Project) or store: (your verifications)."
RANK_HELP = (
    "What comes first: what came most often (agreement), the lowest energy by DAO-P (energy) or by the judge (judge), "
    "or both agreement and the judge, which is the default with a judge; without one it is agreement."
)
OF_VERIFICATION = ("verify_with", "verify_top", "reference_set")


class Alternative(NamedTuple):
    """One more option of a field: a flag that gives it this value."""

    value: Any
    option: OptionInfo


Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Steps of the sampler (otherwise 50, or 100 if the checkpoint learned by diffusion)."),
]
Sampler = Annotated[
    SamplerName, typer.Option(help="Way from noise to a crystal; the default finds most in fewest steps.")
]
Precision = Annotated[
    Bf16,
    typer.Option("--bf16", help="Matrix products in bfloat16."),
    Alternative(
        "auto", typer.Option("--auto-bf16", help="In bfloat16 if the job measures that to be faster where it runs.")
    ),
]


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """A field without an option is for Python alone. What is None is left to the settings (DAO_FLOWS_*) and the makers.

    verify_top: of each formula, how many are verified. Raises InputError for a z that is none.
    """

    n: Annotated[int, typer.Option("-n", "--candidates", min=1, help="Candidates for each formula.")] = 20
    z: Annotated[Z, typer.Option(help="Formula units per cell, or auto for all that fit.")] = "auto"
    seed: Annotated[int, typer.Option(help="The same seed gives the same candidates.")] = 0
    guidance: Annotated[
        bool | None, typer.Option("--guidance/--no-guidance", help="Steer by DAO-P's energy.", show_default=False)
    ] = None
    relax: Annotated[
        bool | None, typer.Option("--relax/--no-relax", help="Relax in DAO-P's energy.", show_default=False)
    ] = None
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|none|auto",
            help="Force field of atomate2 whose energies judge candidates; auto: CHGNet, if installed.",
        ),
    ] = None
    judge_steps: Annotated[int, typer.Option(min=0, help="Steps of relaxation before the judge's energy.")] = 0
    rank_by: Annotated[Ranking | None, typer.Option(help=RANK_HELP, show_default=False)] = None
    top_k: Annotated[
        int | None,
        typer.Option("--top", min=1, help="Structures to keep for each formula; with --verify, to verify (3)."),
    ] = None
    verify_with: Annotated[
        str | None, typer.Option("--verify", metavar="BACKEND", help="Verify the best of each formula: " + codes.HELP)
    ] = None
    verify_top: int = 3
    reference_set: Annotated[str | Path | None, typer.Option("--reference", help=REFERENCE_HELP)] = None
    steps: Steps = None
    sampler: Sampler = "renoising"
    max_atoms: Annotated[
        int | None,
        typer.Option(min=1, help="Most atoms in a cell (otherwise 20, or a formula unit if it has more)."),
    ] = None
    bf16: Precision = False
    templates: Annotated[
        int | None,
        typer.Option(min=0, help="Candidates that may come from known crystals; 0: all drawn.", show_default="half"),
    ] = None
    library: Annotated[str | Path | None, typer.Option(help="Library of known crystals: name, path or sha256.")] = None
    known: Annotated[bool, typer.Option("--known/--no-known", help="Offer crystals of the very composition, too.")] = (
        True
    )
    generator: Annotated[str, typer.Option(metavar="NAME", help="What draws: " + HELP)] = DAO_G
    checkpoint: Annotated[str | Path | None, typer.Option(help="DAO-G: name, path or sha256.")] = None
    predictor: Annotated[str | Path | None, typer.Option(help="DAO-P: name, path or sha256.")] = None
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:0.")] = None

    def __post_init__(self) -> None:
        """Z may be written as text."""
        object.__setattr__(self, "z", parse_z(str(self.z)))

    def recorded(self) -> dict[str, Any]:
        """For the log of runs; a verification has a run of its own."""
        names = [field.name for field in fields(PredictionRequest) if field.name not in OF_VERIFICATION]
        return {name: getattr(self, name) for name in names}


def options(annotation: Any) -> list[OptionInfo | Alternative]:
    """The options that an annotated type has."""
    return [each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, OptionInfo | Alternative)]


def help_texts(request: type) -> dict[str, str]:
    """What each field that has an option means."""
    texts = {}
    for name, annotation in get_type_hints(request, include_extras=True).items():
        told = [
            f"{each.value!r}: {each.option.help}" if isinstance(each, Alternative) else str(each.help)
            for each in options(annotation)
        ]
        if told:
            texts[name] = " ".join(told)
    return texts
