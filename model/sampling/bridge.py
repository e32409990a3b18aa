"""Crystals drawn by a bridge (`bridge`) from decorated templates instead of from noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dao_flows.model.crystals import Crystal, Crystals
from dao_flows.model.dao_g import DaoG
from dao_flows.model.process.bridge import template_coordinates, template_lattice
from dao_flows.model.process.flow_matching import COORDINATE_UNIT, LATTICE_UNIT, log_stretch, stretch, wrap

from .requests import NormalStreams, Request
from .sampler import call_network, prepared_network


@dataclass(frozen=True)
class Mended:
    """A crystal (Å), and what the network changes of its template at once: root mean squares.

    way: of fractional coordinates; strain: of the entries of log-stretch. The less, the better a template the network
    takes it for.
    """

    crystal: Crystal
    way: float
    strain: float


@torch.no_grad()
def mend(
    model: DaoG,
    templates: Sequence[Crystal],
    seed: int,
    steps: int = 5,
    *,
    renoise: bool = True,
    noise_scale: float = 1.0,
    bf16: bool = False,
    batch: int = 128,
) -> list[Mended]:
    """Crystals from templates (Å, decorated), in `steps` calls of the network each.

    renoise: each step goes to the end of the path and back to the next time on the path of another beginning around the
    template; else along the velocity, from one beginning. noise_scale: of the noise around a template, relative to
    training; without noise templates keep their symmetry on the way in.
    """
    network = prepared_network(model, bf16)
    last = model.config.noise.steps
    times = [round(last * (1 - i / steps)) for i in range(steps + 1)]
    found: list[Mended | None] = [None] * len(templates)
    by_size: dict[int, list[int]] = defaultdict(list)
    for i, template in enumerate(templates):
        by_size[len(template)].append(i)

    def velocity(crystals: Crystals, t: int) -> tuple[Tensor, Tensor]:
        output = call_network(network, crystals, last + t, bf16)
        u, change = model.objective.predicted(output, crystals)
        return COORDINATE_UNIT * u, LATTICE_UNIT * change

    for members in by_size.values():
        for part in (members[i : i + batch] for i in range(0, len(members), batch)):
            given = model.to_model_units(model.collate([templates[i] for i in part]))
            noise = NormalStreams([Request(templates[i].numbers, (i,)) for i in part], seed, given.frac)
            template_log = log_stretch(given.lattice)

            def beginning() -> tuple[Tensor, Tensor]:
                frac = template_coordinates(given.frac, noise_scale * noise.coordinates())  # noqa: B023
                return frac, template_lattice(template_log, noise_scale * noise.lattice())  # noqa: B023

            frac, log = beginning()
            first: tuple[Tensor, Tensor] | None = None
            for t, s in pairwise(times):
                u, change = velocity(given.with_geometry(frac % 1, stretch(log)), t)
                first = first or (wrap(frac + u - given.frac), log + change - template_log)
                share = t / last if renoise else (t - s) / last
                frac, log = frac + share * u, log + share * change
                if renoise and s > 0:
                    start, start_log = beginning()
                    frac, log = frac - s / last * wrap(frac - start), log - s / last * (log - start_log)
            assert first is not None
            crystals = model.to_angstrom(given.with_geometry(frac % 1, stretch(log))).unpad()
            mask = given.mask[..., None]
            way, strain = first
            way = way - (way * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
            ways = ((way * mask) ** 2).sum((1, 2)) / (3 * mask.sum((1, 2)))
            for i, crystal, w, s2 in zip(
                part, crystals, ways.sqrt().tolist(), (strain**2).mean((1, 2)).sqrt().tolist(), strict=True
            ):
                found[i] = Mended(Crystal(np.asarray(templates[i].numbers), crystal.frac, crystal.lattice), w, s2)
    return [each for each in found if each is not None]
