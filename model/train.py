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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from .checkpoint.format import CheckpointError
from .dao_p import PropertyError
from .data.shards import DataError
from .runtime.deadline import UNFINISHED, Stop
from .training.config import Setting, TrainingError, TrainRequest, flag, settings
from .training.run import CHECKPOINT, train

OF_THIS_LAUNCH = ("--wall-time-s",)  # options with a value that the recorded command leaves out
FIT = "--fit-wall-time"  # it tells the steps instead
WHERE = ("out", "name", "start", "device")  # written as two words


class Parser(argparse.ArgumentParser):
    """Raises what argparse would print before it left the process."""

    def error(self, message: str) -> NoReturn:
        """Raises TrainingError."""
        raise TrainingError(f"{message} (see --help)")


def parser() -> argparse.ArgumentParser:
    """The command line, made from TrainRequest. Its parse_args raises TrainingError for what it does not know."""
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
    groups: dict[str | None, argparse._ActionsContainer] = {None: p}
    for setting in settings():
        if setting.group not in groups:
            groups[setting.group] = p.add_argument_group(setting.group)
        _add(groups[setting.group], setting)
    p.set_defaults(bf16=torch.cuda.is_available())
    return p


def _add(group: argparse._ActionsContainer, setting: Setting) -> None:
    about: dict[str, Any] = {"help": setting.told.get("help"), "default": setting.default}
    if setting.kind is bool:
        about["action"] = argparse.BooleanOptionalAction if setting.told.get("either") else "store_true"
    else:
        about |= {"type": setting.kind, "choices": setting.told.get("choices")}
    if setting.many:
        about["nargs"] = "+"
    if setting.positional:
        group.add_argument(setting.name, **about)
    else:
        group.add_argument(flag(setting.name), required=setting.required, **about)


def words(told: Mapping[str, Any]) -> list[str]:
    """The arguments that say these settings, as `TrainRequest.of` takes them, in their order."""
    argv = [told["kind"], str(told["data"])]
    for name in WHERE:
        argv += [flag(name), str(told[name])] if told.get(name) is not None else []
    either = {each.name for each in settings() if each.told.get("either")}
    for name, value in told.items():
        if name in ("kind", "data", *WHERE):
            continue
        if isinstance(value, bool):
            argv += [flag(name)] if value else [f"--no-{flag(name)[2:]}"] if name in either else []
        elif isinstance(value, list | tuple):
            argv += [flag(name), *map(str, value)]
        elif value is not None:
            argv.append(f"{flag(name)}={value}")
    return argv


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


def main(argv: list[str] | None = None) -> int:
    """Exit code 2 and one line for bad input, 75 for a run that is to be continued."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        request = TrainRequest.of(vars(parser().parse_args(argv)))
        with Stop(request.wall_time_s) as stop:
            done = train(request, recorded_command(argv), stop, stop.left if request.fit_wall_time else None)
    except (DataError, TrainingError, CheckpointError, PropertyError, OSError) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one line, not one for each process
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if done else UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
