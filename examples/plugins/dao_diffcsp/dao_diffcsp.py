"""DiffCSP (arXiv 2309.04475) as a generator, from a checkout and a training of yours; none of its code is here.

DIFFCSP_CHECKOUT: its repository. DIFFCSP_MODEL: the folder of a training, with hparams.yaml and checkpoints.
DIFFCSP_STEP: of the corrector (default 1e-5, which its authors take for MP-20).
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
import yaml

from dao_flows.model.checkpoint.lightning_import import Archive
from dao_flows.model.crystals import Crystal
from dao_flows.model.sampling.requests import Request

TOGETHER = 100  # crystals of a batch


class DiffCSP:
    """A generator of dao_flows. Its random numbers are a batch's, so a candidate depends on what is drawn beside it."""

    name = "diffcsp"
    elements = range(1, 95)
    max_atoms = 20
    reproducible = False

    def __init__(self) -> None:
        self.checkout, self.folder = Path(os.environ["DIFFCSP_CHECKOUT"]), Path(os.environ["DIFFCSP_MODEL"])
        self.step = float(os.environ.get("DIFFCSP_STEP", "1e-5"))
        self.weights = max(self.folder.glob("*.ckpt"), key=lambda path: ("last" in path.name, path.name))
        self.sha256 = identity(self.checkout, self.weights, self.step)

    def sample(
        self, requests: Sequence[Request], seed: int, device: str, progress: Callable[[int, int], None]
    ) -> list[Crystal]:
        """In batches, by its own sampler."""
        model = load(self.checkout, self.folder, self.weights, device)
        crystals: list[Crystal] = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for start in range(0, len(requests), TOGETHER):
                batch = requests[start : start + TOGETHER]
                found, _ = model.sample(graphs(batch, device), step_lr=self.step)
                ends = np.cumsum([len(request.numbers) for request in batch])[:-1]
                places = np.split(found["frac_coords"].cpu().numpy(), ends)
                cells = found["lattices"].cpu().numpy()
                crystals += [Crystal(*each) for each in zip([r.numbers for r in batch], places, cells, strict=True)]
                progress(len(crystals), len(requests))
        return crystals


@cache
def identity(checkout: Path, weights: Path, step: float) -> str:
    """Over its code, the weights and the corrector's step."""
    found = hashlib.sha256(str(step).encode())
    for path in [*sorted(checkout.glob("diffcsp/**/*.py")), weights]:
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


@cache
def load(checkout: Path, folder: Path, weights: Path, device: str) -> Any:
    """Its Lightning module with the trained weights, which are read without running what the file names."""
    os.environ.setdefault("PROJECT_ROOT", str(checkout))
    sys.path.insert(0, str(checkout))
    from diffcsp.pl_modules.diffusion import CSPDiffusion

    model = CSPDiffusion(**yaml.safe_load((folder / "hparams.yaml").read_text())["model"])
    with ZipFile(weights) as file:
        archive = Archive(file, weights.stat().st_size)
        state = {name: archive.tensor(view) for name, view in archive.content["state_dict"].items()}
    model.load_state_dict(state, strict=False)  # tables of its noise schedules are made, not learned
    return model.to(device).eval()


def graphs(batch: Sequence[Request], device: str) -> SimpleNamespace:
    """The batch as its sampler reads it."""
    sizes = torch.tensor([len(request.numbers) for request in batch], device=device)
    types = torch.from_numpy(np.concatenate([request.numbers for request in batch])).long().to(device)
    owner = torch.arange(len(batch), device=device).repeat_interleave(sizes)
    return SimpleNamespace(num_graphs=len(batch), num_nodes=len(types), num_atoms=sizes, atom_types=types, batch=owner)
