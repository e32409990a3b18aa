"""Steps that are captured and replayed are the steps that would have been taken, whatever changes between them.

There is no GPU here: a graph is emulated by recording the operations of a step and running them again, at the same
places in memory. `test_cuda.py` asks the same of real ones.
"""

from contextlib import contextmanager
from dataclasses import asdict

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dao_flows.model.checkpoint.format import build
from dao_flows.model.dao import DaoConfig
from dao_flows.model.data.table import read_crystals
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.training.config import TrainConfig
from dao_flows.model.training.cuda_graphs import Replayed
from dao_flows.model.training.optimizers import Optimizers
from dao_flows.model.training.trainer import Trainer

NETWORK = {"hidden": 16, "layers": 2, "heads": 4, "frequencies": 4, "time_width": 8}


class EmulatedGraph:
    """Operations with the tensors they were given and gave."""

    def __init__(self):
        self.calls = []

    def pool(self):
        return (0, 0)

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, before in self.calls:
            after = tree_leaves(function(*args, **kwargs))
            for old, new in zip(before, after, strict=True):
                if isinstance(old, torch.Tensor) and old is not new and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorder(TorchDispatchMode):
    """Records operations, and remembers what they overwrote."""

    def __init__(self, graph):
        super().__init__()
        self.graph, self.overwritten = graph, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name
        assert name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::_linalg_eigh"), f"{name} would wait"
        given = {a.name: value for a, value in zip(function._schema.arguments, args, strict=False)} | kwargs
        for argument in function._schema.arguments:
            if argument.alias_info and argument.alias_info.is_write and given.get(argument.name) is not None:
                self.overwritten += [(t, t.clone()) for t in tree_leaves(given[argument.name])]
        found = function(*args, **kwargs)
        self.graph.calls.append((function, args, kwargs, tree_leaves(found)))
        return found


@pytest.fixture
def emulated(monkeypatch):
    """CUDA graphs without a GPU; like real ones, capturing computes nothing that lasts."""

    @contextmanager
    def capture(graph, pool=None):
        with Recorder(graph) as recorder:
            yield
        with torch.no_grad():
            for tensor, value in reversed(recorder.overwritten):
                tensor.copy_(value)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", EmulatedGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)


def trainer(table, folder, replayed, kind="dao-g", objective="flow", property_name=None, **settings):
    torch.manual_seed(0)
    config = DaoConfig(network=CrysformerConfig(**NETWORK), volume_scaling=True, objective=objective)
    properties = [] if property_name is None else [property_name]
    model = build(kind, {**asdict(config), "properties": properties})
    settings = {"warm_up": 5, "weight_decay": 0.1, "batch_size": 8, "rate": 1e-2} | settings
    made = Trainer(model, TrainConfig(steps=60, **settings), table, None, folder, property_name=property_name)
    made.optimizers = Optimizers(made.model, made.config, capturable=True)
    if replayed:
        made.replayed = Replayed(made._descend)
    return made


def take(made, steps):
    batches = made._batches_from(made.step)
    return [{k: float(v) for k, v in made.take_step(*next(batches)).items()} for _ in range(steps)]


@pytest.mark.parametrize(
    ("settings", "bf16"),
    [
        ({"kind": "dao-g", "optimizer": "muon"}, False),
        ({"kind": "dao-g", "optimizer": "muon"}, True),
        ({"kind": "dao-p", "optimizer": "adam", "objective": "diffusion"}, False),
        ({"kind": "dao-p", "property_name": "e"}, False),
    ],
)
def test_replayed_steps_are_the_steps(parquet, tmp_path, emulated, settings, bf16):
    table = read_crystals(parquet(), "train")
    table = table.labelled() if settings["kind"] == "dao-p" else table
    eager, graphs = (
        trainer(table, tmp_path / str(replayed), replayed, bf16=bf16, **settings) for replayed in (False, True)
    )
    expected, found = take(eager, 40), take(graphs, 40)
    shapes = {(bucket, len(rows)) for bucket, rows in graphs.batches.epoch(0)}
    assert graphs.replayed.recordings.keys() == shapes  # whole and left over batches alike
    assert found == expected
    assert all(map(torch.equal, graphs.average, eager.average))


def test_a_state_that_is_gone_back_to_is_captured_anew(parquet, tmp_path, emulated):
    table = read_crystals(parquet(), "train")
    calm, back = (trainer(table, tmp_path / name, True, optimizer="muon") for name in ("calm", "back"))
    take(calm, 50)
    take(back, 25)
    back.save_state()
    take(back, 15)
    back.resume()
    assert not back.replayed.recordings
    take(back, 25)
    assert all(map(torch.equal, back.average, calm.average))
