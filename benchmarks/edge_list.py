"""The published network as its paper writes it: one row of 777 features for every ordered pair of atoms, in a list.

What `benchmarks/forward.py` measures against, and what tests compare outputs and gradients with. It takes the
parameters of a `Crysformer` and computes each layer pair by pair: LayerNorm and a 777 × 384 product over all pairs'
features, keys and values gathered at the pairs, softmax and sum scattered over the pairs of each atom.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dao_flows.model.crystals import Crystals
from dao_flows.model.dao import Dao
from dao_flows.model.network.crysformer import Block, Crysformer, CrysformerOutput, PairAttention, time_embedding

AnyDao = TypeVar("AnyDao", bound=Dao)


def pair_list(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Indices i, j: (P,) of the atoms of every ordered pair of one crystal, self pairs included, P = Σ n²."""
    starts = torch.cumsum(sizes, 0) - sizes
    i = [torch.arange(n).repeat_interleave(n) + start for n, start in zip(sizes.tolist(), starts.tolist(), strict=True)]
    j = [torch.arange(n).repeat(n) + start for n, start in zip(sizes.tolist(), starts.tolist(), strict=True)]
    return torch.cat(i), torch.cat(j)


def features(frac: Tensor, lattice: Tensor, owner: Tensor, i: Tensor, j: Tensor, frequencies: int) -> Tensor:
    """(P, F): L Lᵀ, then sines of 2πk·d, then cosines, of d = (x_j − x_i) mod 1. owner: (atoms,) crystal of each."""
    d = (frac[j] - frac[i]) % 1
    k = torch.arange(frequencies, dtype=frac.dtype)
    angle = 2 * torch.pi * d[..., None] * k
    gram = (lattice @ lattice.mT).flatten(1)[owner[i]]
    return torch.cat([gram, angle.sin().flatten(1), angle.cos().flatten(1)], dim=1)


def attention(layer: PairAttention, x: Tensor, edges: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """(atoms, H)."""
    atoms, hidden = x.shape
    heads = (-1, layer.heads, hidden // layer.heads)
    e = layer.edges_to_kv(layer.edge_norm(edges))
    key, value = layer.to_kv(x).chunk(2, dim=1)
    q, k, v = layer.to_q(x)[i], key[j] + e, value[j] + e
    logits = (q.view(heads) * k.view(heads)).sum(-1).to(edges.dtype) / (hidden // layer.heads) ** 0.5  # (P, h)
    index = i[:, None].expand_as(logits)
    highest = torch.full((atoms, layer.heads), -torch.inf, dtype=logits.dtype)
    highest = highest.scatter_reduce(0, index, logits.detach(), "amax")
    a = (logits - highest[i]).exp()
    a = a / torch.zeros_like(highest).index_add(0, i, a)[i]
    weighted = (a.to(v.dtype)[..., None] * v.view(heads)).flatten(1)
    return layer.to_out(torch.zeros_like(x, dtype=v.dtype).index_add(0, i, weighted))


def residual(gate: Tensor, x: Tensor, f: Tensor) -> Tensor:
    """g·x + (1 − g)·f."""
    g = torch.sigmoid(F.linear(torch.cat([x, f, x - f], dim=1), gate))
    return g * x + (1 - g) * f


def block(layer: Block, x: Tensor, edges: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """(atoms, H), after attention and feed-forward."""
    x = residual(
        layer.attention_residual.gate.weight, x, attention(layer.attention, layer.attention_norm(x), edges, i, j)
    )
    return residual(layer.ffn_residual.gate.weight, x, layer.ffn(layer.ffn_norm(x)))


def forward(network: Crysformer, crystals: Crystals, t: Tensor) -> CrysformerOutput:
    """What the network gives, with (atoms, ·) instead of (B, N, ·) for what belongs to atoms."""
    mask, config = crystals.mask, network.config
    owner = torch.repeat_interleave(torch.arange(len(crystals)), crystals.n_atoms)
    i, j = pair_list(crystals.n_atoms)
    frac = crystals.frac[mask]
    edges = features(frac, crystals.lattice, owner, i, j, config.frequencies)
    element = network.element_in(network.element_properties[crystals.numbers[mask]])
    time = time_embedding(t.to(frac.dtype), config.time_width)[owner]
    x = network.node_in(torch.cat([element, time], dim=1))
    for layer in network.blocks:
        x = block(layer, x, edges, i, j)
    total = torch.zeros(len(crystals), config.hidden, dtype=x.dtype).index_add(0, owner, x)
    graph = total / crystals.n_atoms[:, None]
    matrix = network.lattice_out(graph).view(-1, 3, 3).to(crystals.lattice.dtype)
    return CrysformerOutput(matrix, matrix @ crystals.lattice, network.score_out(x), x, graph)


class EdgeList(Crysformer):
    """A Crysformer that computes the published way, for batches without padding."""

    def forward(self, crystals: Crystals, t: Tensor, smooth: bool = False) -> CrysformerOutput:
        """As Crysformer.forward, always smooth."""
        output, (b, n) = forward(self, crystals, t), crystals.numbers.shape
        return CrysformerOutput(
            output.matrix, output.eps, output.score.view(b, n, 3), output.nodes.view(b, n, -1), output.graph
        )


def as_published(model: AnyDao) -> AnyDao:
    """A copy of a model, with the same weights, that computes the published way."""
    made = deepcopy(model)
    made.network.__class__ = EdgeList
    return made
