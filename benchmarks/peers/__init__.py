"""DiffCSP and CrystalFlow in their published sizes, from checkouts that are given by path (PEERS.md).

Nothing of theirs is in this repository. Their weights are random: the time of a step does not depend on them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .stand_ins import standing_in

__all__ = ["Peer", "PeerError", "batch", "crystalflow", "diffcsp"]

_SCHEDULES = "diffcsp.pl_modules.diff_utils"
_DECODER = {
    "_target_": "diffcsp.pl_modules.cspnet.CSPNet",
    **{"hidden_dim": 512, "latent_dim": 0, "max_atoms": 100, "num_layers": 6, "act_fn": "silu", "dis_emb": "sin"},
    **{"edge_style": "fc", "max_neighbors": 20, "cutoff": 7.0, "ln": True},
}
_COMMON: dict[str, Any] = {
    **{"time_dim": 256, "latent_dim": 0, "cost_coord": 1.0, "cost_lattice": 1.0, "timesteps": 1000},
    "beta_scheduler": {"_target_": f"{_SCHEDULES}.BetaScheduler", "timesteps": 1000, "scheduler_mode": "cosine"},
    "sigma_scheduler": {
        **{"_target_": f"{_SCHEDULES}.SigmaScheduler", "timesteps": 1000},
        **{"sigma_begin": 0.005, "sigma_end": 0.5},
    },
}
# conf/model/diffusion.yaml and conf/model/decoder/cspnet.yaml
DIFFCSP = _COMMON | {"decoder": {**_DECODER, "num_freqs": 128, "ip": True}}
# conf/model/flow_polar.yaml; the README's command for MP-20 adds reciprocal features, which cost more
CRYSTALFLOW = _COMMON | {
    **{"cost_type": 1.0, "lattice_polar": True, "lattice_polar_sigma": 0.1},
    "decoder": {**_DECODER, "num_freqs": 128, "ip": False, "lattice_dim": 6, "pred_type": False, "smooth": False},
}


class PeerError(ValueError):
    """A checkout that is not one, or one whose code cannot be run; the message says which."""


@dataclass
class Peer:
    """A peer's model and sampler; each of its steps is the same work.

    published: steps of its published sampler; commit: of the checkout.
    """

    name: str
    model: Any  # its Lightning module
    published: int
    commit: str

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weights.numel() for weights in self.model.parameters())

    def sample(self, crystals: SimpleNamespace, steps: int) -> None:
        """Its own sampler, for so many steps."""
        if self.name == "DiffCSP":
            self.model.beta_scheduler.timesteps = steps  # where its loop begins
            self.model.sample(crystals)
        else:
            self.model.sample(crystals, N=steps)

    def trainer(self) -> Callable[[SimpleNamespace], None]:
        """What takes a training step on a batch, as its configuration says: Adam, values of gradients clipped."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

        def step(crystals: SimpleNamespace) -> None:
            optimizer.zero_grad()
            self.model(crystals)["loss"].backward()
            torch.nn.utils.clip_grad_value_(self.model.parameters(), 0.5)
            optimizer.step()

        return step


def diffcsp(checkout: Path) -> Peer:
    """DiffCSP: 6 layers of width 512, 1000 predictor-corrector steps (arXiv 2309.04475)."""
    return _load("DiffCSP", checkout, "diffcsp.pl_modules.diffusion", "CSPDiffusion", DIFFCSP, 1000)


def crystalflow(checkout: Path) -> Peer:
    """CrystalFlow: 6 layers of width 512, 100 Euler steps (arXiv 2412.11693)."""
    return _load("CrystalFlow", checkout, "diffcsp.pl_modules.flow", "CSPFlow", CRYSTALFLOW, 100)


def batch(sizes: Sequence[int], seed: int = 0, volume: float = 20.0) -> SimpleNamespace:
    """Random atoms in cubes of `volume` Å³ an atom, one crystal for each of the sizes, in the peers' layout."""
    random = torch.Generator().manual_seed(seed)
    num_atoms = torch.tensor(list(sizes))
    total = int(num_atoms.sum())
    return SimpleNamespace(
        num_graphs=len(sizes),
        num_nodes=total,
        num_atoms=num_atoms,
        atom_types=torch.randint(1, 95, (total,), generator=random),
        frac_coords=torch.rand(total, 3, generator=random),
        batch=torch.arange(len(sizes)).repeat_interleave(num_atoms),
        lengths=((volume * num_atoms) ** (1 / 3))[:, None].expand(-1, 3),
        angles=torch.full((len(sizes), 3), 90.0),
    )


def _load(name: str, checkout: Path, module: str, kind: str, config: dict[str, Any], published: int) -> Peer:
    checkout = checkout.resolve()
    if not (checkout / module.replace(".", "/")).with_suffix(".py").exists():
        raise PeerError(f"{checkout} is no checkout of {name}: benchmarks/PEERS.md says where to get one")
    try:
        with _at(checkout), standing_in():
            found: Any = importlib.import_module(module)
            model = getattr(found, kind)(**config).eval()
    except (ImportError, AttributeError, TypeError, NotImplementedError) as error:
        raise PeerError(f"{name} in {checkout} does not run: {error}; benchmarks/PEERS.md names a commit") from error
    found.tqdm = lambda steps, **_: steps  # no bars
    return Peer(name, model, published, _commit(checkout))


@contextlib.contextmanager
def _at(checkout: Path) -> Iterator[None]:
    """Imports of `diffcsp`, the name of both peers' package, come from this checkout, and are forgotten at the end."""
    before, folder, root = set(sys.modules), Path.cwd(), os.environ.get("PROJECT_ROOT")
    os.environ["PROJECT_ROOT"] = str(checkout)  # the peers ask for it, and change the working directory
    sys.path.insert(0, str(checkout))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path.remove(str(checkout))
        os.chdir(folder)
        if root is None:
            del os.environ["PROJECT_ROOT"]
        else:
            os.environ["PROJECT_ROOT"] = root
        for module in set(sys.modules) - before:
            if module.split(".")[0] == "diffcsp":
                del sys.modules[module]


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
