"""`python -m dao_flows.testing.generator NAME`: whether a generator does what a prediction asks of it."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dao_flows.makers.generators.dao_g import dao_generators
from dao_flows.makers.generators.generator import DAO_G, TEMPLATES, Generator
from dao_flows.makers.generators.registry import installed
from dao_flows.makers.generators.settings import SamplerSettings
from dao_flows.makers.generators.templates import TemplateGenerator
from dao_flows.makers.science.chemistry import atomic_numbers, formula_key
from dao_flows.settings import settings

from .checks import Check, main

if TYPE_CHECKING:
    from dao_flows.model.crystals import Crystal
    from dao_flows.model.sampling.requests import Request

FORMULAS = ("Si", "NaCl", "TiO2", "Cu3Au")  # those that a generator covers are drawn
UNITS, DRAWS = (1, 2), 2  # of each: Z, and draws of each Z
ALONE = 5  # every so many requests, one is drawn in a batch of its own
LARGEST_ELEMENT = 118
THINNEST = 1e-3  # Å³ an atom: less is no cell


def opened(name: str) -> Generator:
    """The generator of this name; ours with what the settings name.

    Raises ParameterError where there is none, CheckpointError and DataError.
    """
    from dao_flows.model.templates.places import open_library

    if name == DAO_G:
        return dao_generators(settings().checkpoint, SamplerSettings())[0]
    if name == TEMPLATES:
        return TemplateGenerator(open_library(settings().library))
    return installed(name)


def conformance(name: str, device: str = "cpu") -> Iterator[Check]:
    """All checks of a generator, one after another. Raises ParameterError where it cannot be opened."""
    generator = opened(name)
    yield Check("its identity is a sha256", _identity(generator, opened(name)))
    yield Check("it covers elements and cells", _coverage(generator))
    requests = _requests(generator)
    if not requests:
        yield Check("there is something to draw", f"it covers none of {', '.join(FORMULAS)}")
        return
    before = np.random.get_state(legacy=False)["state"]  # the stream that all code shares
    told: list[tuple[int, int]] = []
    drawn = list(generator.sample(requests, 1, device, lambda done, total: told.append((done, total))))
    yield Check("it gives a crystal, or None, for each request in their order", wrong := _answers(requests, drawn))
    if wrong:
        return
    yield Check("its crystals are finite cells with a volume", _cells(drawn))
    yield Check("it tells how far it is", _progress(told))
    after = np.random.get_state(legacy=False)["state"]
    untouched = all(np.array_equal(before[key], after[key]) for key in before)
    yield Check("it leaves numpy's shared random stream alone", None if untouched else "it drew from it, or seeded it")
    if not generator.reproducible:
        return
    again = list(_sample(generator, requests, 1, device))
    yield Check("the same seed gives the same crystals", _same(drawn, again))
    order = list(reversed(range(len(requests))))
    turned = list(_sample(generator, [requests[i] for i in order], 1, device))
    yield Check("they do not depend on the order", _same([drawn[i] for i in order], turned))
    few = range(0, len(requests), ALONE)
    alone = [crystal for i in few for crystal in _sample(generator, [requests[i]], 1, device)]
    yield Check("they do not depend on the batch", _same([drawn[i] for i in few], alone))
    other = list(_sample(generator, requests, 2, device))
    if _same(drawn, other) is None:  # nothing in it is random
        return
    yield Check("draws of one cell differ", _varied(requests, drawn))


def _requests(generator: Generator) -> list[Request]:
    """Draws of simple compositions that it covers."""
    from dao_flows.model.sampling.requests import Request

    cells = [(formula, z, np.array(atomic_numbers(formula, z))) for formula in FORMULAS for z in UNITS]
    known = [
        (formula, z, numbers)
        for formula, z, numbers in cells
        if set(numbers.tolist()) <= set(generator.elements) and len(numbers) <= generator.max_atoms
    ]
    return [Request(numbers, (formula_key(formula), z, k)) for formula, z, numbers in known for k in range(DRAWS)]


def _sample(generator: Generator, requests: Sequence[Request], seed: int, device: str) -> Sequence[Crystal | None]:
    return generator.sample(requests, seed, device, lambda done, total: None)


def _identity(generator: Generator, again: Generator) -> str | None:
    if not re.fullmatch("[0-9a-f]{64}", generator.sha256):
        return "it is not 64 hexadecimal digits"
    return None if generator.sha256 == again.sha256 else "it is another each time"


def _coverage(generator: Generator) -> str | None:
    wrong = [each for each in generator.elements if not 1 <= each <= LARGEST_ELEMENT]
    if wrong:
        return f"{wrong[0]} is no atomic number"
    return None if generator.max_atoms >= 1 and generator.elements else "it covers nothing"


def _answers(requests: Sequence[Request], drawn: Sequence[Crystal | None]) -> str | None:
    if len(drawn) != len(requests):
        return f"{len(drawn)} for {len(requests)} requests"
    for request, crystal in zip(requests, drawn, strict=True):
        if crystal is not None and Counter(crystal.numbers.tolist()) != Counter(request.numbers.tolist()):
            return f"{crystal.numbers.tolist()} for {request.numbers.tolist()}"
    return "it gives no crystal at all" if all(crystal is None for crystal in drawn) else None


def _cells(drawn: Sequence[Crystal | None]) -> str | None:
    for crystal in drawn:
        if crystal is None:
            continue
        n = len(crystal.numbers)
        if np.shape(crystal.frac) != (n, 3) or np.shape(crystal.lattice) != (3, 3):
            return f"coordinates {np.shape(crystal.frac)} and lattice {np.shape(crystal.lattice)} for {n} atoms"
        if not (np.isfinite(crystal.frac).all() and np.isfinite(crystal.lattice).all()):
            return "one is not finite"
        if abs(np.linalg.det(crystal.lattice)) < THINNEST * n:
            return "one has no volume"
    return None


def _progress(told: Sequence[tuple[int, int]]) -> str | None:
    if not told:
        return "progress was never called"
    if any(not 0 <= done <= total for done, total in told):
        return "more is done than there is"
    return None if [done for done, _ in told] == sorted(done for done, _ in told) else "it goes back"


def _same(one: Sequence[Crystal | None], other: Sequence[Crystal | None]) -> str | None:
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        if (a is None) != (b is None):
            return f"crystal {number} is there once, and once it is not"
        if a is None or b is None:
            continue
        if not (np.array_equal(a.frac, b.frac) and np.array_equal(a.lattice, b.lattice)):
            return f"crystal {number} is another one"
    return None


def _varied(requests: Sequence[Request], drawn: Sequence[Crystal | None]) -> str | None:
    first: dict[tuple[int, ...], Crystal] = {}
    for request, crystal in zip(requests, drawn, strict=True):
        if crystal is None:
            continue
        before = first.setdefault(request.key[:2], crystal)
        if before is not crystal and _same([before], [crystal]) is None:
            return "two of one seed are the same: the number of the draw stands in the request's key"
    return None


if __name__ == "__main__":
    sys.exit(main(conformance, "a generator"))
