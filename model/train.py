"""Train DAO-G or DAO-P from a dataset or parquet file: `python -m dao_flows.model.train --help`.

Needs torch, numpy, safetensors and pyarrow, and no workflow package. A run lives in one folder: metrics.jsonl, the
state to resume from, and at the end the checkpoint. Exit codes: 0 when it is done, 2 with one line for what the user
can put right, 75 when it was stopped before its end (its time was up, or SIGTERM or SIGUSR1 came) and its state is
saved: run the same command again. torchrun makes a 1 of every code but 0.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from .checkpoint.format import KINDS, Card, CheckpointError, build, kind_of, load, save
from .checkpoint.library import find
from .checkpoint.lineage import remembered
from .dao import OBJECTIVES, Dao, DaoConfig
from .dao_p import DaoP, PropertyError, PropertyHead, predict_energy
from .data.shards import DataError, file_sha256, lineage, parts
from .data.table import CrystalTable, Judge, NothingSelectedError, read_crystals
from .network.crysformer import CrysformerConfig
from .runtime.memory import keep_freed_memory
from .templates.pairs import read_pairs
from .training.config import TrainConfig, TrainingError
from .training.deadline import UNFINISHED, Stop
from .training.distributed import joined, local_device
from .training.metrics import METRICS, loss_curve
from .training.plot import write_plot
from .training.state import STOPPED, locked
from .training.trainer import Trainer

CHECKPOINT = "checkpoint"
OF_THIS_LAUNCH = ("--wall-time-s",)  # options with a value that the recorded command leaves out
FIT = "--fit-wall-time"  # it tells the steps instead
STORED = {"float32": None, "float16": torch.float16}


class Parser(argparse.ArgumentParser):
    """Raises what argparse would print before it left the process."""

    def error(self, message: str) -> NoReturn:
        """Raises TrainingError."""
        raise TrainingError(f"{message} (see --help)")


def parser() -> argparse.ArgumentParser:
    """The command line. Its parse_args raises TrainingError for what it does not know."""
    p = Parser(
        prog="python -m dao_flows.model.train",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train DAO-G or DAO-P from a dataset or parquet file. Run the same command again to resume.\n"
        "Exit code 75: stopped before its end, the state is saved, run the same command again.",
        epilog="examples:\n"
        "  python -m dao_flows.model.train dao-g crystals --out runs/g --layers 6 --steps 20000\n"
        "  python -m dao_flows.model.train dao-p tc.parquet --start dao-p-base --property tc --log --out runs/tc "
        "--steps 2000\n"
        "  torchrun --nproc-per-node 4 -m -- dao_flows.model.train dao-g crystals --out runs/g --batch-size 1024 "
        "--steps 20000",
    )
    p.add_argument("kind", choices=KINDS)
    p.add_argument(
        "data",
        type=Path,
        help="dataset or parquet file: numbers, frac, lattice (Å, Niggli-reduced), e_above_hull, split",
    )
    p.add_argument(
        "--out", type=Path, required=True, help="folder of the run; the checkpoint is written to OUT/checkpoint"
    )
    p.add_argument("--name", help="name of the checkpoint (default: the name of OUT)")
    p.add_argument("--start", help="checkpoint to train on from, by name, path or sha256 (its architecture is kept)")
    p.add_argument("--max-atoms", type=int, help="leave larger cells out")
    p.add_argument(
        "--max-energy", type=float, help="leave crystals further above hull out (eV/atom), and those without an energy"
    )
    p.add_argument(
        "--judge", help="DAO-P checkpoint: crystals without an energy stay if it finds them within --max-energy"
    )
    p.add_argument(
        "--pairs",
        type=Path,
        nargs="+",
        help="files that pair rows of the data with templates, of 'train' and 'val' (--objective bridge)",
    )
    p.add_argument("--fit-all", action="store_true", help="train on the whole file, not on split == 'train' alone")
    p.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda (under torchrun each process takes its own GPU) or cuda:N",
    )
    p.add_argument("--threads", type=int, help="CPU threads of each process (default: all)")
    p.add_argument("--wall-time-s", type=float, help="save the state and leave with exit code 75 after so many seconds")
    p.add_argument(
        FIT,
        action="store_true",
        help="take as many steps as fit into --wall-time-s, --steps at most, so that the rate has fallen by its end",
    )
    p.add_argument(
        "--store-as", choices=STORED, default="float32", help="numbers of the checkpoint; float16 halves its size"
    )
    p.add_argument(
        "--cuda-graphs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on a GPU, launch each step as one graph; the steps are the same",
    )
    p.add_argument(
        "--fused",
        action="store_true",
        help="compile the network's small operations (torch.compile): faster on a GPU, some ten seconds at the start",
    )
    head = p.add_argument_group("a property instead of the energy (dao-p)")
    head.add_argument("--property", help="column to learn with a head of its own, where it is known")
    head.add_argument("--log", action="store_true", help="learn its logarithm, as for critical temperatures")
    head.add_argument(
        "--freeze-backbone", action="store_true", help="train the head alone; energies and other heads stay as they are"
    )
    network = p.add_argument_group("network (default: the published size)")
    for name, default in asdict(CrysformerConfig()).items():
        network.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    network.add_argument(
        "--volume-scaling", action="store_true", help="diffuse the lattice in units of n_atoms^(1/3) Å"
    )
    network.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="what to learn: diffusion as published, or flow matching (default: diffusion, or that of --start)",
    )
    training = p.add_argument_group("training")
    training.add_argument("--steps", type=int, required=True)
    helps = {
        "optimizer": "adam as published, or muon for the matrices of the layers, which learns faster",
        "muon_rate": "rate of the matrices relative to that of the rest",
        "batch_size": "crystals of a step, over all processes",
        "coordinate_weight": "of the coordinates' loss beside the others' 1; more makes candidates more precise",
        "spike": "diverging: the loss of 100 steps is beyond so many times the running level (0: never)",
        "snapshot_every": "steps between the states that a diverging run goes back to",
        "max_rollbacks": "how often it goes back, each time to half the rate, before it stops",
    }
    for name, default in asdict(TrainConfig(steps=1)).items():
        if name not in ("steps", "bf16"):
            flag = f"--{name.replace('_', '-')}"
            training.add_argument(flag, type=type(default), default=default, help=helps.get(name))
    training.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available(), help="bf16 autocast"
    )
    return p


def recorded_command(argv: Sequence[str]) -> str:
    """The command as a card tells it: absolute paths cut down to names, without what concerns one launch alone."""
    words: list[str] = []
    arguments = iter(argv)
    for word in arguments:
        flag, equals, value = word.partition("=")
        if flag in OF_THIS_LAUNCH:
            if not equals:
                next(arguments, None)
        elif equals and flag.startswith("--"):
            words.append(f"{flag}={_name(value)}")
        elif word != FIT:
            words.append(_name(word))
    return shlex.join(["python", "-m", "dao_flows.model.train", *words])


def _name(word: str) -> str:
    path = Path(word)
    if not path.is_absolute() and not word.startswith("~"):
        return word
    return str(Path(*path.parts[-2:])) if path.name == CHECKPOINT else path.name


def new_model(args: argparse.Namespace, train: CrystalTable) -> tuple[Dao, Card | None]:
    """The model to train, with what is to be trained requiring gradients, and the card of its parent."""
    parent, card = None, None
    if args.start:
        parent, card = load(find(args.start))
        if card.kind != args.kind:
            raise CheckpointError(f"{args.start} is a {card.kind} checkpoint, not {args.kind}")
        config = parent.config
    else:
        try:
            network = CrysformerConfig(**{name: getattr(args, name) for name in asdict(CrysformerConfig())})
        except ValueError as error:
            raise TrainingError(f"there is no such network: {error}") from error
        config = DaoConfig(network=network, volume_scaling=args.volume_scaling)
        if args.kind == "dao-p" and args.property is None:
            if train.energy.std() == 0:
                raise DataError("DAO-P cannot learn from energies that are all the same")
            config = replace(config, energy_mean=float(train.energy.mean()), energy_std=float(train.energy.std()))
    if args.objective:
        try:
            config = replace(config, objective=args.objective)
        except ValueError as error:
            raise TrainingError(f"--objective: {error}") from error
    if args.pairs and config.objective != "bridge":
        raise TrainingError("--pairs are for --objective bridge: other paths do not begin from templates")
    # heads that the network has moved away from are left behind
    heads = dict(parent.heads) if isinstance(parent, DaoP) and args.freeze_backbone else {}
    if args.property is not None:
        heads.pop(args.property, None)
        heads[args.property] = new_head(args, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)  # torch.nn initialises from the global generator alone
        model = build(args.kind, {**asdict(config), "properties": [asdict(head) for head in heads.values()]})
    if parent is not None:
        ours = model.state_dict()
        fresh = f"properties.{args.property}."
        ours |= {k: v for k, v in parent.state_dict().items() if k in ours and not k.startswith(fresh)}
        model.load_state_dict(ours)
    model.train().requires_grad_(not args.freeze_backbone)
    if isinstance(model, DaoP) and args.property is not None:
        model.properties[args.property].requires_grad_(True)
    return model, card


def new_head(args: argparse.Namespace, train: CrystalTable) -> PropertyHead:
    """The head of --property, standardised by the training crystals. Raises DataError for values it cannot learn."""
    values = train.labels.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{args.property} holds values that are not finite: leave those rows out")
    if args.log:
        if low := int((values <= 0).sum()):
            raise DataError(f"{args.property} is not positive in {low} of {len(values)} rows: they have no logarithm")
        values = np.log(values)
    if values.std() == 0:
        raise DataError(f"DAO-P cannot learn {args.property}: its values are all the same")
    return PropertyHead(
        args.property, float(values.mean()), float(values.std()), args.log, tuned=not args.freeze_backbone
    )


def check(args: argparse.Namespace) -> TrainConfig:
    """The settings of the run. Raises TrainingError for one that is out of range or does not fit another."""
    config = TrainConfig(**{name: getattr(args, name) for name in asdict(TrainConfig(steps=1))})
    if args.threads is not None and args.threads < 1:
        raise TrainingError(f"--threads must be positive, not {args.threads}")
    if args.wall_time_s is not None and not args.wall_time_s > 0:
        raise TrainingError(f"--wall-time-s must be positive, not {args.wall_time_s}")
    if args.fit_wall_time and args.wall_time_s is None:
        raise TrainingError("--fit-wall-time goes with --wall-time-s")
    if args.judge and (args.kind != "dao-g" or args.max_energy is None):
        raise TrainingError("--judge is for dao-g, and goes with --max-energy")
    if args.pairs and (args.kind != "dao-g" or args.fit_all or args.max_energy is not None):
        raise TrainingError("--pairs is for dao-g, and says which crystals: leave --fit-all and --max-energy out")
    if args.property is not None and args.kind != "dao-p":
        raise TrainingError("--property is for dao-p alone")
    if args.property is None and (args.log or args.freeze_backbone):
        raise TrainingError("--log and --freeze-backbone go with --property")
    if args.freeze_backbone and not args.start:
        raise TrainingError("--freeze-backbone needs a trained network: give --start")
    return config


def read_judge(reference: str, device: str) -> tuple[Judge, str]:
    """What --judge names, and its sha256. It computes in float64, so that all machines come to one verdict.

    Raises CheckpointError.
    """
    predictor, card = load(find(reference), device)
    if not isinstance(predictor, DaoP):
        raise CheckpointError(f"{reference} is a {card.kind} checkpoint: --judge takes a dao-p one")
    exact = predictor.double()
    return lambda crystals: predict_energy(exact, crystals), card.sha256


def read_tables(args: argparse.Namespace, judge: Judge | None = None) -> tuple[CrystalTable, CrystalTable | None]:
    """Crystals to train on and to validate on, the latter if there are any. Raises DataError."""
    selection: dict[str, Any] = {
        "max_atoms": args.max_atoms,
        "max_energy": args.max_energy,
        "target": args.property,
        "judge": judge,
    }
    if args.pairs:
        paired = read_pairs(args.data, args.pairs, "train", args.max_atoms)
        try:
            return paired, read_pairs(args.data, args.pairs, "val", args.max_atoms)
        except NothingSelectedError:
            return paired, None
    table = read_crystals(args.data, None if args.fit_all else "train", **selection)
    if args.kind == "dao-p":
        table = table.labelled()
    if args.fit_all:
        return table, None
    try:
        validation = read_crystals(args.data, "val", **selection)
        return table, validation.labelled() if args.kind == "dao-p" else validation
    except NothingSelectedError:
        return table, None


def train(
    args: argparse.Namespace,
    command: str,
    stop: Callable[[], bool] = lambda: False,
    left: Callable[[], float] | None = None,
) -> bool:
    """Run one training from parsed arguments, in every process of a group alike, and write its checkpoint.

    Returns False if `stop` said so before the end, the state then being saved. command: for the card. left: seconds
    that are left, as in `Trainer.run`.
    """
    config = check(args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = local_device(args.device)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"--device {args.device} cannot be used here: {str(error).splitlines()[0]}") from error
    if device == "cpu":
        keep_freed_memory()
    judge, judge_sha256 = read_judge(args.judge, device) if args.judge else (None, None)
    table, validation = read_tables(args, judge)
    model, parent = new_model(args, table)
    with joined(device) as group:
        if left is not None and group.size > 1:
            raise TrainingError("--fit-wall-time is for one process: choose --steps")
        trainer = Trainer(
            model.to(device),
            config,
            table,
            validation,
            args.out,
            group=group,
            property_name=args.property,
            parent=parent.sha256 if parent else None,
            cuda_graphs=args.cuda_graphs,
            fused=args.fused,
        )
        if not group.leads:
            group.wait()  # until nobody else trains in this folder
            trainer.resume()
            return trainer.run(stop, left)
        with locked(args.out):
            group.wait()
            (args.out / STOPPED).unlink(missing_ok=True)
            trainer.resume()
            size = sum(p.numel() for p in trainer.parameters)
            per_epoch = trainer.batches.steps_per_epoch
            print(
                f"{kind_of(model)}: {size / 1e6:.2f} M parameters, {len(table)} crystals, {per_epoch} steps an epoch"
                + (f", {group.size} processes" if group.size > 1 else ""),
                file=sys.stderr,
            )
            if not trainer.run(stop, left):
                (args.out / STOPPED).write_text(f"{trainer.step}\n")
                print(f"stopped at step {trainer.step}: run the same command again to go on", file=sys.stderr)
                return False
            card = write_checkpoint(trainer, args, command, table, parent, judge_sha256)
            try:
                write_plot(args.out, card.name)
            except Exception as error:  # a picture is no reason to lose a run
                print(f"no plot was drawn: {error}", file=sys.stderr)
    print(f"{args.out / CHECKPOINT}: sha256 {card.sha256}", file=sys.stderr)
    return True


def write_checkpoint(
    trainer: Trainer,
    args: argparse.Namespace,
    command: str,
    table: CrystalTable,
    parent: Card | None,
    judge: str | None,
) -> Card:
    """The averaged weights of a finished run, and what there is to tell of it. judge: sha256."""
    if trainer.config.steps != args.steps:
        command += f" --steps {trainer.config.steps}"
    data: dict[str, Any] = {"file": args.data.name, "sha256": table.sha256, "rows": len(table)}
    data |= lineage(args.data) | {
        "split": None if args.fit_all else "train",
        "max_atoms": args.max_atoms,
        "max_energy": args.max_energy,
    }
    if args.pairs:
        _, data["sha256"] = parts(args.data)
        data["pairs"] = [{"file": file.name, "sha256": file_sha256(file)} for file in args.pairs]
    if judge is not None:
        data |= {"judge": judge, "judged": int(np.isnan(table.energy).sum())}
    with trainer.averaged():
        return save(
            args.out / CHECKPOINT,
            trainer.model,
            {
                "name": args.name or args.out.name,
                # what the parent has seen, its child has seen too
                "elements": sorted({*table.elements(), *(parent.elements if parent else ())}),
                "max_atoms": max([len(c) for c in table.crystals] + ([parent.max_atoms] if parent else [])),
                "parent": parent and parent.sha256,
                "training": {
                    "command": command,
                    "data": data,
                    "parents": remembered(parent) if parent else [],
                    "property": args.property,
                    "config": asdict(trainer.config),
                    "seed": trainer.config.seed,
                    "wall_time_s": round(trainer.elapsed, 1),
                    "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu",
                    "processes": trainer.group.size,
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "rollbacks": trainer.rollbacks,
                    "loss_curve": loss_curve(args.out / METRICS),
                },
            },
            STORED[args.store_as],
        )


def main(argv: list[str] | None = None) -> int:
    """Exit code 2 and one line for bad input, 75 for a run that is to be continued."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = parser().parse_args(argv)
        with Stop(args.wall_time_s) as stop:
            done = train(args, recorded_command(argv), stop, stop.left if args.fit_wall_time else None)
    except (DataError, TrainingError, CheckpointError, PropertyError, OSError) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one line, not one for each process
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if done else UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
