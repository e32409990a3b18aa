"""The page: everything in one file, which opens without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from dao_flows.comparison.figures import ComparisonFigures
from dao_flows.comparison.schemas import ComparisonDoc
from dao_flows.makers.machine.whole_files import write_whole
from dao_flows.pages.page import render

from . import plots
from .scene import in_one_setting, scene
from .text import generator_row, headline, level, row

HEADS = (
    *("formula", "candidate", "DAO's rank", "predicted E_hull", "verified E_hull", "energy", "RMSE"),
    *("volume", "space group", "core s", "from"),
)
GENERATOR_HEADS = (
    *("generator", "candidates", "compositions", "lowest of its composition", "still match", "RMSE"),
    "verified E_hull",
)


def write_report(path: Path, comparisons: Sequence[ComparisonDoc], figures: ComparisonFigures) -> None:
    """Write the page, whole or not at all."""
    write_whole(path, page(comparisons, figures))


def page(comparisons: Sequence[ComparisonDoc], figures: ComparisonFigures) -> str:
    """The report as one page of HTML."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    drawn = {
        "parity": plots.parity(comparisons, figures),
        "ranks": plots.ranks(comparisons, figures),
        "elements": plots.elements(figures),
        "cost": plots.cost(comparisons),
    }
    data = {
        "plots": {name: plot for name, plot in drawn.items() if plot is not None},
        "documents": [json.loads(comparison.model_dump_json()) for comparison in comparisons],
        "scenes": [list(map(scene, in_one_setting(c.predicted_structure, c.verified_structure))) for c in comparisons],
        "figures": json.loads(figures.model_dump_json()),
    }
    return render(
        __package__,
        f"DAO against {level(figures)}",
        data,
        headline=list(headline(figures)),
        plots=[(name, plot["title"]) for name, plot in data["plots"].items()],
        level=level(figures),
        generators=[generator_row(each) for each in figures.by_generator],
        generator_heads=GENERATOR_HEADS,
        heads=HEADS,
        rows=[(comparison.comparison_id, row(comparison)) for comparison in comparisons],
        plotly=Markup(get_plotlyjs()),  # noqa: S704  # the library's own script
    )
