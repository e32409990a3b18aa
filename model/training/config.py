"""What a training is asked for: every setting with its default and its help, checked; the command line has these.

`TrainConfig` is how the weights move, and stands in the card of a checkpoint. `TrainRequest` is the whole: what is
trained, on what data, where.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Self, get_args, get_origin, get_type_hints

import torch

from dao_flows.model.checkpoint.format import KINDS
from dao_flows.model.dao import OBJECTIVES
from dao_flows.model.errors import DaoError
from dao_flows.model.network.crysformer import CrysformerConfig

OPTIMIZERS = ("adam", "muon")
STORED = {"float32": None, "float16": torch.float16}
DATA = "dataset or parquet file: numbers, frac, lattice (Å, Niggli-reduced), e_above_hull, split"
NETWORK = "network (default: the published size)"
TAKEN = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
PROPERTY = "a property instead of the energy (dao-p)"


class TrainingError(DaoError):
    """A setting is out of range, the run diverges, or what is in its folder does not belong to it."""


def option(default: Any, **told: Any) -> Any:
    """A setting with a default. told: help, choices, group (its heading), and either: it can be said to be off, too."""
    made: Any = field(default=default, metadata=told)
    return made


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Rates are Adam's; constant: share of the run at the peak rate before the cosine begins.

    optimizer: 'adam', or 'muon' for the matrices of the layers, at muon_rate times the rate (`training.optimizers`).
    batch_size: crystals of a step, over all processes together. gate_rate: rate of the residual gates relative to the
    others'. At the full rate they saturate within some thousand steps and shut whole layers off for good.
    coordinate_weight: of the coordinates' term in the loss that is descended (published: 1). label_batch: crystals with
    a teacher's labels that are seen beside each batch, with weights of their own. Terms are reported without weights.
    Gradients are clipped by value, as published, then by norm. spike: a window of 100 steps diverges if its mean loss
    is beyond this multiple of the running level (`training.divergence`; 0: only a loss that is not finite counts).
    snapshot_every: steps between the states that a diverging run goes back to, at half the rate, max_rollbacks times at
    most.
    """

    steps: int
    optimizer: str = option(
        "adam", help="adam as published, or muon for the matrices of the layers, which learns faster"
    )
    muon_rate: float = option(2.0, help="rate of the matrices relative to that of the rest")
    batch_size: int = option(64, help="crystals of a step, over all processes")
    rate: float = 1e-3
    final_rate: float = 1e-6
    warm_up: int = 500
    constant: float = 0.0
    weight_decay: float = 0.0
    gate_rate: float = 0.1
    coordinate_weight: float = option(
        1.0, help="of the coordinates' loss beside the others' 1; more makes candidates more precise"
    )
    label_batch: int = option(32, help="labelled crystals that a step sees beside its others (--labels)")
    label_weight: float = option(1.0, help="of the labels' energies in the loss")
    force_weight: float = option(0.0, help="of the labels' forces (eV/Å); 0: none, three times as fast")
    stress_weight: float = option(0.0, help="of the labels' stresses (eV/Å³), where forces are learned")
    clip_value: float = 0.5
    clip_norm: float = 1.0
    ema: float = 0.999
    bf16: bool = option(False, help="bf16 autocast", either=True)
    seed: int = 0
    save_every_s: float = 120.0
    validate_every: int = 2000
    spike: float = option(
        3.0, help="diverging: the loss of 100 steps is beyond so many times the running level (0: never)"
    )
    snapshot_every: int = option(1000, help="steps between the states that a diverging run goes back to")
    max_rollbacks: int = option(3, help="how often it goes back, each time to half the rate, before it stops")

    def __post_init__(self) -> None:
        positive = (
            *("steps", "batch_size", "rate", "final_rate", "clip_value", "clip_norm", "validate_every"),
            *("snapshot_every", "coordinate_weight", "muon_rate", "label_batch"),
        )
        shares = ("constant", "gate_rate", "ema")
        at_least_zero = (
            *("warm_up", "weight_decay", "seed", "save_every_s", "spike", "max_rollbacks"),
            *("label_weight", "force_weight", "stress_weight"),
        )
        ranges = {
            "positive": (positive, math.nextafter(0, 1), sys.float_info.max),
            "between 0 and 1": (shares, 0, 1),
            "0 or more": (at_least_zero, 0, sys.float_info.max),
        }
        for what, (names, low, high) in ranges.items():
            for name in names:
                if not low <= (value := getattr(self, name)) <= high:
                    raise TrainingError(f"--{name.replace('_', '-')} must be {what}, not {value}")
        if self.optimizer not in OPTIMIZERS:
            raise TrainingError(f"--optimizer must be {' or '.join(OPTIMIZERS)}, not {self.optimizer}")
        if 0 < self.spike <= 1:
            raise TrainingError(f"--spike must be above 1, or 0 for none, not {self.spike}")

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then constant, then cosine down to final_rate."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        start = max(self.warm_up, self.constant * self.steps)
        progress = min(max(step - start, 0) / max(self.steps - start, 1), 1.0)
        return self.final_rate + (self.rate - self.final_rate) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A training: of what, on what data, where, and how. Raises TrainingError for what does not fit together."""

    kind: str = field(metadata={"positional": True, "choices": KINDS})
    data: Path = field(metadata={"positional": True, "help": DATA})
    out: Path = field(metadata={"help": "folder of the run; the checkpoint is written to OUT/checkpoint"})
    name: str | None = option(None, help="name of the checkpoint (default: the name of OUT)")
    start: str | None = option(
        None, help="checkpoint to train on from, by name, path or sha256 (its architecture is kept)"
    )
    max_atoms: int | None = option(None, help="leave larger cells out")
    max_energy: float | None = option(
        None, help="leave crystals further above hull out (eV/atom), and those without an energy"
    )
    judge: str | None = option(
        None, help="DAO-P checkpoint: crystals without an energy stay if it finds them within --max-energy"
    )
    pairs: tuple[Path, ...] | None = option(
        None, help="files that pair rows of the data with templates, of 'train' and 'val' (--objective bridge)"
    )
    labels: tuple[Path, ...] | None = option(
        None, help="labelled datasets, whose energies of wrong crystals, and slopes, are learned as well (dao-p)"
    )
    fit_all: bool = option(False, help="train on the whole file, not on split == 'train' alone")
    device: str = field(
        default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu",
        metadata={"help": "cpu, cuda (under torchrun each process takes its own GPU) or cuda:N"},
    )
    threads: int | None = option(None, help="CPU threads of each process (default: all)")
    wall_time_s: float | None = option(None, help="save the state and leave with exit code 75 after so many seconds")
    fit_wall_time: bool = option(
        False,
        help="take as many steps as fit into --wall-time-s, --steps at most, so that the rate has fallen by its end",
    )
    store_as: str = option("float32", choices=tuple(STORED), help="numbers of the checkpoint; float16 halves its size")
    cuda_graphs: bool = option(
        True, either=True, help="on a GPU, launch each step as one graph; the steps are the same"
    )
    fused: bool = option(
        False,
        help="compile the network's small operations (torch.compile): faster on a GPU, some ten seconds at the start",
    )
    property: str | None = option(
        None, group=PROPERTY, help="column to learn with a head of its own, where it is known"
    )
    log: bool = option(False, group=PROPERTY, help="learn its logarithm, as for critical temperatures")
    freeze_backbone: bool = option(
        False, group=PROPERTY, help="train the head alone; energies and other heads stay as they are"
    )
    network: CrysformerConfig = field(default_factory=CrysformerConfig, metadata={"group": NETWORK})
    volume_scaling: bool = option(False, group=NETWORK, help="diffuse the lattice in units of n_atoms^(1/3) Å")
    objective: str | None = option(
        None,
        group=NETWORK,
        choices=OBJECTIVES,
        help="what to learn: diffusion as published, or flow matching (default: diffusion, or that of --start)",
    )
    training: TrainConfig = field(metadata={"group": "training"})

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise TrainingError(f"--threads must be positive, not {self.threads}")
        if self.wall_time_s is not None and not self.wall_time_s > 0:
            raise TrainingError(f"--wall-time-s must be positive, not {self.wall_time_s}")
        if self.fit_wall_time and self.wall_time_s is None:
            raise TrainingError("--fit-wall-time goes with --wall-time-s")
        if self.judge and (self.kind != "dao-g" or self.max_energy is None):
            raise TrainingError("--judge is for dao-g, and goes with --max-energy")
        if self.pairs and (self.kind != "dao-g" or self.fit_all or self.max_energy is not None):
            raise TrainingError("--pairs is for dao-g, and says which crystals: leave --fit-all and --max-energy out")
        if self.labels and (self.kind != "dao-p" or self.property is not None):
            raise TrainingError("--labels are for dao-p, and for its energy")
        if self.property is not None and self.kind != "dao-p":
            raise TrainingError("--property is for dao-p alone")
        if self.property is None and (self.log or self.freeze_backbone):
            raise TrainingError("--log and --freeze-backbone go with --property")
        if self.freeze_backbone and not self.start:
            raise TrainingError("--freeze-backbone needs a trained network: give --start")

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From settings by name, those of the network and of TrainConfig among them; None: the default.

        Numbers may be given as text. Raises TrainingError for a name that is none, and for a value that cannot be.
        """
        known = {each.name for each in settings()}
        if unknown := [name for name in told if name not in known]:
            raise TrainingError(f"unrecognized arguments: {' '.join(f'{flag(n)}={told[n]}' for n in unknown)}")
        if missing := [each for each in settings() if each.required and told.get(each.name) is None]:
            named = ", ".join(each.name if each.positional else flag(each.name) for each in missing)
            raise TrainingError(f"the following arguments are required: {named}")
        given = {each.name: each.typed(told[each.name]) for each in settings() if told.get(each.name) is not None}
        built: Self = _built(cls, given)
        return built

    def settings(self) -> dict[str, Any]:
        """Name -> value of every setting, those of the network and of TrainConfig among them."""
        held = {each.name: getattr(self, each.name) for each in fields(self)}
        return held | {k: v for part in (held.pop("network"), held.pop("training")) for k, v in vars(part).items()}


class Setting(NamedTuple):
    """One setting. kind: its type, without None; many: whether it takes several; group: the heading it is under."""

    name: str
    kind: type
    many: bool
    default: Any
    required: bool
    group: str | None
    told: Mapping[str, Any]

    @property
    def positional(self) -> bool:
        """Whether it is given without its name."""
        return bool(self.told.get("positional"))

    def typed(self, value: Any) -> Any:
        """A value in its type. Raises TrainingError for one that cannot be."""
        if self.many:
            return tuple(self.kind(each) for each in ([value] if isinstance(value, str | Path) else value))
        if isinstance(value, bool) != (self.kind is bool):
            raise TrainingError(f"{flag(self.name)} takes {TAKEN[self.kind]}, not {value!r}")
        try:
            found = value if self.kind is bool else self.kind(str(value))
        except ValueError:
            raise TrainingError(f"{flag(self.name)} takes {TAKEN[self.kind]}, not {str(value)!r}") from None
        choices = self.told.get("choices")
        if choices is not None and found not in choices:
            raise TrainingError(f"{flag(self.name)} must be one of {', '.join(choices)}, not {found!r}")
        return found


def flag(name: str) -> str:
    """A setting's name on the command line."""
    return f"--{name.replace('_', '-')}"


def settings(of: type = TrainRequest, group: str | None = None) -> Iterator[Setting]:
    """All settings of a request, in the order of the command line. group: the heading of those that name none."""
    kinds = get_type_hints(of)
    for each in fields(of):
        under = each.metadata.get("group", group)
        if is_dataclass(kind := kinds[each.name]) and isinstance(kind, type):
            yield from settings(kind, under)
            continue
        kind = next(k for k in get_args(kind) if k is not type(None)) if isinstance(kind, UnionType) else kind
        many = get_origin(kind) is tuple
        default, required = _default(each)
        yield Setting(each.name, get_args(kind)[0] if many else kind, many, default, required, under, each.metadata)


def _default(each: Field[Any]) -> tuple[Any, bool]:
    """A field's default, and whether it has none."""
    if each.default_factory is not MISSING:
        return each.default_factory(), False
    return (None, True) if each.default is MISSING else (each.default, False)


def _built(cls: type, values: Mapping[str, Any]) -> Any:
    """An object of a class of settings, and those within it, from values by name."""
    kinds = get_type_hints(cls)
    own = {each.name: values[each.name] for each in fields(cls) if each.name in values}
    within = {
        name: _built(kind, values) for name, kind in kinds.items() if is_dataclass(kind) and isinstance(kind, type)
    }
    try:
        return cls(**own, **within)
    except TrainingError:
        raise
    except ValueError as error:
        raise TrainingError(f"there is no such network: {error}") from error
