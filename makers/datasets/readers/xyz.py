"""Extended XYZ: frames of atoms, whose comment lines hold their figures."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_flows.makers.science.chemistry import ISOTOPES

from .raw import WORDS, Raw
from .tables import FileSource
from .text_files import broken, open_text, reading, said

if TYPE_CHECKING:
    from ase import Atoms

# key=value of a comment line
PAIR = re.compile(
    r"""(?<!\S)["']?([^\s="']+)["']?\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|(\S+))"""
)  # key=value of a comment line


def arrays_of(atoms: Atoms) -> tuple[Any, Any, Any]:
    """Numbers, lattice (Å) and fractional coordinates. Raises ValueError for what is no ordered crystal."""
    if not atoms.pbc.all():
        raise ValueError("it is not periodic in three directions")
    occupancies = [*atoms.info.get("occupancy", ()), *np.ravel(atoms.arrays.get("occupancy", ()))]
    if atoms.info.get("occupancy") or any(value != 1 for value in occupancies):
        raise ValueError("sites are partially occupied")
    if not atoms.cell.rank == 3:
        raise ValueError("the cell has no volume")
    if not atoms.numbers.all():
        raise ValueError("it has sites of no element")
    lattice = np.asarray(atoms.cell.array)
    return atoms.numbers.tolist(), lattice.tolist(), (atoms.positions @ np.linalg.inv(lattice)).tolist()


class XyzSource(FileSource):
    """Extended XYZ with Lattice; what stands in the comment line as key=value are the figures of a row.

    The format's `energy` is a total energy, not one above hull, and is left alone.
    """

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Frames in their order. A frame that cannot be read is named; without a count of atoms the file ends there.

        Raises SourceError for a compressed file that is damaged or cut short.
        """
        with reading(self.path), open_text(self.path) as stream:
            position = -1
            for line in stream:
                count = line.strip()
                if not count:
                    continue
                position += 1
                if not (count.isascii() and count.isdecimal()):
                    told = f"{count[:40]!r} is no number of atoms: the file is not read from here on"
                    yield Raw(position, fault=told)
                    return
                frame = [line, *islice(stream, int(count) + 1)]
                if position < start:
                    continue
                if len(frame) < int(count) + 2:
                    yield Raw(position, fault=f"the file ends before its {int(count)} atoms do")
                    return
                yield self._frame(frame, position)

    def _frame(self, lines: list[str], position: int) -> Raw:
        from ase.io import read

        if broken("".join(lines)):
            return Raw(position, fault="it is no UTF-8 text")
        words = {found[1]: next(w for w in found.groups()[1:] if w is not None) for found in PAIR.finditer(lines[1])}
        try:
            text = "".join([*lines[:2], *_elements_of_isotopes(lines[2:], words.get("Properties", "species:S:1"))])
            atoms: Any = read(io.StringIO(text), format="extxyz")
            named = {name for column in WORDS for name in self.options.names(column)}
            named &= set(words) & set(atoms.info)
            record = {**atoms.info, **{name: words[name] for name in named}}  # ase turns 007 into 7
            values = self.options.values(record, self.properties)
        except Exception as error:  # ase raises all kinds
            return Raw(position, fault=f"not extended XYZ: {said(error)}")
        try:
            return Raw(position, "arrays", arrays_of(atoms), values)
        except ValueError as error:
            return Raw(position, values=values, fault=str(error))


def _elements_of_isotopes(lines: list[str], properties: str) -> list[str]:
    """The atoms with H for D and T, which ase does not know. properties: as in the comment line."""
    fields, column = properties.split(":"), 0
    for name, width in zip(fields[::3], fields[2::3], strict=False):
        if name == "species":
            break
        column += int(width)
    else:
        return lines
    found = []
    for line in lines:
        words = line.split()
        if column < len(words) and words[column] in ISOTOPES:
            line = " ".join([*words[:column], ISOTOPES[words[column]], *words[column + 1 :]]) + "\n"
        found.append(line)
    return found
