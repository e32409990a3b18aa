"""What a flow will take before it runs: device time and storage, from throughput measured on this device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, Field

from dao_flows.errors import InputError
from dao_flows.makers.generators.sampler import objective_of, sampler_config, settled
from dao_flows.makers.generators.settings import SamplerSettings
from dao_flows.makers.models.checkpoints import card, pick_device
from dao_flows.makers.pretrain import CONTROL, CPU, GPU, STAGE_ONE, STAGE_TWO
from dao_flows.makers.train import TrainMaker

from .pretrain import PretrainConfig

if TYPE_CHECKING:
    from dao_flows.makers.evaluate import EvaluateMaker, Held
    from dao_flows.model.checkpoint.format import Card

CRYSDB = 940_000  # crystals, the size of the paper's data
SAMPLE = 5_000  # sizes that throughput is weighted by
MEASURE_S = 3.0  # s, about, of each measurement
BYTES_A_WEIGHT = 4
STATES = 3  # a run keeps its state and two to go back to, each of four tensors a weight: raw, averaged, two moments
BYTES_A_SAMPLE = 200  # in the file of samples, compressed
RELAXED_COLUMNS_BYTES = 40  # a row, of what relaxation adds


class PlannedJob(BaseModel):
    """One job, or jobs that share a line. seconds: of the device; stored: bytes on disk when it is done."""

    name: str
    route: str = Field(description="category of worker: gpu or cpu")
    jobs: int = 1
    seconds: float
    stored: int


class Plan(BaseModel):
    """The jobs of a pretraining on so many crystals, on the device where it was measured."""

    crystals: int
    device: str
    jobs: list[PlannedJob]
    throughput: dict[str, float] = Field(description="what was measured: crystals per second by task")

    @property
    def gpu_hours(self) -> float:
        """Hours of the device that was measured, for all jobs of route gpu."""
        return sum(job.seconds for job in self.jobs if job.route == GPU) / 3600

    @property
    def stored(self) -> int:
        """Bytes in all."""
        return sum(job.stored for job in self.jobs)


class Crystals(BaseModel):
    """What a plan needs to know of the data. sizes: atoms of a sample; unstable: share within the window to relax."""

    rows: int
    sizes: list[int]
    unstable: float
    bytes_a_row: float


def plan_pretraining(config: PretrainConfig) -> list[Plan]:
    """Plans for the configured sources and, at the same number of epochs, for 940,000 crystals.

    Measures the throughput of training, relaxation and sampling of the configured networks on this device first, some
    seconds each. Raises InputError where the number of crystals cannot be told without building the dataset.
    """
    from dao_flows.model.throughput import relaxation_throughput

    maker = config.maker()
    device = pick_device(config.device)
    data = look_at(config.sources, maker.relax.low, maker.relax.high)
    speed: dict[str, float] = {}
    weights: dict[str, int] = {}
    for trainer in (maker.predictor, maker.stage_one):
        architecture, speed[f"train {trainer.kind}"] = training_speed(trainer, data.sizes, device)
        weights[trainer.kind] = weights_of(trainer.kind, architecture)
        if trainer.kind == "dao-p":
            speed["relax"] = relaxation_throughput(architecture, data.sizes, device, maker.relax.iterations, MEASURE_S)
        elif maker.evaluate is not None:
            speed["sample"] = sampling_speed(maker.evaluate, architecture, data.sizes, device)
    plans = []
    for rows in (data.rows, CRYSDB):
        scale = rows / data.rows
        jobs = [
            PlannedJob(name="ingest", route=CPU, seconds=0, stored=int(rows * data.bytes_a_row)),
            *(
                planned_training(trainer, scale, speed[f"train {trainer.kind}"], weights[trainer.kind])
                for trainer in (maker.predictor, maker.stage_one)
            ),
            PlannedJob(
                name="relax dataset",
                route=GPU,
                jobs=_shards(rows, config),
                seconds=rows * data.unstable / speed["relax"],
                stored=int(rows * (data.bytes_a_row + RELAXED_COLUMNS_BYTES)),
            ),
            *(
                planned_training(trainer, scale, speed["train dao-g"], weights["dao-g"])
                for trainer in (maker.stage_two, maker.control)
                if trainer is not None
            ),
        ]
        if maker.evaluate is not None:
            held = look_at([str(config.held_out)]).rows if config.held_out else max(1, data.rows // 20)
            drawn = min(held, maker.evaluate.limit or held) * maker.evaluate.samples
            for label in (STAGE_ONE, *([CONTROL] if maker.control else ()), STAGE_TWO):
                name, seconds = f"{maker.evaluate.name} {label}", drawn / speed["sample"]
                jobs.append(PlannedJob(name=name, route=GPU, seconds=seconds, stored=BYTES_A_SAMPLE * drawn))
        plans.append(Plan(crystals=rows, device=device, jobs=jobs, throughput=speed))
    return plans


def plan_training(maker: TrainMaker, data: Path, card: Card) -> Plan:
    """The plan of one training from a checkpoint. Raises InputError and TrainingError."""
    from dao_flows.model.throughput import throughput

    device, found = pick_device(maker.device), look_at([str(data)])
    settings, _ = training_settings(maker)
    measured = throughput(
        card.kind,
        card.architecture,
        found.sizes,
        device,
        batch_size=settings.batch_size,
        bf16=settings.bf16,
        seconds=MEASURE_S,
    )
    job = planned_training(maker, 1.0, measured.crystals_per_s, weights_of(card.kind, card.architecture))
    return Plan(
        crystals=found.rows, device=device, jobs=[job], throughput={f"train {card.kind}": measured.crystals_per_s}
    )


def plan_evaluation(maker: EvaluateMaker, held: Held, card: Card) -> Plan:
    """The plan of one evaluation."""
    device, sizes = pick_device(maker.device), [len(crystal) for crystal in held.crystals]
    speed = sampling_speed(maker, card.architecture, sizes, device)
    drawn = len(sizes) * maker.samples
    job = PlannedJob(name=maker.name, route=GPU, seconds=drawn / speed, stored=BYTES_A_SAMPLE * drawn)
    return Plan(crystals=len(sizes), device=device, jobs=[job], throughput={"sample": speed})


def sampling_speed(maker: SamplerSettings, architecture: dict[str, Any], sizes: Sequence[int], device: str) -> float:
    """Crystals drawn per second; where bf16 is 'auto', by the faster precision."""
    from dao_flows.model.throughput import sampling_throughput

    samplers = [sampler_config(each, objective_of(architecture)) for each in settled(maker)]
    return max(sampling_throughput(architecture, sizes, device, sampler, MEASURE_S) for sampler in samplers)


def look_at(sources: Sequence[str], low: float = np.inf, high: float = np.inf) -> Crystals:
    """Number, sizes and bytes of the crystals of parquet files and datasets, and their share with low < E_hull ≤ high.

    Raises InputError for sources of other kinds, whose crystals cannot be counted without reading them all.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from dao_flows.model.data.shards import DataError, parts

    rows, stored, unstable = 0, 0, 0
    sizes: list[np.ndarray] = []
    for source in sources:
        try:
            files, _ = parts(Path(source))
            for file in files:
                names = set(pq.read_schema(file).names)
                table = pq.read_table(file, columns=sorted(names & {"numbers", "e_above_hull"}))
                sizes.append(pc.list_value_length(table["numbers"]).to_numpy())
                rows, stored = rows + table.num_rows, stored + file.stat().st_size
                if "e_above_hull" in names:
                    energy = table["e_above_hull"].to_numpy()
                    unstable += int(((energy > low) & (energy <= high)).sum())
        except (DataError, OSError, KeyError, ValueError) as error:
            raise InputError(
                f"the crystals of {source} cannot be counted ({error}): build the dataset first, "
                "`dao-flows dataset build`, and give its folder as the source"
            ) from error
    if not rows:
        raise InputError(f"there are no crystals in {', '.join(sources)}")
    drawn = np.random.default_rng(0).permutation(np.concatenate(sizes))[:SAMPLE]
    return Crystals(rows=rows, sizes=drawn.tolist(), unstable=unstable / rows, bytes_a_row=stored / rows)


def planned_training(trainer: TrainMaker, scale: float, speed: float, weights: int) -> PlannedJob:
    """A training at `scale` times the configured steps. Several processes are taken to share the work evenly."""
    settings, _ = training_settings(trainer)
    crystals = settings.steps * settings.batch_size * scale
    stored = BYTES_A_WEIGHT * weights * (2 + 4 * STATES)  # the checkpoint, registered too, and the states of the run
    return PlannedJob(
        name=trainer.name, route=GPU, seconds=crystals / speed / (trainer.processes * trainer.nodes), stored=stored
    )


def training_settings(trainer: TrainMaker) -> tuple[Any, dict[str, Any]]:
    """A training's settings, and the architecture of its network. Raises TrainingError."""
    from dao_flows.model.dao import DaoConfig
    from dao_flows.model.training.config import TrainRequest

    request = TrainRequest.of(trainer.settings(Path("data"), Path("run"), None))
    made = DaoConfig(network=request.network, volume_scaling=request.volume_scaling)
    architecture = {**asdict(made), "properties": []}
    if trainer.start is not None:
        architecture = card(trainer.start, trainer.kind).architecture
    return request.training, architecture


def training_speed(trainer: TrainMaker, sizes: Sequence[int], device: str) -> tuple[dict[str, Any], float]:
    """The architecture of a training's network, and crystals a second, measured on crystals of these sizes."""
    from dao_flows.model.throughput import throughput

    settings, architecture = training_settings(trainer)
    batch, bf16 = settings.batch_size, settings.bf16
    found = throughput(trainer.kind, architecture, sizes, device, batch_size=batch, bf16=bf16, seconds=MEASURE_S)
    return architecture, found.crystals_per_s


def weights_of(kind: str, architecture: dict[str, Any]) -> int:
    """Number of weights of a network."""
    import torch

    from dao_flows.model.checkpoint.format import build

    with torch.device("meta"):
        return sum(weight.numel() for weight in build(kind, architecture).parameters())


def _shards(rows: int, config: PretrainConfig) -> int:
    """Jobs of a relaxation: one a shard, one that starts them and one that merges."""
    from dao_flows.model.data.shards import ROWS_PER_SHARD

    return -(-rows // int(config.dataset.get("rows_per_shard", ROWS_PER_SHARD))) + 2
