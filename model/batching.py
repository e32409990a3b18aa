"""Batches that fit into the device's memory, and in which a crystal's result does not depend on the others.

Kernels choose their order of summation by the shapes they are given, and a trajectory magnifies the rounding. On a CPU
three rules make a row's arithmetic the same in every batch, bit for bit: all crystals of a batch have the same number
of atoms (and nothing is padded), rows come in multiples of ROWS (matrix products treat what is left over after blocks
of four otherwise), and no operation along the way has other instructions for the last few elements of an array, as
torch.sigmoid and powers do. Other devices promise nothing of the kind: there the same batches give the same result.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Result = TypeVar("Result")

ROWS = 4  # crystals of a batch come in multiples of it; places left over repeat the last crystal
EXHAUSTED = (  # what allocators say in a plain RuntimeError
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class OutOfMemory(ValueError):
    """Not even one crystal fits into the device's memory."""


@dataclass
class BatchLog:
    """What ran. batches: crystals (repeats included) and atoms of each, in order; splits: how often memory ran out."""

    batches: list[tuple[int, int]] = field(default_factory=list)
    splits: int = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of the device or of the host, had no more to give."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in EXHAUSTED)


class Batches:
    """Crystals of these sizes in batches of one size each, smallest first, of at most max_atoms atoms.

    A batch for which memory does not suffice is halved, and so are those after it. There are at least ROWS crystals in
    a batch until memory runs out with no more than these. log: is told what ran.
    """

    def __init__(self, sizes: Sequence[int], max_atoms: int, log: BatchLog | None = None) -> None:
        self.count, self.limit, self.least = len(sizes), max_atoms, ROWS
        self.log = BatchLog() if log is None else log
        self.begun = 0
        groups: dict[int, list[int]] = defaultdict(list)
        for index, size in enumerate(sizes):
            groups[size].append(index)
        self.waiting = sorted(groups.items())

    @property
    def left(self) -> int:
        """Batches that are not begun, as far as it is known now."""
        return sum(-(-len(group) // self._rows(size)) for size, group in self.waiting)

    def run(self, compute: Callable[[list[int]], Sequence[Result]]) -> list[Result]:
        """What `compute` gives for each crystal, in their order. Raises OutOfMemory.

        compute: results for crystals given by their indices; it is called again for those whose memory did not suffice.
        """
        results: dict[int, Result] = {}
        while self.waiting:
            size, group = self.waiting[0]
            rows = self._rows(size)
            members, rest = group[:rows], group[rows:]
            self.waiting[:1] = [(size, rest)] if rest else []
            batch = members + members[-1:] * (-len(members) % min(rows, ROWS))
            self.begun += 1
            found = self._attempt(compute, batch)
            if found is None:
                self._halve(size, len(batch))
                self.waiting[: 1 if rest else 0] = [(size, group)]
            else:
                self.log.batches.append((len(batch), size))
                results.update(zip(members, found[: len(members)], strict=True))
        return [results[index] for index in range(self.count)]

    def _rows(self, size: int) -> int:
        rows = self.limit // size
        return rows - rows % ROWS if rows >= ROWS else max(self.least, rows)

    def _halve(self, size: int, rows: int) -> None:
        """After `rows` crystals did not fit."""
        if rows == 1:
            raise OutOfMemory(
                f"one crystal of {size} atoms alone does not fit into the memory that is free: ask for smaller cells, "
                "or for more memory of the device or the job"
            )
        self.log.splits += 1
        if rows <= ROWS:
            self.least = 1
        self.limit = rows // 2 * size

    @staticmethod
    def _attempt(compute: Callable[[list[int]], Sequence[Result]], batch: list[int]) -> Sequence[Result] | None:
        """None if memory ran out. What the attempt held is given back by then: its frames end with the except clause."""
        try:
            return compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def in_rows(values: torch.Tensor) -> torch.Tensor:
    """Indices (k,), k at least 1, with the last repeated until their number is a multiple of ROWS."""
    return torch.cat([values, values[-1:].expand(-len(values) % ROWS)])


def run_batches(
    sizes: Sequence[int],
    compute: Callable[[list[int]], Sequence[Result]],
    max_atoms: int,
    log: BatchLog | None = None,
) -> list[Result]:
    """`Batches(...).run(compute)`."""
    return Batches(sizes, max_atoms, log).run(compute)
