"""Several processes train as one: each computes its rows of every batch, and gradients are added over all of them.

torchrun starts the processes (one for each GPU, on one node or several) and tells each its rank. All draw the same
batches and the same noise and take their rows of it, so what a crystal meets at a step does not depend on who holds
it; as every part's loss is its share of the whole batch's mean, sums of gradients are exact for uneven parts too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """The processes of a run. rank: this one's number; local: its number on this node."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes."""
        return self.rank == 0

    def part(self, rows: int) -> slice:
        """The rows of a batch that are for this process; shares differ by one row at most, and may be empty."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place. Every process must call it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace gradients by their sums over all processes, in one message. Every process must call it."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, summed in zip(gradients, parts, strict=True):
            gradient.copy_(summed.view_as(gradient))

    def any(self, wanted: bool, device: torch.device) -> bool:
        """Whether any process wants it. Every process must call it."""
        return wanted if self.size == 1 else bool(self.add(torch.tensor(float(wanted), device=device)))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def local_device(device: str) -> str:
    """The device of this process: 'cuda' is the GPU that torchrun's local rank counts off."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


@contextmanager
def joined(device: torch.device | str) -> Iterator[Group]:
    """The group that torchrun started this process in (nccl between GPUs, gloo between CPUs), or one process alone.

    Inside another such context it is that one's group.
    """
    if dist.is_initialized():
        yield Group(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield Group()
        return
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
