"""EvaluateMaker: how well a DAO-G checkpoint predicts held-out crystals, and how stable DAO-P finds what it draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from jobflow.core.maker import Maker
from pydantic import BaseModel, Field

from dao_flows.makers.schemas.document import SCHEMA_VERSION, PrecisionChoice, Provenance, Science
from dao_flows.version import __version__

from .generators.sampler import (
    check_guidance,
    check_sampling,
    measured_precision,
    objective_of,
    sampler_config,
    sampler_parameters,
    settled,
)
from .generators.settings import SamplerSettings
from .jobs.progress import report
from .jobs.provenance import execution_record, provenance
from .jobs.reuse import reusable
from .jobs.run_folder import run_folder
from .jobs.stage import stage
from .machine.places import CHECKPOINT, PATH, Places
from .machine.whole_files import write_whole
from .models.checkpoints import ParameterError, card, load_model, pick_device
from .science.match_rate import Interval, MatchFigures, bootstrap, match, wilson

if TYPE_CHECKING:
    from dao_flows.model.crystals import Crystal
    from dao_flows.model.dao_g import DaoG
    from dao_flows.model.data.table import CrystalTable
    from dao_flows.model.sampling.sample import Request

STABLE = 0.08  # eV/atom above hull, as the DAO paper counts
BIN = 0.02  # eV/atom, of the histogram of energies
PRECISION = "precision.json"  # in a run's folder
LOWEST, HIGHEST = -0.2, 1.0  # eV/atom; what lies beyond counts in the outermost bins


class EnergyFigures(BaseModel):
    """Predicted energies above hull (eV/atom) of all samples: by DAO-P, so as trustworthy as it is."""

    predictor: str = Field(description="sha256 of the DAO-P checkpoint")
    stable_below: float = STABLE
    stable_share: float
    stable_share_95: Interval = Field(description="Wilson's")
    mean: float
    mean_95: Interval = Field(description="bootstrap over samples")
    median: float
    histogram: list[int] = Field(description="counts; what lies beyond the edges is in the outermost bins")
    edges: list[float]


class EvaluationDoc(BaseModel):
    """What EvaluateMaker writes."""

    schema_version: int = SCHEMA_VERSION
    checkpoint: str = Field(description="name of the DAO-G checkpoint")
    checkpoint_sha256: str
    data: str = Field(description="name of the file or dataset")
    data_sha256: str
    split: str | None
    n: int = Field(description="held-out crystals")
    samples: int = Field(description="drawn for each")
    all: MatchFigures
    valid_only: MatchFigures = Field(description="samples that the published validity filter turns away do not count")
    valid_share: float
    not_compared: dict[str, int]
    energies: EnergyFigures | None
    sampling_seconds: float
    provenance: Provenance


class Held(NamedTuple):
    """The held-out crystals that are asked for, with their rows in the file."""

    table: CrystalTable
    rows: np.ndarray

    @property
    def crystals(self) -> list[Crystal]:
        """The references."""
        return [self.table.crystals[i] for i in self.rows]


@dataclass
class EvaluateMaker(SamplerSettings, Maker):
    """Draws k samples for the composition of each held-out crystal, and measures them.

    predictor: DAO-P whose energies the samples are judged by (None: no energies), and whose energy guides them with the
    two strengths (0: no guidance). split: rows of this split alone (None: all); limit: a random subset, always the
    same; max_atoms: larger cells are left out (None: what the checkpoint covers). samples: k for each crystal; seed: as
    in GenerateMaker; the sampler's settings: as SamplerSettings says. chunk: crystals drawn at a time; finished chunks
    survive a kill, and stay in the run's folder (see run_folder), from which the same evaluation takes them again; what
    bf16='auto' came to stays there too.
    """

    PLACES: ClassVar[Places] = {"checkpoint": CHECKPOINT, "data": PATH, "predictor": CHECKPOINT}

    name: str = "evaluate"
    predictor: str | None = "dao-p-flow"
    guidance_coordinates: float = 0.0
    guidance_lattice: float = 0.0
    split: str | None = "val"
    limit: int | None = None
    max_atoms: int | None = None
    samples: int = 1
    seed: int = 0
    chunk: int = 200
    device: str = "auto"

    @stage(output_schema=EvaluationDoc)
    def make(self, checkpoint: str, data: str, predictor: str | None = None) -> EvaluationDoc:
        """Evaluate one checkpoint on a parquet file or dataset; predictor, if given, replaces the maker's.

        Raises CheckpointError, ParameterError, and DataError for what cannot be read.
        """
        from dao_flows.model.dao_p import predict_energy

        started, device = datetime.now(UTC), pick_device(self.device)
        judge = predictor or self.predictor
        held = self.held_out(checkpoint, Path(data))
        sciences = [each.science(checkpoint, judge, held) for each in settled(self)]
        for science in sciences:
            if (found := reusable(EvaluationDoc, science)) is not None:
                return found
        generator, generator_card = load_model(checkpoint, "dao-g", device)
        names = {"generator": generator_card.name}
        model = None
        if judge:
            model, judge_card = load_model(judge, "dao-p", device)
            names["predictor"] = judge_card.name
        maker, science, precision = self, sciences[0], None
        if self.bf16 == "auto":
            precision = self._precision([run_folder(each, self.name) for each in sciences], generator, held)
            maker, science = replace(self, bf16=precision.bf16), sciences[precision.bf16]
        drawn, seconds = maker._draw(held, run_folder(science, self.name), generator, model)
        matching = match(held.crystals, drawn, lambda done, total: report(done, total, "match"))
        energies = energy_figures(predict_energy(model, drawn), judge_card.sha256) if judge and model else None
        document = EvaluationDoc(
            checkpoint=generator_card.name,
            checkpoint_sha256=generator_card.sha256,
            data=Path(data).name,
            data_sha256=held.table.sha256,
            split=self.split,
            n=len(held.rows),
            samples=self.samples,
            all=matching.all,
            valid_only=matching.valid_only,
            valid_share=float(matching.valid.mean()),
            not_compared=matching.not_compared,
            energies=energies,
            sampling_seconds=round(seconds, 1),
            provenance=provenance(science, execution_record(started, device, names, precision=precision)),
        )
        return document

    def held_out(self, checkpoint: str, data: Path) -> Held:
        """The crystals to predict. Raises as `make` does."""
        from dao_flows.model.data.table import read_crystals

        found = card(checkpoint, "dao-g")
        self.check(found.architecture)
        table = read_crystals(data, self.split, min(self.max_atoms or found.max_atoms, found.max_atoms))
        covered = set(found.elements)
        fit = np.flatnonzero([set(np.unique(crystal.numbers).tolist()) <= covered for crystal in table.crystals])
        if not len(fit):
            raise ParameterError(f"{found.name} covers the elements of no crystal in {data}")
        return Held(table, np.sort(np.random.default_rng(0).permutation(fit)[: self.limit]))

    def check(self, architecture: Mapping[str, Any]) -> None:
        """Raises ParameterError for a setting out of range; architecture: what is known of the generator's."""
        check_sampling(self, architecture)
        for setting in ("samples", "chunk", "limit", "max_atoms"):
            if (value := getattr(self, setting)) is not None and value < 1:
                raise ParameterError(f"{setting} must be at least 1, not {value}")
        if self.guided and self.predictor is None:
            raise ParameterError("guidance needs a predictor: give one, or set both strengths to 0")

    @property
    def guided(self) -> bool:
        """Whether DAO-P guides the samples."""
        return self.guidance_coordinates > 0 or self.guidance_lattice > 0

    def science(self, checkpoint: str, predictor: str | None, held: Held) -> Science:
        """All that decides the result. Raises ParameterError where bf16 is 'auto': it is not known yet."""
        cards = {"generator": card(checkpoint, "dao-g")}
        if predictor:
            cards["predictor"] = card(predictor, "dao-p")
            if self.guided:
                check_guidance(cards["generator"], cards["predictor"])
        parameters: dict[str, Any] = {
            "samples": self.samples,
            **sampler_parameters(self, objective_of(cards["generator"].architecture)),
            "chunk": self.chunk,
            "split": self.split,
            "limit": self.limit,
            "max_atoms": self.max_atoms,
            "guidance_coordinates": float(self.guidance_coordinates),
            "guidance_lattice": float(self.guidance_lattice),
        }
        return Science(
            maker=type(self).__name__,
            parameters=parameters,
            inputs={"data": held.table.sha256},
            checkpoints={role: found.sha256 for role, found in cards.items()},
            seed=self.seed,
            code_version=__version__,
        )

    def _parts(self, held: Held) -> list[list[Request]]:
        """What is drawn, a chunk at a time: k samples of the first reference, then of the next."""
        from dao_flows.model.sampling.sample import Request

        requests = [
            Request(reference.numbers, (int(row), k))
            for row, reference in zip(held.rows, held.crystals, strict=True)
            for k in range(self.samples)
        ]
        return [requests[start : start + self.chunk] for start in range(0, len(requests), self.chunk)]

    def _precision(self, folders: list[Path], generator: DaoG, held: Held) -> PrecisionChoice:
        """What bf16='auto' came to when this evaluation began, or does now. folders: of the run in fp32, in bf16."""
        for path in (folder / PRECISION for folder in folders):
            if path.exists():
                return PrecisionChoice.model_validate_json(path.read_text())
        found = measured_precision(generator, self._parts(held))
        folder = folders[found.bf16]
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / PRECISION, found.model_dump_json(indent=1))
        return found

    def _draw(self, held: Held, folder: Path, generator: Any, predictor: Any) -> tuple[list[Crystal], float]:
        """The samples, in the order of the requests, and the seconds that drawing them took."""
        from dao_flows.model.sampling.sample import Guidance, sample

        guidance = Guidance(self.guidance_coordinates, self.guidance_lattice) if self.guided else None
        parts = self._parts(held)
        total = sum(map(len, parts))
        drawn: list[Crystal] = []
        seconds = 0.0

        def progress(done: int, steps: int) -> None:
            report(len(drawn) + len(part) * done // steps, total, "sample")

        folder.mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(parts):
            path = folder / f"samples-{number * self.chunk:07d}.npz"
            if path.exists():
                crystals, spent = read_crystal_file(path)
            else:
                begun = datetime.now(UTC)
                crystals = sample(
                    generator,
                    part,
                    self.seed,
                    sampler_config(self, generator.config.objective),
                    predictor=predictor if guidance else None,
                    guidance=guidance,
                    progress=progress,
                )
                spent = (datetime.now(UTC) - begun).total_seconds()
                write_crystal_file(path, crystals, spent)
            drawn, seconds = drawn + crystals, seconds + spent
            report(len(drawn), total, "sample")
        return drawn, seconds


def energy_figures(energies: np.ndarray, predictor: str) -> EnergyFigures:
    """Figures of predicted energies above hull (eV/atom); samples without a finite one count as unstable."""
    finite = energies[np.isfinite(energies)]
    if not len(finite):
        finite = np.array([HIGHEST])
    stable = int((finite < STABLE).sum())
    edges = np.arange(round(LOWEST / BIN), round(HIGHEST / BIN) + 1) * BIN
    counts, _ = np.histogram(np.clip(finite, LOWEST, HIGHEST - BIN / 2), edges)
    return EnergyFigures(
        predictor=predictor,
        stable_share=stable / len(energies),
        stable_share_95=wilson(stable, len(energies)),
        mean=float(finite.mean()),
        mean_95=bootstrap(finite),
        median=float(np.median(finite)),
        histogram=counts.tolist(),
        edges=[round(float(edge), 6) for edge in edges],
    )


def write_crystal_file(path: Path, crystals: list[Crystal], seconds: float) -> None:
    """Crystals one after the other in one file, whole or not at all, with the seconds that drawing them took."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            seconds=np.array(seconds),
            sizes=np.array([len(c) for c in crystals]),
            numbers=np.concatenate([c.numbers for c in crystals]),
            frac=np.concatenate([c.frac for c in crystals]),
            lattice=np.stack([c.lattice for c in crystals]),
        )
    partial.replace(path)


def read_crystal_file(path: Path) -> tuple[list[Crystal], float]:
    """What write_crystal_file wrote."""
    from dao_flows.model.crystals import Crystal

    with np.load(path) as file:
        ends = np.cumsum(file["sizes"])[:-1]
        parts = zip(np.split(file["numbers"], ends), np.split(file["frac"], ends), file["lattice"], strict=True)
        return [Crystal(*part) for part in parts], float(file["seconds"])
