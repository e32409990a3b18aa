"""IngestMaker: sources become a dataset, in a job."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from jobflow.core.job import Job, JobConfig
from jobflow.core.maker import Maker

from dao_flows.makers.schemas.document import Science
from dao_flows.version import __version__

from .datasets.build import REJECTS, build_dataset
from .datasets.config import BuildConfig, build_config
from .jobs.progress import report
from .jobs.provenance import execution_record, provenance
from .jobs.stage import stage
from .machine.places import PATH, SHA256, SOURCE, Places
from .merge import in_full
from .schemas.dataset import DatasetDoc


@dataclass
class IngestMaker(Maker):
    """Builds a dataset from sources (see docs/datasets.md). The fields are those of BuildConfig.

    dataset_name: what the manifest calls it; None: the name of its folder. licence: of sources that state none.
    Energies (eV/atom above hull): min_energy to max_energy; distances in Å.
    """

    PLACES: ClassVar[Places] = {"sources": SOURCE, "held_out": SOURCE, "out": PATH}

    name: str = "ingest"
    dataset_name: str | None = None
    licence: str | None = None
    properties: list[str] = field(default_factory=list)
    min_atoms: int = 1
    max_atoms: int = 64
    min_energy: float | None = None
    max_energy: float | None = None
    keep_unlabelled: bool = False
    min_distance: float = 0.5
    primitive: bool = False
    keep_duplicates: bool = False
    held_out: list[str] = field(default_factory=list)
    held_out_formulas: bool = False
    val_share: float = 0.0
    rows_per_shard: int = 10_000

    def make(self, sources: list[str], out: str) -> Job:
        """A job that builds the dataset in the folder `out`, given in full; its output is a DatasetDoc."""
        built: Job = self.build(sources, out)
        built.config = JobConfig(
            expose_store=True
        )  # `store:` reads it; one of its own, for routing changes it in place
        return built

    @stage(output_schema=DatasetDoc)
    def build(self, sources: list[str], out: str) -> DatasetDoc:
        """Build the dataset in the folder `out`, given in full; `store:` is the store of this job.

        A killed job goes on after its last batch, and a finished dataset is not built again. Raises SourceError,
        ParameterError for a folder that is not given in full, DataError for a damaged dataset among the sources.
        """
        started, config, target = datetime.now(UTC), self.config(), in_full(out)
        manifest = build_dataset(
            target, sources, config, lambda done, total, what: report(done, total or 0, f"ingest {what}")
        )
        held_out = [_named(*each) for each in zip(config.held_out, manifest.filters["held_out"], strict=True)]
        science = Science(
            maker=type(self).__name__,
            parameters=config.model_dump(mode="json") | {"held_out": held_out},
            inputs={"sources": [_content(source) for source in manifest.sources]},
            checkpoints={},
            code_version=__version__,
        )
        return DatasetDoc(
            path=str(target),
            sha256=manifest.sha256,
            name=manifest.name,
            rows=manifest.rows,
            shards=len(manifest.shards),
            counts=manifest.counts,
            columns=manifest.columns,
            sources=manifest.sources,
            filters=manifest.filters,
            rejects=str(target / REJECTS),
            provenance=provenance(science, execution_record(started, "cpu", {})),
        )

    def config(self) -> BuildConfig:
        """The settings. Raises SourceError for one out of range."""
        settings: dict[str, Any] = asdict(self)
        settings["name"] = settings.pop("dataset_name")
        return build_config(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})


def _named(text: str, source: dict[str, Any]) -> str:
    """A held-out source by its name and content, wherever it lies; a query as it is."""
    sha256 = source.get("sha256")
    if sha256 is None or not text.startswith(os.sep):
        return text
    place, mark, query = text.partition("?")
    return f"{Path(place).name}{mark}{query} {SHA256}{sha256}"


def _content(source: dict[str, Any]) -> dict[str, Any]:
    """What of a source decides the result: not where it lies, nor what became of it."""
    told = ("location", "licence", "rows", "kept", "rejected", "with_energy")
    return {name: value for name, value in source.items() if name not in told}
