"""The stages of RelaxDatasetMaker, MergeShardsMaker and CrossCheckMaker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dao_flows.makers.schemas.relaxation import RelaxationDoc
from dao_flows.makers.schemas.shards import ShardDoc

from .agreement import Terms
from .declaration import CPU, GPU, GPU_HALF_DAY, INPUTS, PARAMETERS, Made, Parent, Stage
from .rebuilding import Materials, Place, Rebuilt, Recorded, ReplayError, settings


def rebuild(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """Relaxes the same shard again. Raises ReplayError."""
    from dao_flows.makers.relax_dataset import RelaxDatasetMaker
    from dao_flows.model.data.shards import read_manifest

    science = recorded.science
    predictor = materials.checkpoint(science.checkpoints["predictor"], "predictor")
    maker = RelaxDatasetMaker(predictor=predictor, device=place.device, **settings(RelaxDatasetMaker, science))
    folder, shard = materials.dataset(science.inputs["dataset"]), int(science.inputs["shard"])
    terms = Terms(ignored=("path", "computation.*"), soft=("relaxed.sha256",))
    rebuilt = maker.science(read_manifest(Path(folder)), shard)
    return Rebuilt(maker.make(folder, shard, str(place.folder / "relaxed")), terms, rebuilt)


def rebuild_merge(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """Merges the stored shards again. Raises ReplayError."""
    from dao_flows.makers.merge import MergeShardsMaker

    maker = MergeShardsMaker(dataset_name=recorded.science.parameters["dataset_name"])
    job = maker.make(*merged(recorded, materials, RelaxationDoc), str(place.folder / "merged"))
    return Rebuilt(job, Terms(ignored=("path",)))


def merged(recorded: Recorded, materials: Materials, kind: type[ShardDoc]) -> tuple[str, list[ShardDoc]]:
    """The folder of the dataset that was merged anew, and the documents of what was made of its shards."""
    science, shards = recorded.science, []
    for sha256 in science.inputs["shards"]:
        what = f"the shard with sha256 {sha256[:12]}…"
        document = kind.model_validate(materials.holding(f"{kind.RESULT}.sha256", sha256, what))
        where = materials.file(document.path, sha256)
        if where is None:
            raise ReplayError(f"the shard {document.path} is not here: name its folder with --from")
        shards.append(document.model_copy(update={"path": where}))
    return materials.dataset(science.inputs["dataset"]), shards


def rebuild_cross_check(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """The same sample by the same force field. Raises ReplayError."""
    from dao_flows.makers.crosscheck import CrossCheckMaker

    science = recorded.science
    maker = CrossCheckMaker(seed=int(science.seed or 0), **settings(CrossCheckMaker, science))
    parent, relaxed = (materials.dataset(science.inputs[name]) for name in ("parent", "dataset"))
    return Rebuilt(maker.make(parent, relaxed), Terms())


OF_A_SHARD = (Parent("dataset", (("dataset", f"{INPUTS}.dataset"), ("dataset", "dataset"))),)
MERGED = (
    Parent("dataset", (("dataset", f"{INPUTS}.dataset"),)),
    Parent("merged", (("shard", f"{INPUTS}.shards"),)),
)
MERGED_DATASET = Made("dataset", "sha256", (("name", f"{PARAMETERS}.dataset_name"), ("rows", "rows"), ("path", "path")))


def merging(maker: str, document: str, rebuild: Callable[[Recorded, Materials, Place], Rebuilt]) -> Stage:
    """The stage that merges shards of a dataset, by its maker and document, as `Stage` has them."""
    return Stage(
        name="merge",
        maker=maker,
        document=document,
        route=GPU,
        colour="#c9a227",
        label="merging of a dataset",
        parents=MERGED,
        makes=(MERGED_DATASET,),
        rebuild=rebuild,
    )


RELAXATION = Stage(
    name="relax",
    maker="dao_flows.makers.relax_dataset:RelaxDatasetMaker",
    document="dao_flows.makers.schemas.relaxation:RelaxationDoc",
    route=GPU_HALF_DAY,
    functions=("relax_jobs",),
    colour="#d98c3f",
    label="relaxed shard {shard}",
    parents=OF_A_SHARD,
    makes=(Made("shard", "relaxed.sha256"),),
    rebuild=rebuild,
)
MERGE = merging(
    "dao_flows.makers.merge:MergeShardsMaker", "dao_flows.makers.schemas.relaxation:RelaxedDatasetDoc", rebuild_merge
)
CROSS_CHECK = Stage(
    name="crosscheck",
    maker="dao_flows.makers.crosscheck:CrossCheckMaker",
    document="dao_flows.makers.schemas.relaxation:CrossCheckDoc",
    route=CPU,
    colour="#b0508c",
    label="cross check",
    parents=(
        Parent("dataset", (("dataset", f"{INPUTS}.dataset"), ("dataset", "dataset"))),
        Parent("parent", (("dataset", f"{INPUTS}.parent"),)),
    ),
    rebuild=rebuild_cross_check,
)
