"""The frozen element table that Crysformer reads instead of a learned embedding: 92 one-hot properties an element.

The scheme is that of CGCNN (Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018), supplementary Table I): 19 groups
(0 for lanthanides and actinides), 7 periods, then binned continuous properties. The values in elements.csv are
tabulated facts (Pauling electronegativity, Cordero radius, first ionisation energy, electron affinity, molar volume).
A checkpoint carries the table it was trained with, and an imported one keeps its own.
"""

from __future__ import annotations

import csv
import math
from importlib.resources import files

import torch
from torch import Tensor

MAX_ATOMIC_NUMBER = 100
BLOCKS = ("s", "p", "d", "f")
# property: (first edge, last edge, bins, logarithmic)
BINS = {
    "electronegativity": (0.5, 4.0, 10, False),
    "covalent_radius_pm": (25.0, 250.0, 10, False),
    "valence_electrons": (0.5, 12.5, 12, False),
    "ionization_energy_ev": (1.3, 3.3, 10, True),
    "electron_affinity_ev": (-3.0, 3.7, 10, False),
    "molar_volume_cm3": (1.5, 4.3, 10, True),
}
N_PROPERTIES = 19 + 7 + sum(bins for _, _, bins, _ in BINS.values()) + len(BLOCKS)


def _one_hot(index: int | None, width: int) -> list[float]:
    return [float(i == index) for i in range(width)]


def _bin(text: str, first: float, last: float, bins: int, logarithmic: bool) -> int | None:
    """Index of the bin, the outermost ones open; None where the property is unknown."""
    if not text:
        return None
    value = math.log(float(text)) if logarithmic else float(text)
    return min(max(int((value - first) / (last - first) * bins), 0), bins - 1)


def read_elements() -> list[dict[str, str]]:
    """The rows of elements.csv, hydrogen first."""
    with (files(__package__) / "elements.csv").open() as lines:
        return list(csv.DictReader(lines))


def symbols() -> list[str]:
    """Chemical symbols by atomic number; index 0 is an empty string."""
    return ["", *(row["symbol"] for row in read_elements())]


def property_table() -> Tensor:
    """(101, 92) float32; row 0, the padding, is zero."""
    rows = [[0.0] * N_PROPERTIES]
    for element in read_elements():
        row = _one_hot(int(element["group"]), 19) + _one_hot(int(element["period"]) - 1, 7)
        for name, (first, last, bins, logarithmic) in BINS.items():
            row += _one_hot(_bin(element[name], first, last, bins, logarithmic), bins)
        rows.append(row + _one_hot(BLOCKS.index(element["block"]), len(BLOCKS)))
    return torch.tensor(rows)
