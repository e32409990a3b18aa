"""What a code is to a verification: its presets, what it needs, how it is prepared and how its results are read.

One object of `Code` declares all of it, one file a code (`codes`). Nothing else knows one code from another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow.core.maker import Maker

from dao_flows.makers.jobs.provenance import installed_version

from .installed import Program, Requirement

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from .results import Outcome

Steps = Mapping[str, Maker]


@dataclass(frozen=True)
class Preset:
    """One way to use a code.

    steps: gives name -> maker, in their order; keywords are the preset's settings. It imports atomate2 when it is
    called, not before. hands_on: whether a step is given the directory of the one before it. option: for `NAME:OPTION`,
    gives the option as it is to be recorded, '' for the one that is meant where none is given, and raises
    ParameterError; `steps` takes it as its first argument. None: there is no option.
    """

    steps: Callable[..., dict[str, Maker]]
    hands_on: bool = False
    option: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Code:
    """A DFT code, or what stands in for one.

    name: as jobs and documents hold it; one of its backends has it too. presets: backend -> preset.
    document: module and name of the class of atomate2's documents that `read` reads. calculator: of a document of
    ASE's, which many codes share, the name of the calculator that wrote it.
    read: a document and the directory of the calculation -> its figures in our units (`results`).
    install: the line that installs its packages. packages: distributions that it needs. program: None if it has none.
    supplies: what its presets take from this machine, such as pseudopotentials; makers that bring their own need none.
    check: raises ParameterError for what makers lack here for these elements.
    fill: completes a maker, in place, with what is on this machine for one structure, and returns element -> sha256 of
    the files of its pseudopotentials. Raises ParameterError.
    version: of the package in which a maker computes, for a code without a program; None for any other code's maker.
    complaint: what went wrong, in the code's own words on one line, from its files in a directory; None if it says
    nothing or has none there.
    is_dft: whether an output of a job, not of ours, is a finished DFT calculation of this code by atomate2. None: its
    energies are not those of DFT.
    """

    name: str
    presets: Mapping[str, Preset]
    document: str
    read: Callable[[Any, Path], Outcome]
    install: str
    packages: tuple[str, ...] = ("atomate2",)
    calculator: str | None = None
    program: Program | None = None
    supplies: Callable[[], Requirement] | None = None
    check: Callable[[Steps, Collection[str]], None] = lambda steps, elements: None
    fill: Callable[[Any, Structure], dict[str, str]] = lambda maker, structure: {}
    version: Callable[[Maker], str | None] = lambda maker: None
    complaint: Callable[[Path], str | None] = lambda directory: None
    is_dft: Callable[[Mapping[str, Any]], bool] | None = None

    def __post_init__(self) -> None:
        if self.name not in self.presets:
            raise ValueError(f"the code {self.name!r} has no preset of its own name")

    def needs(self) -> Iterator[Requirement]:
        """What it needs whatever the makers and elements."""
        if self.program is not None:
            yield Requirement(self.name, self.program.found(), self.program.fix)
        for package in self.packages:
            yield Requirement(f"{self.name}: {package}", installed_version(package), self.install)

    def requirements(self) -> Iterator[Requirement]:
        """All that its presets need, whatever the elements."""
        yield from self.needs()
        if self.supplies is not None:
            yield self.supplies()

    def reads(self, task: Any) -> bool:
        """Whether a document is of this code."""
        names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(task).__mro__)
        by = getattr(task, "ase_calculator_name", None)
        return self.document in names and self.calculator in (None, by)
