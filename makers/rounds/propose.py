"""ProposeMaker: the compositions of a round, from what the training set has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from math import gcd, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jobflow.core.maker import Maker

from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.jobs.stage import stage
from dao_flows.makers.machine.places import CHECKPOINT, PATH, Places
from dao_flows.makers.merge import in_full
from dao_flows.makers.models.checkpoints import ParameterError, card
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.rounds import ProposalDoc
from dao_flows.makers.science.validity import charge_neutral
from dao_flows.version import __version__

from .rows import formula_of_numbers, held_out_formulas, training_rows

if TYPE_CHECKING:
    from dao_flows.model.checkpoint.format import Card

TRIES = 200  # for each new formula, before there are fewer
Cell = tuple[tuple[int, int], ...]  # atomic numbers and how many of each, of a formula unit


@dataclass
class ProposeMaker(Maker):
    """Proposes formulas that a generator covers, none of them held out.

    known: formulas of training crystals whose energy above hull is known, drawn without replacement; a teacher's
    energies of their candidates have a zero. new: formulas that the training set does not have. Each has the elements
    of one of its chemical systems and the stoichiometry of one of its formulas with as many elements, both drawn by how
    many formulas have them and dealt to each other at random; those whose charges cannot balance by SMACT are left out
    (metals and alloys count as neutral). Where few can be made there are fewer. max_atoms: in a formula unit. split: of
    the held-out data (None: all rows); the training set's own rows for validation are held out in any case. seed: with
    the round's number it decides all draws.
    """

    PLACES: ClassVar[Places] = {"dataset": PATH, "held_out": PATH, "generator": CHECKPOINT}

    name: str = "propose"
    known: int = 20
    new: int = 10
    max_atoms: int = 20
    split: str | None = "val"
    seed: int = 0

    @stage(output_schema=ProposalDoc)
    def make(self, dataset: str, generator: str, held_out: str, number: int) -> ProposalDoc:
        """Propose the formulas of round `number`, for candidates of a DAO-G.

        dataset: the training set; held_out: a dataset or parquet file; both in full. Raises ParameterError for a
        setting, and a dataset without a formula of known energy that the generator covers; CheckpointError, DataError.
        """
        from dao_flows.model.data.shards import parts

        started, folder, held = datetime.now(UTC), in_full(dataset), in_full(held_out)
        self.check()
        found = card(generator, "dao-g")
        science = Science(
            maker=type(self).__name__,
            parameters={"known": self.known, "new": self.new, "max_atoms": self.max_atoms, "split": self.split},
            inputs={"dataset": parts(folder)[1], "held_out": parts(held)[1], "round": number},
            checkpoints={"generator": found.sha256},
            seed=self.seed,
            code_version=__version__,
        )
        away = held_out_formulas(held, self.split) | held_out_formulas(folder, "val")
        rng = np.random.default_rng([self.seed, number])
        cells, labelled = _cells(folder)
        known = self._known(rng, cells, labelled - away, found)
        if not known:
            raise ParameterError(
                f"{folder} has no training crystal with a known energy above hull that {found.name} covers: nothing "
                "says where a teacher's zeros lie"
            )
        new = self._new(rng, cells, set(cells) | away, found)
        return ProposalDoc(
            round=number,
            dataset=science.inputs["dataset"],
            known=known,
            new=new,
            formulas=known + new,
            held_out=len(away),
            provenance=provenance(science, execution_record(started, "cpu", {"generator": found.name})),
        )

    def check(self) -> None:
        """Raises ParameterError for a setting out of range."""
        for setting, least in (("known", 1), ("new", 0), ("max_atoms", 1), ("seed", 0)):
            if getattr(self, setting) < least:
                raise ParameterError(f"{setting} must be at least {least}, not {getattr(self, setting)}")

    def _known(
        self, rng: np.random.Generator, cells: dict[str, Cell], formulas: set[str], generator: Card
    ) -> list[str]:
        fitting = [formula for formula in sorted(formulas) if self._fits(cells[formula], generator)]
        drawn = rng.permutation(len(fitting))[: self.known]
        return [fitting[i] for i in drawn]

    def _new(self, rng: np.random.Generator, cells: dict[str, Cell], taken: set[str], generator: Card) -> list[str]:
        found: dict[str, None] = {}
        if self.new:
            for cell in _combined(rng, cells.values(), TRIES * self.new):
                if self._fits(cell, generator):
                    formula = formula_of_numbers(z for z, count in cell for _ in range(count))
                    if formula not in taken and formula not in found and charge_neutral(formula) is not False:
                        found[formula] = None
                if len(found) == self.new:
                    break
        return list(found)

    def _fits(self, cell: Cell, generator: Card) -> bool:
        """Whether the generator covers a formula unit."""
        atoms = sum(count for _, count in cell)
        return atoms <= min(self.max_atoms, generator.max_atoms) and {z for z, _ in cell} <= set(generator.elements)


def _cells(folder: Path) -> tuple[dict[str, Cell], set[str]]:
    """A formula unit of each training formula, and the formulas with a known energy above hull."""
    cells: dict[str, Cell] = {}
    labelled = set()
    for formula, row in training_rows(folder):
        if formula not in cells:
            counts: Counter[int] = Counter(row["numbers"])
            units = reduce(gcd, counts.values())
            cells[formula] = tuple(sorted((z, count // units) for z, count in counts.items()))
        energy = row["e_above_hull"]
        if energy is not None and isfinite(energy):
            labelled.add(formula)
    return cells, labelled


def _combined(rng: np.random.Generator, cells: Iterable[Cell], tries: int) -> Iterator[Cell]:
    """Elements of one formula with the numbers of another one of as many elements, dealt at random."""
    known = sorted(cells)
    alike: dict[int, list[Cell]] = {}
    for cell in known:
        alike.setdefault(len(cell), []).append(cell)
    for _ in range(tries):
        elements = [z for z, _ in known[rng.integers(len(known))]]
        others = alike[len(elements)]
        numbers = [count for _, count in others[rng.integers(len(others))]]
        yield tuple(zip(elements, rng.permutation(numbers).tolist(), strict=True))
