"""Verification: the best candidates go through a DFT code, or a force field, by atomate2's own makers.

`backends` are presets, each an ordered set of atomate2 makers; `abinit` and `cp2k` find what these two codes need where
they run; `calculation` runs one of the makers as one job whose failure is a document; `results` reads what it wrote;
`verify` makes the flows; `installed` tells what is there and what is not.
"""

from .backends import Backend, backend
from .calculation import CalculateMaker
from .verify import VerifyMaker, verify_screening

__all__ = ["Backend", "CalculateMaker", "VerifyMaker", "backend", "verify_screening"]
