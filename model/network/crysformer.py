"""Crysformer, the backbone that DAO-G and DAO-P share (arXiv 2503.10471, Methods).

Every ordered pair of atoms of a cell is an edge; there is no cutoff and there are no periodic images: periodicity
enters through Fourier features of the fractional displacement, orientation leaves through L Lᵀ. How attention over
these pairs is computed is `network.pair_attention`'s.

Shapes: B crystals, N atoms (padded), H hidden, h heads, F pair features.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dao_flows.model.crystals import Crystals
from dao_flows.model.elements import N_PROPERTIES, property_table

from .pair_attention import PairGeometry, attend, padded


@dataclass(frozen=True)
class CrysformerConfig:
    """Size of the network; the defaults are the published ones. Raises ValueError for one that cannot be."""

    hidden: int = 384
    layers: int = 12
    heads: int = 8
    frequencies: int = 128
    time_width: int = 256
    feed_forward: int = 4

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if size < 1:
                raise ValueError(f"{name} must be positive, not {size}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.time_width % 2 or self.time_width < 4:
            raise ValueError(f"time_width must be even and at least 4, not {self.time_width}")

    @property
    def pair_features(self) -> int:
        """F: the nine numbers of L Lᵀ, and a sine and a cosine for each axis and frequency."""
        return 9 + 6 * self.frequencies


@dataclass(frozen=True)
class CrysformerOutput:
    """What one pass gives: eps = matrix·L, both (B, 3, 3); score: (B, N, 3); nodes: (B, N, H); graph: (B, H)."""

    matrix: Tensor
    eps: Tensor
    score: Tensor
    nodes: Tensor
    graph: Tensor


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding [sin a, cos a] of the time step, a = t · 10000^(-i / (width/2 - 1)): (B,) to (B, width)."""
    half = width // 2
    rate = 10000.0 ** (-torch.arange(half, device=t.device, dtype=t.dtype) / (half - 1))
    angle = t[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def gated(x: Tensor, f: Tensor, weight: Tensor) -> Tensor:
    """What `GatedResidual` says of (B, N, H), with the weight of its gate."""
    w_x, w_f, w_difference = weight.chunk(3, dim=1)  # w·[x, f, x − f] without the concatenation
    z = F.linear(x, w_x + w_difference) + F.linear(f, w_f - w_difference)
    g = 0.5 + 0.5 * torch.tanh(0.5 * z)  # σ(z); torch.sigmoid rounds by an element's place in the array
    return f + g * (x - f)


def gated_by_sums(x: Tensor, f: Tensor, weight: Tensor) -> Tensor:
    """`gated` for a compiler, which fuses sums along a row with all the rest, but no product of matrices."""
    w_x, w_f, w_difference = weight.chunk(3, dim=1)
    a, b = x.float(), f.float()
    z = (a * (w_x + w_difference)[0] + b * (w_f - w_difference)[0]).sum(-1, keepdim=True)
    return (b + z.sigmoid() * (a - b)).to(f.dtype)


def folding(
    bias: Tensor, edge_weight: Tensor, edge_bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What `PairAttention.fold` makes of its weights; the waves in their precision."""
    bias_of_pairs = F.linear(norm_bias, edge_weight, edge_bias)
    weight = edge_weight * norm_weight  # (H, F)
    weight = weight - weight.mean(1, keepdim=True)
    waves = padded(weight[:, 9:]).view(heads, len(weight) // heads, -1)
    return bias + torch.cat([bias_of_pairs, bias_of_pairs]), weight[:, :9], waves


class GatedResidual(nn.Module):
    """g·x + (1 − g)·f with one gate an atom, g = σ(w·[x, f, x − f]).

    Gates begin half open: a gate that drifts shut (g = 1) gets no gradient any more and takes its branch with it.
    """

    mix: Callable[[Tensor, Tensor, Tensor], Tensor] = staticmethod(gated)

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(3 * hidden, 1, bias=False)
        nn.init.zeros_(self.gate.weight)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """x, f: (B, N, H), the stream and the branch."""
        return self.mix(x, f, self.gate.weight)


class Folded(NamedTuple):
    """Weights of the pair features, with all that does not depend on a crystal carried out.

    bias: (2H,), of keys and values; gram: (H, 9), for L Lᵀ; waves: (h, d, 2W).
    """

    bias: Tensor
    gram: Tensor
    waves: Tensor


class PairAttention(nn.Module):
    """Attention over the atoms of one cell; keys and values carry the pair features."""

    folded: Folded | None = None  # of weights that do not change any more
    fold_weights: Callable[..., tuple[Tensor, Tensor, Tensor]] = staticmethod(folding)

    def __init__(self, config: CrysformerConfig) -> None:
        super().__init__()
        hidden, features = config.hidden, config.pair_features
        self.heads = config.heads
        self.to_q = nn.Linear(hidden, hidden)
        self.to_kv = nn.Linear(hidden, 2 * hidden)
        self.edge_norm = nn.LayerNorm(features)  # only its affine map, folded into the weights
        self.edges_to_kv = nn.Linear(features, hidden)
        self.to_out = nn.Linear(hidden, hidden)

    def fold(self, dtype: torch.dtype) -> Folded:
        """What the weights of the pair features come to, for products in dtype."""
        edges, norm = self.edges_to_kv, self.edge_norm
        with torch.autocast(edges.weight.device.type, enabled=False):
            made = self.fold_weights(self.to_kv.bias, edges.weight, edges.bias, norm.weight, norm.bias, self.heads)
        return Folded(*made[:2], made[2].to(dtype))

    def forward(self, x: Tensor, pairs: PairGeometry) -> Tensor:
        """x: (B, N, H)."""
        q = self.to_q(x) * (x.shape[-1] // self.heads) ** -0.5
        folded = self.folded or self.fold(q.dtype)
        kv = F.linear(x, self.to_kv.weight, folded.bias)
        constant = F.linear(pairs.gram, folded.gram)
        out: Tensor = self.to_out(attend(q, kv, folded.waves, constant, pairs, self.heads))
        return out


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each behind a gated residual."""

    def __init__(self, config: CrysformerConfig) -> None:
        super().__init__()
        hidden, wide = config.hidden, config.hidden * config.feed_forward
        self.attention_norm = nn.LayerNorm(hidden)
        self.attention = PairAttention(config)
        self.attention_residual = GatedResidual(hidden)
        self.ffn_norm = nn.LayerNorm(hidden)
        self.ffn = nn.Sequential(nn.Linear(hidden, wide), nn.GELU(), nn.Linear(wide, hidden))
        self.ffn_residual = GatedResidual(hidden)

    def forward(self, x: Tensor, pairs: PairGeometry) -> Tensor:
        """x: (B, N, H)."""
        normed = self.attention_norm(x).to(x.dtype)  # autocast leaves it in full precision on a GPU
        x = self.attention_residual(x, self.attention(normed, pairs))
        out: Tensor = self.ffn_residual(x, self.ffn(self.ffn_norm(x)))
        return out


class Crysformer(nn.Module):
    """Crystals and time step to lattice noise, coordinate score and features; `energy` reads a scalar off these."""

    element_properties: Tensor

    def __init__(self, config: CrysformerConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.register_buffer("element_properties", property_table())  # (101, 92), frozen
        self.element_in = nn.Linear(N_PROPERTIES, hidden)
        self.node_in = nn.Linear(hidden + config.time_width, hidden)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.score_out = nn.Linear(hidden, 3, bias=False)
        self.lattice_out = nn.Linear(hidden, 9, bias=False)
        self.energy_out = scalar_head(hidden)

    def forward(self, crystals: Crystals, t: Tensor, smooth: bool = False) -> CrysformerOutput:
        """t: (B,) time steps, 0 for a clean crystal. Raises IndexError for an atomic number above 100.

        smooth: the output is to be differentiable more than once, which takes longer.
        """
        mask = crystals.mask
        device, width = crystals.frac.device.type, self.config.hidden
        w_element, w_time = self.node_in.weight[:, :width], self.node_in.weight[:, width:]
        table = F.linear(self.element_in(self.element_properties), w_element)  # (101, H), of elements instead of atoms
        time = F.linear(time_embedding(t.to(w_time.dtype), self.config.time_width), w_time, self.node_in.bias)
        x = F.embedding(crystals.numbers, table) + time[:, None]  # (B, N, H)
        with torch.autocast(device, enabled=False):
            pairs = PairGeometry.of(crystals, self.config.frequencies, x.dtype, smooth)
        for block in self.blocks:
            x = block(x, pairs)
        graph = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # (B, H), mean over atoms
        matrix = self.lattice_out(graph).view(-1, 3, 3).to(crystals.lattice.dtype)
        return CrysformerOutput(matrix, matrix @ crystals.lattice, self.score_out(x), x, graph)

    def prepared(self, dtype: torch.dtype) -> Self:
        """A frozen copy that says the same without folding and casting its weights at each call.

        dtype: of products, that of autocast where the copy is called under it.
        """
        made = deepcopy(self).requires_grad_(False)
        for module in made.blocks.modules():
            if isinstance(module, PairAttention):
                module.folded = module.fold(dtype)
        for module in made.blocks.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:  # gates sum their weights, in full precision
                module.weight.data = module.weight.data.to(dtype)
        return made

    def fuse(self) -> None:
        """Have chains of small operations compiled for training; the results are the same up to rounding.

        Takes some ten seconds at the first step. For a GPU, where such operations take longer to launch than to run.
        """
        mix = _while_training(torch.compile(gated_by_sums, dynamic=True), gated)
        fold_weights = _while_training(torch.compile(folding, dynamic=False), folding)
        for module in self.blocks.modules():
            if isinstance(module, GatedResidual):
                module.mix = mix
            elif isinstance(module, PairAttention):
                module.fold_weights = fold_weights

    def energy(self, output: CrysformerOutput) -> Tensor:
        """(B,) the scalar head, in standardised units."""
        energy: Tensor = self.energy_out(output.graph)
        return energy[:, 0]


def _while_training(compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Without gradients, and so without compiling once more for that, the plain function."""
    return lambda *args: (compiled if torch.is_grad_enabled() else plain)(*args)


def scalar_head(hidden: int) -> nn.Sequential:
    """Pooled features to one number; the energy and every property head have this shape."""
    return nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
