"""The stages of LabelMaker and MergeLabelsMaker."""

from __future__ import annotations

from pathlib import Path

from dao_flows.makers.schemas.labels import LabellingDoc

from .agreement import Terms
from .declaration import GPU_HALF_DAY, Made, Stage
from .rebuilding import Materials, Place, Rebuilt, Recorded, settings
from .relaxation import OF_A_SHARD, merged, merging


def rebuild(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """Labels the same shard again. Raises ReplayError."""
    from dao_flows.makers.label import LabelMaker
    from dao_flows.model.data.shards import read_manifest

    science = recorded.science
    maker = LabelMaker(device=place.device, **settings(LabelMaker, science))
    folder, shard = materials.dataset(science.inputs["dataset"]), int(science.inputs["shard"])
    terms = Terms(ignored=("path", "computation.*"), soft=("labelled.sha256",))
    rebuilt = maker.science(read_manifest(Path(folder)), shard)
    return Rebuilt(maker.make(folder, shard, str(place.folder / "labelled")), terms, rebuilt)


def rebuild_merge(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """Merges the stored shards again. Raises ReplayError."""
    from dao_flows.makers.label import MergeLabelsMaker

    maker = MergeLabelsMaker(dataset_name=recorded.science.parameters["dataset_name"])
    job = maker.make(*merged(recorded, materials, LabellingDoc), str(place.folder / "merged"))
    return Rebuilt(job, Terms(ignored=("path", "rejects")))


LABELLING = Stage(
    name="label",
    maker="dao_flows.makers.label:LabelMaker",
    document="dao_flows.makers.schemas.labels:LabellingDoc",
    route=GPU_HALF_DAY,
    functions=("label_jobs",),
    colour="#d98c3f",
    label="labelled shard {shard}",
    parents=OF_A_SHARD,
    makes=(Made("shard", "labelled.sha256"),),
    rebuild=rebuild,
)
MERGE = merging(
    "dao_flows.makers.label:MergeLabelsMaker", "dao_flows.makers.schemas.labels:LabelledDatasetDoc", rebuild_merge
)
