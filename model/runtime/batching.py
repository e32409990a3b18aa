"""Batches that fit into the device's memory, and in which a crystal's result does not depend on the others.

Kernels choose the order of a sum by shape and by where in memory a row begins, and a long trajectory magnifies the
difference. On a CPU four rules give a crystal the same arithmetic in every batch, bit for bit: the crystals of a batch
have one size, so that none is padded; they come in blocks of ROWS, for kernels treat what is left over otherwise;
each has its slot in a block, given by what it is and not by its neighbours; and nothing along the way rounds by an
element's place in the array, as torch.sigmoid and powers do. Other devices promise nothing of the kind, nor do
processors with units for bf16 in bf16: there the same batches give the same results.
"""

from __future__ import annotations

import gc
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

import torch
from torch import Tensor

from dao_flows.model.crystals import Crystal
from dao_flows.model.errors import DaoError

from .memory import release_freed_memory

Result = TypeVar("Result")
Block = list[int | None]  # crystals by slot; None: nobody's

ROWS = 4
EXHAUSTED = (  # what allocators say in a plain RuntimeError
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",  # oneDNN, where it cannot have memory for code or scratch
)


class TooLargeError(DaoError):
    """Not even one crystal fits into the memory that is free."""


@dataclass
class BatchLog:
    """What ran. batches: crystals (fillers included) and atoms of each, in order; splits: how often memory ran out."""

    batches: list[tuple[int, int]] = field(default_factory=list)
    splits: int = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of the device or of the host, had no more to give."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in EXHAUSTED)


def slot_of(crystal: Crystal) -> int:
    """A slot by the crystal's own content, for those that have no number."""
    parts = (crystal.numbers, crystal.frac, crystal.lattice)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()[0]


class Batches:
    """Crystals of these sizes in batches of one size each, smallest first, of at most max_atoms atoms or one block.

    slots: a number for each crystal, of which the remainder by ROWS counts; those that follow each other fill blocks
    best. A batch for which memory does not suffice is halved, and so are those after it; where not even a block fits,
    what is smaller is computed too, and equal to what it would have been but for rounding. log: is told what ran.
    """

    def __init__(self, sizes: Sequence[int], slots: Sequence[int], max_atoms: int, log: BatchLog | None = None) -> None:
        self.count, self.limit, self.whole = len(sizes), max_atoms, True
        self.log = BatchLog() if log is None else log
        self.begun = 0
        queues: dict[int, list[list[int | None]]] = defaultdict(lambda: [[] for _ in range(ROWS)])
        for index, (size, slot) in enumerate(zip(sizes, slots, strict=True)):
            queues[size][slot % ROWS].append(index)
        self.waiting: list[tuple[int, list[Block]]] = [
            (size, [list(block) for block in zip_longest(*queue)]) for size, queue in sorted(queues.items())
        ]

    @property
    def left(self) -> int:
        """Batches that are not begun, as far as it is known now."""
        return sum(-(-len(blocks) // self._blocks(size)) for size, blocks in self.waiting)

    def run(self, compute: Callable[[list[int]], Sequence[Result]]) -> list[Result]:
        """What `compute` gives for each crystal, in their order. Raises TooLargeError.

        compute: results for crystals given by their indices, of which some come twice; it is called again for those
        whose memory did not suffice.
        """
        results: dict[int, Result] = {}
        while self.waiting:
            size, blocks = self.waiting.pop(0)
            chosen, rest = self._chosen(size, blocks)
            members = [index for block in chosen for index in block]
            filler = next(index for index in members if index is not None)
            batch = [filler if index is None else index for index in members]
            self.waiting[:0] = [(size, rest)] if rest else []
            self.begun += 1
            found = self._attempt(compute, batch)
            if found is None:
                self._halve(size, len(batch))
                self.waiting[: 1 if rest else 0] = [(size, chosen + rest)]
                continue
            self.log.batches.append((len(batch), size))
            results.update({index: result for index, result in zip(members, found, strict=True) if index is not None})
        return [results[index] for index in range(self.count)]

    def _blocks(self, size: int) -> int:
        return max(1, self.limit // (ROWS * size))

    def _chosen(self, size: int, blocks: list[Block]) -> tuple[list[Block], list[Block]]:
        """The blocks of the next batch, or a part of one where a whole one does not fit, and the rest."""
        if self.whole:
            return blocks[: self._blocks(size)], blocks[self._blocks(size) :]
        wanted: Block = [index for index in blocks[0] if index is not None]
        rows = max(1, self.limit // size)
        return [wanted[:rows]], [wanted[rows:], *blocks[1:]] if wanted[rows:] else blocks[1:]

    def _halve(self, size: int, rows: int) -> None:
        """After `rows` crystals did not fit."""
        if rows == 1:
            raise TooLargeError(
                f"one crystal of {size} atoms alone does not fit into the memory that is free: ask for smaller cells, "
                "or give the job more memory"
            )
        self.log.splits += 1
        self.whole = rows > ROWS
        self.limit = rows // (2 * ROWS) * ROWS * size if self.whole else rows // 2 * size

    @staticmethod
    def _attempt(compute: Callable[[list[int]], Sequence[Result]], batch: list[int]) -> Sequence[Result] | None:
        """None if memory ran out; what the attempt held is given back by then, for its frames end with the clause."""
        try:
            return compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()
        release_freed_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def run_batches(
    crystals: Sequence[Crystal],
    compute: Callable[[list[int]], Sequence[Result]],
    max_atoms: int,
    slots: Sequence[int] | None = None,
    log: BatchLog | None = None,
) -> list[Result]:
    """`Batches.run` over crystals; slots: by their content if none are given."""
    given = [slot_of(crystal) for crystal in crystals] if slots is None else slots
    return Batches([len(crystal) for crystal in crystals], given, max_atoms, log).run(compute)


def in_blocks(rows: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """All blocks of a batch of `total` that hold one of these rows: their rows, and where among them `rows` lie."""
    held = torch.zeros(-(-total // ROWS), dtype=torch.bool, device=rows.device)
    held[rows // ROWS] = True
    whole = held.repeat_interleave(ROWS)[:total].nonzero()[:, 0]
    return whole, torch.searchsorted(whole, rows)
