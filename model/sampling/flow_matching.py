"""Samplers of a generator that learned by flow matching: along its velocity, from the base at T to the crystal.

Guidance takes the velocity of a path whose ends are weighted by exp(−λE): −λ·(1 − s)/s·σ²·∇E is added to it, σ the
spread of the base (the score of a Gaussian path in terms of its velocity; for the coordinates, an approximation).
"""

from __future__ import annotations

from torch import Tensor

from dao_flows.model.crystals import Crystals
from dao_flows.model.process.flow_matching import (
    COORDINATE_UNIT,
    LATTICE_UNIT,
    base_lattice,
    log_stretch,
    stretch,
    wrap,
)

from .requests import NormalStreams
from .sampler import Sampler, energy_gradient

FIRST = 0.6  # share of the path that is left after renoising's first step: steps serve better there (docs/sampling.md)
EARLIEST = 0.1  # share of the path from which on guidance counts: before, its factor has no bound


class _Flow(Sampler):
    def start(self, noise: NormalStreams) -> tuple[Tensor, Tensor]:
        """As Sampler.start."""
        return noise.coordinates(uniform=True), stretch(base_lattice(noise.lattice()))

    def times(self) -> list[int]:
        """Equal steps; the first time is T, where the base is what the network was trained on."""
        super().times()  # a count that cannot be is refused
        return [round(self.last * (1 - i / self.config.steps)) for i in range(self.config.steps + 1)]

    def velocity(self, crystals: Crystals, log: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """u: (B, N, 3), fractional, and S_1 − S_0: (B, 3, 3), at S = `log`."""
        coordinates, lattice = self.model.objective.predicted(self.output(crystals, t), crystals)
        u, change = COORDINATE_UNIT * coordinates, LATTICE_UNIT * lattice
        behind = 1 - t / self.last
        if self.guide is not None and behind >= EARLIEST:
            predictor, guidance = self.guide
            slope_x, slope_s = energy_gradient(predictor, crystals, t, guidance.max_norm, log, stretch)
            factor = (1 - behind) / behind
            u = u - guidance.coordinates * factor * COORDINATE_UNIT**2 * slope_x
            change = change - guidance.lattice * factor * LATTICE_UNIT**2 * (slope_s + slope_s.mT) / 2
        return u, change


class FlowRenoising(_Flow):
    """Each step goes to the end of the path, and from there back to s on the path of another beginning.

    As `diffusion.Renoising` does: errors that the network made on one beginning do not last.
    """

    def times(self) -> list[int]:
        """One step from T to FIRST of the path, equal ones from there; all times if there are as many steps."""
        equal = super().times()
        if self.config.steps == 1:
            return equal
        rest = self.config.steps - 1
        first = max(round(FIRST * self.last), rest)
        return [self.last, *(round(first * (1 - i / rest)) for i in range(rest + 1))]

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Sampler.step."""
        log = log_stretch(crystals.lattice)
        u, change = self.velocity(crystals, log, t)
        frac, log = crystals.frac + t / self.last * u, log + t / self.last * change
        if s > 0:
            start, start_log = noise.coordinates(uniform=True), base_lattice(noise.lattice())
            frac, log = frac - s / self.last * wrap(frac - start), log - s / self.last * (log - start_log)
        return crystals.with_geometry(frac % 1, stretch(log))


class FlowEuler(_Flow):
    """First order: the velocity at the step's beginning."""

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Sampler.step. noise: not used, the path is given by its beginning."""
        log = log_stretch(crystals.lattice)
        return self.along(crystals, log, t, s, *self.velocity(crystals, log, t))

    def along(self, crystals: Crystals, log: Tensor, t: int, s: int, u: Tensor, change: Tensor) -> Crystals:
        """From t to s with this velocity. log: S of the crystals."""
        share = (t - s) / self.last
        return crystals.with_geometry((crystals.frac + share * u) % 1, stretch(log + share * change))


class FlowHeun(FlowEuler):
    """Second order: the mean of the velocities at both ends of a step."""

    def step(self, crystals: Crystals, t: int, s: int, noise: NormalStreams) -> Crystals:
        """As Sampler.step. noise: not used."""
        log = log_stretch(crystals.lattice)
        u, change = self.velocity(crystals, log, t)
        ahead = self.along(crystals, log, t, s, u, change)
        if s > 0:
            u_ahead, change_ahead = self.velocity(ahead, log_stretch(ahead.lattice), s)
            ahead = self.along(crystals, log, t, s, (u + u_ahead) / 2, (change + change_ahead) / 2)
        return ahead
