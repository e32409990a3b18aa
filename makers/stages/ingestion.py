"""The stage of IngestMaker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import urlencode

from .agreement import Terms
from .declaration import CPU, Made, Parent, Stage
from .rebuilding import Materials, Place, Rebuilt, Recorded, ReplayError

# the manifest tells where sources lay, and the science what was typed for held-out ones
MOVED = ("provenance.files.path/manifest.json", "provenance.science.parameters.held_out.*")


def rebuild(recorded: Recorded, materials: Materials, place: Place) -> Rebuilt:
    """Builds the dataset from the same files again. Raises ReplayError."""
    from dao_flows.makers.ingest import IngestMaker
    from dao_flows.model.files.file_names import file_name

    science, document = recorded.science, recorded.document
    settings = {name: v for name, v in science.parameters.items() if name in {f.name for f in fields(IngestMaker)}}
    del settings["name"]
    maker = IngestMaker(dataset_name=science.parameters["name"], **settings)
    sources = [_source(each, materials) for each in document["sources"]]
    held = [_source(each, materials) for each in document["filters"]["held_out"]]
    if len(held) == len(maker.held_out):
        maker.held_out = held
    terms = Terms(ignored=("path", "rejects", "sources.*.location", "filters.held_out.*.location", *MOVED), files=True)
    return Rebuilt(maker.make(sources, str(place.folder / file_name(str(document["name"])))), terms)


def _source(told: Mapping[str, Any], materials: Materials) -> str:
    """What would be typed for a source. Raises ReplayError for a query and for a file that is gone."""
    location = str(told["location"])
    if location.startswith(("mp:", "optimade:", "store:")):
        raise ReplayError(f"its source {location} is a query, whose answer may have changed: it cannot be replayed")
    found = materials.file(location, told.get("sha256"))
    if found is None:
        raise ReplayError(f"its source {location} is not here: name it, or a folder with it, with --from")
    options = {**told.get("options", {}), "name": told["name"]}
    return f"{found}?{urlencode(options)}"


INGESTION = Stage(
    name="ingest",
    maker="dao_flows.makers.ingest:IngestMaker",
    document="dao_flows.makers.schemas.dataset:DatasetDoc",
    kind="ingestion",  # 'dataset' is the dataset itself
    route=CPU.model_copy(update={"walltime": "12:00:00"}),
    colour="#c9a227",
    label="building of a dataset",
    parents=(
        Parent("built from", (("source", "sources"),)),
        Parent("held out", (("source", "filters.held_out"),), sought=False),
    ),
    makes=(Made("dataset", "sha256", (("name", "name"), ("rows", "rows"), ("path", "path"))),),
    rebuild=rebuild,
)
