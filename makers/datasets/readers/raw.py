"""What a source yields: crystals as they were found, with the figures that stand beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dao_flows.model.errors import DaoError

# names under which the figures of a row are found; energies in eV/atom
ALIASES = {
    "material_id": ("material_id", "id", "mp_id"),
    "source": ("source",),
    "formation_energy_per_atom": ("formation_energy_per_atom",),
    "e_above_hull": ("e_above_hull", "energy_above_hull"),
    "e_above_hull_kind": ("e_above_hull_kind",),
    "split": ("split",),
}

WORDS = ("material_id", "source", "e_above_hull_kind", "split")  # the columns that are words

Kind = Literal["arrays", "sites", "cif", "poscar", "structure"]


class SourceError(DaoError):
    """A source cannot be used, or a dataset cannot be built of it; the message says what to do."""


@dataclass(frozen=True)
class Raw:
    """One crystal of a source, not looked at yet.

    position: its number in the source, from 0, always growing. crystal, by kind: 'arrays': (numbers, lattice, frac);
    'sites': (symbols, lattice, Cartesian coordinates); 'cif', 'poscar': text; 'structure': pymatgen's dictionary.
    values: columns of a dataset as the source writes them. fault: why there is no crystal.
    """

    position: int
    kind: Kind = "arrays"
    crystal: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None

    @property
    def material_id(self) -> str | None:
        """The id that the source gives it."""
        return text(self.values, "material_id")


def text(values: Mapping[str, Any], name: str) -> str | None:
    """A word of a row, as the source writes it; None where there is none."""
    given = values.get(name)
    if given is None or given != given:  # NaN, as pandas writes a missing word
        return None
    if isinstance(given, float) and given.is_integer():
        given = int(given)  # pandas makes 7.0 of 7 where others are missing
    return str(given).strip() or None


@dataclass(frozen=True)
class Options:
    """What stands behind the ? of a source.

    name, licence, split: for all of its rows; columns: column of a dataset → what the source calls it; own: options of
    its kind.
    """

    name: str | None = None
    licence: str | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)

    def names(self, column: str) -> tuple[str, ...]:
        """What a source may call a column of a dataset."""
        return (self.columns[column],) if column in self.columns else ALIASES.get(column, (column,))

    def values(self, record: Mapping[str, Any], properties: Sequence[str]) -> dict[str, Any]:
        """The columns of a dataset that a source's record has."""
        found: dict[str, Any] = {}
        for column in [*ALIASES, *properties]:
            for name in self.names(column):
                if name in record and record[name] is not None:
                    found[column] = record[name]
                    break
        return found


class Source(Protocol):
    """Where crystals come from."""

    @property
    def location(self) -> str:
        """Where it is, without credentials."""

    @property
    def name(self) -> str:
        """What its rows call it."""

    @property
    def licence(self) -> str | None:
        """Under which its rows may be used, where that is documented."""

    def identity(self) -> dict[str, Any]:
        """What tells its content apart: sha256 of a file, filter of a query."""

    def total(self) -> int | None:
        """Rows that it has, if that is known without reading it."""

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Its rows from this position on, in an order that stays, holding few at a time."""
