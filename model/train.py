"""Train DAO-G or DAO-P from a parquet file: `python -m dao_flows.model.train --help`.

Needs torch, numpy, safetensors and pyarrow, and no workflow package. A run lives in one folder: metrics.jsonl, the
state to resume from, and at the end the checkpoint. All randomness is named by (seed, step), so a run that was killed
and resumed takes the same steps as one that was not.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .checkpoint import KINDS, Card, CheckpointError, architecture_of, build, kind_of, load, save
from .crysformer import CrysformerConfig
from .dao import Dao, DaoConfig
from .data import BucketedBatches, CrystalTable, NothingSelectedError, read_crystals
from .dataset import DataError
from .random import stream


class TrainingError(ValueError):
    """A setting is out of range, or what is in the run's folder does not belong to this run."""


STATE, METRICS = "state.safetensors", "metrics.jsonl"


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Rates are Adam's; constant: share of the run at the peak rate before the cosine begins.

    gate_rate: rate of the residual gates relative to the others'. At the full rate they saturate within some thousand
    steps and shut whole layers off for good. Gradients are clipped by value, as published, then by norm.
    """

    steps: int
    batch_size: int = 64
    rate: float = 1e-3
    final_rate: float = 1e-6
    warm_up: int = 500
    constant: float = 0.0
    weight_decay: float = 0.0
    gate_rate: float = 0.1
    clip_value: float = 0.5
    clip_norm: float = 1.0
    ema: float = 0.999
    bf16: bool = False
    seed: int = 0
    save_every_s: float = 120.0
    validate_every: int = 2000

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "rate", "final_rate", "clip_value", "clip_norm", "validate_every")
        shares = ("constant", "gate_rate", "ema")
        at_least_zero = ("warm_up", "weight_decay", "seed", "save_every_s")
        ranges = {
            "positive": (positive, math.nextafter(0, 1), sys.float_info.max),
            "between 0 and 1": (shares, 0, 1),
            "0 or more": (at_least_zero, 0, sys.float_info.max),
        }
        for what, (names, low, high) in ranges.items():
            for name in names:
                if not low <= (value := getattr(self, name)) <= high:
                    raise TrainingError(f"--{name.replace('_', '-')} must be {what}, not {value}")

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then constant, then cosine down to final_rate."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        start = max(self.warm_up, self.constant * self.steps)
        progress = min(max(step - start, 0) / max(self.steps - start, 1), 1.0)
        return self.final_rate + (self.rate - self.final_rate) * (1 + math.cos(math.pi * progress)) / 2


class Trainer:
    """One training run in one folder."""

    def __init__(
        self, model: Dao, config: TrainConfig, train: CrystalTable, validation: CrystalTable | None, folder: Path
    ) -> None:
        self.model, self.config, self.folder = model, config, folder
        self.device = next(model.parameters()).device
        self.batches = BucketedBatches(train, config.batch_size, config.seed, self.device)
        self.validation = BucketedBatches(validation, 256, config.seed, self.device) if validation else None
        self.names, self.parameters = zip(*model.named_parameters(), strict=True)
        gates = [p for name, p in zip(self.names, self.parameters, strict=True) if name.endswith("gate.weight")]
        others = [p for name, p in zip(self.names, self.parameters, strict=True) if not name.endswith("gate.weight")]
        groups = [{"params": others, "share": 1.0}, {"params": gates, "share": config.gate_rate}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.rate, weight_decay=config.weight_decay, fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.step, self.elapsed = 0, 0.0
        # what a saved state must share with this run to be its own
        self.identity = {
            "kind": kind_of(model),
            "architecture": architecture_of(model),
            "data": train.sha256,
            "crystals": len(train),
            "batch_size": config.batch_size,
            "seed": config.seed,
        }
        folder.mkdir(parents=True, exist_ok=True)

    def resume(self) -> bool:
        """Go back to the last saved state of this folder; False if there is none.

        Raises TrainingError for a state of another run, or one that cannot be read.
        """
        path = self.folder / STATE
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as header:
                saved = json.loads((header.metadata() or {})["run"])
            tensors = load_file(path)
        except (SafetensorError, KeyError, ValueError) as error:
            raise TrainingError(f"{path} cannot be read ({error}): delete it to begin anew") from error
        identity = saved.get("identity", {})
        differing = [key for key, value in self.identity.items() if identity.get(key) != value]
        if differing:
            raise TrainingError(
                f"{path} belongs to a run with another {' and '.join(differing)}: give another --out, or the same again"
            )
        for i, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            parameter.data.copy_(tensors[f"model/{name}"])
            self.average[i].copy_(tensors[f"average/{name}"])
            if f"exp_avg/{name}" in tensors:  # DAO-G's energy head is never trained and has no moments
                moments = {key: tensors[f"{key}/{name}"].to(self.device) for key in ("exp_avg", "exp_avg_sq")}
                step = torch.tensor(float(saved["step"]), device=self.device)
                self.optimizer.state[parameter] = {"step": step, **moments}
        self.step, self.elapsed = saved["step"], saved["elapsed"]
        keep_lines(self.folder / METRICS, self.step)
        return True

    def save_state(self) -> None:
        """Replace the saved state in one step."""
        tensors: dict[str, Tensor] = {}
        for name, parameter, average in zip(self.names, self.parameters, self.average, strict=True):
            tensors |= {f"model/{name}": parameter.detach(), f"average/{name}": average}
            tensors |= {f"{k}/{name}": v for k, v in self.optimizer.state[parameter].items() if k != "step"}
        run = {"step": self.step, "elapsed": self.elapsed, "identity": self.identity}
        partial = self.folder / f"{STATE}.partial"
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, partial, metadata={"run": json.dumps(run)})
        partial.replace(self.folder / STATE)

    def _losses(
        self, batches: BucketedBatches, bucket: int, rows: Tensor, seed_key: tuple[int, ...]
    ) -> dict[str, Tensor]:
        crystals, energy = batches.take(bucket, rows)
        generator = stream(self.config.seed, *seed_key, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            return self.model.losses(crystals, energy, generator)  # type: ignore[operator, no-any-return]

    def _batches_from(self, step: int) -> Iterator[tuple[int, Tensor]]:
        epoch, skip = divmod(step, self.batches.steps_per_epoch)
        while True:
            yield from self.batches.epoch(epoch)[skip:]
            epoch, skip = epoch + 1, 0

    def take_step(self, bucket: int, rows: Tensor) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms (on the device, not synchronised)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate_at(self.step) * group["share"]
        losses = self._losses(self.batches, bucket, rows, (1, self.step))
        self.optimizer.zero_grad(set_to_none=False)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_value_(self.parameters, self.config.clip_value)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def run(self) -> None:
        """Train to the last step, saving as it goes."""
        saved = logged = time.monotonic()
        started = logged - self.elapsed
        sums: dict[str, Tensor] = {}
        count = crystals = 0
        progress = Progress(self.config.steps, self.step)
        for bucket, rows in self._batches_from(self.step):
            if self.step >= self.config.steps:
                break
            for name, loss in self.take_step(bucket, rows).items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss
            count, crystals = count + 1, crystals + len(rows)
            last = self.step == self.config.steps
            if self.step % 100 == 0 or last:
                now = time.monotonic()
                self.elapsed = now - started
                means = {name: float(total) / count for name, total in sums.items()}
                if not all(math.isfinite(v) for v in means.values()):
                    raise TrainingError(
                        f"the loss is not finite at step {self.step}: lower --rate, then run the same command again"
                    )
                record = {"step": self.step, "epoch": round(self.step / self.batches.steps_per_epoch, 3), **means}
                record |= {"rate": self.config.rate_at(self.step), "crystals_per_s": crystals / (now - logged)}
                self.log({**record, "elapsed_s": self.elapsed})
                progress.show(self.step, means)
                sums, count, crystals, logged = {}, 0, 0, now
                if self.validation and (self.step % self.config.validate_every < 100 or last):
                    self.log({"step": self.step, "validation": self.validate()})
                if now - saved > self.config.save_every_s or last:
                    self.save_state()
                    saved = now

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean losses of the averaged weights over the validation set, each time with the same noise."""
        assert self.validation is not None
        totals: dict[str, float] = {}
        count = 0
        with self.averaged():
            for index, (bucket, rows) in enumerate(self.validation.epoch(0)):
                for name, loss in self._losses(self.validation, bucket, rows, (2, index)).items():
                    totals[name] = totals.get(name, 0.0) + float(loss) * len(rows)
                count += len(rows)
        return {name: total / count for name, total in totals.items()}

    def averaged(self) -> AveragedWeights:
        """A context in which the model carries the averaged weights."""
        return AveragedWeights(self)

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with (self.folder / METRICS).open("a") as lines:
            lines.write(json.dumps(record) + "\n")


class AveragedWeights:
    """Swaps the exponential moving average in, and the raw weights back."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def _swap(self) -> None:
        for parameter, average in zip(self.trainer.parameters, self.trainer.average, strict=True):
            raw = parameter.detach().clone()
            parameter.data.copy_(average)
            average.copy_(raw)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()


class Progress:
    """A progress line with an estimate: a bar on a terminal, one line a minute in a log."""

    def __init__(self, steps: int, first: int) -> None:
        self.steps, self.first, self.started, self.shown = steps, first, time.monotonic(), 0.0

    def show(self, step: int, losses: dict[str, float]) -> None:
        """Show the state after this step."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if not terminal and now - self.shown < 60 and step < self.steps:
            return
        self.shown = now
        left = (now - self.started) / max(step - self.first, 1) * (self.steps - step)
        text = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        bar = "█" * (24 * step // self.steps)
        line = f"{bar:░<24} {step}/{self.steps}  {text}  {left / 60:.0f} min left"
        print(
            f"\r{line}" if terminal else line,
            end="" if terminal and step < self.steps else "\n",
            file=sys.stderr,
            flush=True,
        )


def keep_lines(path: Path, step: int) -> None:
    """Drop the lines of a metrics file that were written after this step, or torn by a crash."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)


def loss_curve(path: Path, points: int = 100) -> list[dict[str, Any]]:
    """At most `points` evenly spaced training records of a metrics file, and every validation record."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    training = [r for r in records if "validation" not in r]
    stride = max(1, -(-len(training) // points))
    kept = training[::-1][::stride][::-1]
    return sorted(kept + [r for r in records if "validation" in r], key=lambda r: r["step"])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m dao_flows.model.train",
        description="Train DAO-G or DAO-P from a parquet file. Run the same command again to resume.",
        epilog="example: python -m dao_flows.model.train dao-g crystals.parquet --out runs/g --layers 6 --steps 20000",
    )
    p.add_argument("kind", choices=KINDS)
    p.add_argument(
        "data", type=Path, help="parquet file: numbers, frac, lattice (Å, Niggli-reduced), e_above_hull, split"
    )
    p.add_argument(
        "--out", type=Path, required=True, help="folder of the run; the checkpoint is written to OUT/checkpoint"
    )
    p.add_argument("--name", help="name of the checkpoint (default: the name of OUT)")
    p.add_argument("--start", type=Path, help="checkpoint folder to train on from (its architecture is kept)")
    p.add_argument("--max-atoms", type=int, help="leave larger cells out")
    p.add_argument(
        "--max-energy", type=float, help="leave crystals further above hull out (eV/atom), and those without an energy"
    )
    p.add_argument("--fit-all", action="store_true", help="train on the whole file, not on split == 'train' alone")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, help="CPU threads (default: all)")
    network = p.add_argument_group("network (default: the published size)")
    for name, default in asdict(CrysformerConfig()).items():
        network.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    network.add_argument(
        "--volume-scaling", action="store_true", help="diffuse the lattice in units of n_atoms^(1/3) Å"
    )
    training = p.add_argument_group("training")
    training.add_argument("--steps", type=int, required=True)
    for name, default in asdict(TrainConfig(steps=1)).items():
        if name not in ("steps", "bf16"):
            training.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    training.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available(), help="bf16 autocast"
    )
    return p


def new_model(args: argparse.Namespace, train: CrystalTable) -> tuple[Dao, Card | None]:
    """The model to train, and the card of its parent."""
    if args.start:
        model, card = load(args.start)
        if card.kind != args.kind:
            raise CheckpointError(f"{args.start} is a {card.kind} checkpoint, not {args.kind}")
        return model.train().requires_grad_(True), card
    try:
        network = CrysformerConfig(**{name: getattr(args, name) for name in asdict(CrysformerConfig())})
    except ValueError as error:
        raise TrainingError(f"there is no such network: {error}") from error
    config = DaoConfig(network=network, volume_scaling=args.volume_scaling)
    if args.kind == "dao-p":
        if train.energy.std() == 0:
            raise DataError("DAO-P cannot learn from energies that are all the same")
        config = replace(config, energy_mean=float(train.energy.mean()), energy_std=float(train.energy.std()))
    torch.manual_seed(args.seed)  # torch.nn initialises from the global generator alone
    return build(args.kind, {**asdict(config), "properties": []}), None


def train(args: argparse.Namespace, command: str) -> None:
    """Run one training from parsed arguments and write its checkpoint."""
    config = TrainConfig(**{name: getattr(args, name) for name in asdict(TrainConfig(steps=1))})
    if args.threads is not None:
        if args.threads < 1:
            raise TrainingError(f"--threads must be positive, not {args.threads}")
        torch.set_num_threads(args.threads)
    try:
        torch.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"--device {args.device} cannot be used here: {str(error).splitlines()[0]}") from error
    limits = (args.max_atoms, args.max_energy)
    table = read_crystals(args.data, None if args.fit_all else "train", *limits)
    try:
        validation = None if args.fit_all else read_crystals(args.data, "val", *limits)
    except NothingSelectedError:
        validation = None
    if args.kind == "dao-p":
        table, validation = table.labelled(), validation and validation.labelled()
    model, parent = new_model(args, table)
    trainer = Trainer(model.to(args.device), config, table, validation, args.out)
    trainer.resume()
    size = sum(p.numel() for p in trainer.parameters)
    per_epoch = trainer.batches.steps_per_epoch
    print(
        f"{kind_of(model)}: {size / 1e6:.2f} M parameters, {len(table)} crystals, {per_epoch} steps an epoch",
        file=sys.stderr,
    )
    trainer.run()
    with trainer.averaged():
        card = save(
            args.out / "checkpoint",
            model,
            {
                "name": args.name or args.out.name,
                # what the parent has seen, its child has seen too
                "elements": sorted({*table.elements(), *(parent.elements if parent else ())}),
                "max_atoms": max([len(c) for c in table.crystals] + ([parent.max_atoms] if parent else [])),
                "parent": parent and parent.sha256,
                "training": {
                    "command": command,
                    "data": {"file": args.data.name, "sha256": table.sha256, "rows": len(table)},
                    "config": asdict(config),
                    "seed": config.seed,
                    "wall_time_s": round(trainer.elapsed, 1),
                    "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu",
                    "torch": torch.__version__,
                    "loss_curve": loss_curve(args.out / METRICS),
                },
            },
        )
    print(f"{args.out / 'checkpoint'}: sha256 {card.sha256}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Exit code 2 and one line for bad input."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    try:
        train(args, shlex.join(["python", "-m", "dao_flows.model.train", *argv]))
    except (DataError, TrainingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
