"""Relaxation of many crystals at once: L-BFGS on (x, L) jointly through DAO-P's energy (arXiv 2503.10471).

Every crystal keeps its own curvature history, its own line search and its own end, so that one bad crystal in a batch
harms no other. The energy of a crystal never rises: a step that fails the Armijo condition is shortened, then given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .crystals import Crystal, Crystals
from .dao_p import DaoP
from .runtime.batching import BatchLog, in_blocks, run_batches

ARMIJO = 1e-4
BACKTRACKS = 6
BATCH_ATOMS, CPU_BATCH_ATOMS = 2048, 1024  # on a CPU, larger batches leave its cache


@dataclass(frozen=True)
class RelaxConfig:
    """iterations: L-BFGS steps; history: curvature pairs kept; tolerance: smallest gain in eV/atom worth another step.

    max_displacement (fractional) and max_strain (of the lattice's Frobenius norm) bound each step.
    """

    iterations: int = 20
    history: int = 10
    tolerance: float = 1e-5
    max_displacement: float = 0.05
    max_strain: float = 0.05


@dataclass(frozen=True)
class Relaxed:
    """One relaxed crystal; energies above hull in eV/atom; converged: no step promised more than the tolerance."""

    crystal: Crystal
    energy_before: float
    energy_after: float
    iterations: int
    converged: bool


def _energy_and_slope(predictor: DaoP, crystals: Crystals, sloped: bool = True) -> tuple[Tensor, Tensor]:
    """(B,) energies in eV/atom and (B, 3N + 9) slopes; where the energy is not finite: infinity and no slope.

    sloped: whether the slopes will be used; zeros if not, in a third of the time.
    """
    if not sloped:
        with torch.no_grad():
            energy = predictor.energy_above_hull(crystals)
        flat = torch.zeros(len(crystals), 3 * crystals.frac.shape[1] + 9, device=energy.device, dtype=energy.dtype)
        return energy.masked_fill(~energy.isfinite(), torch.inf), flat
    with torch.enable_grad():
        frac, lattice = crystals.frac.detach().requires_grad_(), crystals.lattice.detach().requires_grad_()
        energy = predictor.energy_above_hull(crystals.with_geometry(frac, lattice))
        slopes = torch.autograd.grad(energy.sum(), (frac, lattice))
    slope = torch.cat([slopes[0].flatten(1), slopes[1].flatten(1)], dim=1)
    bad = ~(energy.isfinite() & slope.isfinite().all(1))
    return energy.detach().masked_fill(bad, torch.inf), slope.masked_fill(bad[:, None], 0.0)


def _direction(slope: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """−H·slope by the two-loop recursion (Nocedal and Wright, algorithm 7.4), each row with its own history.

    A pair without positive curvature counts as absent.
    """
    q, kept = slope.clone(), []
    for s, y in reversed(list(zip(steps, changes, strict=True))):
        curvature = (s * y).sum(1)
        rho = torch.where(curvature > 1e-12, 1 / curvature.clamp(min=1e-12), 0.0)
        a = rho * (s * q).sum(1)
        q = q - a[:, None] * y
        kept.append((s, y, rho, a))
    scale = torch.ones_like(q[:, 0])
    for s, y, rho, _ in reversed(kept):  # γ = s·y / y·y of the latest pair that has curvature
        scale = torch.where(rho > 0, (s * y).sum(1) / (y * y).sum(1).clamp(min=1e-12), scale)
    q = q * scale[:, None]
    for s, y, rho, a in reversed(kept):
        q = q + s * (a - rho * (y * q).sum(1))[:, None]
    return -q


def _bounded(direction: Tensor, atoms: int, lattice: Tensor, config: RelaxConfig) -> Tensor:
    """The direction, shortened so that no unit step exceeds the bounds of the configuration."""
    displacement = direction[:, : 3 * atoms].abs().amax(1) / config.max_displacement
    strain = direction[:, 3 * atoms :].norm(dim=1) / (config.max_strain * lattice.flatten(1).norm(dim=1))
    return direction / torch.maximum(displacement, strain).clamp(min=1.0)[:, None]


def relax_batch(predictor: DaoP, crystals: Crystals, config: RelaxConfig) -> list[Relaxed]:
    """Relax one padded batch (Å)."""
    size = crystals.frac.shape[1]

    def moved(origin: Crystals, step: Tensor) -> Crystals:
        frac = (origin.frac + step[:, : 3 * size].view_as(origin.frac)) % 1
        return origin.with_geometry(frac, origin.lattice + step[:, 3 * size :].view_as(origin.lattice))

    energy, slope = _energy_and_slope(predictor, crystals)
    before = energy.clone()
    active, converged = energy.isfinite(), torch.zeros_like(energy, dtype=torch.bool)
    iterations = torch.zeros_like(energy, dtype=torch.long)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for iteration in range(config.iterations):
        if not active.any():
            break
        direction = _direction(slope, steps, changes)
        downhill = (direction * slope).sum(1, keepdim=True) < 0
        direction = _bounded(torch.where(downhill, direction, -slope), size, crystals.lattice, config)
        descent = (direction * slope).sum(1)
        length = torch.ones_like(energy)
        trying = active.clone()
        new_energy, new_slope, step = energy.clone(), slope.clone(), torch.zeros_like(slope)
        for _ in range(BACKTRACKS):
            rows = trying.nonzero()[:, 0]
            if len(rows) == 0:
                break
            trial = length[rows, None] * direction[rows]
            asked, mine = in_blocks(rows, len(crystals))
            part = Crystals(crystals.numbers[asked], crystals.frac[asked], crystals.lattice[asked])
            shift = length[asked, None] * direction[asked]
            e, g = _energy_and_slope(predictor, moved(part, shift), sloped=iteration + 1 < config.iterations)
            e, g = e[mine], g[mine]
            good = e <= energy[rows] + ARMIJO * length[rows] * descent[rows]
            accepted = rows[good]
            new_energy[accepted], new_slope[accepted], step[accepted] = e[good], g[good], trial[good]
            trying[accepted] = False
            length[rows] *= 0.5
        gain = energy - new_energy
        crystals = moved(crystals, step)
        steps, changes = [*steps, step][-config.history :], [*changes, new_slope - slope][-config.history :]
        iterations += active & ~trying
        done = active & (gain < config.tolerance)  # also those whose line search found nothing
        converged |= done
        active &= ~done
        energy, slope = new_energy, new_slope
    rows_ = zip(
        crystals.unpad(), before.tolist(), energy.tolist(), iterations.tolist(), converged.tolist(), strict=True
    )
    return [Relaxed(*row) for row in rows_]


def relax(
    predictor: DaoP,
    crystals: Sequence[Crystal],
    config: RelaxConfig | None = None,
    *,
    max_batch_atoms: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    slots: Sequence[int] | None = None,
    log: BatchLog | None = None,
) -> list[Relaxed]:
    """Relax crystals (Å) in batches of one size; results in the order given. progress is told (crystals done, in all).

    max_batch_atoms: of a batch; None: what suits the device. Batches are split where memory runs out; log is told which
    ran. slots: a number for each (`runtime.batching`). Raises TooLargeError.
    """
    config = config or RelaxConfig()
    if max_batch_atoms is None:
        max_batch_atoms = CPU_BATCH_ATOMS if next(predictor.parameters()).device.type == "cpu" else BATCH_ATOMS
    done: set[int] = set()

    def compute(batch: list[int]) -> list[Relaxed]:
        relaxed = relax_batch(predictor, predictor.collate([crystals[i] for i in batch]), config)
        done.update(batch)
        if progress:
            progress(len(done), len(crystals))
        return relaxed

    return run_batches(crystals, compute, max_batch_atoms, slots, log)
