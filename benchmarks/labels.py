"""A force field's labels of wrong crystals: `python benchmarks/labels.py DATA --out FOLDER`.

What a network is to learn from, to judge candidates: each training row as it is, whose known energy above hull says
where the force field's zero lies for its formula; templates for it, found without its own formula; and drawings of
DAO-G. All are labelled as they are and, if asked for, on the way of a relaxation. Rows with a known energy come first,
else in an order that is random but fixed, so many a part. A part is a dataset of crystals and, by LabelMaker, the
dataset with their labels. The same command goes on where it was stopped, at any time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobflow import Flow, JobStore
from maggma.stores import MemoryStore
from rich.progress import Progress

from dao_flows.api.local import run_here
from dao_flows.makers.label import LabelMaker, label_jobs
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.schemas.labels import LabelledDatasetDoc
from dao_flows.model.checkpoint.format import CheckpointError, load
from dao_flows.model.checkpoint.library import find
from dao_flows.model.crystals import Crystal
from dao_flows.model.dao_g import DaoG
from dao_flows.model.data.shards import (
    MANIFEST,
    DataError,
    Manifest,
    columns,
    dataset_rows,
    parts,
    read_manifest,
    write_manifest,
    write_shards,
)
from dao_flows.model.sampling.sample import Request, sample
from dao_flows.model.templates.places import DEFAULT, open_library
from dao_flows.model.templates.search import find_templates
from dao_flows.store.stores import output
from dao_flows.version import __version__

Row = dict[str, Any]


class Sources:
    """Where wrong crystals come from. made_by: all that decides them, beside the rows of a part."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.data, self.templates, self.drawings = args.data, args.templates, args.drawings
        self.library = open_library(args.library)
        self.model, self.card = load(find(args.checkpoint))
        assert isinstance(self.model, DaoG)
        self.made_by = {
            "maker": "benchmarks/labels.py",
            "parameters": {name: getattr(args, name) for name in ("templates", "drawings", "max_atoms")},
            "checkpoints": {"generator": self.card.sha256},
            "library": self.library.sha256,
            "data": parts(args.data)[1],
        }

    def crystals(self, rows: list[tuple[int, Row]]) -> Iterator[Row]:
        """Each training row, the templates for it, then the drawings, as rows of a dataset."""
        requests = [
            Request(np.array(sorted(row["numbers"])), (index, k)) for index, row in rows for k in range(self.drawings)
        ]
        drawn = iter(sample(self.model, requests, seed=0))
        for index, row in rows:
            name = row.get("material_id") or f"row-{index}"
            yield {column: row.get(column) for column in columns()} | {"material_id": name}
            numbers = np.array(sorted(row["numbers"]))
            found = find_templates(self.library, [numbers], self.templates, known=False)
            for k, (_, template) in enumerate(found):
                yield as_row(template.crystal, row, name, "template", k)
            for k in range(self.drawings):
                yield as_row(next(drawn), row, name, "drawing", k)


def as_row(crystal: Crystal, row: Row, name: str, source: str, k: int) -> Row:
    """A crystal for the formula of a training row, as a row of a dataset."""
    return {
        "material_id": f"{name}-{source}-{k}",
        "source": source,
        "reduced_formula": row.get("reduced_formula"),
        "n_atoms": len(crystal),
        "numbers": crystal.numbers.tolist(),
        "lattice": crystal.lattice.ravel().tolist(),
        "frac": (np.asarray(crystal.frac % 1, np.float32) % 1).ravel().tolist(),  # which may round up to 1
        "split": row["split"],
    }


def training_rows(data: Path, max_atoms: int) -> list[tuple[int, Row]]:
    """The training rows with their index: those with a known energy first, else in a random but fixed order."""
    rows = [(i, row) for i, row in enumerate(dataset_rows(data)) if row["split"] == "train"]
    order = np.random.default_rng(0).permutation(len(rows))
    small = [rows[i] for i in order if len(rows[i][1]["numbers"]) <= max_atoms]
    return sorted(small, key=lambda each: each[1].get("e_above_hull") is None)


def write_part(folder: Path, sources: Sources, rows: list[tuple[int, Row]], rows_per_shard: int) -> Manifest:
    """The dataset of a part, if it is not there. Raises DataError if one of other settings is."""
    made_by = sources.made_by | {"rows": [index for index, _ in rows]}
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        if manifest.made_by != made_by:
            raise DataError(f"{folder} was made with other settings: give another --out")
        return manifest
    names = columns()
    shards, counts = write_shards(folder, sources.crystals(rows), names, rows_per_shard)
    manifest = Manifest(folder.name, names, shards, dict(counts), __version__, made_by=made_by)
    write_manifest(folder, manifest)
    return manifest


def label_part(crystals: Path, out: Path, maker: LabelMaker, what: str) -> LabelledDatasetDoc:
    """The labelled dataset of a part, as far as it is not there."""
    store, job = JobStore(MemoryStore()), label_jobs(str(crystals.absolute()), str(out.absolute()), maker)
    with Progress() as progress:
        task = progress.add_task(what)
        run_here(Flow([job]), store, lambda done, total, _: progress.update(task, completed=done, total=total))
    return LabelledDatasetDoc.model_validate(output(store, job.uuid))


def main() -> int:
    """Write and label the parts that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset or parquet file with training rows")
    parser.add_argument("--library", default=DEFAULT, help="of training rows: a name, folder or sha256")
    parser.add_argument("--out", type=Path, required=True, help="folder of the parts")
    parser.add_argument("--checkpoint", default="dao-g-flow")
    parser.add_argument("--force-field", default="CHGNet")
    parser.add_argument("--templates", type=int, default=8, help="of each row, at most")
    parser.add_argument("--drawings", type=int, default=4, help="of each row")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 10, 30], help="of relaxation, of each frame")
    parser.add_argument("--max-atoms", type=int, default=20)
    parser.add_argument("--rows", type=int, default=500, help="training rows of a part")
    parser.add_argument("--rows-per-shard", type=int, default=600, help="crystals of a shard, which one job labels")
    parser.add_argument("--parts", type=int, help="stop after so many (until there are no rows left)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one part of two rows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.rows, args.parts = 2, 1
    maker = LabelMaker(force_field=args.force_field, steps=tuple(args.steps), device="cpu")
    try:
        maker.check()
        sources, rows = Sources(args), training_rows(args.data, args.max_atoms)
        for number, first in enumerate(range(0, len(rows), args.rows)):
            if number == args.parts:
                break
            name, folder = f"part-{number:04d}", args.out / f"part-{number:04d}"
            crystals = write_part(folder / "crystals", sources, rows[first : first + args.rows], args.rows_per_shard)
            if not crystals.rows:
                print(f"{name}: no template, and nothing drawn")
                continue
            done = label_part(folder / "crystals", folder / "labels", maker, name)
            print(f"{name}: {done.rows} frames of {done.crystals} crystals, {done.failed} failed, {done.sha256[:12]}")
    except (CheckpointError, DataError, ParameterError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
