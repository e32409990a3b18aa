"""Muon over all matrices of one shape at once.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves a matrix by an orthogonal one whose entries have the
size of Adam's steps (arXiv 2502.16982, eq. 4). torch.optim.Muon computes the same, matrix by matrix: on a GPU that is a
thousand small kernels a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; singular values end between 0.7 and 1.2, about
ITERATIONS = 5
EPS = 1e-7
ADAM_SIZE = 0.2  # root mean square of the entries of Adam's steps
ALIGNED = 8  # numbers in a row, or a multiple, for products in bf16 to be fast


@cache
def products_in(device: str) -> torch.dtype:
    """bf16 where the processor has units for it; elsewhere a product in bf16 takes twenty times that in fp32."""
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = device != "cpu" or able.get("amx_bf16") or able.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32


def orthogonal(matrices: Tensor) -> Tensor:
    """(n, a, b) with their singular values moved to about 1."""
    width = matrices.shape[2]
    x = F.pad(matrices.to(products_in(matrices.device.type)), (0, -width % ALIGNED))
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=EPS)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x)[:, :, :width]


class Muon(torch.optim.Optimizer):
    """Over matrices; momentum is Nesterov's and weight decay decoupled. A group's lr may be a tensor."""

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step down the gradients. closure: not supported."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for matrices in by_shape.values():
                self._move(matrices, **{name: group[name] for name in ("lr", "weight_decay", "momentum")})

    def _move(self, matrices: Sequence[Tensor], lr: float | Tensor, weight_decay: float, momentum: float) -> None:
        gradients: list[Tensor] = [p.grad for p in matrices if p.grad is not None]
        for p in matrices:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        steps = orthogonal(torch.stack(torch._foreach_lerp(gradients, buffers, momentum))).float()
        steps = (steps * (-ADAM_SIZE * max(matrices[0].shape) ** 0.5 * lr)).contiguous()
        if weight_decay:
            torch._foreach_mul_(list(matrices), 1 - lr * weight_decay)
        torch._foreach_add_(list(matrices), list(steps.unbind()))
