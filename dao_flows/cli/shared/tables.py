"""How results look on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dao_flows.api.results import CompositionResult, PredictionResult, Row
    from dao_flows.makers.schemas.prediction import Cells

NARROWEST = 40
PIPE_WIDTH = 160  # what is read by a program is not cut to a terminal's width
ENERGY, VOLUME = "predicted\nE_hull\neV/atom", "volume\nÅ³/atom"
FEW = 10  # compositions whose whole ranking is shown
BEST = 3  # structures of each where there are more


def stdout() -> Console:
    """The console for results."""
    return Console(width=_width() if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


def stderr() -> Console:
    """The console for progress and remarks."""
    return Console(stderr=True, highlight=False, width=_width() if sys.stderr.isatty() else None)


def _width() -> int:
    """The terminal's; a table needs some, and COLUMNS may say anything."""
    return max(Console().width, NARROWEST)


def ranking(compositions: Sequence[CompositionResult], run_id: str) -> Table:
    """Ranked structures, compositions one after another."""
    table = new_table(f"Run {run_id}")
    for name in ("rank", "formula", "Z", "space group"):
        table.add_column(name, justify="right" if name in ("rank", "Z") else "left")
    shown = [row for c in compositions for row in (c.ranked if len(compositions) <= FEW else c.ranked[:BEST])]
    judges = sorted({row.judgement.model for row in shown if row.judgement is not None})
    judged = [f"{', '.join(judges)}\neV/atom"] if judges else []
    for name in (ENERGY, *judged, "found", VOLUME, "shortest\nÅ"):
        table.add_column(name, justify="right")
    table.add_column("from")
    named = any(row.prototype for row in shown)
    if named:
        table.add_column("prototype")
    table.add_column("id", no_wrap=True)
    for row, following in zip(shown, [*shown[1:], None], strict=True):
        last = following is None or following.formula != row.formula
        table.add_row(*cells(row, named, bool(judges)), end_section=last)
    return table


def new_table(title: str | None = None) -> Table:
    """An empty table in the house's style."""
    return Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)


def cells(row: Row, prototype: bool, judged: bool) -> list[str]:
    """The cells of a ranked structure; those of prototype and judge where there are such columns."""
    judgement = "–" if row.judgement is None else f"{row.judgement.value:.3f}"
    return [
        str(row.rank),
        row.formula,
        str(row.z),
        f"{row.space_group.symbol} ({row.space_group.number})" if row.space_group else "–",
        f"{row.energy.value:.3f}",
        *([judgement] if judged else []),
        str(1 + row.duplicates),
        f"{row.volume_per_atom:.2f}",
        f"{row.shortest_distance:.2f}",
        escape(row.source),  # as its source names it
        *([row.prototype or ""] if prototype else []),
        row.candidate_id,
    ]


def remarks(result: PredictionResult) -> Iterable[str]:
    """What the table does not say: where candidates come from, the Z that were tried, what was rejected and why."""
    compositions = result.compositions
    bare = [c.formula for c in compositions if c.looked_up and not any(cells.templates for cells in c.cells)]
    if len(compositions) <= FEW:
        for composition in compositions:
            yield _remark(composition)
    else:
        empty = [c.formula for c in compositions if not c.ranked]
        kept = sum(len(c.ranked) for c in compositions)
        made = _made([cells for c in compositions for cells in c.cells])
        yield f"{len(compositions)} compositions, {made}, {kept} ranked; the best {BEST} of each are shown"
        if empty:
            yield f"no candidate passed for {', '.join(empty)}"
    if bare:
        more = f" and {len(bare) - FEW} more" if len(bare) > FEW else ""
        yield f"no known crystal can be a template for {', '.join(bare[:FEW])}{more}: all candidates are drawn"


def _made(cells: Sequence[Cells]) -> str:
    """How many candidates there were, and of which kind."""
    drawn, templates = sum(c.candidates for c in cells), sum(c.templates for c in cells)
    kinds = f" ({templates} from known crystals, {drawn} drawn)" if templates else ""
    return f"{drawn + templates} candidate{'s' * (drawn + templates != 1)}{kinds}"


def _remark(composition: CompositionResult) -> str:
    made = _made(composition.cells)
    dealt = ", ".join(f"{c.z}: {c.total}" for c in composition.cells if c.total)
    rest = [str(c.z) for c in composition.cells if not c.total]
    none_left = f"; none left for Z = {', '.join(rest)}" if rest else ""
    text = f"{composition.formula}: {made} (by Z: {dealt}{none_left}), {len(composition.ranked)} ranked"
    reasons = [f"{count} {cause} (e.g. {composition.reasons[cause]})" for cause, count in composition.rejected.items()]
    return f"{text}; rejected: {'; '.join(reasons)}" if reasons else text


def plain(text: str) -> Text:
    """Text that may hold brackets, not taken for markup."""
    return Text(text)
