"""DAO-P as a calculator of ASE: energies above hull, and their slopes by the gradient of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoints import load_model

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from dao_flows.model.dao_p import DaoP


@dataclass(frozen=True)
class OfCheckpoint:
    """A DAO-P checkpoint by name, path or sha256. version: sha256 of its weights."""

    name: str
    version: str

    zero = "hull"

    @classmethod
    def find(cls, name: str) -> OfCheckpoint | None:
        """The checkpoint, if it is there and a DAO-P."""
        from dao_flows.model.checkpoint.format import CheckpointError
        from dao_flows.model.checkpoint.library import card_of

        try:
            card = card_of(name)
        except CheckpointError:
            return None
        return cls(name, card.sha256) if card.kind == "dao-p" else None

    def calculator(self, device: str) -> Calculator:
        """The network, loaded."""
        return dao_p_calculator(load_model(self.name, "dao-p", device)[0])


def dao_p_calculator(model: DaoP) -> Calculator:
    """A calculator whose energy is the energy above hull of the whole cell (eV), with forces and stress.

    At fixed composition it differs from the total energy by a constant, so its slopes are forces (eV/Å) and a stress
    (eV/Å³).
    """
    import torch
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress

    from dao_flows.model.crystals import Crystal, Crystals

    like = next(model.parameters())

    class DaoPCalculator(Calculator):
        implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  # as ASE has it

        def calculate(
            self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes
        ) -> None:
            super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
            held: Any = self.atoms
            numbers, lattice = np.array(held.numbers), np.array(held.cell)
            crystals = Crystals.collate([Crystal(numbers, held.get_scaled_positions(), lattice)], like.dtype)
            crystals = crystals.to(like.device)
            frac, cell = crystals.frac.requires_grad_(), crystals.lattice.requires_grad_()
            energy = len(numbers) * model.energy_above_hull(crystals.with_geometry(frac, cell)).sum()
            by_frac, by_cell = (each[0].double().cpu().numpy() for each in torch.autograd.grad(energy, (frac, cell)))
            strain = lattice.T @ by_cell  # (3, 3): dE/dε
            stress = (strain + strain.T) / 2 / held.get_volume()
            self.results = {
                "energy": float(energy),
                "free_energy": float(energy),
                "forces": -by_frac[: len(numbers)] @ np.linalg.inv(lattice).T,
                "stress": full_3x3_to_voigt_6_stress(stress),  # type: ignore[no-untyped-call]
            }

    return DaoPCalculator()  # type: ignore[no-untyped-call]
