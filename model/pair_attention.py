"""Attention over the pairs of atoms of a cell, without anything that is computed for a pair and a feature.

The published layer gives keys and values a learned map W of each pair's normalised features n_ij (777 numbers):

    logit_ij = q_i · (k_j + W n_ij),    out_i = Σ_j a_ij (v_j + W n_ij),    n_ij = rstd_ij (φ_ij − mean_ij),
    φ_ij = [G, sin(θ_j − θ_i), cos(θ_j − θ_i)],    θ_i = 2πk·x_i, G = L Lᵀ.

The same function is computed here from features of atoms alone:

- W meets one vector an atom and head: q_i · W n_ij = (Wᵀ q_i) · n_ij and Σ_j a_ij W n_ij = W Σ_j a_ij n_ij;
- rows of W less their mean make subtracting mean_ij needless;
- by angle addition (Wᵀ q_i) · φ_ij is a product of Wᵀ q_i, rotated by θ_i, with [sin θ_j, cos θ_j], and Σ_j a_ij φ_ij
  is Σ_j a_ij [sin θ_j, cos θ_j], rotated back: one matrix product a crystal each;
- sin² + cos² = 1, so that rstd_ij follows from mean_ij, which is such a product too, once for all layers.

In the smallest cells there are as few pairs as heads, and one large product W n, of features that are formed once,
takes less time than many small ones: they are computed as published.

Shapes: B crystals, N atoms (padded), H hidden, h heads, d = H / h, K frequencies, W = 3K waves, F = 9 + 2W features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .crystals import Crystals

NORM_EPS = 1e-5  # of the LayerNorm of the pair features
SMALL = 5  # atoms; up to here, training is faster with features of pairs


@dataclass(frozen=True)
class PairGeometry:
    """What all layers share of a batch.

    angle: (B, N, W), θ, all k of one axis together; sin, cos: of θ, in the precision of the products, no gradient;
    gram: (B, 9), L Lᵀ; rstd: (B, 1, N, N); padding: (B, 1, 1, N), −∞ on padding and else 0; features: (B, N, N, F),
    n_ij in the precision of the products, for small cells alone.
    """

    angle: Tensor
    sin: Tensor
    cos: Tensor
    gram: Tensor
    rstd: Tensor
    padding: Tensor
    features: Tensor | None = None

    @classmethod
    def of(cls, crystals: Crystals, frequencies: int, dtype: torch.dtype) -> PairGeometry:
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
        small = crystals.numbers.shape[1] <= SMALL
        formed = pair_features(gram, sin, cos).to(dtype) if small else None
        sin, cos = sin.detach().to(dtype), cos.detach().to(dtype)
        return cls(angle, sin, cos, gram, rstd[:, None], padding[:, None, None], formed)


def pair_features(gram: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """(B, N, N, F), n_ij."""
    (b, n, _), (sin_i, cos_i), (sin_j, cos_j) = (
        sin.shape,
        (sin[:, :, None], cos[:, :, None]),
        (sin[:, None], cos[:, None]),
    )
    constant = gram[:, None, None].expand(b, n, n, 9)
    raw = torch.cat([constant, sin_j * cos_i - cos_j * sin_i, cos_j * cos_i + sin_j * sin_i], dim=-1)
    return F.layer_norm(raw, raw.shape[-1:], eps=NORM_EPS)


def attend(q: Tensor, kv: Tensor, waves: Tensor, constant: Tensor, geometry: PairGeometry, heads: int) -> Tensor:
    """(B, N, H), before the projection that follows attention.

    q: (B, N, H), scaled; kv: (B, N, 2H); waves: (2, h, d, W), W for sines and for cosines, in the precision of q;
    constant: (B, H), W G. Differentiable once, in all of these, angles and rstd.
    """
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        q, kv, waves, constant, geometry.angle, geometry.rstd, geometry, heads
    )
    return out


def attend_to_features(q: Tensor, kv: Tensor, weight: Tensor, geometry: PairGeometry, heads: int) -> Tensor:
    """What `attend` gives, from features of pairs. weight: (H, F), W in the precision of q. Differentiable once."""
    out: Tensor = _FeatureAttention.apply(  # type: ignore[no-untyped-call]
        q, kv, weight, geometry.features, geometry.padding, heads
    )
    return out


def _rotate(u: Tensor, v: Tensor, geometry: PairGeometry, sign: int, crystals_first: bool) -> tuple[Tensor, Tensor]:
    """(u cos ± v sin, v cos ∓ u sin) for u, v: (B, h, N, W) of any strides.

    crystals_first: the order in memory of what is made, for products by crystal; else heads first, for those by head.
    """
    b, h, n, w = u.shape
    sin, cos = geometry.sin[:, None], geometry.cos[:, None]
    made = u.new_empty(2, b, h, n, w) if crystals_first else u.new_empty(2, h, b, n, w).transpose(1, 2)
    torch.mul(u, cos, out=made[0]).addcmul_(v, sin, value=sign)
    torch.mul(v, cos, out=made[1]).addcmul_(u, sin, value=-sign)
    return made[0], made[1]


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
        geometry: PairGeometry,
        h: int,
    ) -> Tensor:
        (b, n, hidden), w = q.shape, angle.shape[-1]
        d, sin, cos = hidden // h, geometry.sin, geometry.cos
        w_sin, w_cos = waves.unbind(0)

        rows = q.view(b * n, h, d).transpose(0, 1).contiguous()
        z_sin, z_cos = (torch.bmm(rows, each).view(h, b, n, w).transpose(0, 1) for each in (w_sin, w_cos))
        u_sin, u_cos = (u.view(b, h * n, w) for u in _rotate(z_sin, z_cos, geometry, 1, True))
        pair = torch.bmm(u_sin, sin.mT).baddbmm_(u_cos, cos.mT).view(b, h, n, n)

        q_heads = q.view(b, n, h, d).transpose(1, 2).reshape(b * h, n, d)
        kv_heads = q.new_empty(2, b, h, n + 1, d)
        kv_heads[:, :, :, :n] = kv.view(b, n, 2, h, d).permute(2, 0, 3, 1, 4)
        kv_heads[:, :, :, n] = constant.view(b, h, d)
        k_heads, v_heads = kv_heads.view(2, b * h, n + 1, d).unbind(0)
        qk = torch.bmm(q_heads, k_heads.mT).view(b, h, n, n + 1)
        pair = pair.to(rstd.dtype).add_(qk[..., n:])
        a = (pair * rstd).add_(qk[..., :n]).add_(geometry.padding).softmax(-1)  # (B, h, N, N), j last

        scaled = a * rstd
        a_heads = q.new_empty(b, h, n, n + 1)
        a_heads[..., :n] = a
        a_heads[..., n] = scaled.sum(-1)
        a_heads = a_heads.view(b * h, n, n + 1)
        weights = scaled.to(q.dtype).view(b, h * n, n)
        s_sin, s_cos = (torch.bmm(weights, each).view(b, h, n, w) for each in (sin, cos))
        seen = [y.transpose(0, 1).view(h, b * n, w) for y in _rotate(s_sin, s_cos, geometry, -1, False)]
        by_head = torch.bmm(seen[0], w_sin.mT).baddbmm_(seen[1], w_cos.mT)
        by_crystal = torch.bmm(a_heads, v_heads)

        ctx.geometry, ctx.h = geometry, h
        moving = (pair, u_sin, u_cos) if ctx.needs_input_grad[4] or ctx.needs_input_grad[5] else ()
        ctx.save_for_backward(rows, q_heads, k_heads, v_heads, a, a_heads, weights, *seen, waves, *moving)
        return _atoms_first(by_crystal.view(b, h, n, d), by_head.view(h, b, n, d))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, q_heads, k_heads, v_heads, a, a_heads, weights, seen_sin, seen_cos, waves, *moving = ctx.saved_tensors
        geometry, h = ctx.geometry, ctx.h
        sin, cos, rstd = geometry.sin, geometry.cos, geometry.rstd
        (b, n, hidden), w = grad.shape, sin.shape[-1]
        d = hidden // h
        w_sin, w_cos = waves.unbind(0)

        g_rows = grad.reshape(b * n, h, d).transpose(0, 1).contiguous()
        g_heads = grad.reshape(b, n, h, d).transpose(1, 2).reshape(b * h, n, d)
        dy_sin, dy_cos = (torch.bmm(g_rows, each).view(h, b, n, w).transpose(0, 1) for each in (w_sin, w_cos))
        ds_sin, ds_cos = (s.view(b, h * n, w) for s in _rotate(dy_sin, dy_cos, geometry, 1, True))
        dscaled = torch.bmm(ds_sin, sin.mT).baddbmm_(ds_cos, cos.mT).view(b, h, n, n).to(rstd.dtype)
        da_heads = torch.bmm(g_heads, v_heads.mT).view(b, h, n, n + 1)
        dscaled.add_(da_heads[..., n:])
        dlogits = (dscaled * rstd).add_(da_heads[..., :n])
        dlogits.sub_((dlogits * a).sum(-1, keepdim=True)).mul_(a)

        dpair = dlogits * rstd
        dqk = rows.new_empty(b, h, n, n + 1)
        dqk[..., :n] = dlogits
        dqk[..., n] = dpair.sum(-1)
        dqk = dqk.view(b * h, n, n + 1)
        dproducts = dpair.to(rows.dtype).view(b, h * n, n)
        du_sin, du_cos = (torch.bmm(dproducts, each).view(b, h, n, w) for each in (sin, cos))
        dz = [z.transpose(0, 1).view(h, b * n, w) for z in _rotate(du_sin, du_cos, geometry, -1, False)]
        by_head = torch.bmm(dz[0], w_sin.mT).baddbmm_(dz[1], w_cos.mT)
        by_crystal = torch.bmm(dqk, k_heads)
        dq = _atoms_first(by_crystal.view(b, h, n, d), by_head.view(h, b, n, d))

        dkv_heads = rows.new_empty(2, b * h, n + 1, d)
        torch.bmm(dqk.mT, q_heads, out=dkv_heads[0])
        torch.bmm(a_heads.mT, g_heads, out=dkv_heads[1])
        dkv_heads = dkv_heads.view(2, b, h, n + 1, d)
        dkv = dkv_heads[:, :, :, :n].permute(1, 3, 0, 2, 4).reshape(b, n, 2 * hidden)
        dconstant = dkv_heads[:, :, :, n].sum(0).view(b, hidden)
        dwaves = None
        if ctx.needs_input_grad[2]:
            dwaves = torch.empty_like(waves)
            for made, z, y in zip(dwaves, dz, (seen_sin, seen_cos), strict=True):
                torch.bmm(rows.mT, z, out=made).baddbmm_(g_rows.mT, y)
        if not moving:
            return dq, dkv, dwaves, dconstant, None, None, None, None

        pair, u_sin, u_cos = moving
        drstd = (dlogits * pair).add_(dscaled.mul_(a)).sum(1, keepdim=True)
        # of [sin θ_j, cos θ_j] in both products, then of both rotations by θ_i
        by_sin, by_cos = (
            torch.bmm(dproducts.mT, u).baddbmm_(weights.mT, ds) for u, ds in ((u_sin, ds_sin), (u_cos, ds_cos))
        )
        dangle = by_sin * cos - by_cos * sin
        dangle += (du_sin * u_cos.view(b, h, n, w) - du_cos * u_sin.view(b, h, n, w)).sum(1)
        y_sin, y_cos = (y.view(h, b, n, w).transpose(0, 1) for y in (seen_sin, seen_cos))
        dangle += (dy_cos * y_sin - dy_sin * y_cos).sum(1)
        return dq, dkv, dwaves, dconstant, dangle.to(rstd.dtype), drstd, None, None


def _atoms_first(by_crystal: Tensor, by_head: Tensor) -> Tensor:
    """(B, N, H), the sum of (B, h, N, d) and (h, B, N, d)."""
    return torch.add(by_crystal.transpose(1, 2), by_head.permute(1, 2, 0, 3)).flatten(2)


class _FeatureAttention(torch.autograd.Function):
    """`attend_to_features` with its gradient by hand. Sums over each head, and their adjoint, are matrix products."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, weight: Tensor, features: Tensor, padding: Tensor, h: int) -> Tensor:
        b, n, hidden = q.shape
        sums = torch.eye(h, dtype=q.dtype, device=q.device).repeat_interleave(hidden // h, 0)  # (H, h)
        edges = torch.mm(features.flatten(0, 2), weight.mT).view(b, n, n, hidden)
        k, v = kv.view(b, 1, n, 2, hidden).unbind(3)
        keys, values = edges + k, edges.add_(v)
        logits = torch.mm((keys * q[:, :, None]).view(-1, hidden), sums).view(b, n, n, h)
        a = (logits.to(padding.dtype) + padding.view(b, 1, n, 1)).softmax(2)
        spread = torch.mm(a.to(q.dtype).view(-1, h), sums.mT).view(b, n, n, hidden)
        ctx.save_for_backward(q, keys, values, a, spread, sums, weight, features)
        return (values * spread).sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, keys, values, a, spread, sums, weight, features = ctx.saved_tensors
        b, n, hidden = q.shape
        q, grad = q[:, :, None], grad[:, :, None]
        dlogits = torch.mm((values * grad).view(-1, hidden), sums).view(a.shape).to(a.dtype)
        dlogits.sub_((dlogits * a).sum(2, keepdim=True)).mul_(a)
        dspread = torch.mm(dlogits.to(q.dtype).view(-1, sums.shape[1]), sums.mT).view(b, n, n, hidden)
        dq = (dspread * keys).sum(2)
        dkeys, dvalues = dspread.mul_(q), spread * grad
        dkv = torch.cat([dkeys.sum(1), dvalues.sum(1)], dim=2)
        dedges = dvalues.add_(dkeys).view(-1, hidden)
        dweight = torch.mm(dedges.mT, features.flatten(0, 2)) if ctx.needs_input_grad[2] else None
        dfeatures = torch.mm(dedges, weight).view(features.shape) if ctx.needs_input_grad[3] else None
        return dq, dkv, dweight, dfeatures, None, None
