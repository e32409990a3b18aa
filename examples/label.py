"""A force field's energies, forces and stresses of a dataset's crystals, on the way of their relaxation.

Run it with `python examples/label.py [SOURCE]`; it needs `pip install 'dao-flows[forcefields]'`, and takes a minute or
two on a laptop.
"""

import sys
import tempfile
from pathlib import Path

from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore

from dao_flows.makers.ingest import IngestMaker
from dao_flows.makers.label import LabelMaker, label_jobs
from dao_flows.makers.schemas.labels import LabelledDatasetDoc
from dao_flows.model.data.shards import dataset_rows
from dao_flows.store.stores import output

CRYSTALS = Path(__file__).parent / "data" / "crystals_small.parquet"


def main(source: str, folder: str) -> None:
    """Build a dataset of small cells, label it, and print what its first frames hold."""
    built = IngestMaker(max_atoms=4).make([source], f"{folder}/crystals")
    labelled = label_jobs(built.output, f"{folder}/labels", LabelMaker(force_field="CHGNet", steps=(0, 5)))
    store = JobStore(MemoryStore())
    flow = Flow([built, labelled])
    run_locally(flow, log=False, store=store, root_dir=folder, create_folders=True, ensure_success=True)
    document = LabelledDatasetDoc.model_validate(output(store, labelled.uuid))
    print(f"{document.rows} frames of {document.crystals} crystals, {document.failed} without figures, by")
    print(f"{document.force_field} {document.force_field_version}; the dataset is {document.sha256[:12]}")
    for row, _ in zip(dataset_rows(Path(document.path)), range(6), strict=False):
        force = max(map(abs, row["forces"]))
        name = f"{row['material_id']} ({row['reduced_formula']})"
        print(f"  {name:28} step {row['step']}  {row['energy_per_atom']:8.3f} eV/atom, forces up to {force:.2f} eV/Å")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else str(CRYSTALS), scratch)
