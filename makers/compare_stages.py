"""CompareStagesMaker: evaluations side by side, as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
from jobflow.core.maker import Maker
from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import SCHEMA_VERSION, Provenance, Science
from dao_flows.version import __version__

from .evaluate import EvaluationDoc
from .jobs.provenance import execution_record, provenance
from .jobs.stage import stage as stage_job
from .machine.places import PATH, Places
from .machine.whole_files import write_whole
from .merge import in_full

TABLE, PICTURE = "stages.md", "stages.png"


class StagesDoc(BaseModel):
    """What CompareStagesMaker writes. stages: evaluations by label, in order."""

    FILES: ClassVar = ("table", "picture")

    schema_version: int = SCHEMA_VERSION
    stages: dict[str, EvaluationDoc]
    checkpoint: str = Field(description="sha256 of the last stage's checkpoint")
    table: str = Field(description="path of a Markdown table")
    picture: str = Field(description="path of a picture")
    provenance: Provenance


@dataclass
class CompareStagesMaker(Maker):
    """Lays evaluations of several checkpoints side by side."""

    PLACES: ClassVar[Places] = {"out": PATH}

    name: str = "compare stages"

    @stage_job(output_schema=StagesDoc)
    def make(self, labels: Sequence[str], evaluations: Sequence[EvaluationDoc], out: str) -> StagesDoc:
        """Write the table and the picture of evaluations into a folder. Raises ParameterError for a relative folder."""
        started, folder = datetime.now(UTC), in_full(out)
        stages = {label: EvaluationDoc.model_validate(found) for label, found in zip(labels, evaluations, strict=True)}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / TABLE, table(stages))
        write_whole(folder / PICTURE, picture(stages))
        science = Science(
            maker=type(self).__name__,
            parameters={"labels": list(labels)},
            inputs={"evaluations": [stage.provenance.science_hash for stage in stages.values()]},
            checkpoints={label: stage.checkpoint_sha256 for label, stage in stages.items()},
            code_version=__version__,
        )
        return StagesDoc(
            stages=stages,
            checkpoint=next(reversed(stages.values())).checkpoint_sha256,
            table=str(folder / TABLE),
            picture=str(folder / PICTURE),
            provenance=provenance(science, execution_record(started, "cpu", {})),
        )


def table(stages: Mapping[str, EvaluationDoc]) -> str:
    """A Markdown table, a line a stage; 95 % intervals in brackets."""
    head = [
        *("stage", "checkpoint", "n × k", "match rate %", "RMSE", "with validity filter %"),
        *("predicted E_hull, mean (eV/atom)", "below the stable limit %"),
    ]
    lines = [head, ["---"] * len(head)]
    for label, stage in stages.items():
        rmse = "–" if stage.all.rmse is None or not stage.all.rmse_95 else _interval(stage.all.rmse, stage.all.rmse_95)
        energies = stage.energies
        mean, stable = ("–", "–")
        if energies:
            mean = _interval(energies.mean, energies.mean_95)
            share = _percent(energies.stable_share, energies.stable_share_95)
            stable = f"{share} (< {energies.stable_below:g} eV/atom)"
        lines.append(
            [
                label,
                stage.checkpoint_sha256[:12],
                f"{stage.n} × {stage.samples}",
                _percent(stage.all.match_rate, stage.all.match_rate_95),
                rmse,
                _percent(stage.valid_only.match_rate, stage.valid_only.match_rate_95),
                mean,
                stable,
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def picture(stages: Mapping[str, EvaluationDoc]) -> bytes:
    """A PNG of match rates and RMSEs with their intervals, and of the distributions of predicted energies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    rates, errors, energies = figure.subplots(1, 3, width_ratios=(1, 1, 2))
    for axes, title in ((rates, "match rate (%)"), (errors, "RMSE of matches"), (energies, "share of samples")):
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    for place, (label, stage) in enumerate(stages.items()):
        colour = f"C{place}"
        _point(rates, place, 100 * stage.all.match_rate, [100 * end for end in stage.all.match_rate_95], colour)
        if stage.all.rmse is not None and stage.all.rmse_95:
            _point(errors, place, stage.all.rmse, stage.all.rmse_95, colour)
        if stage.energies:
            counts = np.array(stage.energies.histogram)
            energies.stairs(counts / counts.sum(), stage.energies.edges, color=colour, label=label)
    for axes in (rates, errors):
        axes.set_xticks(range(len(stages)), list(stages), rotation=20)
        axes.set_xlim(-0.5, len(stages) - 0.5)
        axes.set_ylim(bottom=0)
    if any(stage.energies for stage in stages.values()):
        limit = next(stage.energies.stable_below for stage in stages.values() if stage.energies)
        energies.axvline(limit, color="0.5", lw=0.8, ls=":")
        energies.set_xlabel("predicted energy above hull (eV/atom)")
        energies.legend(frameon=False)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    return drawn.getvalue()


def _point(axes: Any, place: int, value: float, interval: Sequence[float], colour: str) -> None:
    low, high = interval
    axes.errorbar(place, value, [[value - low], [high - value]], fmt="o", color=colour, capsize=4)


def _interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _percent(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
