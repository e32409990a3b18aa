"""How well DAO did over many comparisons: errors of energies, ranking, structures, cost.

Only what is comparable goes in: one code and functional, one reference set, one correction scheme, one DAO-P. Figures
over many carry 95 % intervals: of shares Wilson's, of means from a bootstrap over compositions, whose candidates are
not independent of each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field
from pymatgen.core.composition import Composition
from scipy.stats import kendalltau, spearmanr

from dao_flows.errors import InputError
from dao_flows.makers.reference import PER_SYSTEM, functional_of

from .by_generator import SAME_ENERGY, GeneratorFigures, by_generator
from .estimates import Estimate, Spread, by_formula, mean_of, rmse_of, share
from .schemas import ComparisonDoc

SCHEMA_VERSION = 1
SAME_CUTOFF = 1e-4  # relative: codes round differently
NAMED = 3  # documents in a message

Quantity = Literal["energy_above_hull", "energy_per_atom"]


class ErrorFigures(BaseModel):
    """Errors in eV/atom, predicted minus verified. bias: their mean; mae, rmse: mean absolute and root mean square."""

    bias: Estimate
    mae: Estimate
    rmse: Estimate


class EnergyFigures(BaseModel):
    """Errors of the energy above hull. Where a figure is None, `unavailable` has its name and the reason.

    raw: without corrections on either side; corrected: with those of the scheme on both; after_offset: what the better
    of the two leaves after an offset for each element, fitted by least squares to the same documents; relative: within
    compositions, after each one's mean is taken off (needs no hull).
    """

    raw: ErrorFigures | None = None
    corrected: ErrorFigures | None = None
    after_offset: ErrorFigures | None = None
    relative: ErrorFigures | None = None
    offsets: dict[str, float] = Field(default_factory=dict, description="element -> offset taken off, eV/atom")
    unavailable: dict[str, str] = Field(default_factory=dict)


class CompositionRanking(BaseModel):
    """DAO's order of the verified candidates of one composition against the verified order.

    candidates: ids in DAO's order; first_choice_agrees: DAO's first of these is the verified first, or within
    1 meV/atom of it; first_choice_excess: how far it lies above, eV/atom. Verified energies within 1 meV/atom of the
    next count as equal; correlations are None where all are.
    """

    formula: str
    quantity: Quantity
    candidates: list[str]
    spearman: float | None
    kendall: float | None
    first_choice_agrees: bool
    first_choice_excess: float


class RankingFigures(BaseModel):
    """Over compositions with at least two verified candidates."""

    compositions: list[CompositionRanking]
    spearman: Estimate | None
    kendall: Estimate | None
    first_choice_agrees: Estimate | None


class StructureFigures(BaseModel):
    """What relaxation left of predicted structures. rmse: of those that match; volume_change: relative, absolute."""

    matches: Estimate
    rmse: Estimate | None
    space_groups_kept: Estimate
    volume_change: Estimate


class ElementFigures(BaseModel):
    """Errors of the compounds that hold an element, eV/atom, as in the best of EnergyFigures' without offset."""

    element: str
    n: int
    bias: float
    mae: float


class CostFigures(BaseModel):
    """Times in s, and two ratios, each candidate's own. Wall time of prediction is on whatever device it ran on.

    per_candidate_ratio: core time of verification over wall time of prediction, end to end; per_step_ratio: core time
    of one ionic step of DFT over wall time of one step of the sampler.
    """

    prediction_seconds: Spread | None
    verification_core_seconds: Spread
    sampling_step_seconds: Spread | None
    dft_iteration_core_seconds: Spread | None
    per_candidate_ratio: Spread | None
    per_step_ratio: Spread | None


class ComparisonFigures(BaseModel):
    """Figures over comparisons that may be put together. reference, scheme: None without a hull."""

    schema_version: int = SCHEMA_VERSION
    comparisons: int
    compositions: int
    comparison_ids: list[str]
    code: str
    functional: str
    reference: str | None
    reference_sha256: str | None = Field(description="None where each chemical system has its own part of the set")
    scheme: str | None
    scheme_version: str | None
    predictor: str
    predictor_name: str | None
    energy: EnergyFigures
    ranking: RankingFigures
    structure: StructureFigures
    by_element: list[ElementFigures]
    cost: CostFigures
    by_generator: list[GeneratorFigures] = Field(default_factory=list)


def comparison_figures(comparisons: Sequence[ComparisonDoc]) -> ComparisonFigures:
    """Figures over these comparisons, in whatever order. Raises InputError if they cannot be put together."""
    check_comparable(comparisons)
    docs = sorted(comparisons, key=lambda doc: doc.comparison_id)
    with_hull = [doc for doc in docs if doc.energy_above_hull is not None]
    shas = {doc.reference_sha256 for doc in with_hull}
    any_hull = with_hull[0] if with_hull else None
    return ComparisonFigures(
        comparisons=len(docs),
        compositions=len({doc.formula for doc in docs}),
        comparison_ids=[doc.comparison_id for doc in docs],
        code=docs[0].level.code,
        functional=docs[0].level.functional,
        reference=any_hull.reference if any_hull else None,
        reference_sha256=shas.pop() if len(shas) == 1 else None,
        scheme=any_hull.scheme if any_hull else None,
        scheme_version=any_hull.scheme_version if any_hull else None,
        predictor=docs[0].predictor,
        predictor_name=docs[0].predictor_name,
        energy=_energies(docs),
        ranking=_rankings(docs),
        structure=_structures(docs),
        by_element=_elements(with_hull),
        cost=_costs(docs),
        by_generator=by_generator(docs),
    )


def check_comparable(comparisons: Sequence[ComparisonDoc]) -> None:
    """Raises InputError, naming documents of each kind, if these must not stand in one set of figures.

    Across compositions: code, functional, DAO-P, reference set and correction scheme (of those with a hull), and of
    each element the pseudopotential. Within a composition also Hubbard's U and cut-off, for there energies
    are subtracted.
    """
    if not comparisons:
        raise InputError("nothing to compare: no successful verification is among these")
    _agree(comparisons, "code", lambda doc: doc.level.code, "--backend chooses one")
    _agree(comparisons, "functional", lambda doc: functional_of(doc.level.functional), "--backend chooses one")
    _agree(comparisons, "DAO-P", lambda doc: doc.predictor[:12], "--predictor chooses one")
    hulls = [doc for doc in comparisons if doc.energy_above_hull is not None]
    one_set = "--reference puts all on one set"
    _agree(hulls, "reference set", _reference, one_set)
    for system in {doc.chemsys for doc in hulls}:
        own = [doc for doc in hulls if doc.chemsys == system]
        _agree(own, "reference set", lambda doc: (doc.reference_sha256 or "unknown")[:12], one_set)
    _agree(hulls, "correction scheme", lambda doc: f"{doc.scheme} {doc.scheme_version or ''}".strip(), one_set)
    for element in sorted({element for doc in comparisons for element in doc.level.pseudopotentials}):
        own = [doc for doc in comparisons if element in doc.level.pseudopotentials]
        what = f"pseudopotential of {element}"
        _agree(own, what, lambda doc, e=element: doc.level.pseudopotentials[e], "--composition chooses")  # type: ignore[misc]
    for formula, group in by_formula(comparisons).items():
        _agree(group, f"Hubbard U ({formula})", lambda doc: str(doc.level.hubbard_u), "verify them at one level")
        cutoffs = [doc.level.cutoff for doc in group if doc.level.cutoff is not None]
        if cutoffs and max(cutoffs) - min(cutoffs) > SAME_CUTOFF * max(cutoffs):
            _agree(
                group, f"cut-off ({formula})", lambda doc: f"{doc.level.cutoff or 0:.1f} eV", "verify them at one level"
            )


def _reference(doc: ComparisonDoc) -> str:
    """What tells a reference set: its content, or where each chemical system has its own part, its name."""
    name, sha256 = doc.reference or "", (doc.reference_sha256 or "unknown")[:12]
    return name if name.startswith(PER_SYSTEM) else f"{name} {sha256}".strip()


def _agree(docs: Sequence[ComparisonDoc], what: str, value: Callable[[ComparisonDoc], str], remedy: str) -> None:
    kinds: dict[str, list[str]] = defaultdict(list)
    for doc in docs:
        kinds[value(doc)].append(doc.comparison_id)
    if len(kinds) > 1:
        listed = "; ".join(f"{kind} in {_some(sorted(ids))}" for kind, ids in sorted(kinds.items()))
        raise InputError(f"these comparisons cannot be put together, they differ in {what}: {listed}; {remedy}")


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + more


def _energies(docs: Sequence[ComparisonDoc]) -> EnergyFigures:
    found = EnergyFigures()
    raw = [doc for doc in docs if doc.raw_energy_above_hull is not None]
    if raw:
        errors = [doc.predicted_energy_above_hull - _given(doc.raw_energy_above_hull) for doc in raw]
        found.raw = _errors(errors, [doc.formula for doc in raw])
    else:
        found.unavailable["raw"] = "no hull: verify or compare with --reference"
    hulls = [doc for doc in docs if doc.energy_error is not None]
    scheme = hulls[0].scheme if hulls else None
    if scheme not in (None, "none"):
        found.corrected = _errors([_given(doc.energy_error) for doc in hulls], [doc.formula for doc in hulls])
    else:
        found.unavailable["corrected"] = (
            "no hull" if not hulls else "no correction scheme applies to these calculations"
        )
    reason = _fit_offsets(hulls, found)
    if reason is not None:
        found.unavailable["after_offset"] = reason
    groups = [group for group in by_formula(docs).values() if len(group) > 1]
    if groups:
        relative: list[float] = []
        for group in groups:
            _, verified = _verified(group)
            errors_ = np.array([doc.predicted_energy_above_hull for doc in group]) - verified
            relative += list(errors_ - errors_.mean())
        found.relative = _errors(relative, [doc.formula for group in groups for doc in group])
    else:
        found.unavailable["relative"] = "no composition has two verified candidates"
    return found


def _fit_offsets(docs: Sequence[ComparisonDoc], found: EnergyFigures) -> str | None:
    """Fill in what is left after an offset for each element; the reason, if that cannot be told."""
    if not docs:
        return "no hull"
    compositions = {doc.formula: Composition(doc.formula) for doc in docs}
    elements = sorted({element.symbol for composition in compositions.values() for element in composition.elements})
    if len(compositions) <= len(elements):
        return f"offsets of elements ({len(elements)}) need more compositions than that ({len(compositions)} here)"
    shares = np.array([[compositions[doc.formula].get_atomic_fraction(e) for e in elements] for doc in docs])
    if np.linalg.matrix_rank(shares) < len(elements):
        return f"these compositions do not tell the offsets of {', '.join(elements)} apart"
    errors = np.array([_given(doc.energy_error) for doc in docs])
    offsets = np.linalg.lstsq(shares, errors, rcond=None)[0]
    found.offsets = {element: float(offset) for element, offset in zip(elements, offsets, strict=True)}
    found.after_offset = _errors(errors - shares @ offsets, [doc.formula for doc in docs])
    return None


def _errors(values: Sequence[float] | np.ndarray, groups: Sequence[Hashable]) -> ErrorFigures:
    errors = np.asarray(values, dtype=float)
    square = mean_of(errors**2, groups)
    rmse = {name: None if v is None else float(np.sqrt(v)) for name, v in square.model_dump(exclude={"n"}).items()}
    return ErrorFigures(
        bias=mean_of(errors, groups),
        mae=mean_of(abs(errors), groups),
        rmse=Estimate.model_validate({"n": square.n, **rmse}),
    )


def _verified(group: Sequence[ComparisonDoc]) -> tuple[Quantity, np.ndarray]:
    """Verified energies of one composition, eV/atom: above hull where all have one, else raw, a constant apart."""
    hulls = [doc.energy_above_hull for doc in group]
    if None not in hulls:
        return "energy_above_hull", np.array(hulls, dtype=float)
    return "energy_per_atom", np.array([doc.energy_per_atom for doc in group])


def _rankings(docs: Sequence[ComparisonDoc]) -> RankingFigures:
    groups = {formula: group for formula, group in sorted(by_formula(docs).items()) if len(group) > 1}
    ranked = [_ranking(formula, group) for formula, group in groups.items()]

    def mean(values: list[float | None]) -> Estimate | None:
        known = [value for value in values if value is not None]
        return mean_of(known, range(len(known))) if known else None

    return RankingFigures(
        compositions=ranked,
        spearman=mean([each.spearman for each in ranked]),
        kendall=mean([each.kendall for each in ranked]),
        first_choice_agrees=share([each.first_choice_agrees for each in ranked]) if ranked else None,
    )


def _ranking(formula: str, group: Sequence[ComparisonDoc]) -> CompositionRanking:
    ordered = sorted(group, key=lambda doc: (doc.predicted_energy_above_hull, doc.rank, doc.comparison_id))
    predicted = np.array([doc.predicted_energy_above_hull for doc in ordered])
    quantity, verified = _verified(ordered)
    ranks = _tied(verified)
    told_apart = len(set(predicted)) > 1 and len(set(ranks)) > 1
    excess = float(verified[0] - verified.min())
    return CompositionRanking(
        formula=formula,
        quantity=quantity,
        candidates=[doc.candidate_id for doc in ordered],
        spearman=float(spearmanr(predicted, ranks).statistic) if told_apart else None,
        kendall=float(kendalltau(predicted, ranks).statistic) if told_apart else None,
        first_choice_agrees=excess <= SAME_ENERGY,
        first_choice_excess=excess,
    )


def _tied(energies: np.ndarray) -> np.ndarray:
    """Ranks (n,) from 0; energies closer than 1 meV/atom to the next lower one share its rank."""
    order = np.argsort(energies, kind="stable")
    steps = np.diff(energies[order]) > SAME_ENERGY
    ranks = np.empty(len(energies), dtype=int)
    ranks[order] = np.concatenate([[0], np.cumsum(steps)])
    return ranks


def _structures(docs: Sequence[ComparisonDoc]) -> StructureFigures:
    changes = [doc.structure_change for doc in docs]
    return StructureFigures(
        matches=share([change.matches for change in changes]),
        rmse=rmse_of(docs),
        space_groups_kept=share([change.space_group_kept for change in changes]),
        volume_change=mean_of([abs(change.volume_ratio - 1) for change in changes], [doc.formula for doc in docs]),
    )


def _elements(docs: Sequence[ComparisonDoc]) -> list[ElementFigures]:
    errors: dict[str, list[float]] = defaultdict(list)
    for doc in docs:
        for element in doc.chemsys.split("-"):
            errors[element].append(_given(doc.energy_error))
    return [
        ElementFigures(element=element, n=len(own), bias=float(np.mean(own)), mae=float(np.mean(np.abs(own))))
        for element, own in sorted(errors.items())
    ]


def _costs(docs: Sequence[ComparisonDoc]) -> CostFigures:
    def spread(values: Sequence[float | None]) -> Spread | None:
        known = np.array([value for value in values if value is not None])
        if not len(known):
            return None
        return Spread(median=float(np.median(known)), smallest=known.min(), largest=known.max(), n=len(known))

    def ratio(above: float | None, below: float | None) -> float | None:
        return above / below if above is not None and below else None

    costs = [doc.cost for doc in docs]
    verification = spread([cost.verification_core_seconds for cost in costs])
    assert verification is not None
    return CostFigures(
        prediction_seconds=spread([cost.prediction_seconds for cost in costs]),
        verification_core_seconds=verification,
        sampling_step_seconds=spread([cost.sampling_step_seconds for cost in costs]),
        dft_iteration_core_seconds=spread([cost.dft_iteration_core_seconds for cost in costs]),
        per_candidate_ratio=spread([ratio(c.verification_core_seconds, c.prediction_seconds) for c in costs]),
        per_step_ratio=spread([ratio(c.dft_iteration_core_seconds, c.sampling_step_seconds) for c in costs]),
    )


def _given(value: float | None) -> float:
    assert value is not None
    return value
