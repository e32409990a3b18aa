"""All stages: ours, and those of packages that the user has installed. What reads this needs to know no stage by name.

A package declares a stage as an entry point of the group `dao_flows.stages`, whose value names a `Stage`:
`my_stage = "my_package.my_stage:STAGE"`. Nothing in a store or a file can add one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any

from pydantic import BaseModel

from dao_flows.makers.models import plugins
from dao_flows.makers.models.checkpoints import ParameterError

from . import evaluation, ingestion, labelling, prediction, relaxation, rounds, training, verification
from .declaration import Made, Parent, Stage, in_words

GROUP = "dao_flows.stages"
OURS = (  # in the way of the data, which is the order of lists and legends
    *(ingestion.INGESTION, relaxation.RELAXATION, relaxation.MERGE, labelling.LABELLING, labelling.MERGE),
    *(training.TRAINING, prediction.GENERATION, prediction.SCREENING, verification.CALCULATION),
    *(verification.VERIFICATION, evaluation.EVALUATION, evaluation.COMPARISON, relaxation.CROSS_CHECK),
    *(rounds.PROPOSAL, rounds.CANDIDATES, rounds.CHOICE, rounds.ROUND, rounds.ROUNDS),
)

log = logging.getLogger(__name__)


class Stages:
    """Stages by what names them: the kind and class of their documents, and their maker. Iterates in order."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.by_kind: dict[str, Stage] = {}
        self.by_document: dict[str, Stage] = {}
        self.by_maker: dict[str, Stage] = {}
        for stage in stages:
            self._add(stage)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.by_kind.values())

    def _add(self, stage: Stage) -> None:
        names = (self.by_kind, stage.kind), (self.by_document, stage.document_name), (self.by_maker, stage.maker_name)
        if taken := next((name for held, name in names if name in held), None):
            log.error("the stage of %s is left out: another one has the name %s", stage.maker, taken)
            return
        for held, name in names:
            held[name] = stage

    def of(self, output: Any) -> Stage | None:
        """The stage that wrote a job's document; None for what is none, or none of a known stage."""
        name = output.get("@class") if isinstance(output, Mapping) else None
        return self.by_document.get(name) if isinstance(name, str) else None

    def kind_of(self, output: Any) -> str:
        """The kind of the document that a job wrote; '' for an output that is no document with provenance."""
        if not isinstance(output, Mapping) or not isinstance(output.get("provenance"), Mapping):
            return ""
        stage = self.of(output)
        return in_words(str(output.get("@class") or "")) if stage is None else stage.kind

    def makes(self, kind: str) -> tuple[Made, ...]:
        """What documents of a kind made besides themselves."""
        return self.by_kind[kind].makes if kind in self.by_kind else ()

    def parents(self, kind: str) -> tuple[Parent, ...]:
        """How documents of a kind name their parents; of a kind that no stage declares, all ways there are."""
        stage = self.by_kind.get(kind)
        return self._all_parents if stage is None else stage.parents

    @cached_property
    def by_function(self) -> dict[str, Stage]:
        """By the names of jobs' functions: the classes of makers, and functions that are no maker's."""
        return {name: stage for stage in self for name in (stage.maker_name, *stage.functions)}

    @cached_property
    def of_shards(self) -> frozenset[str]:
        """The kinds of documents that made a shard of a dataset."""
        return frozenset(stage.kind for stage in self if any(made.what == "shard" for made in stage.makes))

    @cached_property
    def _all_parents(self) -> tuple[Parent, ...]:
        return tuple(dict.fromkeys(parent for stage in self for parent in stage.parents))

    @cached_property
    def documents(self) -> dict[tuple[str, str], type[BaseModel]]:
        """The classes of documents by module and name, which costs importing their makers."""
        classes = (stage.document_class for stage in self)
        return {(each.__module__, each.__name__): each for each in classes}


@cache
def stages() -> Stages:
    """All that there are, looked up once."""
    return Stages([*OURS, *_installed()])


def _installed() -> Iterator[Stage]:
    """Stages of other packages; one that cannot be had is left out with a line in the log."""
    for name in plugins.names(GROUP):
        try:
            stage = plugins.load(GROUP, name)
            if not isinstance(stage, Stage):
                raise ParameterError(f"{name!r} is no Stage")
            _ = stage.document_class
        except Exception as error:  # another's code may raise anything
            log.error("a stage of an installed package is left out: %s", plugins.in_one_line(error))
            continue
        yield stage
