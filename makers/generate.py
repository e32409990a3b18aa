"""GenerateMaker: crystal structures for compositions, from known crystals and drawn by a generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jobflow.core.maker import Maker
from pymatgen.core.composition import Composition

from dao_flows.makers.schemas.document import Science
from dao_flows.version import __version__

from .generators.dao_g import Guide, dao_generators, faster
from .generators.generator import DAO_G, TEMPLATES
from .generators.plan import GenerationPlan
from .generators.registry import installed
from .generators.settings import SamplerSettings
from .generators.source import OfPackage, Source
from .generators.templates import SHARE, FromTemplate, TemplateGenerator, candidate_id, template_id, wanted
from .jobs.progress import report
from .jobs.provenance import execution_record, provenance
from .jobs.reuse import reusable
from .jobs.stage import stage
from .machine.places import CHECKPOINT, LIBRARY, Places
from .models.checkpoints import ParameterError, pick_device
from .schemas.prediction import Cells, CompositionPlan, FailedCandidate, GeneratedCandidate, GenerationDoc, Origin
from .science.chemistry import (
    Covers,
    Z,
    atomic_numbers,
    check_coverage,
    deal,
    formula_key,
    formula_of,
    formula_units,
    parse_batch,
)
from .science.structures import to_structure

if TYPE_CHECKING:
    from dao_flows.model.crystals import Crystal

MAX_CANDIDATES, MAX_ATOMS = 2_000, 20_000  # in one job: relaxed, all distinct, they are a document of 13 MB (limit: 16)
AUTO_ATOMS = 20  # in a cell that nobody asked for: with more, every Z would get fewer candidates
MAX_SEED = 2**63

Compositions = str | Sequence[str] | Sequence[CompositionPlan] | Mapping[str, Composition]


@dataclass
class GenerateMaker(SamplerSettings, Maker):
    """Takes candidates for a batch of compositions from known crystals, and draws the others, in one job.

    generator: what draws: 'dao-g'; 'templates', which draws nothing: all candidates are from known crystals; or one of
    an installed package (`makers/generators/generator.py`), which has none of DAO-G's settings. checkpoint: DAO-G by
    name, path or sha256. predictor: DAO-P whose energy guides, with a strength for coordinates and one for the lattice;
    None, or both strengths 0: no guidance. The sampler's settings: as SamplerSettings says. candidates: per
    composition. z: formula units per cell; 'auto' deals the draws round-robin over all Z that fit into max_atoms (None:
    into 20, or one formula unit where that is larger), smallest first. A formula that is not reduced (Cr6Os2) means
    with 'auto' exactly this cell. No cell is larger than what the checkpoints or the generator cover. seed: draw k of a
    formula and a Z is the same in any batch (but for bf16, docs/sampling.md), and when more are asked for.

    library: of known crystals, by name, path or sha256 (None: all candidates are drawn). templates: how many of a
    formula's candidates may come from it (None: half of them, rounded up; 0: none); they are the best of all Z, with
    'auto' of cells as large as max_atoms or the checkpoints allow, and what the library lacks is drawn. known: crystals
    of the very composition are among them.
    """

    PLACES: ClassVar[Places] = {"checkpoint": CHECKPOINT, "predictor": CHECKPOINT, "library": LIBRARY}

    name: str = "generate"
    generator: str = DAO_G
    checkpoint: str = "dao-g-flow"
    predictor: str | None = None
    guidance_coordinates: float = 20.0
    guidance_lattice: float = 20.0
    candidates: int = 20
    z: Z = "auto"
    max_atoms: int | None = None
    seed: int = 0
    device: str = "auto"
    library: str | None = "known"
    templates: int | None = None
    known: bool = True

    @stage(output_schema=GenerationDoc)
    def make(self, compositions: str | list[str] | list[CompositionPlan]) -> GenerationDoc:
        """Generate candidates for one formula or a batch of them; or, to repeat a generation, for its plan.

        Where bf16 is 'auto', a stored result of either precision is taken for reuse; if there is none, it is measured.
        Where nothing is left to draw, DAO-G is not loaded. Raises CompositionError, ParameterError, CheckpointError and
        DataError as `plan` does.
        """
        from dao_flows.model.runtime.batching import BatchLog
        from dao_flows.model.sampling.requests import Request

        started, device = datetime.now(UTC), pick_device(self.device)
        plan = self.plan(compositions)
        for each in plan.sciences:
            if (found := reusable(GenerationDoc, each)) is not None:
                return found
        draws = [
            (entry.formula, cells.z, index)
            for entry in plan.compositions
            for cells in entry.cells
            for index in range(cells.candidates)
        ]
        requests = [Request(np.array(atomic_numbers(f, z)), (formula_key(f), z, index)) for f, z, index in draws]
        chosen, precision, log = 0, None, BatchLog()
        crystals: Sequence[Crystal | None] = []
        if requests:
            if self.bf16 == "auto":
                precision = faster(plan.sources, requests, device)
                chosen = int(precision.bf16)
            tell = partial(report, stage="generate")
            crystals = plan.sources[chosen].sample(requests, self.seed, device, tell, log)
        drawing, science = plan.sources[chosen], plan.sciences[chosen]  # in fp32 where nothing is drawn, nor measured
        document = GenerationDoc(
            compositions=plan.compositions,
            candidates=[],
            provenance=provenance(science, execution_record(started, device, drawing.names, log, precision)),
        )
        drawn = iter(zip(draws, crystals, strict=True))
        origin = drawing.origin or (Origin(kind="drawn") if self._wanted else None)
        for entry in plan.compositions:
            templates = self._best(plan.templates, entry.formula, entry.looked_up)
            for index, (z, crystal, source) in enumerate(templates):
                key = template_id(science, entry.formula, z, source)
                _add(document, (entry.formula, z, index), key, crystal, source)
            for _ in range(sum(cells.candidates for cells in entry.cells)):
                draw, made = next(drawn)
                _add(document, draw, candidate_id(science, *draw), made, origin)
        return document

    @property
    def guided(self) -> bool:
        """Whether DAO-P guides: a predictor is set and one of the strengths is above 0."""
        return self.predictor is not None and (self.guidance_coordinates > 0 or self.guidance_lattice > 0)

    def _sources(self, templates: TemplateGenerator | None) -> Sequence[Source]:
        """What draws; where bf16 is 'auto', in either precision.

        Raises CheckpointError for a missing checkpoint, ParameterError for a generator that is not there, and settings
        that it does not have.
        """
        if self.generator == DAO_G:
            guide = Guide(str(self.predictor), self.guidance_coordinates, self.guidance_lattice)
            return dao_generators(self.checkpoint, self, guide if self.guided else None)
        changed = [f.name for f in fields(SamplerSettings) if getattr(self, f.name) != f.default]
        if changed or self.predictor is not None:
            told = ", ".join(changed or ["guidance"])
            raise ParameterError(f"{told} is of DAO-G's sampler: the generator {self.generator!r} does not have it")
        if self.generator != TEMPLATES:
            return [OfPackage(installed(self.generator))]
        if templates is None:
            raise ParameterError(
                f"the generator {TEMPLATES!r} needs a library of known crystals, and templates above 0"
            )
        return [templates]

    def plan(self, compositions: Compositions) -> GenerationPlan:
        """What would be generated, from which checkpoints and library, and the science that it would have.

        compositions: formulas as typed, or parsed already, by their text; or a plan's, to repeat a generation. Those of
        the same reduced formula (H2O and OH2, Si and Si2) are merged. Raises one CompositionError for all bad
        compositions, ParameterError for settings, CheckpointError for a checkpoint, DataError for a library.
        """
        self._check_settings()
        templates = self._opened()
        sources = self._sources(templates)
        covers = sources[0].covers
        self._check_size(covers)
        planned = [entry for entry in compositions if isinstance(entry, CompositionPlan)]
        for entry in planned:
            largest = max((c.z for c in entry.cells if c.total), default=1)
            for found in covers:
                check_coverage(Composition(entry.formula), found, largest)
        planned = planned or self._dealt(self._parsed(compositions, covers), covers, templates)
        return GenerationPlan(
            planned, sources, templates, [self._science(planned, each, templates) for each in sources]
        )

    def check(self, compositions: Compositions) -> list[CompositionPlan]:
        """What would be generated, before submission. Raises as `plan` does."""
        return self.plan(compositions).compositions

    def science(self, compositions: Compositions) -> Science:
        """All that decides the result. Raises as `plan` does, and ParameterError where bf16 is 'auto'."""
        return self.plan(compositions).science

    def _sizes(self, covers: Sequence[Covers]) -> tuple[int, int]:
        """The most atoms that a cell may have, and one that nobody asked for."""
        if self.max_atoms is not None:
            return self.max_atoms, self.max_atoms
        smallest = min(each.max_atoms for each in covers)
        return smallest, min(smallest, AUTO_ATOMS)

    def _parsed(self, compositions: Compositions, covers: Sequence[Covers]) -> dict[str, Composition]:
        max_atoms, auto_atoms = self._sizes(covers)

        def check(composition: Composition) -> None:
            for found in covers:
                check_coverage(composition, found, self.z)
            formula_units(composition, max_atoms, self.z, auto_atoms)

        texts = compositions if isinstance(compositions, str | Mapping) else [str(text) for text in compositions]
        return parse_batch(texts, check)

    def _dealt(
        self, parsed: Mapping[str, Composition], covers: Sequence[Covers], templates: TemplateGenerator | None
    ) -> list[CompositionPlan]:
        """Cells and candidates of each reduced formula. Raises ParameterError for too many of them."""
        max_atoms, auto_atoms = self._sizes(covers)
        asked: dict[str, list[str]] = {}
        spread: dict[str, list[tuple[list[int], list[int]]]] = {}  # of each text: Z to draw, Z to look up
        for text, composition in parsed.items():
            formula = formula_of(composition).name
            asked.setdefault(formula, []).append(text)
            units = formula_units(composition, max_atoms, self.z, auto_atoms)
            all_units = formula_units(composition, max_atoms, self.z) if templates is not None else []
            spread.setdefault(formula, []).append((units, all_units))
        plan = [self._planned(formula, asked[formula], spread[formula], templates) for formula in asked]
        candidates = sum(cells.total for entry in plan for cells in entry.cells)
        atoms = sum(cells.total * cells.n_atoms for entry in plan for cells in entry.cells)
        if candidates > MAX_CANDIDATES or atoms > MAX_ATOMS:
            raise ParameterError(
                f"{candidates} candidates of {atoms} atoms in all are too many for one job (at most {MAX_CANDIDATES} "
                f"candidates and {MAX_ATOMS} atoms): split the batch, or ask for fewer candidates"
            )
        return plan

    def _planned(
        self,
        formula: str,
        asked: list[str],
        spread: Sequence[tuple[Sequence[int], Sequence[int]]],
        templates: TemplateGenerator | None,
    ) -> CompositionPlan:
        """What a formula gets: the templates that there are; and each text that asked for it, draws for the rest."""
        looked_up = sorted({z for _, all_units in spread for z in all_units})
        known = Counter(each.z for each in self._best(templates, formula, looked_up))
        drawn: dict[int, int] = {}
        for units, all_units in spread if self.generator != TEMPLATES else ():
            found = sum(known[z] for z in all_units)
            for z, count in deal(max(0, self.candidates - found), units).items():
                drawn[z] = max(count, drawn.get(z, 0))
        cells = _cells(formula, drawn, known)
        return CompositionPlan(formula=formula, asked=asked, cells=cells, looked_up=looked_up)

    @property
    def _wanted(self) -> int:
        """How many candidates of a formula may come from templates."""
        if self.library is None:
            return 0
        share = 1.0 if self.generator == TEMPLATES else SHARE
        return wanted(self.templates, self.candidates, share)

    def _opened(self) -> TemplateGenerator | None:
        """The library, where one takes part. Raises DataError for one that is missing or damaged."""
        from dao_flows.model.templates.places import open_library

        return TemplateGenerator(open_library(str(self.library)), self.known) if self._wanted else None

    def _best(self, templates: TemplateGenerator | None, formula: str, units: Sequence[int]) -> list[FromTemplate]:
        return [] if templates is None else templates.best(formula, units, self._wanted)

    def _science(
        self, planned: Sequence[CompositionPlan], source: Source, templates: TemplateGenerator | None
    ) -> Science:
        parameters, inputs = dict(source.parameters), dict[str, Any]()
        inputs["compositions"] = [told(entry) for entry in sorted(planned, key=lambda entry: entry.formula)]
        if templates is not None:
            parameters |= {"templates": self._wanted, "known": self.known}
            inputs["library"] = templates.sha256
        return Science(
            maker=type(self).__name__,
            parameters=parameters,
            inputs=inputs,
            checkpoints=dict(source.checkpoints),
            seed=self.seed,
            code_version=__version__,
        )

    def _check_settings(self) -> None:
        """Raises ParameterError for a setting out of range."""
        if self.candidates < 1:
            raise ParameterError(f"candidates must be at least 1, not {self.candidates}")
        if self.templates is not None and self.templates < 0:
            raise ParameterError(f"templates must not be negative, but {self.templates}")
        if not 0 <= self.seed < MAX_SEED:
            raise ParameterError(f"seed must lie between 0 and 2^63 − 1, not {self.seed}")
        if self.z != "auto" and self.z < 1:
            raise ParameterError(f"z must be 'auto' or at least 1, not {self.z}")
        if self.guidance_coordinates < 0 or self.guidance_lattice < 0:
            raise ParameterError("guidance strengths must not be negative")

    def _check_size(self, covers: Sequence[Covers]) -> None:
        """Raises ParameterError for cells larger than what draws can fill."""
        smallest = min(covers, key=lambda each: each.max_atoms)
        if self.max_atoms is not None and not 1 <= self.max_atoms <= smallest.max_atoms:
            raise ParameterError(
                f"max_atoms must lie between 1 and {smallest.max_atoms}, which {smallest.name} covers, "
                f"not {self.max_atoms}"
            )


def _cells(formula: str, drawn: Mapping[int, int], templates: Mapping[int, int]) -> list[Cells]:
    """Counts by Z as documents, ascending."""
    atoms = int(Composition(formula).num_atoms)
    return [
        Cells(z=z, n_atoms=z * atoms, candidates=drawn.get(z, 0), templates=templates.get(z, 0))
        for z in sorted({*drawn, *templates})
    ]


def told(entry: CompositionPlan) -> dict[str, Any]:
    """What the science says of a formula; of templates only where a library was asked."""
    cells = [{"z": c.z, "candidates": c.candidates, "templates": c.templates} for c in entry.cells if c.total]
    if entry.looked_up:
        return {"formula": entry.formula, "cells": cells, "looked_up": entry.looked_up}
    return {"formula": entry.formula, "cells": [{k: v for k, v in c.items() if k != "templates"} for c in cells]}


def _add(
    document: GenerationDoc, draw: tuple[str, int, int], key: str, crystal: Crystal | None, origin: Origin | None
) -> None:
    """A candidate, or that there is none."""
    formula, z, index = draw
    named = {"candidate_id": key, "formula": formula, "z": z, "index": index}
    if crystal is None:
        document.failed.append(FailedCandidate(**named, reason="the generator has no crystal for this cell"))
        return
    try:
        document.candidates.append(GeneratedCandidate(**named, structure=to_structure(crystal), origin=origin))
    except FloatingPointError as error:
        document.failed.append(FailedCandidate(**named, reason=str(error)))
