"""Stand-ins for the libraries that the peers import, so that nothing needs to be installed for them.

What runs while a peer is timed is two functions, `torch_scatter.scatter` and `torch_geometric.utils.dense_to_sparse`;
they are here in plain torch, as their libraries do them on a CPU. The rest builds the module (Lightning, Hydra), or
belongs to data preparation, which is not run: any name of it can be imported, and none be used.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


def scatter(src: Tensor, index: Tensor, dim: int = 0, dim_size: int | None = None, reduce: str = "sum") -> Tensor:
    """Sums or means of the rows of src (E, F) that have the same index (E,): (dim_size, F)."""
    if dim != 0 or reduce not in ("sum", "add", "mean"):
        raise NotImplementedError(f"scatter along {dim} by {reduce}")
    size = int(index.max()) + 1 if dim_size is None else dim_size
    total = src.new_zeros(size, *src.shape[1:]).index_add_(0, index, src)
    if reduce != "mean":
        return total
    count = src.new_zeros(size).index_add_(0, index, src.new_ones(len(index))).clamp(min=1)
    return total / count.view(-1, *[1] * (src.dim() - 1))


def dense_to_sparse(adjacency: Tensor) -> tuple[Tensor, Tensor]:
    """Edges (2, E) of an adjacency matrix (N, N), and their weights (E,)."""
    edges = adjacency.nonzero().t().contiguous()
    return edges, adjacency[edges[0], edges[1]]


class Config(dict[str, Any]):
    """A dictionary whose entries are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class LightningModule(nn.Module):
    """A module that keeps its keyword arguments as `hparams` and knows its device."""

    hparams: Config
    current_epoch = 0

    def save_hyperparameters(self) -> None:
        """Keep the keyword arguments of the caller."""
        frame = inspect.currentframe()
        assert frame is not None and frame.f_back is not None
        self.hparams = Config(frame.f_back.f_locals["kwargs"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def instantiate(config: Mapping[str, Any], **more: Any) -> Any:
    """The object that a Hydra config describes: `_target_` called with the other entries."""
    module, _, name = config["_target_"].rpartition(".")
    arguments = {key: value for key, value in (dict(config) | more).items() if not key.startswith("_")}
    return getattr(importlib.import_module(module), name)(**arguments)


class Unused:
    """What any other name of these libraries stands for."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("this part of the peer needs a library that is stood in for")


# module -> what of it is used; any other name of it is Unused
STAND_INS: dict[str, dict[str, Any]] = {
    "torch_scatter": {"scatter": scatter},
    "torch_scatter.composite": {},
    "torch_geometric": {},
    "torch_geometric.utils": {"dense_to_sparse": dense_to_sparse},
    "pytorch_lightning": {"LightningModule": LightningModule},
    "lightning": {"LightningModule": LightningModule},
    "hydra": {"utils": SimpleNamespace(instantiate=instantiate, log=logging.getLogger(__name__))},
    "omegaconf": {},
    "einops": {},
    "dotenv": {"load_dotenv": lambda **_: False},
    "p_tqdm": {},
    "pathos": {},
    "pathos.pools": {},
    "pyxtal": {},
    "pyxtal.symmetry": {},
    "sklearn": {},
    "sklearn.metrics": {},
}


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unused


class _Finder:
    """Asked first."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """A stand-in, or nothing: then others are asked."""
        return ModuleSpec(name, self, is_package=True) if name in STAND_INS else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty one."""
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Fill it."""
        vars(module).update(STAND_INS[module.__name__])


@contextmanager
def standing_in() -> Iterator[None]:
    """Imports inside find the stand-ins; afterwards the modules are as they were."""
    importlib.import_module("pymatgen.analysis.local_env")  # what is imported for real gets real libraries
    finder, before = _Finder(), {name: sys.modules.pop(name) for name in STAND_INS if name in sys.modules}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in STAND_INS:
            sys.modules.pop(name, None)
        sys.modules.update(before)
