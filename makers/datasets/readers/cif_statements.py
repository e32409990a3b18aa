"""What a CIF states of its crystal beside the list of atoms: formula, Z, volume and symmetry, against what was read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pymatgen.core.composition import Composition
from pymatgen.core.operations import SymmOp
from pymatgen.core.structure import Structure
from pymatgen.symmetry.groups import SpaceGroup

from dao_flows.makers.science.chemistry import element_of

from .refusal import unreadable

OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
NAMES = (
    "_symmetry_space_group_name_h-m",
    "_symmetry_space_group_name_h_m",
    "_space_group_name_h-m_alt",
    "_space_group_name_h-m",
)
HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
GROUP_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
MAGNETIC = "_magn"
GRID = 24  # translations of symmetry operations are whole parts of a cell's 24th
METRIC = 5e-3  # relative: how far a cell's metric may be from what its operations ask for
VOLUME = 0.02  # relative: how far a stated volume may be from the cell's
# groups whose operations depend on an origin or on axes that their name does not tell
ORIGINS = {48, 50, 59, 68, 70, 85, 86, 88, 125, 126, 129, 130, 133, 134, 137, 138, 141, 142}
ORIGINS |= {201, 203, 222, 224, 227, 228}
FREE_AXES = (3, 74)  # monoclinic and orthorhombic: a number does not tell which axis is which


def check_counts(stated: Mapping[str, Any], structure: Structure) -> bool:
    """Whether the block's formula and Z say that these are all atoms of the cell.

    Raises RefusedError if formula, Z or volume say something else.
    """
    volume = _number(stated.get("_cell_volume"))
    if volume is not None and volume > 0 and abs(structure.volume / volume - 1) > VOLUME:
        raise unreadable(f"its cell has {structure.volume:.1f} Å³, its own volume is {volume:g}")
    formula = _text(stated, "_chemical_formula_sum")
    if formula is None:
        return False
    wanted, found = _amounts(formula), _of(structure)
    ratios = {element: found.get(element, 0) / amount for element, amount in wanted.items()}
    units = max(ratios.values())
    if set(found) != set(wanted) or max(abs(ratio - units) for ratio in ratios.values()) > 1e-3 * units:
        read = Composition(found).formula
        raise unreadable(f"its atoms are {read}, its own formula is {formula[:60]}")
    z = _number(stated.get("_cell_formula_units_z"))
    if z is None:
        # a formula that cannot be divided may be that of the cell or of one unit
        return False
    total = sum(wanted.values())
    if abs(z * total - len(structure)) < 1e-3:
        return True
    if abs(total - len(structure)) < 1e-3 and z in _units(wanted):  # as pymatgen writes it: the formula of the cell
        return True
    raise unreadable(f"the cell has {len(structure)} atoms, its own formula and Z say {z:g} of {formula[:60]}")


def check_symmetry(
    stated: Mapping[str, Any], structure: Structure, operations: Sequence[SymmOp], confirmed: bool, named: bool
) -> None:
    """Raises RefusedError if the operations that were used are not what the block states, or cannot be its cell's.

    confirmed: the number of atoms is known to be right. named: the operations follow from the name of the group.
    """
    rotations = np.array([op.rotation_matrix for op in operations])
    if not len(rotations) or not np.allclose(np.abs(np.linalg.det(rotations)), 1, atol=1e-6):
        raise unreadable("its symmetry operations are not understood")
    metric = structure.lattice.matrix @ structure.lattice.matrix.T
    # rotations act on fractional coordinates as columns: R^T G R = G
    moved = np.einsum("nji,jk,nkl->nil", rotations, metric, rotations)
    if np.abs(moved - metric).max() > METRIC * np.abs(metric).max():
        raise unreadable("its cell does not have the symmetry that it states: the setting is not understood")
    if any(MAGNETIC in name for name in stated):
        return
    listed = next((stated[n] for key in OPERATIONS for n in (key, f"{key}_") if stated.get(n)), None)
    listed = [listed] if isinstance(listed, str) else listed
    if listed and any(str(line).strip() not in ("?", ".") for line in listed):
        _check_listed(stated, listed, operations, confirmed)
    else:
        _check_named(stated, confirmed, named)


def _check_listed(
    stated: Mapping[str, Any], listed: Sequence[str], operations: Sequence[SymmOp], confirmed: bool
) -> None:
    """Raises RefusedError if a list of operations is not whole."""
    if len(listed) != len(operations):
        raise unreadable("its list of symmetry operations is not understood")
    if len(operations) > 1 and not closed(operations):
        raise unreadable("its list of symmetry operations is not whole: it is no group")
    name = _group(stated) or "R"  # groups with R in their name have a third of the operations on rhombohedral axes
    order = None if name.startswith("R") else _order(name)
    if not confirmed and order is not None and len(operations) < order:
        raise unreadable(f"it lists {len(operations)} symmetry operations, its space group has {order}")


def _check_named(stated: Mapping[str, Any], confirmed: bool, named: bool) -> None:
    """Raises RefusedError if operations that are not listed are a guess."""
    name = _group(stated) or next((text for key in HALL if (text := _text(stated, key))), None)
    number = next((int(n) for key in GROUP_NUMBERS if (n := _number(stated.get(key))) is not None), None)
    if name is not None and not named:
        raise unreadable(f"its space group {name[:30]} is not understood: its symmetry operations must be listed")
    if name is None and number is None:
        if not confirmed:
            raise unreadable("it states no symmetry, and no formula and Z by which the atoms of its cell are known")
        return
    group = number if name is None else _number_of(name) or number
    if name is None and FREE_AXES[0] <= int(group or 0) <= FREE_AXES[1]:
        raise unreadable(f"the axes of its space group {group} are not stated: its symmetry operations must be listed")
    if not confirmed and (group is None or group in ORIGINS):
        raise unreadable(f"the origin of its space group {name or group} is not stated, and no formula and Z")


def closed(operations: Sequence[SymmOp]) -> bool:
    """Whether the operations are a group, up to translations of the cell. Odd translations are taken as they are."""
    rotations = np.rint([op.rotation_matrix for op in operations]).astype(int)
    shifts = np.array([op.translation_vector for op in operations]) * GRID
    if np.abs(shifts - np.rint(shifts)).max() > 0.1:
        return True
    steps = np.rint(shifts).astype(int)
    turned = np.einsum("aij,bjk->abik", rotations, rotations)
    moved = np.einsum("aij,bj->abi", rotations, steps) + steps[:, None]
    known = _codes(rotations, steps)
    return bool(np.isin(_codes(turned, moved), known).all()) and len(np.unique(known)) == len(known)


def _codes(rotations: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """One number for each operation."""
    turn = ((rotations + 2).reshape(*rotations.shape[:-2], 9) * 5 ** np.arange(9)).sum(-1)
    return np.asarray(turn * GRID**3 + ((steps % GRID) * GRID ** np.arange(3)).sum(-1))


def _group(stated: Mapping[str, Any]) -> str | None:
    """The name of the space group, without spaces; None where it is not stated."""
    found = next((text for key in NAMES for k in (key, f"{key}_") if (text := _text(stated, k))), None)
    return re.sub(r"[\s_]", "", found) if found else None


@lru_cache(maxsize=512)
def _order(name: str | None) -> int | None:
    """The number of operations in the cell of a group of this name in its standard setting; None if not known."""
    group = _known(name)
    return None if group is None else len(group.symmetry_ops)


@lru_cache(maxsize=512)
def _number_of(name: str) -> int | None:
    group = _known(name)
    return None if group is None else int(group.int_number)


@lru_cache(maxsize=64)
def _known(name: str | None) -> SpaceGroup | None:
    if name is None:
        return None
    try:
        return SpaceGroup(name)
    except ValueError:
        return None


def _amounts(formula: str) -> dict[str, float]:
    """Amounts by element; D and T are hydrogen. Raises RefusedError for what is no formula."""
    words = formula.replace("'", " ").split()
    amounts: dict[str, float] = {}
    try:
        if all(re.fullmatch(r"([A-Z][a-z]?[\d.]*)+", word, re.ASCII) for word in words):
            for symbol, amount in re.findall(r"([A-Z][a-z]?)([\d.]*)", " ".join(words)):
                element = element_of(symbol).symbol
                amounts[element] = amounts.get(element, 0) + float(amount or 1)
        else:
            amounts = dict(Composition("".join(words), strict=True).get_el_amt_dict())
    except (ValueError, KeyError, TypeError):
        raise unreadable(f"its own formula is not understood: {formula[:60]}") from None
    amounts = {element: amount for element, amount in amounts.items() if amount}
    if not amounts:
        raise unreadable(f"its own formula is not understood: {formula[:60]}")
    return amounts


def _of(structure: Structure) -> dict[str, float]:
    found: dict[str, float] = {}
    for composition in structure.species_and_occu:
        for element, amount in composition.items():
            symbol = element_of(element.symbol).symbol
            found[symbol] = found.get(symbol, 0) + float(amount)
    return found


def _units(amounts: Mapping[str, float]) -> set[float]:
    """The formula units in a cell of these amounts, as programs count them: of whole numbers, and pymatgen's."""
    if not all(float(amount).is_integer() for amount in amounts.values()):
        return set()
    _, factor = Composition(amounts).get_reduced_composition_and_factor()
    return {float(math.gcd(*(int(amount) for amount in amounts.values()))), float(factor)}


def _number(value: Any) -> float | None:
    try:
        number = float(re.sub(r"\(.*", "", value)) if isinstance(value, str) else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _text(stated: Mapping[str, Any], name: str) -> str | None:
    value = stated.get(name)
    found = value.strip().strip("'\"").strip() if isinstance(value, str) else ""
    return found if found not in ("", "?", ".") else None
