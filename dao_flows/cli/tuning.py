"""`dao-flows finetune` and `dao-flows evaluate`: one training, or one evaluation, of a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dao_flows.api.prediction.request import Precision, Sampler, Steps
from dao_flows.errors import InputError

from .shared.options import spread

FINETUNE_EXAMPLES = """[bold]Examples[/bold]

dao-flows finetune dao-g-base perovskites.parquet --steps 5000 --name dao-g-perovskites

dao-flows finetune dao-p-base superconductors.parquet --property tc --log --steps 2000 --name dao-p-tc

dao-flows finetune dao-g-base mine.parquet --steps 5000 --set rate=2e-5 --set weight_decay=1e-5 --plan
"""

EVALUATE_EXAMPLES = """[bold]Examples[/bold]

dao-flows evaluate dao-g-base crystals.parquet --split val --limit 200

dao-flows evaluate dao-g-perov5 perov5.parquet --split test --samples 20 --json > figures.json
"""

PLAN = typer.Option("--plan", help="Print the job, its route and an estimate, and run nothing.")
JSON = typer.Option("--json", help="Print JSON, and nothing else, on stdout.")


def finetune(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint to train on from: name, path or sha256.")],
    data: Annotated[Path, typer.Argument(help="Dataset folder, or parquet file.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")],
    name: Annotated[str | None, typer.Option(help="Name to register it under.", show_default="CHECKPOINT-DATA")] = None,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(min=1, help="Crystals of a step.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights on the same machine.")] = 0,
    property_name: Annotated[
        str | None, typer.Option("--property", help="Learn this column with a head of its own (DAO-P).")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Learn the property's logarithm.")] = False,
    more: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of `python -m dao_flows.model.train`."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes, one for each GPU.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0.")] = "auto",
    plan: Annotated[bool, PLAN] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Train a checkpoint on, on data of your own, and register what comes of it.

    What was interrupted goes on where it was when the same command is given again.
    """
    from dao_flows.makers.schemas.training import TrainingDoc
    from dao_flows.makers.train import TrainMaker
    from dao_flows.model.checkpoint.library import card_of

    source = data.expanduser().absolute()
    card = card_of(checkpoint)
    config: dict[str, Any] = {"steps": steps, "rate": rate, "batch_size": batch_size, "seed": seed}
    config |= {"property": property_name, "log": log} if property_name else {}
    maker = TrainMaker(
        name="fine-tune",
        kind=card.kind,
        stage="fine-tuning",
        config=config | _settings(more or []),
        start=checkpoint,
        processes=processes,
        register_as=name or f"{card.name}-{source.stem}",
        device=device,
    )
    maker.resolve(str(source))
    if plan:
        from dao_flows.api.plan import plan_training

        _print_plan(plan_training(maker, source, card), as_json)
        return
    document = TrainingDoc.model_validate(_run(maker.make(str(source)), {"finetune": config, "of": card.sha256}))
    if as_json:
        print(document.model_dump_json(indent=1))
        return
    losses = ", ".join(f"{term} {value:.4f}" for term, value in (document.validation or document.losses).items())
    print(f"{document.registered_as}: sha256 {document.checkpoint_sha256}")
    print(f"{'validation' if document.validation else 'training'} loss: {losses}")
    if document.plot:
        print(f"picture: {document.plot}")


@spread
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="DAO-G: name, path or sha256.")],
    data: Annotated[Path, typer.Argument(help="Held-out crystals: dataset folder, or parquet file.")],
    split: Annotated[str | None, typer.Option(help="Rows of this split alone.", show_default="all rows")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="A random subset of so many, always the same.")] = None,
    max_atoms: Annotated[int | None, typer.Option(min=1, help="Leave larger cells out.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Crystals drawn for each composition.")] = 1,
    steps: Steps = None,
    sampler: Sampler = "renoising",
    churn: Annotated[float, typer.Option(min=0, help="Noise that heun gives back before a step.")] = 0.0,
    bf16: Precision = False,
    guidance: Annotated[float, typer.Option(min=0, help="Strength of DAO-P's energy; 0: none.")] = 0.0,
    predictor: Annotated[str, typer.Option(help="DAO-P that judges energies: name, path or sha256.")] = "dao-p-flow",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same samples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0.")] = "auto",
    plan: Annotated[bool, PLAN] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure a checkpoint: match rate and RMSE on held-out crystals, and the energies of what it draws."""
    from dao_flows.makers.compare_stages import table
    from dao_flows.makers.evaluate import EvaluateMaker, EvaluationDoc
    from dao_flows.model.checkpoint.library import card_of

    source = data.expanduser().absolute()
    maker = EvaluateMaker(
        predictor=predictor,
        guidance_coordinates=guidance,
        guidance_lattice=guidance,
        split=split,
        limit=limit,
        max_atoms=max_atoms,
        samples=samples,
        steps=steps,
        sampler=sampler,
        churn=churn,
        bf16=bf16,
        seed=seed,
        device=device,
    )
    held = maker.held_out(checkpoint, source)
    if plan:
        from dao_flows.api.plan import plan_evaluation

        _print_plan(plan_evaluation(maker, held, card_of(checkpoint)), as_json)
        return
    request = {"evaluate": checkpoint, "data": held.table.sha256, "samples": samples, "seed": seed}
    document = EvaluationDoc.model_validate(_run(maker.make(checkpoint, str(source)), request))
    print(document.model_dump_json(indent=1) if as_json else table({document.checkpoint: document}))


def _run(job: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Run one job here, with progress and a log, and return its document."""
    from jobflow.core.flow import Flow

    from dao_flows.api.local import run_logged

    from .shared.progress import stage_progress

    with stage_progress() as listener:
        return run_logged(Flow([job], output=job.output), request, listener, ["dao-flows", *sys.argv[1:]])


def _settings(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE settings; values as YAML reads them. Raises InputError for what is no such pair."""
    import yaml

    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise InputError(f"--set {pair}: write KEY=VALUE, as in --set weight_decay=1e-5")
        try:  # YAML 1.1 takes 1e-5 for text
            found[key.replace("-", "_")] = float(value) if "e" in value.lower() else yaml.safe_load(value)
        except ValueError:
            found[key.replace("-", "_")] = value
    return found


def _print_plan(plan: Any, as_json: bool) -> None:
    from .pretrain import print_plans

    print_plans([plan], as_json)
