"""One training from its request to its checkpoint. A run lives in one folder: metrics, the state to resume from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from dao_flows.model.checkpoint.format import Card, CheckpointError, build, kind_of, load, save
from dao_flows.model.checkpoint.library import find
from dao_flows.model.checkpoint.lineage import remembered
from dao_flows.model.dao import Dao, DaoConfig
from dao_flows.model.dao_p import DaoP, PropertyHead, predict_energy
from dao_flows.model.data.labels import read_labels
from dao_flows.model.data.shards import DataError, file_sha256, lineage, parts
from dao_flows.model.data.table import CrystalTable, Judge, NothingSelectedError, read_crystals
from dao_flows.model.runtime.memory import keep_freed_memory
from dao_flows.model.templates.pairs import read_pairs

from .config import STORED, TrainingError, TrainRequest
from .distributed import joined, local_device
from .metrics import METRICS, loss_curve
from .plot import write_plot
from .state import STOPPED, locked
from .trainer import Trainer

CHECKPOINT = "checkpoint"


def new_model(request: TrainRequest, train: CrystalTable) -> tuple[Dao, Card | None]:
    """The model to train, with what is to be trained requiring gradients, and the card of its parent."""
    parent, card = None, None
    if request.start:
        parent, card = load(find(request.start))
        if card.kind != request.kind:
            raise CheckpointError(f"{request.start} is a {card.kind} checkpoint, not {request.kind}")
        config = parent.config
    else:
        config = DaoConfig(network=request.network, volume_scaling=request.volume_scaling)
        if request.kind == "dao-p" and request.property is None:
            if train.energy.std() == 0:
                raise DataError("DAO-P cannot learn from energies that are all the same")
            config = replace(config, energy_mean=float(train.energy.mean()), energy_std=float(train.energy.std()))
    if request.objective:
        try:
            config = replace(config, objective=request.objective)
        except ValueError as error:
            raise TrainingError(f"--objective: {error}") from error
    if request.pairs and config.objective != "bridge":
        raise TrainingError("--pairs are for --objective bridge: other paths do not begin from templates")
    # heads that the network has moved away from are left behind
    heads = dict(parent.heads) if isinstance(parent, DaoP) and request.freeze_backbone else {}
    if request.property is not None:
        heads.pop(request.property, None)
        heads[request.property] = new_head(request.property, request, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.training.seed)  # torch.nn initialises from the global generator alone
        model = build(request.kind, {**asdict(config), "properties": [asdict(head) for head in heads.values()]})
    if parent is not None:
        ours = model.state_dict()
        fresh = f"properties.{request.property}."
        ours |= {k: v for k, v in parent.state_dict().items() if k in ours and not k.startswith(fresh)}
        model.load_state_dict(ours)
    model.train().requires_grad_(not request.freeze_backbone)
    if isinstance(model, DaoP) and request.property is not None:
        model.properties[request.property].requires_grad_(True)
    return model, card


def new_head(name: str, request: TrainRequest, train: CrystalTable) -> PropertyHead:
    """The head of a property, standardised by the training crystals. Raises DataError for values it cannot learn."""
    values = train.labels.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{name} holds values that are not finite: leave those rows out")
    if request.log:
        if low := int((values <= 0).sum()):
            raise DataError(f"{name} is not positive in {low} of {len(values)} rows: they have no logarithm")
        values = np.log(values)
    if values.std() == 0:
        raise DataError(f"DAO-P cannot learn {name}: its values are all the same")
    return PropertyHead(name, float(values.mean()), float(values.std()), request.log, tuned=not request.freeze_backbone)


def read_judge(reference: str, device: str) -> tuple[Judge, str]:
    """What --judge names, and its sha256. It computes in float64, so that all machines come to one verdict.

    Raises CheckpointError.
    """
    predictor, card = load(find(reference), device)
    if not isinstance(predictor, DaoP):
        raise CheckpointError(f"{reference} is a {card.kind} checkpoint: --judge takes a dao-p one")
    exact = predictor.double()
    return lambda crystals: predict_energy(exact, crystals), card.sha256


def read_tables(request: TrainRequest, judge: Judge | None = None) -> tuple[CrystalTable, CrystalTable | None]:
    """Crystals to train on and to validate on, the latter if there are any. Raises DataError."""
    selection: dict[str, Any] = {
        "max_atoms": request.max_atoms,
        "max_energy": request.max_energy,
        "target": request.property,
        "judge": judge,
    }
    if request.pairs:
        paired = read_pairs(request.data, request.pairs, "train", request.max_atoms)
        try:
            return paired, read_pairs(request.data, request.pairs, "val", request.max_atoms)
        except NothingSelectedError:
            return paired, None
    table = read_crystals(request.data, None if request.fit_all else "train", **selection)
    if request.kind == "dao-p":
        table = table.labelled()
    if request.fit_all:
        return table, None
    try:
        validation = read_crystals(request.data, "val", **selection)
        return table, validation.labelled() if request.kind == "dao-p" else validation
    except NothingSelectedError:
        return table, None


def train(
    request: TrainRequest,
    command: str,
    stop: Callable[[], bool] = lambda: False,
    left: Callable[[], float] | None = None,
) -> bool:
    """Run one training, in every process of a group alike, and write its checkpoint.

    Returns False if `stop` said so before the end, the state then being saved. command: for the card. left: seconds
    that are left, as in `Trainer.run`.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    device = local_device(request.device)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"--device {request.device} cannot be used here: {str(error).splitlines()[0]}") from error
    if device == "cpu":
        keep_freed_memory()
    judge, judge_sha256 = read_judge(request.judge, device) if request.judge else (None, None)
    table, validation = read_tables(request, judge)
    split = None if request.fit_all else "train"
    labels = read_labels(request.labels, split, request.max_atoms) if request.labels else None
    model, parent = new_model(request, table)
    with joined(device) as group:
        if left is not None and group.size > 1:
            raise TrainingError("--fit-wall-time is for one process: choose --steps")
        trainer = Trainer(
            model.to(device),
            request.training,
            table,
            validation,
            request.out,
            group=group,
            property_name=request.property,
            parent=parent.sha256 if parent else None,
            labels=labels,
            cuda_graphs=request.cuda_graphs,
            fused=request.fused,
        )
        if not group.leads:
            group.wait()  # until nobody else trains in this folder
            trainer.resume()
            return trainer.run(stop, left)
        with locked(request.out):
            group.wait()
            (request.out / STOPPED).unlink(missing_ok=True)
            trainer.resume()
            size = sum(p.numel() for p in trainer.parameters)
            per_epoch = trainer.batches.steps_per_epoch
            print(
                f"{kind_of(model)}: {size / 1e6:.2f} M parameters, {len(table)} crystals, {per_epoch} steps an epoch"
                + (f", {group.size} processes" if group.size > 1 else ""),
                file=sys.stderr,
            )
            if not trainer.run(stop, left):
                (request.out / STOPPED).write_text(f"{trainer.step}\n")
                print(f"stopped at step {trainer.step}: run the same command again to go on", file=sys.stderr)
                return False
            card = write_checkpoint(trainer, request, command, table, parent, judge_sha256)
            try:
                write_plot(request.out, card.name)
            except Exception as error:  # a picture is no reason to lose a run
                print(f"no plot was drawn: {error}", file=sys.stderr)
    print(f"{request.out / CHECKPOINT}: sha256 {card.sha256}", file=sys.stderr)
    return True


def write_checkpoint(
    trainer: Trainer,
    request: TrainRequest,
    command: str,
    table: CrystalTable,
    parent: Card | None,
    judge: str | None,
) -> Card:
    """The averaged weights of a finished run, and what there is to tell of it. judge: sha256."""
    if trainer.config.steps != request.training.steps:
        command += f" --steps {trainer.config.steps}"
    data: dict[str, Any] = {"file": request.data.name, "sha256": table.sha256, "rows": len(table)}
    data |= lineage(request.data) | {
        "split": None if request.fit_all else "train",
        "max_atoms": request.max_atoms,
        "max_energy": request.max_energy,
    }
    if request.pairs:
        _, data["sha256"] = parts(request.data)
        data["pairs"] = [{"file": file.name, "sha256": file_sha256(file)} for file in request.pairs]
    if request.labels:
        data["labels"] = [
            {"file": path.name, "sha256": parts(path)[1], "made_by": lineage(path).get("made_by", {})}
            for path in request.labels
        ]
        data["labelled"] = len(trainer.labels.table) if trainer.labels is not None else 0
    if judge is not None:
        data |= {"judge": judge, "judged": int(np.isnan(table.energy).sum())}
    with trainer.averaged():
        return save(
            request.out / CHECKPOINT,
            trainer.model,
            {
                "name": request.name or request.out.name,
                # what the parent has seen, its child has seen too
                "elements": sorted({*table.elements(), *(parent.elements if parent else ())}),
                "max_atoms": max([len(c) for c in table.crystals] + ([parent.max_atoms] if parent else [])),
                "parent": parent and parent.sha256,
                "training": {
                    "command": command,
                    "data": data,
                    "parents": remembered(parent) if parent else [],
                    "property": request.property,
                    "config": asdict(trainer.config),
                    "seed": trainer.config.seed,
                    "wall_time_s": round(trainer.elapsed, 1),
                    "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu",
                    "processes": trainer.group.size,
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "rollbacks": trainer.rollbacks,
                    "loss_curve": loss_curve(request.out / METRICS),
                },
            },
            STORED[request.store_as],
        )
