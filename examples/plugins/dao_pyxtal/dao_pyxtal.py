"""Random symmetric crystals by PyXtal, the baseline that every generator should beat.

A space group is drawn for each candidate until one has Wyckoff positions for the atoms; PyXtal then fills them, in a
cell of its own estimate of the volume, and keeps atoms apart.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pymatgen.core import Element

from dao_flows.model.crystals import Crystal
from dao_flows.model.sampling.requests import Request

TRIES = 40  # space groups for one candidate
GROUPS = 230


class RandomCrystals:
    """A generator of dao_flows."""

    name = "pyxtal"
    elements = range(1, 95)
    max_atoms = 52
    reproducible = True

    def __init__(self) -> None:
        code = hashlib.sha256(Path(__file__).read_bytes())
        code.update(version("pyxtal").encode())
        self.sha256 = code.hexdigest()

    def sample(
        self, requests: Sequence[Request], seed: int, device: str, progress: Callable[[int, int], None]
    ) -> list[Crystal | None]:
        """One crystal after another, each from a random stream of its own."""
        crystals = []
        for done, request in enumerate(requests, start=1):
            crystals.append(draw(request.numbers, np.random.default_rng([seed, *request.key])))
            progress(done, len(requests))
        return crystals


def draw(numbers: np.ndarray, random: np.random.Generator) -> Crystal | None:
    """A crystal of these atoms; None where none of the space groups takes them."""
    from pyxtal import pyxtal
    from pyxtal.msg import Comp_CompatibilityError, VolumeError

    counts = Counter(Element.from_Z(int(number)).symbol for number in numbers)
    for group in random.integers(1, GROUPS + 1, TRIES):
        crystal = pyxtal()
        try:
            crystal.from_random(3, int(group), list(counts), list(counts.values()), random_state=random)
        except (Comp_CompatibilityError, VolumeError):
            continue
        if crystal.valid:
            structure = crystal.to_pymatgen().get_primitive_structure(constrain_latt=None)
            if len(structure) == len(numbers):
                return Crystal(np.array(structure.atomic_numbers), structure.frac_coords, structure.lattice.matrix)
    return None
