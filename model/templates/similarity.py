"""How unlike two elements are as neighbours in a crystal: the distance of their vectors in similarity.csv."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np


@cache
def element_distances() -> np.ndarray:
    """(95, 95), between elements by atomic number, up to plutonium; row and column 0 are no element."""
    with (files(__package__) / "similarity.csv").open() as lines:
        rows = list(csv.reader(lines))[1:]
    vectors = np.array([[float(value) for value in row[1:]] for row in rows])
    distances = np.zeros((len(rows) + 1, len(rows) + 1))
    distances[1:, 1:] = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    return distances
