"""Which rows of a batch are held out, or there already. All crystals met before lie in the build's file, by formula."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dao_flows.makers.machine.parallel import parallel_map
from dao_flows.makers.science.duplicates import Reduced, Tolerance, first_match, match_limit

from .cleaning import Clean
from .config import HELD_OUT, BuildConfig
from .readers.refusal import Rejected
from .work import Work

SMALL = 8  # blocks with something to compare that are not worth sharing out

Named = tuple[str, Reduced]


@dataclass(frozen=True)
class Block:
    """Crystals of one formula and size: those held out, those there already, and new ones with their places."""

    held: list[Named]
    kept: list[Named]
    new: list[tuple[int, str, Reduced]]


def settle_batch(batch: Sequence[tuple[int, Clean]], work: Work, config: BuildConfig) -> dict[int, Rejected]:
    """Of new rows with cells (place in the batch, row): those to be rejected, by place.

    The first of two that match is kept. The result does not depend on how rows are dealt to batches.
    """
    blocks: dict[tuple[str, int], list[tuple[int, str, Reduced]]] = defaultdict(list)
    for place, row in batch:
        assert row.cell is not None
        named = (place, str(row.row["material_id"]), row.cell)
        blocks[row.formula, len(row.cell.structure)].append(named)
    filled = [_block(work, *key, new, config) for key, new in blocks.items()]
    busy = [block for block in filled if block.held or block.kept or len(block.new) > 1]
    settled = parallel_map(partial(settle, duplicates=not config.keep_duplicates), busy, small=SMALL)
    return {place: rejected for found in settled for place, rejected in found.items()}


def settle(block: Block, duplicates: bool = True) -> dict[int, Rejected]:
    """The new crystals of one block that are held out or (if asked) there already, in order."""
    found: dict[int, Rejected] = {}
    kept = list(block.kept)
    for place, name, cell in block.new:
        # without the screen of fingerprints, whose bound was measured at the tolerance for duplicates
        if (same := first_match(block.held, cell, HELD_OUT, screened=False)) is not None:
            found[place] = Rejected("held out", f"it matches the held-out {same}")
        elif duplicates and (same := first_match(kept, cell, Tolerance())) is not None:
            found[place] = Rejected("duplicate", f"it matches {same}")
        elif duplicates:
            kept.append((name, cell))
    return found


def _block(work: Work, formula: str, atoms: int, new: list[tuple[int, str, Reduced]], config: BuildConfig) -> Block:
    held_ids, _ = work.fingerprints(formula, atoms, held=True)
    kept: list[Named] = []
    if not config.keep_duplicates:
        ids, known = work.fingerprints(formula, atoms, held=False)
        if len(ids):
            limit = match_limit(atoms, Tolerance())
            near = np.zeros(len(ids), dtype=bool)
            for _, _, cell in new:
                near |= np.abs(known - cell.fingerprint).mean(axis=1) <= limit
            kept = list(work.cells(ids[near].tolist()))
    return Block(list(work.cells(held_ids.tolist())), kept, new)
