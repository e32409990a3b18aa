"""Flow matching from templates: paths that begin at a known crystal with its elements exchanged, instead of at noise.

Flow matching asks nothing of its base but that it can be drawn from. Here x_0 is a decorated template plus a little
noise, x_1 the crystal in the template's setting, atom beside atom (`pairing`); paths and velocities are those of
`flow`. The network learns to correct where the template is nearly right and to rebuild where it is not. Crystals that
come without a template begin at the base of `flow`, so that one network does both; it is told which by its time: T + t
on the way from a template, t on the way from the base.

A template is right or wrong as a whole, and the mean of both is neither. Of the error on the way from a template a
crystal's root mean square counts, once it is large: its minimum is a median, which keeps to the more likely of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dao_flows.model.crystals import Crystals

from .flow_matching import FlowMatching, base_lattice
from .objective import Draw, Noised, Start

COORDINATE_NOISE = 0.005  # standard deviation of x_0 around a template, in cell edges: 0.02 cost precision
LATTICE_NOISE = 0.005  # that of an entry of S_0
BEND = 0.1  # root mean square error, in units of the targets, up to which its square counts


def template_coordinates(frac: Tensor, normal: Tensor) -> Tensor:
    """x_0 from a template's coordinates and standard normal numbers: (B, N, 3)."""
    return frac + COORDINATE_NOISE * normal


def template_lattice(log: Tensor, normal: Tensor) -> Tensor:
    """S_0 from that of a template and standard normal numbers: (B, 3, 3)."""
    return log + LATTICE_NOISE * (normal + normal.mT) / 2


def normal_of_uniform(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in [0, 1)."""
    return 2**0.5 * torch.erfinv((2 * uniform - 1).clamp(-0.999999, 0.999999))


class Bridge(FlowMatching):
    """The objective of `flow`, from templates where there are some."""

    def corrupt(self, crystals: Crystals, draw: Draw, cell: Tensor | None = None, start: Start | None = None) -> Noised:
        """As Objective.corrupt. start: templates; None: all paths begin at the base."""
        if start is None:
            return super().corrupt(crystals, draw, cell)
        known = start.known[:, None, None]
        near = template_coordinates(start.frac, normal_of_uniform(draw.coordinates))
        with torch.autocast(draw.lattice.device.type, enabled=False):
            begin = torch.where(known, template_lattice(start.cell, draw.lattice), base_lattice(draw.lattice))
        noised = self.along(crystals, draw.t, torch.where(known, near, draw.coordinates), begin, cell)
        return Noised(noised.crystals, draw.t + self.last * start.known, noised.coordinates, noised.lattice)

    def penalty(self, mean_square: Tensor, t: Tensor) -> Tensor:
        """As Objective.penalty."""
        root = 2 * BEND * ((mean_square + BEND**2).sqrt() - BEND)  # the square where that is small
        return torch.where(t > self.last, root, mean_square)
