"""Between the model floor's crystals and pymatgen's structures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

if TYPE_CHECKING:
    from dao_flows.model.crystals import Crystal


def to_structure(crystal: Crystal) -> Structure:
    """A crystal as a right-handed structure; the mirror image of a draw is as likely, DAO being O(3)-equivariant.

    Raises FloatingPointError if the crystal is not finite.
    """
    lattice, frac = np.asarray(crystal.lattice, dtype=float), np.asarray(crystal.frac, dtype=float)
    if not (np.isfinite(lattice).all() and np.isfinite(frac).all()):
        raise FloatingPointError("the network's output is not finite")
    if np.linalg.det(lattice) < 0:
        lattice = -lattice
    return Structure(Lattice(lattice), crystal.numbers.tolist(), frac % 1)


def compact(structure: Structure) -> Structure:
    """The same crystal in its LLL-reduced cell: searches in a long skew cell can take for ever."""
    reduced: Structure = structure.get_reduced_structure("LLL")
    return reduced


def primitive_niggli(structure: Structure) -> Structure:
    """The primitive Niggli cell, in which StructureMatcher compares crystals."""
    cell: Structure = compact(structure).get_reduced_structure("niggli").get_primitive_structure()
    return cell


def to_crystal(structure: Structure) -> Crystal:
    """An ordered structure for the model floor."""
    from dao_flows.model.crystals import Crystal

    return Crystal(np.array(structure.atomic_numbers), structure.frac_coords, structure.lattice.matrix)
