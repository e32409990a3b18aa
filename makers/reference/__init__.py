"""Reference sets: the known phases that energies above hull are measured from.

A set is a file of ComputedEntries, the Materials Project, or the user's own verifications. Energies of different
functionals, codes, pseudopotentials or correction schemes have different zeros; what would mix them is refused.

`levels` reads what an entry says of how it was computed; `elements` takes oxidation states off; `sets` holds entries
that agree in their level; `entry_files`, `materials_project` and `sources` find them; `hull` puts a calculation beside
them.
"""

from .hull import hull_energy
from .levels import entry_of, functional_of
from .materials_project import PER_SYSTEM
from .sets import MP2020, ReferenceSet, ReferenceSetError
from .sources import reference_set

__all__ = [
    "MP2020",
    "PER_SYSTEM",
    "ReferenceSet",
    "ReferenceSetError",
    "entry_of",
    "functional_of",
    "hull_energy",
    "reference_set",
]
