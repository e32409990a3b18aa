"""What a teacher says, a batch beside each batch of examples."""

from __future__ import annotations

import torch
from torch import Tensor

from dao_flows.model.dao_p import DaoP
from dao_flows.model.data.table import BucketedBatches, CrystalTable

from .config import TrainConfig
from .distributed import Group


class Labels:
    """Batches of a table of labelled crystals, in a shuffled order that the seed and the step decide."""

    def __init__(self, table: CrystalTable, config: TrainConfig, device: torch.device) -> None:
        self.table, self.config = table, config
        self.batches = BucketedBatches(table, config.label_batch, config.seed, device)
        self.epoch, self.order = -1, list[tuple[int, Tensor]]()

    def losses(self, model: DaoP, step: int, group: Group) -> dict[str, Tensor]:
        """The share of this process in the loss terms of the step's batch."""
        epoch, place = divmod(step, self.batches.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self.batches.epoch(epoch)
        bucket, rows = self.order[place]
        crystals, energy = self.batches.take(bucket, rows)
        slopes = self.batches.slopes(bucket, rows) if self.config.force_weight or self.config.stress_weight else None
        return model.label_losses(crystals, energy, slopes, group.part(len(rows)))
