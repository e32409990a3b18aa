"""Attention over the pairs of atoms of a cell, in which no learned map is applied to a pair.

The published layer gives keys and values a learned map W of each pair's normalised features n_ij (777 numbers):

    logit_ij = q_i · (k_j + W n_ij),    out_i = Σ_j a_ij (v_j + W n_ij),    n_ij = rstd_ij (φ_ij − mean_ij),
    φ_ij = [G, sin(θ_j − θ_i), cos(θ_j − θ_i)],    θ_i = 2πk·x_i, G = L Lᵀ.

The same function is computed here with fewer products:

- W meets one vector an atom and head: q_i · W n_ij = (Wᵀ q_i) · n_ij and Σ_j a_ij W n_ij = W Σ_j a_ij n_ij;
- rows of W less their mean make subtracting mean_ij needless;
- sin² + cos² = 1, so that rstd_ij follows from mean_ij, a product of features of atoms, once for all layers.

What is left for a pair and layer are its waves, sin(θ_j − θ_i) and cos(θ_j − θ_i), times vectors of atoms. In small
cells the waves of all pairs are formed, once for all layers. In large ones angle addition spares that: Wᵀ q_i, rotated
by θ_i, meets [sin θ_j, cos θ_j], and Σ_j a_ij [sin θ_j, cos θ_j] is rotated back.

Shapes: B crystals, N atoms (padded), H hidden, h heads, d = H / h, K frequencies, F = 9 + 6K features, W waves: 3K and
a few zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dao_flows.model.crystals import Crystals

NORM_EPS = 1e-5  # of the LayerNorm of the pair features
SMALL = 20  # atoms; up to here, forming the waves of pairs takes less time than rotating (benchmarks/forward.py)
ALIGNED = 8  # the waves are so many, or a multiple, so that rows lie in memory alike in every batch (model.batching)
VECTOR = 16  # numbers side by side; over fewer, torch takes ten times as long for a softmax on a CPU


@dataclass(frozen=True)
class PairGeometry:
    """What all layers share of a batch.

    angle: (B, N, W), θ, all k of one axis together; atoms: (B, N, 2W), its sines, then its cosines, in the precision of
    the products, no gradient; gram: (B, 9), L Lᵀ; rstd: (B, 1, N, N); padding: (B, 1, 1, N), −∞ on padding and else 0;
    pairs: (B N, N, 2W), sines of θ_j − θ_i, then cosines, in the precision of the products, for small cells alone.
    smooth: attention is to be differentiable more than once.
    """

    angle: Tensor
    atoms: Tensor
    gram: Tensor
    rstd: Tensor
    padding: Tensor
    pairs: Tensor | None = None
    smooth: bool = False

    @classmethod
    def of(cls, crystals: Crystals, frequencies: int, dtype: torch.dtype, smooth: bool = False) -> PairGeometry:
        """For products in dtype; angles and norms keep the precision of the crystals."""
        k = torch.arange(frequencies, device=crystals.frac.device, dtype=crystals.frac.dtype)
        angle = (2 * torch.pi * crystals.frac[..., None] * k).flatten(2)
        sin, cos = angle.sin(), angle.cos()
        gram = (crystals.lattice @ crystals.lattice.mT).flatten(1)
        features = 9 + 6 * frequencies
        total = gram.sum(1)[:, None, None] + torch.baddbmm((cos + sin) @ sin.mT, cos - sin, cos.mT)  # Σ φ_ij
        squares = gram.square().sum(1)[:, None, None] + 3 * frequencies  # Σ φ_ij²
        rstd = (squares / features - (total / features).square() + NORM_EPS).rsqrt()
        padding = torch.zeros_like(crystals.frac[..., 0]).masked_fill(~crystals.mask, -torch.inf)
        angle, sin, cos = (F.pad(each, (0, -each.shape[2] % ALIGNED)) for each in (angle, sin, cos))
        formed = crystals.numbers.shape[1] <= SMALL and not smooth
        pairs = waves_of_pairs(sin, cos, dtype) if formed else None
        atoms = torch.cat([sin, cos], dim=2).detach().to(dtype)
        return cls(angle, atoms, gram, rstd[:, None], padding[:, None, None], pairs, smooth)

    def products(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_f u_if φ_ijf over all waves f: (B N, h, 2W) to (B, h, N, N), j last; and u itself.

        Where pairs are not formed, u comes rotated, as (B, h N, 2W).
        """
        (_, h, both), (b, n, _) = vectors.shape, self.atoms.shape
        if self.pairs is not None:
            return torch.bmm(vectors, self.pairs.mT).view(b, n, h, n).transpose(1, 2), vectors
        rotated = vectors.new_empty(b, h, n, both)
        self._rotate(vectors.view(b, n, h, both).transpose(1, 2), 1, rotated)
        rotated = rotated.view(b, h * n, both)
        return torch.bmm(rotated, self.atoms.mT).view(b, h, n, n), rotated

    def sums(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_j w_ij φ_ijf over all atoms j: (B, h, N, N), j last, to (B N, h, 2W); and the same before rotating back.

        The latter is (B, h N, 2W), where pairs are not formed.
        """
        (b, h, n, _), both = weights.shape, self.atoms.shape[2]
        if self.pairs is not None:
            summed = torch.bmm(weights.transpose(1, 2).reshape(b * n, h, n), self.pairs)
            return summed, summed
        summed = torch.bmm(weights.reshape(b, h * n, n), self.atoms)
        back = weights.new_empty(b, n, h, both)
        self._rotate(summed.view(b, h, n, both), -1, back.transpose(1, 2))
        return back.view(b * n, h, both), summed

    def _rotate(self, vectors: Tensor, sign: int, into: Tensor) -> None:
        """(u cos ± v sin, v cos ∓ u sin) side by side, of u, v side by side; both (B, h, N, 2W), of any strides."""
        (u, v), (sin, cos) = vectors.chunk(2, dim=-1), self.atoms[:, None].chunk(2, dim=-1)
        first, second = into.chunk(2, dim=-1)
        torch.mul(u, cos, out=first).addcmul_(v, sin, value=sign)
        torch.mul(v, cos, out=second).addcmul_(u, sin, value=-sign)


def padded(weight: Tensor) -> Tensor:
    """(H, 6K) weights of sines, then of cosines, as (H, 2W)."""
    halves = weight.reshape(len(weight), 2, -1)
    return F.pad(halves, (0, -halves.shape[2] % ALIGNED)).flatten(1)


def waves_of_pairs(sin: Tensor, cos: Tensor, dtype: torch.dtype) -> Tensor:
    """(B N, N, 2W) in dtype: sin(θ_j − θ_i), then cosines, of sin θ and cos θ: (B, N, W)."""
    (sin_i, cos_i), (sin_j, cos_j) = (sin[:, :, None], cos[:, :, None]), (sin[:, None], cos[:, None])
    sines = torch.addcmul(sin_j * cos_i, cos_j, sin_i, value=-1)
    cosines = torch.addcmul(cos_j * cos_i, sin_j, sin_i)
    return torch.cat([sines.to(dtype), cosines.to(dtype)], dim=-1).flatten(0, 1)


def attend(q: Tensor, kv: Tensor, waves: Tensor, constant: Tensor, geometry: PairGeometry, heads: int) -> Tensor:
    """(B, N, H), before the projection that follows attention.

    q: (B, N, H), scaled; kv: (B, N, 2H); waves: (h, d, 2W), for sines, then for cosines, in the precision of q;
    constant: (B, H), W G. Differentiable once, in all of these and in the geometry's angle, rstd and pairs; where the
    geometry says so, as often as one likes.
    """
    if geometry.smooth:
        return attend_smoothly(q, kv, waves, constant, geometry, heads)
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        q, kv, waves, constant, geometry.angle, geometry.rstd, geometry.pairs, geometry, heads
    )
    return out


def attend_smoothly(
    q: Tensor, kv: Tensor, waves: Tensor, constant: Tensor, geometry: PairGeometry, heads: int
) -> Tensor:
    """`attend` by operations that torch differentiates, so that slopes of energies can be learned; slower."""
    b, n = q.shape[:2]
    sin, cos = (each[:, None] for each in (geometry.angle.sin(), geometry.angle.cos()))  # (B, 1, N, W)
    atoms = torch.cat([sin, cos], dim=-1).mT  # (B, 1, 2W, N)
    k, v = kv.view(b, n, 2, heads, -1).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
    rows, own = q.view(b, n, heads, -1).transpose(1, 2), constant.view(b, heads, 1, -1)
    u, w = (rows @ waves).chunk(2, dim=-1)  # (B, h, N, W), of sines and of cosines
    pair = torch.cat([u * cos + w * sin, w * cos - u * sin], dim=-1) @ atoms + rows @ own.mT
    a = (rows @ k.mT + pair * geometry.rstd + geometry.padding).softmax(-1)
    scaled = a * geometry.rstd
    of_sin, of_cos = (scaled @ atoms.mT).chunk(2, dim=-1)
    turned = torch.cat([of_sin * cos - of_cos * sin, of_cos * cos + of_sin * sin], dim=-1)
    out: Tensor = a @ v + turned @ waves.mT + scaled.sum(-1, keepdim=True) * own
    return out.transpose(1, 2).flatten(2)


def softmax(logits: Tensor) -> Tensor:
    """Over the last axis, along which the result lies in memory: sums over it round alike for all."""
    if logits.is_cuda or logits.shape[-1] >= VECTOR:
        return logits.softmax(-1)
    return logits.movedim(-1, 0).contiguous().softmax(0).movedim(0, -1).contiguous()


class _Attention(torch.autograd.Function):
    """`attend` with its gradient by hand: both are a dozen products, and little is kept or copied between them.

    Constants (G) ride along as one more atom: a key that adds W G to each pair before the division by its standard
    deviation, and a value whose weight is Σ_j a_ij rstd_ij.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        kv: Tensor,
        waves: Tensor,
        constant: Tensor,
        angle: Tensor,
        rstd: Tensor,
        pairs: Tensor | None,
        geometry: PairGeometry,
        h: int,
    ) -> Tensor:
        b, n, hidden = q.shape
        d = hidden // h

        rows = q.view(b * n, h, d).transpose(0, 1).contiguous()
        pair, z = geometry.products(_projected(rows, waves))

        q_heads = q.view(b, n, h, d).transpose(1, 2).reshape(b * h, n, d)
        kv_heads = q.new_empty(2, b, h, n + 1, d)
        kv_heads[:, :, :, :n] = kv.view(b, n, 2, h, d).permute(2, 0, 3, 1, 4)
        kv_heads[:, :, :, n] = constant.view(b, h, d)
        k_heads, v_heads = kv_heads.view(2, b * h, n + 1, d).unbind(0)
        qk = torch.bmm(q_heads, k_heads.mT).view(b, h, n, n + 1)
        pair = pair.to(rstd.dtype) + qk[..., n:]
        a = softmax((pair * rstd).add_(qk[..., :n]).add_(geometry.padding))  # (B, h, N, N), j last

        scaled = a * rstd
        a_heads = q.new_empty(b, h, n, n + 1)
        a_heads[..., :n] = a
        a_heads[..., n] = scaled.sum(-1)
        a_heads = a_heads.view(b * h, n, n + 1)
        weights = scaled.to(q.dtype)
        y = _heads_first(geometry.sums(weights)[0])
        by_head = torch.bmm(y, waves.mT)
        by_crystal = torch.bmm(a_heads, v_heads)

        ctx.geometry, ctx.h, ctx.moving = geometry, h, any(ctx.needs_input_grad[4:7])
        moving = (pair, weights, z) if ctx.moving else ()
        ctx.save_for_backward(rows, q_heads, k_heads, v_heads, a, a_heads, y, waves, rstd, *moving)
        return _atoms_first(by_crystal.view(b, h, n, d), by_head.view(h, b, n, d))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, q_heads, k_heads, v_heads, a, a_heads, y, waves, rstd, *moving = ctx.saved_tensors
        geometry, h = ctx.geometry, ctx.h
        b, n, hidden = grad.shape
        d = hidden // h

        g_rows = grad.reshape(b * n, h, d).transpose(0, 1).contiguous()
        g_heads = grad.reshape(b, n, h, d).transpose(1, 2).reshape(b * h, n, d)
        dy = _projected(g_rows, waves)
        dscaled, met_dy = geometry.products(dy)
        da_heads = torch.bmm(g_heads, v_heads.mT).view(b, h, n, n + 1)
        dscaled = dscaled.to(rstd.dtype) + da_heads[..., n:]
        dlogits = (dscaled * rstd).add_(da_heads[..., :n])
        dlogits.sub_((dlogits * a).sum(-1, keepdim=True)).mul_(a)

        dpair = dlogits * rstd
        dqk = rows.new_empty(b, h, n, n + 1)
        dqk[..., :n] = dlogits
        dqk[..., n] = dpair.sum(-1)
        dqk = dqk.view(b * h, n, n + 1)
        dproducts = dpair.to(rows.dtype)
        dz, dmet = geometry.sums(dproducts)
        dz = _heads_first(dz)
        by_head = torch.bmm(dz, waves.mT)
        by_crystal = torch.bmm(dqk, k_heads)
        dq = _atoms_first(by_crystal.view(b, h, n, d), by_head.view(h, b, n, d))

        dkv_heads = rows.new_empty(2, b * h, n + 1, d)
        torch.bmm(dqk.mT, q_heads, out=dkv_heads[0])
        torch.bmm(a_heads.mT, g_heads, out=dkv_heads[1])
        dkv_heads = dkv_heads.view(2, b, h, n + 1, d)
        dkv = dkv_heads[:, :, :, :n].permute(1, 3, 0, 2, 4).reshape(b, n, 2 * hidden)
        dconstant = dkv_heads[:, :, :, n].sum(0).view(b, hidden)
        dwaves = torch.bmm(rows.mT, dz).baddbmm_(g_rows.mT, y) if ctx.needs_input_grad[2] else None
        if not ctx.moving:
            return dq, dkv, dwaves, dconstant, None, None, None, None, None

        pair, weights, z = moving
        drstd = (dlogits * pair).add_(dscaled * a).sum(1, keepdim=True)
        if geometry.pairs is not None:
            towards = [each.transpose(1, 2).reshape(b * n, h, n).mT for each in (dproducts, weights)]
            dpairs = torch.bmm(towards[0], z).baddbmm_(towards[1], met_dy)
            return dq, dkv, dwaves, dconstant, None, drstd, dpairs, None, None
        # of [sin θ_j, cos θ_j] in both products, then of both rotations by θ_i
        by_atoms = torch.bmm(dproducts.reshape(b, h * n, n).mT, z)
        by_atoms.baddbmm_(weights.reshape(b, h * n, n).mT, met_dy)
        dangle = _turned(by_atoms, geometry.atoms) + _turned(dmet, z).view(b, h, n, -1).sum(1)
        dangle += _turned(y.transpose(0, 1), dy).view(b, n, h, -1).sum(2)
        return dq, dkv, dwaves, dconstant, dangle.to(rstd.dtype), drstd, None, None, None


def _projected(rows: Tensor, waves: Tensor) -> Tensor:
    """(B N, h, 2W), Wᵀ of (h, B N, d)."""
    made = rows.new_empty(rows.shape[1], *waves.shape[::2])
    torch.bmm(rows, waves, out=made.transpose(0, 1))
    return made


def _heads_first(vectors: Tensor) -> Tensor:
    """(B N, h, 2W) as (h, B N, 2W); laid out anew where oneDNN would do it for each product."""
    turned = vectors.transpose(0, 1)
    return turned.contiguous() if turned.dtype == torch.bfloat16 and turned.device.type == "cpu" else turned


def _atoms_first(by_crystal: Tensor, by_head: Tensor) -> Tensor:
    """(B, N, H), the sum of (B, h, N, d) and (h, B, N, d)."""
    return torch.add(by_crystal.transpose(1, 2), by_head.permute(1, 2, 0, 3)).flatten(2)


def _turned(by: Tensor, at: Tensor) -> Tensor:
    """by_sin · at_cos − by_cos · at_sin, of (…, 2W) to (…, W): a gradient by sines and cosines as one by the angle."""
    (by_sin, by_cos), (at_sin, at_cos) = by.chunk(2, dim=-1), at.chunk(2, dim=-1)
    return by_sin * at_cos - by_cos * at_sin
