"""Rows of the datasets that rounds make: where each comes from, and the dataset written whole or not at all."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element

from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.science.chemistry import formula_of
from dao_flows.version import __version__

if TYPE_CHECKING:
    from dao_flows.model.data.shards import Manifest

Row = dict[str, Any]

ORIGIN = {"round": "int32", "candidate_id": "string", "template": "string"}
JUDGED = {"teacher": "string", "predicted_e_above_hull": "double"}
MEANING = {
    "round": "in which the crystal was generated; null for all others",
    "candidate_id": "as its generation names it",
    "template": "known crystal that the candidate was made from; null: drawn",
    "teacher": "energy model, with its version, that labelled what chose the crystal",
    "predicted_e_above_hull": "eV/atom, by the DAO-P that chose it",
}


def formula_of_numbers(numbers: Iterable[int]) -> str:
    """The reduced formula of a cell's atomic numbers, as candidates have it."""
    return _formula(tuple(sorted(Counter(numbers).items())))


@cache
def _formula(counts: tuple[tuple[int, int], ...]) -> str:
    return formula_of(Composition({Element.from_Z(z).symbol: count for z, count in counts})).name


def held_out_formulas(data: Path, split: str | None) -> set[str]:
    """The formulas of one split of a dataset or parquet file (None: of all). Raises DataError."""
    from dao_flows.model.data.shards import dataset_rows

    rows = (row for row in dataset_rows(data) if split is None or row.get("split") == split)
    return {formula_of_numbers(row["numbers"]) for row in rows}


def training_rows(data: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a dataset that are trained on, with their formulas. Raises DataError."""
    from dao_flows.model.data.shards import dataset_rows

    for row in dataset_rows(data):
        if row["split"] == "train":
            yield formula_of_numbers(row["numbers"]), row


def write_dataset(
    target: Path, rows: Iterable[Row], names: Mapping[str, str], parent: Manifest, made_by: Mapping[str, Any]
) -> Manifest:
    """Write a dataset made from another one into the folder `target`, where the same may lie already.

    names: its columns. Raises ParameterError for a folder that holds another dataset.
    """
    from dao_flows.model.data.shards import MANIFEST, Manifest, read_manifest, write_manifest, write_shards

    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shards, counts = write_shards(partial, rows, names)
    manifest = Manifest(
        name=f"{target.parent.name}-{target.name}",
        columns=dict(names),
        shards=shards,
        counts=dict(sorted(counts.items())),
        code_version=__version__,
        sources=parent.sources,
        filters=parent.filters,
        parent=parent.sha256,
        made_by=dict(made_by),
    )
    write_manifest(partial, manifest)
    if not (target / MANIFEST).exists():
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
        return manifest
    shutil.rmtree(partial)
    if read_manifest(target).sha256 != manifest.sha256:
        raise ParameterError(f"{target} holds another dataset: take another folder for the results")
    return manifest
