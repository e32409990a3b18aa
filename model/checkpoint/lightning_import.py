"""Published PyTorch Lightning checkpoints, converted to a checkpoint folder. Nothing of the file is executed.

A .ckpt is a zip archive: */data.pkl, a pickle that describes the objects (see inert_pickle), and one member
*/data/<key> a tensor storage. torch.save compresses nothing, so a member is never larger than its file.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor

from dao_flows.model.dao import DaoConfig
from dao_flows.model.data.shards import file_sha256
from dao_flows.model.elements import MAX_ATOMIC_NUMBER
from dao_flows.model.network.crysformer import CrysformerConfig

from .format import KINDS, Card, CheckpointError, build, save
from .inert_pickle import Inert, Program, View

MAX_PICKLE_BYTES = 8 * 2**20  # some fifty times the published ones: the tensors' bytes are not in the pickle
MAX_LAYERS = 1000
PREFIX = "decoder."
# published name: ours, replaced in this order
RENAME = {
    "embedding_in.0.weight": "element_properties",
    "embedding_in.1": "element_in",
    "atom_latent_emb": "node_in",
    "block_": "blocks.",
    "attention.fn.": "attention.",
    "attention.norm": "attention_norm",
    "attention.residue.proj.0": "attention_residual.gate",
    "ffn.fn.net": "ffn",
    "ffn.norm": "ffn_norm",
    "ffn.residue.proj.0": "ffn_residual.gate",
    "coord_out": "score_out",
    "scalar_out": "energy_out",
}
# In the file and without effect on lattice, coordinates or energy: an embedding that the property table replaced, the
# composition head, tables of the noise schedules, and the scalers, of which the energy's is read apart.
UNUSED = re.compile(
    r"(decoder\.(node_embedding|type_out)|beta_scheduler|sigma_scheduler|time_embedding|(lattice_|prop_)?scaler)"
    r"\.[a-zA-Z0-9_.]{1,80}"
)
ENERGY_SCALERS = ("scaler", "prop_scaler")
STATISTICS = (("means", "stds"), ("mean", "std"))  # what a scaler calls its two numbers
STANDARDISED = "none in the file: energies are standardised, not eV/atom"
KIND_IN_TEXT = re.compile(r"(?<![a-z])dao[-_ ]?([gp])(?![a-z])", re.IGNORECASE)


def import_checkpoint(
    file: Path,
    folder: Path,
    name: str,
    kind: str | None = None,
    *,
    heads: int = 8,
    max_atoms: int = 30,
    energy_scale: tuple[float, float] | None = None,
) -> Card:
    """Convert a published checkpoint and write it to `folder`, which must not exist.

    kind: 'dao-g' or 'dao-p' where the file does not say; heads: attention heads, which no shape tells (8 as published);
    max_atoms: the largest cell in training (30 in the published pretraining data); energy_scale: mean and standard
    deviation (eV/atom) of DAO-P's training energies, where the file holds no scaler: without either the card says in
    `energy_scaler` that energies are standardised. Raises CheckpointError for a file
    that is not such a checkpoint, or that refers to anything weights do not need.
    """
    if folder.exists():
        raise CheckpointError(f"there is something at {folder} already: choose another name or move it away")
    if kind is not None and kind not in KINDS:
        raise CheckpointError(f"{kind!r} is not a kind of checkpoint: give dao-g or dao-p")
    if energy_scale and not (math.isfinite(energy_scale[0]) and 0 < energy_scale[1] < math.inf):
        raise CheckpointError("the energies' mean must be finite and their standard deviation above 0")
    try:
        if not file.is_file():
            raise CheckpointError("there is no such file")
        if not is_zipfile(file):
            raise CheckpointError(
                "it is not a whole zip archive of torch.save; "
                "a pickle of the old form has to be saved again with torch 1.6 or newer"
            )
        with ZipFile(file) as archive:
            model, training = _convert(Archive(archive, file.stat().st_size), kind, heads, energy_scale)
        training["source"] = {"file": file.name.encode("utf-8", "replace").decode(), "sha256": file_sha256(file)}
    except CheckpointError as error:
        raise CheckpointError(f"{file} was not imported: {error}") from error
    except Exception as error:  # what a damaged zip or pickle can raise is open-ended
        reason = ascii(" ".join(str(error).split())[:150])[1:-1] or type(error).__name__
        raise CheckpointError(f"{file} was not imported, it is damaged or no torch.save file: {reason}") from error
    training["max_atoms"] = f"{max_atoms}, told at import: the file does not say"
    elements = list(range(1, MAX_ATOMIC_NUMBER + 1))
    return save(folder, model, {"name": name, "elements": elements, "max_atoms": max_atoms, "training": training})


class Archive:
    """The zip archive of torch.save. Raises CheckpointError or what zipfile raises if it is not sound."""

    def __init__(self, archive: ZipFile, file_size: int) -> None:
        self.archive = archive
        members = archive.infolist()
        if any(m.compress_type != ZIP_STORED or m.file_size != m.compress_size for m in members):
            raise CheckpointError("its archive is compressed, which torch.save never does")
        if sum(m.file_size for m in members) > file_size:
            raise CheckpointError("its members together are larger than the file")
        pickles = [m for m in members if re.fullmatch(r"[^/]+/data\.pkl", m.filename)]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError("its archive does not hold one data.pkl of a sensible size")
        self.root = pickles[0].filename.removesuffix("data.pkl")
        self.content = Program().run(archive.read(pickles[0]))
        order = f"{self.root}byteorder"
        self.swapped = order in archive.namelist() and archive.read(order).decode() != sys.byteorder
        self.allowance = file_size

    def tensor(self, view: View) -> Tensor:
        """The values that a view describes, contiguous. All tensors together may not exceed the file's size."""
        storage, itemsize = view.storage, view.storage.dtype.itemsize
        data = self.archive.read(f"{self.root}data/{storage.key}")
        if len(data) != storage.size * itemsize:
            raise CheckpointError(f"its tensor data {storage.key[:20]} is not of the size that the pickle says")
        self.allowance -= len(data)
        if self.allowance < 0:
            raise CheckpointError("its tensors together are larger than the file")
        if not data or 0 in view.shape:
            return torch.empty(view.shape, dtype=storage.dtype)
        if self.swapped:
            data = np.frombuffer(data, dtype=f"u{itemsize}").byteswap().tobytes()
        flat = torch.frombuffer(bytearray(data), dtype=storage.dtype)
        return flat.as_strided(view.shape, view.stride, view.offset).contiguous()


def _convert(
    archive: Archive, kind: str | None, heads: int, told: tuple[float, float] | None
) -> tuple[Any, dict[str, Any]]:
    """The model, and what the card's `training` says of its origin."""
    content = archive.content
    published = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(published, dict):
        raise CheckpointError("it holds no state_dict")
    dropped = {key for key in published if UNUSED.fullmatch(key)}
    unknown = [key for key in published if not key.startswith(PREFIX) and key not in dropped]
    if unknown:
        raise CheckpointError(f"it is not a published DAO checkpoint: its weights are called {_some(unknown)}")
    wanted = {_rename(key): key for key in published if key not in dropped}
    if len(wanted) + len(dropped) < len(published):
        raise CheckpointError("it holds a weight twice, under two names")
    views = {ours: published[key] for ours, key in wanted.items()}
    bad = [wanted[ours] for ours, view in views.items() if not isinstance(view, View)]
    if bad:
        raise CheckpointError(f"what it holds under {_some(bad)} is no tensor")
    network = _infer({ours: view.shape for ours, view in views.items()}, heads)

    stated = _energy_scale(archive)
    scale = stated or told
    kind = kind or _kind_in(content.get("hyper_parameters")) or ("dao-p" if scale else None)
    if kind is None:
        raise CheckpointError("it does not say whether it generates or predicts: give --kind dao-g or dao-p")
    mean, std = scale if scale and kind == "dao-p" else (0.0, 1.0)
    architecture = asdict(DaoConfig(network=network, energy_mean=mean, energy_std=std))
    with torch.device("meta"):  # shapes alone: no memory is taken on the file's word
        model = build(kind, architecture)
    _check_shapes(model.network.state_dict(), views, wanted)
    weights = {ours: archive.tensor(view).float() for ours, view in views.items()}
    broken = [wanted[ours] for ours, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(f"there are infinite or undefined values in {_some(broken)}")
    model.network.load_state_dict(weights, assign=True)

    training: dict[str, Any] = {"dropped": sorted(dropped)}
    for key in ("epoch", "global_step"):
        if type(content.get(key)) is int and 0 <= content[key] < 2**40:
            training[key] = content[key]
    if kind == "dao-p":
        without = f"{scale}, told at import" if scale else STANDARDISED
        training["energy_scaler"] = "from the file" if stated else without
    return model, training


def _rename(published: str) -> str:
    name = published.removeprefix(PREFIX)
    for theirs, ours in RENAME.items():
        name = name.replace(theirs, ours)
    return name


def _infer(shapes: dict[str, tuple[int, ...]], heads: int) -> CrysformerConfig:
    """The network's size from its weights' shapes."""
    try:
        hidden, joined = shapes["node_in.weight"]
        wide, _ = shapes["blocks.0.ffn.0.weight"]
        (pair,) = shapes["blocks.0.attention.edge_norm.weight"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            "it is not a published DAO checkpoint: weights are missing or of another shape"
        ) from error
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    time_width = joined - hidden
    if (
        (pair - 9) % 6
        or pair <= 9
        or hidden < 1
        or wide % hidden
        or not wide
        or time_width < 4
        or time_width % 2
        or len(blocks) > MAX_LAYERS
    ):
        raise CheckpointError("it is not a published DAO checkpoint: its shapes fit no Crysformer")
    if heads < 1 or hidden % heads:
        raise CheckpointError(f"{hidden} features cannot be split among {heads} heads: give its number of heads")
    return CrysformerConfig(hidden, len(blocks), heads, (pair - 9) // 6, time_width, wide // hidden)


def _check_shapes(expected: dict[str, Tensor], views: dict[str, View], wanted: dict[str, str]) -> None:
    """Raises CheckpointError for a weight that is missing, unknown or of another shape."""
    if missing := expected.keys() - views.keys():
        raise CheckpointError(f"weights are missing, in this version's names: {_some(missing)}")
    if extra := views.keys() - expected.keys():
        raise CheckpointError(
            f"it holds weights that this version does not know: {_some(wanted[key] for key in extra)}"
        )
    if wrong := [key for key, tensor in expected.items() if tuple(tensor.shape) != views[key].shape]:
        raise CheckpointError(f"the shape does not fit the others' in {_some(wanted[key] for key in wrong)}")


def _some(names: Any) -> str:
    """The first names, quoted; the file wrote them, so they are cut and escaped."""
    names = sorted(names)
    return ", ".join(ascii(name[:80]) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of every entry below root, each object once; keys of lists are empty."""
    seen, queue = {id(root)}, [("", root)]
    while queue:
        key, value = queue.pop()
        yield key, value
        children: list[tuple[str, Any]] = []
        if isinstance(value, dict):
            children = list(value.items())
        elif isinstance(value, list | tuple):
            children = [("", child) for child in value]
        elif isinstance(value, Inert):
            children = [(key, part) for part in (value.arguments, value.items, value.elements, value.state)]
        for name, child in children:
            if id(child) not in seen:
                seen.add(id(child))
                queue.append((name, child))


def _kind_in(hyper_parameters: Any) -> str | None:
    """The kind, if the hyper-parameters' texts name one and only one."""
    texts = [value for _, value in _walk(hyper_parameters) if isinstance(value, str)]
    found = {match[1].lower() for text in texts for match in KIND_IN_TEXT.finditer(text[:200])}
    return f"dao-{found.pop()}" if len(found) == 1 else None


def _energy_scale(archive: Archive) -> tuple[float, float] | None:
    """Mean and standard deviation (eV/atom) of the file's energy scaler, if it has one."""
    content, weights = archive.content, archive.content["state_dict"]
    places = {key: content.get(key) for key in ("hyper_parameters", *ENERGY_SCALERS)}
    candidates = [value for key, value in _walk(places) if key in ENERGY_SCALERS and isinstance(value, dict)]
    for scaler in ENERGY_SCALERS:
        candidates.append({key: weights.get(f"{scaler}.{key}") for pair in STATISTICS for key in pair})
    for fields, names in itertools.product(candidates, STATISTICS):
        if all(fields.get(key) is not None for key in names):
            mean, std = (_number(archive, fields[key]) for key in names)
            if std <= 0:
                raise CheckpointError("the standard deviation of its energy scaler is not positive")
            return mean, std
    return None


def _number(archive: Archive, value: Any) -> float:
    """One finite number, from a tensor or as it stands."""
    if isinstance(value, View):
        tensor = archive.tensor(value)
        value = float(tensor) if tensor.numel() == 1 else None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise CheckpointError("its energy scaler is not one finite number each for mean and standard deviation")
    return float(value)
