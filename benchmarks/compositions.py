"""Compositions for benchmarks: as many different charge-balanced compounds as are asked for, always the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice, product
from math import gcd

CATIONS = {
    **dict.fromkeys(("Li", "Na", "K", "Rb", "Cs", "Ag", "Cu"), 1),
    **dict.fromkeys(("Mg", "Ca", "Sr", "Ba", "Zn", "Cd", "Mn", "Fe", "Co", "Ni", "Pb"), 2),
    **dict.fromkeys(("Al", "Ga", "In", "Sc", "Y", "La", "Cr", "Bi"), 3),
    **dict.fromkeys(("Ti", "Zr", "Hf", "Sn", "Ge", "Si"), 4),
}
ANIONS = {**dict.fromkeys(("O", "S", "Se", "Te"), 2), **dict.fromkeys(("F", "Cl", "Br", "I"), 1), "N": 3}
MAX_ATOMS = 20


def formulas(count: int) -> list[str]:
    """The first `count`, binary ones first, of at most 20 atoms. Raises ValueError if there are not so many."""
    found = list(islice((text for text in _all()), count))
    if len(found) < count:
        raise ValueError(f"there are {len(found)} compositions, not {count}")
    return found


def spread(count: int) -> list[str]:
    """So many of the first 2,000, evenly spread over them."""
    known = formulas(max(2000, count))
    return known[:: len(known) // count][:count]


def _all() -> Iterator[str]:
    for (cation, plus), (anion, minus) in product(CATIONS.items(), ANIONS.items()):
        shared = gcd(plus, minus)
        yield _text({cation: minus // shared, anion: plus // shared})
    for (first, one), (second, two) in combinations(CATIONS.items(), 2):
        for (anion, minus), (a, b) in product(ANIONS.items(), ((1, 1), (1, 2), (2, 1))):
            charge = a * one + b * two
            if charge % minus == 0 and a + b + charge // minus <= MAX_ATOMS:
                yield _text({first: a, second: b, anion: charge // minus})


def _text(amounts: dict[str, int]) -> str:
    return "".join(f"{element}{number if number > 1 else ''}" for element, number in amounts.items())
