"""What a stage declares of itself, once: its document and route, how it is drawn, its parents, how it is replayed.

Places in a document are dotted paths; 'calculations[].job_uuid' is that of each item of a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from .agreement import Difference
    from .rebuilding import Materials, Place, Rebuilt, Recorded

Category = Literal["gpu", "dft", "cpu"]
# what a name is: the uuid of a job, the science or content hash of a document, the sha256 of a thing, an id
What = Literal[
    "job",
    "science",
    "content",
    "checkpoint",
    "dataset",
    "reference",
    "shard",
    "source",
    "candidate",
    "verification",
]
Names = tuple[tuple[What, str], ...]  # what a name is, and its place in the document
Told = tuple[tuple[str, str], ...]  # what is told of a thing ('name', 'rows', …), and its place in the document

INPUTS, PARAMETERS = "provenance.science.inputs", "provenance.science.parameters"
STORING = "store_inputs"  # jobflow's own job, which passes on the output of a flow that took a job's place
SHOWN = 3  # of a list in a label
PLACE = r"\{([\w.\[\]]+)\}"  # in a label


class Route(BaseModel):
    """Where a stage runs and what its job asks for. cores: ranks of a DFT code, else threads; gpus: on each node."""

    model_config = ConfigDict(extra="forbid")

    category: Category
    walltime: str = Field("04:00:00", description="HH:MM:SS")
    nodes: int = Field(1, ge=1)
    cores: int = Field(1, ge=1)
    gpus: int = Field(0, ge=0)

    @field_validator("walltime", mode="before")
    @classmethod
    def _clock(cls, value: Any) -> str:
        if isinstance(value, int):  # what YAML 1.1 makes of 24:00:00
            value = f"{value // 3600:02d}:{value // 60 % 60:02d}:{value % 60:02d}"
        if not isinstance(value, str) or not re.fullmatch(r"\d+:[0-5]\d:[0-5]\d", value):
            raise ValueError(f"write HH:MM:SS, as 04:00:00, not {value!r}")
        return value


CPU = Route(category="cpu", walltime="01:00:00")
GPU = Route(category="gpu", gpus=1)
GPU_HALF_DAY = GPU.model_copy(update={"walltime": "12:00:00"})


@dataclass(frozen=True)
class Parent:
    """A parent that a document names. role: what it was to it, as in 'screened'.

    named: what the name is and its place, the best first; a later one counts where an earlier one is not there whole.
    told: what the document tells of the parent. sought: whether verifying a store looks for it.
    """

    role: str
    named: Names
    told: Told = ()
    sought: bool = True

    def claims(self, document: Mapping[str, Any]) -> Iterator[tuple[What, Any]]:
        """What the document says that it was made from."""
        for what, place in self.named:
            found = values(document, place)
            names = [value for value in found if is_name(what, value)]
            yield from ((what, value) for value in names)
            if names and len(names) == len(found):
                return


@dataclass(frozen=True)
class Made:
    """A checkpoint, a dataset or a shard of one that a document made. sha256, path: their places in it."""

    what: Literal["checkpoint", "dataset", "shard"]
    sha256: str
    told: Told = ()
    path: str = "path"


@dataclass(frozen=True)
class Stage:
    """A kind of job. maker, document: 'module:Class', found when they are needed; the document has a `provenance`.

    name: of its route; route: where it runs, if the user says nothing else. functions: names of jobs that are no
    maker's and go the same way. asks: what a maker's settings add to its route. colour: in drawings; label: what a
    document is called there, with places in braces. kind: of its documents (empty: the class's name in words); id: the
    place of a document's own id, where it is not its job's uuid. rebuild: the job that would write a document again
    (None: it cannot be replayed); check: compares inputs and outputs where running again takes long.
    """

    name: str
    maker: str
    document: str
    route: Route
    colour: str
    label: str
    parents: tuple[Parent, ...] = ()
    makes: tuple[Made, ...] = ()
    rebuild: Callable[[Recorded, Materials, Place], Rebuilt] | None = None
    check: Callable[[Recorded, Materials], Sequence[Difference]] | None = None
    functions: tuple[str, ...] = ()
    asks: Callable[[Any], Mapping[str, int]] | None = None
    kind: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", in_words(self.document_name))

    @property
    def maker_name(self) -> str:
        """As a document's science names it."""
        return self.maker.partition(":")[2]

    @property
    def document_name(self) -> str:
        """The class of its documents."""
        return self.document.partition(":")[2]

    @property
    def document_class(self) -> type[BaseModel]:
        """The class itself. Raises TypeError for one without a schema_version and a provenance."""
        found: type[BaseModel] = resolve_name(self.document)
        if not {"schema_version", "provenance"} <= found.model_fields.keys():
            raise TypeError(f"{self.document} has no schema_version or no provenance, as every document has")
        return found

    @property
    def places(self) -> list[str]:
        """All places in a document that its declaration names."""
        parents = [place for parent in self.parents for _, place in (*parent.named, *parent.told)]
        made = [place for each in self.makes for place in (each.sha256, each.path, *(at for _, at in each.told))]
        return [*parents, *made, *_places_of(self.label), *([self.id] if self.id else [])]

    @property
    def fields(self) -> list[str]:
        """What must be read of a document to know all places in it, without what is in another."""
        heads = sorted({place.partition("[]")[0] for place in self.places})
        return [each for each in heads if not any(each.startswith(f"{other}.") for other in heads)]

    def called(self, document: Mapping[str, Any]) -> str:
        """What a document is called."""

        def shown(place: re.Match[str]) -> str:
            found = [str(value) for value in values(document, place[1]) if value is not None]
            return ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "") or "?"

        return re.sub(PLACE, shown, self.label)


def _places_of(label: str) -> list[str]:
    return re.findall(PLACE, label)


def values(document: Any, place: str) -> list[Any]:
    """All that stands at a place; None where nothing does."""
    found = [document]
    for name in place.replace("[]", "").split("."):
        found = [each.get(name) if isinstance(each, Mapping) else None for each in _flat(found)]
    return _flat(found)


def first(document: Any, place: str) -> Any:
    """What stands first at a place; None where nothing does."""
    return next(iter(values(document, place)), None)


def _flat(found: list[Any]) -> list[Any]:
    return [item for each in found for item in (each if isinstance(each, list) else [each])]


def is_name(what: What, value: Any) -> bool:
    """Whether a value can name something: of a damaged document, some cannot."""
    return (isinstance(value, str) and value != "") or (what == "source" and isinstance(value, Mapping))


def told_in(document: Mapping[str, Any], told: Told) -> dict[str, Any]:
    """What a document tells of a thing; of several places for one word the first that holds something."""
    found: dict[str, Any] = {}
    for name, place in told:
        if found.get(name) is None:
            found[name] = first(document, place)
    return found


def in_words(name: str) -> str:
    """The name of a document's class in snake words, without Doc."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", name.removesuffix("Doc"))
    return "_".join(word.lower() for word in words)
