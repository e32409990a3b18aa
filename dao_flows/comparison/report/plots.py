"""The plots of a report, as plotly's own dictionaries; `customdata` is a comparison's place in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dao_flows.comparison.figures import ComparisonFigures
from dao_flows.comparison.schemas import ComparisonDoc

from .text import formula_html

MOST_RANKED = 12  # compositions whose order is drawn
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")  # Paul Tol's bright scheme

Plot = dict[str, Any]


def parity(comparisons: Sequence[ComparisonDoc], figures: ComparisonFigures) -> Plot | None:
    """Predicted against verified: energies above hull, or without one above the lowest of the composition."""
    groups = _groups(comparisons)
    hull = figures.reference is not None
    traces: list[dict[str, Any]] = []
    for formula, places in groups.items():
        if hull:
            own = [place for place in places if comparisons[place].energy_above_hull is not None]
            verified = np.array([comparisons[place].energy_above_hull for place in own], dtype=float)
            predicted = np.array([comparisons[place].predicted_energy_above_hull for place in own])
        else:
            own = places if len(places) > 1 else []
            verified = np.array([comparisons[place].energy_per_atom for place in own])
            predicted = np.array([comparisons[place].predicted_energy_above_hull for place in own])
            if own:
                verified, predicted = verified - verified.min(), predicted - predicted.min()
        if own:
            traces.append(_points(formula, verified, predicted, own, comparisons, len(traces)))
    if not traces:
        return None
    values = [value for trace in traces for value in (*trace["x"], *trace["y"])]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.01
    ends = [low - margin, high + margin]
    line = {"x": ends, "y": ends, "mode": "lines", "line": {"dash": "dot", "color": "#888"}, "hoverinfo": "skip"}
    what = "energy above hull" if hull else "energy above the lowest of the composition"
    return {
        "title": f"Predicted against verified {what}",
        "data": [{**line, "showlegend": False}, *traces],
        "layout": _axes("verified (eV/atom)", "predicted (eV/atom)", ends),
    }


def ranks(comparisons: Sequence[ComparisonDoc], figures: ComparisonFigures) -> Plot | None:
    """DAO's order and the verified one of each composition, a line a candidate."""
    drawn = sorted(figures.ranking.compositions, key=lambda entry: -len(entry.candidates))[:MOST_RANKED]
    if not drawn:
        return None
    place_of = {comparison.candidate_id: place for place, comparison in enumerate(comparisons)}
    traces: list[dict[str, Any]] = []
    for column, entry in enumerate(drawn):
        own = [place_of[candidate] for candidate in entry.candidates]
        energies = [
            comparisons[p].energy_above_hull
            if entry.quantity == "energy_above_hull"
            else comparisons[p].energy_per_atom
            for p in own
        ]
        verified = np.argsort(np.argsort(np.array(energies, dtype=float), kind="stable"), kind="stable") + 1
        for order, (place, rank) in enumerate(zip(own, verified.tolist(), strict=True), 1):
            traces.append(
                {
                    "x": [2 * column, 2 * column + 1],
                    "y": [order, rank],
                    "customdata": [place, place],
                    "mode": "lines+markers",
                    "marker": {"size": 10},
                    "line": {"color": COLOURS[(order - 1) % len(COLOURS)]},
                    "name": comparisons[place].candidate_id,
                    "showlegend": False,
                    "hovertemplate": f"{comparisons[place].candidate_id}<extra></extra>",
                }
            )
    ticks = [place for column in range(len(drawn)) for place in (2 * column, 2 * column + 1)]
    names = [f"{formula_html(entry.formula)}<br>{end}" for entry in drawn for end in ("DAO", "verified")]
    layout = _axes("", "rank, 1 is the lowest energy", None)
    layout["xaxis"] |= {"tickvals": ticks, "ticktext": names, "range": [-0.5, 2 * len(drawn) - 0.5]}
    layout["yaxis"] |= {"autorange": "reversed", "dtick": 1}
    return {"title": "DAO's order against the verified one", "data": traces, "layout": layout}


def elements(figures: ComparisonFigures) -> Plot | None:
    """Mean absolute error and bias by element."""
    if not figures.by_element:
        return None
    names = [f"{entry.element}<br>n = {entry.n}" for entry in figures.by_element]
    bars = [
        {
            "type": "bar",
            "x": names,
            "y": [getattr(entry, key) for entry in figures.by_element],
            "name": label,
            "marker": {"color": colour},
            "hovertemplate": "%{y:.3f} eV/atom<extra></extra>",
        }
        for key, label, colour in (("mae", "mean absolute error", COLOURS[0]), ("bias", "bias", COLOURS[1]))
    ]
    return {
        "title": "Error of the energy above hull by element",
        "data": bars,
        "layout": _axes("", "predicted − verified (eV/atom)", None),
    }


def cost(comparisons: Sequence[ComparisonDoc]) -> Plot | None:
    """What a candidate took end to end: core time of its verification against wall time of its prediction."""
    traces: list[dict[str, Any]] = []
    for formula, places in _groups(comparisons).items():
        own = [place for place in places if comparisons[place].cost.prediction_seconds]
        if own:
            x = np.array([comparisons[place].cost.prediction_seconds for place in own], dtype=float)
            y = np.array([comparisons[place].cost.verification_core_seconds for place in own])
            traces.append(_points(formula, x, y, own, comparisons, len(traces)))
    if not traces:
        return None
    layout = _axes("prediction of a candidate (wall s)", "verification of it (core s)", None)
    layout["xaxis"]["type"] = layout["yaxis"]["type"] = "log"
    return {"title": "Cost of a candidate, end to end", "data": traces, "layout": layout}


def _groups(comparisons: Sequence[ComparisonDoc]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for place, comparison in enumerate(comparisons):
        groups.setdefault(comparison.formula, []).append(place)
    return groups


def _points(
    formula: str,
    x: np.ndarray,
    y: np.ndarray,
    places: list[int],
    comparisons: Sequence[ComparisonDoc],
    number: int,
) -> dict[str, Any]:
    return {
        "x": np.round(x, 6).tolist(),
        "y": np.round(y, 6).tolist(),
        "customdata": places,
        "text": [comparisons[place].candidate_id for place in places],
        "mode": "markers",
        "marker": {"size": 11, "color": COLOURS[number % len(COLOURS)], "line": {"width": 1, "color": "#444"}},
        "name": formula_html(formula),
        "hovertemplate": "%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
    }


def _axes(x: str, y: str, ends: list[float] | None) -> dict[str, Any]:
    layout: dict[str, Any] = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    if ends is not None:
        layout["xaxis"]["range"] = layout["yaxis"]["range"] = ends
    return layout
