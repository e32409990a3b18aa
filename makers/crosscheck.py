"""CrossCheckMaker: does the energy fall by a force field too where DAO-P says so? A random sample of a relaxed dataset.

The force field is one that atomate2.forcefields knows. Its energies are on a scale of their own, so that only changes
are compared: after minus before, of the same atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jobflow.core.maker import Maker
from scipy.stats import rankdata

from dao_flows.makers.schemas.document import Science
from dao_flows.version import __version__

from .jobs.progress import report
from .jobs.provenance import execution_record, provenance
from .jobs.stage import stage
from .machine.places import PATH, Places
from .merge import dataset_folder
from .models.checkpoints import ParameterError
from .models.energy_model import energy_model
from .models.force_field import ForceField, ForceFieldError
from .schemas.relaxation import CheckedCrystal, CrossCheckDoc, Estimate
from .science.structures import to_structure

if TYPE_CHECKING:
    from dao_flows.model.data.shards import Manifest

MAX_SAMPLE = 10_000  # in one document of at most 16 MB
RESAMPLES = 2000
ENOUGH_TO_RESAMPLE = 10


@dataclass
class CrossCheckMaker(Maker):
    """Energies of a sample before and after the relaxation, by a force field.

    force_field: as atomate2.forcefields calls it (CHGNet ships with the extra `forcefields`). sample: crystals drawn
    from the relaxed ones without replacement; all of them if there are no more. seed: of the draw and of the bootstrap.
    """

    PLACES: ClassVar[Places] = {"parent": PATH, "relaxed": PATH}

    name: str = "cross-check"
    force_field: str = "CHGNet"
    sample: int = 200
    seed: int = 0

    @stage(output_schema=CrossCheckDoc)
    def make(self, parent: str | Mapping[str, Any], relaxed: str | Mapping[str, Any]) -> CrossCheckDoc:
        """Compare a relaxed dataset with the one it was made from; each by its folder or a document with its path.

        Raises ParameterError if they do not belong together, nothing was relaxed, or the force field is not installed;
        DataError for a damaged dataset.
        """
        from dao_flows.model.data.shards import read_manifest

        started = datetime.now(UTC)
        self.check()
        folders = dataset_folder(parent), dataset_folder(relaxed)
        before, after = (read_manifest(folder) for folder in folders)
        if after.parent != before.sha256:
            raise ParameterError(f"{folders[1]} was not made from {folders[0]}: its manifest names another parent")
        judge = ForceField(self.force_field)
        version = judge.version
        total, chosen = _sample(folders[1], after, self.sample, self.seed)
        crystals = []
        for done, (shard, row, old, new) in enumerate(_rows(folders, before, after, chosen), start=1):
            crystals.append(_checked(shard, row, old, new, judge))
            report(done, sum(map(len, chosen)), "cross-check")
        pairs = np.array(
            [
                (c.predicted_change, c.force_field_after - c.force_field_before)
                for c in crystals
                if c.force_field_after is not None and c.force_field_before is not None
            ]
        ).reshape(-1, 2)
        science = Science(
            maker=type(self).__name__,
            parameters={"force_field": self.force_field, "force_field_version": version, "sample": self.sample},
            inputs={"dataset": after.sha256, "parent": before.sha256},
            checkpoints=after.made_by.get("checkpoints", {}),
            seed=self.seed,
            code_version=__version__,
        )
        return CrossCheckDoc(
            dataset=after.sha256,
            parent=before.sha256,
            force_field=self.force_field,
            force_field_version=version,
            relaxed_rows=total,
            failed=len(crystals) - len(pairs),
            crystals=crystals,
            **compared(pairs, self.seed),
            provenance=provenance(science, execution_record(started, "cpu", {})),
        )

    def check(self) -> None:
        """Raises ParameterError for a setting out of range, and a force field that is not known or not installed."""
        if not 1 <= self.sample <= MAX_SAMPLE:
            raise ParameterError(f"sample must lie between 1 and {MAX_SAMPLE}, not {self.sample}")
        _ = energy_model(self.force_field).version


def _spearman(pairs: np.ndarray) -> np.ndarray:
    """(…, n, 2) to (…) rank correlations; NaN where one side does not vary."""
    ranks = rankdata(pairs, axis=-2)
    ranks = ranks - ranks.mean(-2, keepdims=True)
    spread = np.sqrt((ranks**2).sum(-2)).prod(-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(spread > 0, ranks.prod(-1).sum(-1) / np.where(spread > 0, spread, 1), np.nan))


FIGURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # each of (…, n, 2) changes to (…)
    "predicted_change": lambda p: p[..., 0].mean(-1),
    "force_field_change": lambda p: p[..., 1].mean(-1),
    "mean_error": lambda p: (p[..., 0] - p[..., 1]).mean(-1),
    "mean_absolute_error": lambda p: np.abs(p[..., 0] - p[..., 1]).mean(-1),
    "spearman": _spearman,
    "agreeing": lambda p: (p[..., 1] < 0).mean(-1),
}


def compared(pairs: np.ndarray, seed: int) -> dict[str, Estimate]:
    """Figures of (n, 2) changes in eV/atom, predicted and by the force field, as CrossCheckDoc names them."""
    if not len(pairs):
        return {name: Estimate(value=None, interval_95=None) for name in FIGURES}
    # not by scipy: a resample without a figure (NaN) would spoil the whole interval, and all figures share the draws
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(pairs), (RESAMPLES // 20, len(pairs))) for _ in range(20)]  # so much at once in memory
    estimates = {}
    for name, figure in FIGURES.items():
        value = float(figure(pairs))
        interval = None
        if len(pairs) >= ENOUGH_TO_RESAMPLE and np.isfinite(value):
            resampled = np.concatenate([figure(pairs[draw]) for draw in draws])
            low, high = np.nanpercentile(resampled, [2.5, 97.5])
            interval = (float(low), float(high))
        estimates[name] = Estimate(value=value if np.isfinite(value) else None, interval_95=interval)
    return estimates


def _sample(folder: Path, manifest: Manifest, size: int, seed: int) -> tuple[int, list[list[int]]]:
    """How many rows were relaxed, and the row numbers drawn from each shard, ascending."""
    import pyarrow.parquet as pq

    from dao_flows.model.data.shards import shard_path

    relaxed = [
        np.flatnonzero(pq.read_table(shard_path(folder, shard), columns=["relaxed"])["relaxed"].to_numpy())
        for shard in manifest.shards
    ]
    total = sum(map(len, relaxed))
    if not total:
        raise ParameterError(f"nothing was relaxed in {folder}: there is nothing to check")
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(size, total), replace=False))
    ends = np.cumsum([0, *map(len, relaxed)])
    return total, [
        rows[drawn[(drawn >= start) & (drawn < end)] - start].tolist()
        for rows, start, end in zip(relaxed, ends[:-1], ends[1:], strict=True)
    ]


def _rows(
    folders: tuple[Path, Path], before: Manifest, after: Manifest, chosen: list[list[int]]
) -> Iterator[tuple[str, int, dict[str, Any], dict[str, Any]]]:
    """The chosen rows before and after the relaxation, with their shard's file and their number in it."""
    from dao_flows.model.data.shards import read_rows, shard_path

    for old_shard, new_shard, rows in zip(before.shards, after.shards, chosen, strict=True):
        if not rows:
            continue
        wanted = set(rows)
        both = zip(
            read_rows(shard_path(folders[0], old_shard)), read_rows(shard_path(folders[1], new_shard)), strict=True
        )
        for number, (old, new) in enumerate(both):
            if number in wanted:
                yield new_shard.file, number, old, new


def _checked(shard: str, row: int, old: dict[str, Any], new: dict[str, Any], judge: ForceField) -> CheckedCrystal:
    """Both energies of one crystal. What the force field cannot compute is told, and harms no other."""
    from dao_flows.model.crystals import Crystal

    energies: list[float | None] = []
    fault = None
    for version in (old, new):
        frac, lattice = (np.reshape(version[name], (-1, 3)) for name in ("frac", "lattice"))
        try:
            energies.append(judge.energy(to_structure(Crystal(np.asarray(version["numbers"]), frac, lattice))))
        except (ForceFieldError, FloatingPointError) as error:
            fault = str(error)
            energies.append(None)
    return CheckedCrystal(
        material_id=new["material_id"],
        shard=shard,
        row=row,
        predicted_change=new["energy_after"] - new["energy_before"],
        force_field_before=energies[0],
        force_field_after=energies[1],
        fault=fault,
    )
