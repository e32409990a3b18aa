"""What draws crystals: DAO-G, templates, and generators of installed packages, all by one protocol and by name.

A package adds a generator as an entry point of the group `dao_flows.generators`, whose value is called without
arguments and returns a `Generator` of the entry point's name: `mine = "my_package:MyGenerator"`. It is asked what it is
wherever a prediction is planned, so that weights are better loaded when crystals are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from dao_flows.model.crystals import Crystal
    from dao_flows.model.sampling.requests import Request

GROUP = "dao_flows.generators"
DAO_G, TEMPLATES = "dao-g", "templates"  # ours
HELP = f"{DAO_G}, {TEMPLATES} (known crystals alone), or a generator of an installed package."

Progress = Callable[[int, int], None]  # is told how much is done of how much


@runtime_checkable
class Generator(Protocol):
    """Draws crystals of the atoms that it is asked for."""

    @property
    def name(self) -> str:
        """As users call it."""

    @property
    def sha256(self) -> str:
        """Identity: over all that decides what is drawn beside requests and seed: weights, settings, code."""

    @property
    def elements(self) -> Collection[int]:
        """Atomic numbers that it knows."""

    @property
    def max_atoms(self) -> int:
        """Of its largest cell."""

    @property
    def reproducible(self) -> bool:
        """Whether the same request and seed give the same crystal, bit for bit, in any batch on the same machine."""

    def sample(
        self, requests: Sequence[Request], seed: int, device: str, progress: Progress
    ) -> Sequence[Crystal | None]:
        """A crystal (Å) for each request, or None where there is none, in their order.

        requests: atomic numbers of a cell, and a key (formula, Z, number of the draw) that names its random stream.
        device: as torch names it.
        """
