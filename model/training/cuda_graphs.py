"""CUDA graphs: thousands of small kernels launched as one.

A training step of the sizes here spends most of its time on launching kernels. Captured once for each shape of its
inputs, it is replayed without the host's saying what comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Step = Callable[..., dict[str, Tensor]]


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: dict[str, Tensor]


class Replayed:
    """A function of a key and of tensors that is captured for each key, and gives what it would have given anyway.

    The first call of a key runs eagerly, so that what is made lazily is there; the second one is captured. For a key
    all inputs keep their shapes; whatever else the function reads or writes stays where it is in memory, or `forget`
    is called. Nothing in it may wait for the device.
    """

    def __init__(self, function: Step) -> None:
        self.function = function
        self.seen: set[Hashable] = set()
        self.recordings: dict[Hashable, _Recording] = {}
        self.pool: Any = None  # of memory, which all graphs share, for one runs at a time

    def __call__(self, key: Hashable, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """function(key, *inputs)."""
        if key not in self.seen:
            self.seen.add(key)
            return self.function(key, *inputs)
        if key not in self.recordings:
            self.recordings[key] = self._record(key, inputs)
        recording = self.recordings[key]
        torch._foreach_copy_(recording.inputs, list(inputs))
        recording.graph.replay()
        return {name: output.clone() for name, output in recording.outputs.items()}  # another graph may write there

    def _record(self, key: Hashable, inputs: Sequence[Tensor]) -> _Recording:
        static = [each.clone() for each in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            outputs = self.function(key, *static)
        self.pool = graph.pool()
        return _Recording(graph, static, outputs)

    def forget(self) -> None:
        """Capture anew: something that the function reads or writes lies elsewhere now."""
        self.seen.clear()
        self.recordings.clear()
        self.pool = None
