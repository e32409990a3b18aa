"""What descends the loss: Adam for all parameters, as published, or Muon for the matrices of the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .muon import Muon

MOMENTUM = 0.95  # of Muon
ADAM, MUON = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)  # what they remember of a parameter, by torch's names


class Optimizers:
    """The optimisers of a run, one or two, over the parameters that require gradients.

    Muon (`training.muon`) takes the matrices of the layers, at config.muon_rate times the rate. A step is `set_rate`,
    then `descend`. capturable: keep rates as tensors on the device, so that `descend` can be captured
    (`training.cuda_graphs`).
    """

    def __init__(self, model: nn.Module, config: TrainConfig, capturable: bool = False) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        gates = {name for name in trained if name.endswith("gate.weight")}
        matrices = {name for name, p in trained.items() if ".blocks." in name and p.dim() == 2} - gates
        if config.optimizer == "adam":
            matrices = set()
        others = trained.keys() - gates - matrices

        def group(names: set[str], share: float) -> dict[str, object]:
            return {"params": [p for name, p in trained.items() if name in names], "share": share}

        adam_groups = [group(others, 1.0), group(gates, config.gate_rate)]
        adam = torch.optim.AdamW(
            adam_groups, config.rate, weight_decay=config.weight_decay, fused=True, capturable=capturable
        )
        self.members: list[tuple[torch.optim.Optimizer, tuple[str, ...]]] = [(adam, ADAM)]
        if matrices:
            muon = Muon([group(matrices, config.muon_rate)], config.rate, config.weight_decay, MOMENTUM)
            self.members.append((muon, MUON))
        self.names: dict[Tensor, str] = {p: name for name, p in trained.items()}
        self.capturable = capturable
        if capturable:
            for each in self._groups():
                each["lr"] = torch.zeros((), device=next(model.parameters()).device)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer, _ in self.members for group in optimizer.param_groups]

    def set_rate(self, rate: float) -> None:
        """Have the next step be at this rate times the share of each group."""
        for group in self._groups():
            if self.capturable:
                group["lr"].fill_(rate * group["share"])
            else:
                group["lr"] = rate * group["share"]

    def descend(self) -> None:
        """One step down the gradients."""
        for optimizer, _ in self.members:
            optimizer.step()

    def step(self, rate: float) -> None:
        """One step down the gradients, at this rate times the share of each group."""
        self.set_rate(rate)
        self.descend()

    def state(self) -> dict[str, Tensor]:
        """What they remember, by 'what/parameter'."""
        return {
            f"{what}/{self.names[p]}": kept[what]
            for optimizer, remembered in self.members
            for p, kept in optimizer.state.items()
            for what in remembered
        }

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        """Remember what `state` gave after this step; what is missing in it begins anew."""
        for optimizer, remembered in self.members:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                for p in group["params"]:
                    keys = [f"{what}/{self.names[p]}" for what in remembered]
                    if all(key in state for key in keys):
                        kept = {what: state[key].to(p.device) for what, key in zip(remembered, keys, strict=True)}
                        taken = {"step": torch.tensor(float(step), device=p.device)} if remembered == ADAM else {}
                        optimizer.state[p] = {**taken, **kept}
