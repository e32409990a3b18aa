"""Checkpoints: a folder with weights.safetensors and card.json.

Weights of more than 16 MiB lie in several files, weights-1-of-3.safetensors and so on. The header of each holds the
model's configuration, so that the sha256 over the files one after the other, the checkpoint's identity, covers all that
decides what the model computes. The card adds what a reader wants to know: training data, command, metrics, coverage.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from dao_flows.model.dao import Dao, DaoConfig
from dao_flows.model.dao_g import DaoG
from dao_flows.model.dao_p import DaoP, PropertyHead
from dao_flows.model.data.shards import file_sha256
from dao_flows.model.errors import DaoError
from dao_flows.model.files.places import CARD
from dao_flows.model.network.crysformer import CrysformerConfig
from dao_flows.model.process.diffusion import NoiseConfig

WEIGHTS = "weights.safetensors"
PART = 16 << 20  # bytes of a file of weights
PART_NAME = re.compile(r"weights-[0-9]+-of-([0-9]+)\.safetensors")
FORMAT = 1
KINDS: dict[str, type[Dao]] = {"dao-g": DaoG, "dao-p": DaoP}


class CheckpointError(DaoError):
    """The checkpoint is missing, damaged or of another kind; the message says what to do."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself.

    elements: atomic numbers seen in training; max_atoms: largest cell seen; parent: sha256 of the checkpoint it was
    trained on from; training: data (file name, sha256, split, rows), command, seed, wall time, loss curve; metrics:
    measured values with their protocol.
    """

    name: str
    kind: str
    sha256: str
    elements: list[int]
    max_atoms: int
    code_version: str
    architecture: dict[str, Any]
    parent: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


CARD_TYPES: dict[str, type] = {
    **dict.fromkeys(("name", "kind", "sha256", "code_version"), str),
    **dict.fromkeys(("max_atoms", "format"), int),
    **dict.fromkeys(("architecture", "training", "metrics"), dict),
    "elements": list,
}


def kind_of(model: Dao) -> str:
    """'dao-g' or 'dao-p'."""
    return next(kind for kind, cls in KINDS.items() if type(model) is cls)


def architecture_of(model: Dao) -> dict[str, Any]:
    """The configuration as JSON, with the property heads."""
    properties = [asdict(head) for head in model.heads.values()] if isinstance(model, DaoP) else []
    return {**asdict(model.config), "properties": properties}


def build(kind: str, architecture: dict[str, Any]) -> Dao:
    """An untrained model of this kind. Raises CheckpointError for an architecture this version does not know."""
    config = config_of(architecture)
    try:
        properties = [p if isinstance(p, str) else PropertyHead(**p) for p in architecture.get("properties", ())]
        return DaoP(config, properties) if kind == "dao-p" else KINDS[kind](config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"this version cannot build the checkpoint's architecture: {error}") from error


def config_of(architecture: Mapping[str, Any]) -> DaoConfig:
    """What a card says of a model. Raises CheckpointError for an architecture this version does not know."""
    fields = {name: value for name, value in architecture.items() if name != "properties"}
    try:
        network, noise = CrysformerConfig(**fields.pop("network")), NoiseConfig(**fields.pop("noise"))
        return DaoConfig(network=network, noise=noise, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"this version cannot build the checkpoint's architecture: {error}") from error


def save(folder: Path, model: Dao, card: dict[str, Any], dtype: torch.dtype | None = None) -> Card:
    """Write a checkpoint folder in one step (all of it or nothing) and return its card.

    card: the Card fields that the model does not know itself. dtype: what trained numbers are stored in (None: as they
    are); they are loaded as they always are. An existing checkpoint at this path is replaced, and stays there until the
    new one is whole.
    """
    from dao_flows.version import __version__

    kind, architecture = kind_of(model), architecture_of(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        header = {"kind": kind, "architecture": json.dumps(architecture, sort_keys=True), "format": str(FORMAT)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        if dtype is not None:
            tensors |= {name: tensors[name].to(dtype) for name, _ in model.named_parameters()}
        _write_weights(staging, tensors, header)
        written = Card(
            kind=kind,
            architecture=architecture,
            sha256=weights_sha256(staging),
            **{"name": folder.name, "code_version": __version__, **card},
        )
        write_card(staging, written)
        staging.chmod(0o755)  # mkdtemp makes it private; a checkpoint is as readable as its folder
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return written


def part_name(number: int, count: int) -> str:
    """The name of one of a checkpoint's weight files, counted from 1."""
    return WEIGHTS if count == 1 else f"weights-{number}-of-{count}.safetensors"


def weight_names(names: Iterable[str], where: str) -> list[str]:
    """Those names that are weight files, in their order: one, or all parts.

    Raises CheckpointError, with `where` in its message, for a missing part, or for one that does not belong there.
    """
    found = {name for name in names if name == WEIGHTS or PART_NAME.fullmatch(name)}
    counts = [int(part[1]) for part in map(PART_NAME.fullmatch, sorted(found)) if part]
    count = max(1, counts[0]) if counts else 1
    wanted: list[str] = []
    for number in range(1, count + 1):  # a name may claim any count: this ends at the first part that is missing
        if (name := part_name(number, count)) not in found:
            raise CheckpointError(f"{where} lacks {name}")
        wanted.append(name)
    if extra := sorted(found - set(wanted)):
        raise CheckpointError(f"{where} has {extra[0]} beside {wanted[0]}")
    return wanted


def weight_files(folder: Path) -> list[Path]:
    """A checkpoint's weight files in their order, unverified. Raises CheckpointError as `weight_names` does."""
    names = weight_names((path.name for path in folder.glob("weights*")), f"the checkpoint at {folder}")
    return [folder / name for name in names]


def weights_sha256(folder: Path) -> str:
    """The identity of the weights in a folder: over all files one after the other. Raises CheckpointError, OSError."""
    return file_sha256(*weight_files(folder))


def _write_weights(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """One file if it has at most PART bytes, else several of at most PART; a tensor larger than that stands alone."""
    fits = sum(tensor.nbytes for tensor in tensors.values()) <= PART and len(_serialised(tensors, metadata)) <= PART
    parts = [tensors] if fits else list(_parts(tensors, metadata))
    for number, part in enumerate(parts, 1):
        (folder / part_name(number, len(parts))).write_bytes(_serialised(part, metadata))


def _parts(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """The tensors in their order, as many at a time as surely fit into a file of PART bytes, but one at least."""
    empty = len(json.dumps({"__metadata__": metadata})) + 16  # length of the header, and its padding
    part: dict[str, Tensor] = {}
    size = empty
    for name, tensor in tensors.items():
        entry = {name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "data_offsets": [PART, PART]}}
        needed = len(json.dumps(entry)) + tensor.nbytes  # an entry in a file is never longer
        if part and size + needed > PART:
            yield part
            part, size = {}, empty
        part[name] = tensor
        size += needed
    yield part


def _serialised(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file, the same bytes for the same content: the library writes metadata in random order."""
    data = serialise(tensors, metadata)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _swap(staging: Path, folder: Path) -> None:
    """Put staging in folder's place. What was there is moved aside first, and back if that fails."""
    aside = staging.with_name(f"{staging.name}-old")
    if folder.exists():
        folder.replace(aside)
    try:
        staging.replace(folder)
    except OSError:
        if aside.exists():
            aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_card(folder: Path, card: Card) -> None:
    """Replace a folder's card; the weights, and so the identity, stay as they are."""
    partial = folder / f".{CARD}.partial"
    partial.write_text(json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / CARD)


def read_card(folder: Path) -> Card:
    """The card alone, unverified. Raises CheckpointError if there is none that this version can read."""
    try:
        card = Card(**json.loads((folder / CARD).read_text(encoding="utf-8")))
        for name, kind in CARD_TYPES.items():
            if not isinstance(getattr(card, name), kind):
                raise ValueError(f"{name} is {getattr(card, name)!r}")
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {folder}: {CARD} is missing") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the card of the checkpoint at {folder} cannot be read: {error}") from error
    if card.kind not in KINDS or card.format > FORMAT:
        raise CheckpointError(f"the checkpoint at {folder} needs a newer version of dao_flows")
    return card


def verify(folder: Path) -> Card:
    """Read the card and check the weights against it. Raises CheckpointError for a changed byte or a contradiction."""
    card = read_card(folder)
    try:
        found = weights_sha256(folder)
        if found != card.sha256:
            raise CheckpointError(
                f"the checkpoint at {folder} is damaged: its weights have sha256 {found[:12]}…, "
                f"its card says {card.sha256[:12]}…; "
                "restore the files from where they came from"
            )
        headers = [_header(file) for file in weight_files(folder)]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the weights of the checkpoint at {folder} cannot be read: {error}") from error
    for header in headers:
        if header.get("kind") != card.kind or json.loads(header.get("architecture", "null")) != card.architecture:
            raise CheckpointError(f"the card of the checkpoint at {folder} does not describe its weights")
    return card


def _header(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as weights:
        return weights.metadata() or {}


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[Dao, Card]:
    """A verified model, frozen and in evaluation mode, with its card."""
    card = verify(folder)
    model = build(card.kind, card.architecture)
    try:
        tensors: dict[str, Tensor] = {}
        for file in weight_files(folder):
            tensors |= load_file(file)
        model.load_state_dict(tensors)
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights of the checkpoint at {folder} do not fit its architecture: {error}"
        ) from error
    return model.to(device).eval().requires_grad_(False), card
