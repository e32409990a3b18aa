"""Where the boxes of a drawing stand: layers from left to right, few crossings, edges as straight as can be.

The method of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11, 109, 1981): layers by the longest path, dummies where an
edge passes a layer, an order within each layer by barycentres. Heights are then found by isotonic regression: each box
as near to the mean of its neighbours as the boxes above and below allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS, SETTLING = 16, 120  # over the layers: for their orders, for the heights
Edge = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """layers: of each box; heights: y of its centre, from 0; bends: for each edge the (layer, y) that it passes."""

    layers: list[int]
    heights: list[float]
    bends: dict[Edge, list[tuple[int, float]]]


def layout(sizes: Sequence[float], edges: Sequence[Edge], gap: float = 14.0, slim: float = 5.0) -> Layout:
    """Places for boxes of these heights. edges: (from, to), without circles; slim: height that a passing edge takes."""
    layers = _layers(len(sizes), edges)
    rows: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
    for box, layer in enumerate(layers):
        rows[layer].append(box)
    tall = list(sizes)
    chains: dict[Edge, list[int]] = {}
    short: list[Edge] = []
    for start, end in edges:
        chain = [start]
        for layer in range(layers[start] + 1, layers[end]):
            rows[layer].append(len(tall))
            chain.append(len(tall))
            tall.append(slim)
        chain.append(end)
        chains[start, end] = chain[1:-1]
        short += pairwise(chain)
    left: list[list[int]] = [[] for _ in tall]
    right: list[list[int]] = [[] for _ in tall]
    for one, other in short:
        right[one].append(other)
        left[other].append(one)
    _order(rows, left, right)
    heights = _heights(rows, left, right, tall, gap, len(sizes))
    lowest = min((heights[box] - tall[box] / 2 for row in rows for box in row), default=0.0)
    heights = [height - lowest for height in heights]
    bends = {
        (start, end): [(layers[start] + 1 + step, heights[box]) for step, box in enumerate(chain)]
        for (start, end), chain in chains.items()
    }
    return Layout(layers, heights[: len(sizes)], bends)


def _layers(count: int, edges: Sequence[Edge]) -> list[int]:
    """The longest path to each box; what has nothing before it stands right before what follows it."""
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for start, end in edges:
        after[start].append(end)
        waiting[end] += 1
    layers = [0] * count
    roots = [box for box in range(count) if not waiting[box]]
    ready = list(roots)
    while ready:
        box = ready.pop()
        for each in after[box]:
            layers[each] = max(layers[each], layers[box] + 1)
            waiting[each] -= 1
            if not waiting[each]:
                ready.append(each)
    for box in roots:
        if after[box]:
            layers[box] = min(layers[each] for each in after[box]) - 1
    return layers


def _order(rows: list[list[int]], left: list[list[int]], right: list[list[int]]) -> None:
    """Sort each row by the mean place of its neighbours, to and fro; the order with the fewest crossings stays."""
    best, fewest = [list(row) for row in rows], _crossings(rows, right)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        near = left if forward else right
        for row in rows[1:] if forward else rows[-2::-1]:
            place = {box: at for each in rows for at, box in enumerate(each)}
            at = {box: sum(place[n] for n in near[box]) / len(near[box]) if near[box] else place[box] for box in row}
            row.sort(key=lambda box: at[box])
        if (found := _crossings(rows, right)) < fewest:
            best, fewest = [list(row) for row in rows], found
    rows[:] = best


def _crossings(rows: list[list[int]], right: list[list[int]]) -> int:
    """Pairs of edges between neighbouring rows that cross."""
    total = 0
    for row, following in pairwise(rows):
        place = {box: at for at, box in enumerate(following)}
        ends = [at for box in row for at in sorted(place[each] for each in right[box])]
        tree = [0] * (len(following) + 1)
        for seen, end in enumerate(ends):
            at, below = end + 1, 0
            while at:
                below += tree[at]
                at &= at - 1
            total += seen - below
            at = end + 1
            while at < len(tree):
                tree[at] += 1
                at += at & -at
    return total


def _heights(
    rows: list[list[int]],
    left: list[list[int]],
    right: list[list[int]],
    tall: Sequence[float],
    gap: float,
    count: int,
) -> list[float]:
    """Heights of boxes and dummies (from `count` on); pieces of one edge hold together more than edges and boxes."""

    def weight(one: int, other: int) -> int:
        return (1, 2, 8)[(one >= count) + (other >= count)]

    heights = [0.0] * len(tall)
    for row in rows:
        place = 0.0
        for box in row:
            heights[box] = place + tall[box] / 2
            place += tall[box] + gap
    for sweep in range(SETTLING):
        both = sweep >= SWEEPS
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted, weights = [], []
            for box in row:
                near = left[box] + right[box] if both else (left[box] if sweep % 2 == 0 else right[box])
                near = near or left[box] or right[box]
                pull = [weight(box, each) for each in near]
                weights.append(float(sum(pull)) or 1.0)
                mean = sum(w * heights[each] for w, each in zip(pull, near, strict=True)) / weights[-1]
                wanted.append(mean if near else heights[box])
            for box, height in zip(row, _apart(wanted, weights, [tall[box] for box in row], gap), strict=True):
                heights[box] = height
    return heights


def _apart(wanted: Sequence[float], weights: Sequence[float], tall: Sequence[float], gap: float) -> list[float]:
    """Heights in this order, no two boxes closer than the gap, with the least weighted squares to those wanted."""
    offsets = [0.0]
    for one, other in pairwise(tall):
        offsets.append(offsets[-1] + (one + other) / 2 + gap)
    blocks: list[tuple[float, float, int]] = []  # mean, weight and size: pooled adjacent violators
    for height, weight, offset in zip(wanted, weights, offsets, strict=False):
        mean, heavy, size = height - offset, weight, 1
        while blocks and blocks[-1][0] >= mean:
            before, other, count = blocks.pop()
            mean = (before * other + mean * heavy) / (heavy + other)
            heavy, size = heavy + other, size + count
        blocks.append((mean, heavy, size))
    even = [mean for mean, _, size in blocks for _ in range(size)]
    return [mean + offset for mean, offset in zip(even, offsets, strict=False)]
