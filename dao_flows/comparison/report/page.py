"""The page: everything in one file, which opens without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from dao_flows.comparison.figures import ComparisonFigures
from dao_flows.comparison.schemas import ComparisonDoc
from dao_flows.makers.machine.whole_files import write_whole

from . import plots
from .scene import in_one_setting, scene
from .text import headline, level, row

HEADS = (
    *("formula", "candidate", "DAO's rank", "predicted E_hull", "verified E_hull", "energy", "RMSE"),
    *("volume", "space group", "core s", "from"),
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
    title = f"DAO against {level(figures)}"
    sections = "".join(
        f'<figure class="plot"><figcaption>{escape(plot["title"])}</figcaption>'
        f'<div id="{name}" role="img" aria-label="{escape(plot["title"])}"></div></figure>'
        for name, plot in data["plots"].items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:">
<title>{escape(title)}</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>{"".join(f"<p>{escape(line)}</p>" for line in headline(figures))}</header>
<main>
<section class="plots">{sections}</section>
<section id="one" aria-live="polite">
<h2>Candidate <span id="name"></span></h2>
<p id="about"></p>
<p>Conventional cells at 0.1 Å; drag to turn.</p>
<div class="pair">
<figure><figcaption>as DAO predicted it</figcaption><div id="predicted" role="img"></div></figure>
<figure><figcaption>relaxed by {escape(level(figures))}</figcaption><div id="verified" role="img"></div></figure>
</div>
<dl id="links"></dl>
<details><summary>The document</summary><p><button id="download" type="button">Download as JSON</button></p>
<pre id="document"></pre></details>
</section>
<section><h2>All candidates</h2><p>Energies in eV/atom. A row shows its candidate above.</p>
<div class="wide"><table><thead><tr>{"".join(f"<th scope=col>{escape(head)}</th>" for head in HEADS)}</tr></thead>
<tbody>{"".join(_row(place, comparison) for place, comparison in enumerate(comparisons))}</tbody></table></div>
</section>
</main>
<script>{get_plotlyjs()}</script>
<script type="application/json" id="data">{_embedded(data)}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _row(place: int, comparison: ComparisonDoc) -> str:
    first, second, *rest = row(comparison)
    link = f'<a href="#{escape(comparison.comparison_id)}">{second}</a>'
    cells = "".join(f"<td>{cell}</td>" for cell in (first, link, *rest))
    return f'<tr data-place="{place}">{cells}</tr>'


def _embedded(data: Any) -> str:
    """JSON that ends no script element, whatever users call their materials."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
