"""What rounds will take before they run: device time and storage, from throughput measured on this device."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from dao_flows.api.plan import (
    BYTES_A_SAMPLE,
    MEASURE_S,
    Plan,
    PlannedJob,
    look_at,
    planned_training,
    sampling_speed,
    training_speed,
    weights_of,
)
from dao_flows.errors import InputError
from dao_flows.makers.label import LabelMaker
from dao_flows.makers.models.checkpoints import pick_device
from dao_flows.makers.models.force_field import ForceField, ForceFieldError
from dao_flows.makers.pretrain import CPU, GPU
from dao_flows.makers.science.structures import to_structure
from dao_flows.makers.train import TrainMaker
from dao_flows.model.data.table import read_crystals

from .improve import ImproveConfig

BYTES_A_FRAME = 700  # of a labelled or relaxed crystal of a dozen atoms, compressed


def plan_rounds(config: ImproveConfig) -> Plan:
    """The plan of all rounds, if every one is kept, on crystals like those of the sources.

    Measures the throughput of training, drawing, relaxation and of the teacher on this device first, some seconds each.
    Raises InputError where the crystals cannot be told without building the dataset, and for a teacher that can compute
    none of them; and as `ImproveConfig.checked` does.
    """
    from dao_flows.model.throughput import relaxation_throughput

    maker = config.checked()
    rounds, device = maker.rounds, pick_device(config.device)
    data = look_at(config.sources)
    speed: dict[str, float] = {}
    trained: list[PlannedJob] = []
    for start, trainer in ((maker.predictor, rounds.inspector), (maker.generator, rounds.decide.generator)):
        first = start if isinstance(start, TrainMaker) else _from(trainer, start)
        architecture, speed[f"train {first.kind}"] = training_speed(first, data.sizes, device)
        if first.kind == "dao-p":
            speed["relax"] = relaxation_throughput(architecture, data.sizes, device, rounds.relax.iterations, MEASURE_S)
        else:
            speed["sample"] = sampling_speed(rounds.generate, architecture, data.sizes, device)
            speed["evaluate"] = sampling_speed(rounds.decide.evaluate, architecture, data.sizes, device)
        times = config.rounds + isinstance(start, TrainMaker)
        each = planned_training(trainer, 1.0, speed[f"train {first.kind}"], weights_of(first.kind, architecture))
        told = {"jobs": times, "seconds": times * each.seconds, "stored": times * each.stored}
        trained.append(each.model_copy(update=told))
    speed[rounds.label.force_field] = _teaching(rounds.label, config.sources, device)
    formulas = rounds.propose.known + rounds.propose.new
    candidates = config.rounds * formulas * rounds.generate.candidates
    frames = candidates * (max(rounds.label.steps) + 1)
    held = look_at([str(config.held_out)]).rows if config.held_out else max(1, data.rows // 20)
    drawn = (config.rounds + 1) * min(held, rounds.decide.evaluate.limit or held) * rounds.decide.evaluate.samples

    def job(name: str, task: str, count: int, jobs: int, stored: int) -> PlannedJob:
        seconds = count / speed[task]
        return PlannedJob(name=name, route=GPU, jobs=jobs, seconds=seconds, stored=count * stored)

    return Plan(
        crystals=data.rows,
        device=device,
        jobs=[
            PlannedJob(name="ingest", route=CPU, seconds=0, stored=int(data.rows * data.bytes_a_row)),
            job("generate", "sample", candidates, config.rounds, BYTES_A_FRAME),
            job(f"label by {rounds.label.force_field}", rounds.label.force_field, frames, config.rounds, BYTES_A_FRAME),
            trained[0],
            job("relax", "relax", candidates, config.rounds, BYTES_A_FRAME),
            PlannedJob(
                name="choose",
                route=GPU,
                jobs=config.rounds,
                seconds=0,
                stored=config.rounds * int(data.rows * data.bytes_a_row),
            ),
            trained[1],
            job("evaluate", "evaluate", drawn, config.rounds + 1, BYTES_A_SAMPLE),
        ],
        throughput=speed,
    )


def _from(trainer: TrainMaker, start: str) -> TrainMaker:
    """The same training, from a checkpoint."""
    return replace(trainer, start=start)


def _teaching(maker: LabelMaker, sources: list[str], device: str) -> float:
    """Calculations of the teacher per second, on crystals of the sources."""
    teacher, crystals = ForceField(maker.force_field, device), read_crystals(Path(sources[0])).crystals
    done, begun, failed = 0, time.monotonic(), 0
    for crystal in crystals:
        try:
            teacher.labels(to_structure(crystal))
        except ForceFieldError:
            failed += 1
            continue
        done += 1
        if done == 1:
            begun = time.monotonic()  # the first one opens it
        elif time.monotonic() - begun > MEASURE_S:
            break
    if not done:
        raise InputError(f"the teacher {maker.force_field} cannot compute any of {failed} crystals of {sources[0]}")
    return max(1, done - 1) / max(1e-6, time.monotonic() - begun)
