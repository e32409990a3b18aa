"""The training loop: one run in one folder, alone or in a group of processes.

All randomness is named by (seed, step), and all that decides the course of a run is part of its saved state or told
from it, so a run that was killed and resumed takes the same steps, and goes back as often, as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dao_flows.model.checkpoint.format import architecture_of, kind_of
from dao_flows.model.dao import Dao
from dao_flows.model.dao_p import DaoP
from dao_flows.model.data.table import BucketedBatches, CrystalTable
from dao_flows.model.process.objective import Draw, Start
from dao_flows.model.runtime.random import stream

from . import metrics
from .config import TrainConfig, TrainingError
from .cuda_graphs import Replayed
from .distributed import Group
from .divergence import RunningLevel
from .labels import Labels
from .optimizers import Optimizers
from .state import STATE, drop_good_states, duplicate, good_state, read_state, write_state

WINDOW = 100  # steps whose mean loss is logged and judged
FIT_FOR = 0.3  # share of the time that is left, in which it is measured how many steps fit into it
RESERVE_S = 10.0  # of that time for the last validation, the state and the checkpoint
STOP_EVERY = 10  # steps after which a group of processes agrees on whether to stop
ROLLBACK_RATE = 0.5  # factor of the rate each time a run goes back
VALIDATION_BATCH = 256


class Fit:
    """How many steps fit into the time that is left, measured once, and while less than FIT_FOR of it has gone by.

    most: steps at most. left: seconds that are left.
    """

    def __init__(self, most: int, left: Callable[[], float]) -> None:
        self.most, self.left, self.at_first = most, left, left()
        self.began: tuple[int, float] | None = None  # step and seconds left after the first window, which is slower
        self.measured = False

    def steps(self, step: int) -> int | None:
        """Steps of the whole run, told after `step` of them; None where nothing changes."""
        left = self.left()
        if self.began is None or step <= self.began[0]:
            self.began = step, left
            return None
        if self.measured and left < (1 - FIT_FOR) * self.at_first:
            return None
        self.measured = True
        speed = (step - self.began[0]) / max(self.began[1] - left, 1e-9)
        return min(self.most, step + max(1, int(speed * (left - RESERVE_S))))


class Trainer:
    """One training run in one folder, which all processes of the group see and the first one writes.

    labels: a teacher's figures, of which DAO-P sees a batch beside each of its own. property_name: the head of a DaoP
    to train, alone or with the network, according to what requires gradients; None: the denoising and energy losses.
    parent: sha256 of the checkpoint that the model comes from. cuda_graphs: on a GPU, one process replays its steps as
    graphs (`training.cuda_graphs`), but for those with labels; the steps are the same. fused: compile small operations
    of the network (`Crysformer.fuse`).
    """

    def __init__(
        self,
        model: Dao,
        config: TrainConfig,
        train: CrystalTable,
        validation: CrystalTable | None,
        folder: Path,
        *,
        group: Group | None = None,
        labels: CrystalTable | None = None,
        property_name: str | None = None,
        parent: str | None = None,
        cuda_graphs: bool = True,
        fused: bool = False,
    ) -> None:
        self.model, self.config, self.folder, self.group = model, config, folder, group or Group()
        self.device = next(model.parameters()).device
        self.property_name = property_name
        self.batches = BucketedBatches(train, config.batch_size, config.seed, self.device)
        self.validation = (
            BucketedBatches(validation, VALIDATION_BATCH, config.seed, self.device) if validation else None
        )
        self.labels = Labels(labels, config, self.device) if labels is not None else None
        self.cells, self.starts = self._cells(self.batches), self._starts(self.batches)
        if fused:
            model.network.fuse()
        self.names, self.parameters = zip(*model.named_parameters(), strict=True)
        self.raw = [p.detach() for p in self.parameters]
        self.optimizers = Optimizers(model, config, capturable=self.device.type == "cuda")
        self.average = [p.clone() for p in self.raw]
        self.replayed: Replayed | None = None
        if cuda_graphs and self.device.type == "cuda" and self.group.size == 1 and labels is None:
            self.replayed = Replayed(self._descend)
        self.step, self.elapsed = 0, 0.0
        self.saved = self.logged = time.monotonic()
        self.crystals = 0  # that this process has seen go by since the last line of the log
        self.progress = metrics.Progress(config.steps, 0)
        self.sums: dict[str, Tensor] = {}  # of this process's losses since the last window ended
        self.count = 0  # steps that they are over
        self.level = RunningLevel(config.spike)
        self.good: list[int] = []  # steps whose states are kept to go back to: the last two
        self.gone_back = 0  # rollbacks since the last of them
        self.rollbacks: list[dict[str, Any]] = []
        # what a saved state must share with this run to be its own
        self.identity = {
            "kind": kind_of(model),
            "architecture": architecture_of(model),
            "data": train.sha256,
            "crystals": len(train),
            **({"labels": labels.sha256} if labels is not None else {}),
            "batch_size": config.batch_size,
            "seed": config.seed,
            "parent": parent,
        }
        if self.group.leads:
            folder.mkdir(parents=True, exist_ok=True)
        self.group.wait()

    # --- saved states ---

    def resume(self) -> bool:
        """Go back to the last saved state of this folder; False if there is none.

        Raises TrainingError for a state of another run, or one that cannot be read.
        """
        if not (self.folder / STATE).exists():
            return False
        self._restore(self.folder / STATE)
        self.group.wait()
        if self.group.leads:
            metrics.take_back(self.folder / metrics.METRICS, self.step, self.rollbacks)
        return True

    def _restore(self, path: Path) -> None:
        """Become what was saved in this file."""
        tensors, saved = read_state(path)
        identity = saved.get("identity", {})
        differing = [key for key, value in self.identity.items() if identity.get(key) != value]
        if differing:
            raise TrainingError(
                f"{path} belongs to a run with another {' and '.join(differing)}: give another --out, or the same again"
            )
        for i, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            parameter.data.copy_(tensors[f"model/{name}"])
            self.average[i].copy_(tensors[f"average/{name}"])
        self.optimizers.restore(tensors, saved["step"])
        if self.replayed is not None:
            self.replayed.forget()
        self.step, self.elapsed = saved["step"], saved["elapsed"]
        window = saved.get("window", {"count": 0, "sums": {}})
        share = 1.0 if self.group.leads else 0.0
        self.sums = {name: torch.tensor(total * share, device=self.device) for name, total in window["sums"].items()}
        self.count = window["count"]
        self.level = RunningLevel(self.config.spike, saved.get("level", ()))
        self.good, self.gone_back = saved.get("good", []), saved.get("gone_back", 0)
        self.rollbacks = saved.get("rollbacks", [])

    def save_state(self, path: Path | None = None) -> None:
        """Replace the saved state, or write it elsewhere, in one step. Every process of the group must call it."""
        window = {name: self.group.add(total.clone()) for name, total in sorted(self.sums.items())}
        if not self.group.leads:
            return
        tensors = self.optimizers.state()
        for name, parameter, average in zip(self.names, self.parameters, self.average, strict=True):
            tensors |= {f"model/{name}": parameter.detach(), f"average/{name}": average}
        run = {
            "step": self.step,
            "elapsed": self.elapsed,
            "identity": self.identity,
            "window": {"count": self.count, "sums": {name: float(total) for name, total in window.items()}},
            "level": self.level.losses,
            "good": self.good,
            "gone_back": self.gone_back,
            "rollbacks": self.rollbacks,
        }
        write_state(path or self.folder / STATE, tensors, run)

    def _keep(self) -> None:
        """Keep the present state as a good one, beside the one before it."""
        self.good = [*[step for step in self.good if step < self.step][-1:], self.step]
        self.gone_back = 0
        path = self.folder / good_state(self.step)
        self.save_state(path)
        if self.group.leads:
            duplicate(path, self.folder / STATE)
            drop_good_states(self.folder, self.good)  # not before the state no longer names them
        self.group.wait()

    def _roll_back(self, reason: str) -> None:
        """Go on from a good state at a lower rate: from the last one, and if that did not help, the one before.

        Raises TrainingError where it has been done often enough; the last good state is then the saved one.
        """
        diverged_at = self.step
        if self.lowered >= self.config.max_rollbacks:
            if self.group.leads:
                duplicate(self.folder / good_state(self.good[-1]), self.folder / STATE)
            self.group.wait()
            self.resume()
            times = f" after {self.config.max_rollbacks} rollbacks" if self.config.max_rollbacks else ""
            raise TrainingError(
                f"{reason} at step {diverged_at}{times}: lower --rate, then run the same command again "
                f"(it goes on from step {self.step})"
            )
        good, target = self.good, self.good[0 if self.gone_back else -1]
        gone_back, elapsed = self.gone_back + 1, self.elapsed
        entry = {"step": target, "from_step": diverged_at, "reason": reason, "rate": self.config.rate}
        rollbacks = [*self.rollbacks, entry | {"rate_factor": ROLLBACK_RATE ** (self.lowered + 1)}]
        self._restore(self.folder / good_state(target))
        self.good, self.gone_back, self.rollbacks, self.elapsed = good, gone_back, rollbacks, elapsed
        self.save_state()
        if self.group.leads:
            metrics.take_back(self.folder / metrics.METRICS, self.step, self.rollbacks)
        self.progress = metrics.Progress(self.config.steps, self.step)

    # --- steps ---

    @property
    def lowered(self) -> int:
        """How often the rate was lowered; from one that was given since, not yet."""
        return sum(rollback["rate"] == self.config.rate for rollback in self.rollbacks)

    @property
    def rate(self) -> float:
        """The rate of the next step."""
        return self.config.rate_at(self.step) * ROLLBACK_RATE**self.lowered

    @torch.no_grad()
    def _cells(self, batches: BucketedBatches) -> list[Tensor]:
        """`Dao.cell` of all crystals of each bucket."""
        return [self.model.cell(bucket.crystals) for bucket in batches.buckets]

    @torch.no_grad()
    def _starts(self, batches: BucketedBatches) -> list[Start | None]:
        """`Dao.start` of all templates of each bucket."""
        return [
            self.model.start(bucket.templates, bucket.known)
            if bucket.templates is not None and bucket.known is not None
            else None
            for bucket in batches.buckets
        ]

    def _draw(self, batches: BucketedBatches, bucket: int, rows: Tensor, seed_key: tuple[int, ...]) -> list[Tensor]:
        """What chance decides for a batch; nothing where a property is learned, from clean crystals."""
        if self.property_name is not None:
            return []
        generator = stream(self.config.seed, *seed_key, device=self.device)
        draw = self.model.draw(batches.like(bucket, len(rows)), generator)
        return [draw.t, draw.lattice, draw.coordinates]

    def _losses(
        self,
        batches: BucketedBatches,
        cells: list[Tensor],
        starts: list[Start | None],
        bucket: int,
        rows: Tensor,
        drawn: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """The part of a batch's loss terms that is for this process to compute. rows: on the device."""
        crystals, labels = batches.take(bucket, rows)
        part = self.group.part(len(rows))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            if self.property_name is not None:
                assert isinstance(self.model, DaoP)
                return self.model.property_losses(self.property_name, crystals, labels, part)
            start = starts[bucket]
            begun = {} if start is None else {"start": start[rows]}
            return self.model.losses_at(  # type: ignore[operator, no-any-return]
                crystals, labels, Draw(*drawn), cells[bucket][rows], part, **begun
            )

    def _batches_from(self, step: int) -> Iterator[tuple[int, Tensor]]:
        epoch, skip = divmod(step, self.batches.steps_per_epoch)
        while True:
            yield from self.batches.epoch(epoch)[skip:]
            epoch, skip = epoch + 1, 0

    def take_step(self, bucket: int, rows: Tensor) -> dict[str, Tensor]:
        """One optimiser step; returns this process's share of the loss terms (on the device, not synchronised)."""
        # after a rollback other noise: what made the loss diverge may have been a draw
        key = (1, self.step, len(self.rollbacks)) if self.rollbacks else (1, self.step)
        inputs = [rows.to(self.device), *self._draw(self.batches, bucket, rows, key)]
        self.optimizers.set_rate(self.rate)
        if self.replayed is not None:
            losses = self.replayed((bucket, len(rows)), inputs)
        else:
            losses = self._descend((bucket, len(rows)), *inputs)
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, self.raw, 1 - decay)
        self.step += 1
        return losses

    def _descend(self, shape: tuple[int, int], rows: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        """Move the parameters by one batch; returns the loss terms. shape: the bucket and the length of rows."""
        losses = self._losses(self.batches, self.cells, self.starts, shape[0], rows, drawn)
        if self.labels is not None:
            assert isinstance(self.model, DaoP)
            losses |= self.labels.losses(self.model, self.step, self.group)
        self.model.zero_grad()
        weights = {
            "coordinate": self.config.coordinate_weight,
            "label": self.config.label_weight,
            "force": self.config.force_weight,
            "stress": self.config.stress_weight,
        }
        sum(weights.get(name, 1.0) * loss for name, loss in losses.items()).backward()  # type: ignore[union-attr]
        self.group.add_gradients(self.parameters)
        torch.nn.utils.clip_grad_value_(self.parameters, self.config.clip_value)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizers.descend()
        return {name: loss.detach() for name, loss in losses.items()}

    def run(self, stop: Callable[[], bool] = lambda: False, left: Callable[[], float] | None = None) -> bool:
        """Train to the last step, saving as it goes; False if asked to stop before it, the state then being saved.

        At least one step is taken where one is left. left: seconds that are left; the number of steps is then lowered
        to what fits into them. Raises TrainingError for a run that keeps diverging.
        """
        fit = Fit(self.config.steps, left) if left is not None else None
        self.saved = self.logged = time.monotonic()
        self.progress = metrics.Progress(self.config.steps, self.step)
        began = time.monotonic() - self.elapsed
        if not self.good:
            self._keep()
        batches = self._batches_from(self.step)
        while self.step < self.config.steps:
            bucket, rows = next(batches)
            for name, loss in self.take_step(bucket, rows).items():
                self.sums[name] = self.sums.get(name, torch.zeros_like(loss)) + loss
            self.count, self.crystals = self.count + 1, self.crystals + len(rows)
            last = self.step == self.config.steps
            if self.step % WINDOW == 0 or last:
                self.elapsed = time.monotonic() - began
                if reason := self._end_window(last):
                    self._roll_back(reason)
                    batches = self._batches_from(self.step)
                elif fit and (steps := fit.steps(self.step)):
                    self.config = replace(self.config, steps=steps)
                    self.progress.steps = steps
            elif self._asked(stop):
                self.elapsed = time.monotonic() - began
                self.save_state()
                return False
        return True

    def _asked(self, stop: Callable[[], bool]) -> bool:
        """Whether to stop; the processes of a group agree on it every few steps."""
        if self.group.size > 1 and self.step % STOP_EVERY:
            return False
        return self.group.any(stop(), self.device)

    def _end_window(self, last: bool) -> str | None:
        """Judge, log and save what a window of steps brought; returns why it diverged, if it did."""
        means = {name: float(self.group.add(total)) / self.count for name, total in sorted(self.sums.items())}
        loss, full = sum(means.values()), self.count == WINDOW
        self.sums, self.count = {}, 0
        if reason := self.level.diverged(loss) if full else RunningLevel(0).diverged(loss):
            return reason
        if full:
            self.level.add(loss)
        now = time.monotonic()
        record = {"step": self.step, "epoch": round(self.step / self.batches.steps_per_epoch, 3), **means}
        self._log(
            record
            | {"rate": self.rate, "crystals_per_s": self.crystals / (now - self.logged), "elapsed_s": self.elapsed}
        )
        if self.group.leads:
            self.progress.show(self.step, means)
        self.crystals, self.logged = 0, now
        if self.validation and (self.step % self.config.validate_every < WINDOW or last):
            self._log({"step": self.step, "validation": self.validate()})
        if self.step % self.config.snapshot_every < WINDOW or last:
            self._keep()
            self.saved = now
        elif self.group.leads and now - self.saved > self.config.save_every_s:
            self.save_state()  # nothing is summed up, so that the others are not needed
            self.saved = now
        return None

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean losses of the averaged weights over the validation set, each time with the same noise.

        Every process of the group must call it.
        """
        assert self.validation is not None
        totals: dict[str, Tensor] = {}
        count = 0
        with self.averaged():
            cells, starts = self._cells(self.validation), self._starts(self.validation)
            for index, (bucket, rows) in enumerate(self.validation.epoch(0)):
                drawn = self._draw(self.validation, bucket, rows, (2, index))
                for name, loss in self._losses(self.validation, cells, starts, bucket, rows, drawn).items():
                    totals[name] = totals.get(name, 0.0) + loss.double() * len(rows)
                count += len(rows)
        return {name: float(self.group.add(total)) / count for name, total in sorted(totals.items())}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the model carries the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        """Exchange raw and averaged weights."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            raw = parameter.detach().clone()
            parameter.data.copy_(average)
            average.copy_(raw)

    def _log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        if self.group.leads:
            metrics.append(self.folder / metrics.METRICS, record)
