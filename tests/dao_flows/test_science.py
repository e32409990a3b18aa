"""What enters each maker's science hash, as a table; and that no fact of the execution does.

A change to the table changes the hashes of all results of that maker: older ones are then not found for reuse, and
replay reports another science. It is meant to be looked at in review.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from dao_flows.makers.evaluate import EvaluateMaker
from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.jobs.provenance import science_hash
from dao_flows.makers.relax_dataset import RelaxDatasetMaker
from dao_flows.makers.schemas.document import Execution, Science
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.train import TrainMaker
from dao_flows.model.data.shards import read_manifest
from dao_flows.store.stores import job_store

ALWAYS = "maker code_version seed"
TABLE = {
    "IngestMaker": """
        inputs.sources.*.name inputs.sources.*.options inputs.sources.*.sha256 parameters.held_out
        parameters.held_out_formulas parameters.keep_duplicates parameters.keep_unlabelled parameters.licence
        parameters.max_atoms parameters.max_energy parameters.min_atoms parameters.min_distance parameters.min_energy
        parameters.name parameters.primitive parameters.properties parameters.rows_per_shard parameters.val_share""",
    "TrainMaker": """
        inputs.dataset parameters.batch_size parameters.bf16 parameters.clip_norm parameters.clip_value
        parameters.constant parameters.coordinate_weight parameters.ema parameters.feed_forward parameters.final_rate
        parameters.fit_all parameters.freeze_backbone parameters.frequencies parameters.gate_rate parameters.heads
        parameters.hidden parameters.kind parameters.layers parameters.log parameters.max_atoms parameters.max_energy
        parameters.max_rollbacks parameters.muon_rate parameters.objective parameters.optimizer parameters.property
        parameters.rate parameters.seed parameters.snapshot_every parameters.spike parameters.steps
        parameters.time_width parameters.validate_every parameters.volume_scaling parameters.warm_up
        parameters.weight_decay""",
    "RelaxDatasetMaker": """
        checkpoints.predictor inputs.dataset inputs.shard inputs.shard_sha256 parameters.chunk_rows parameters.high
        parameters.iterations parameters.low parameters.max_displacement parameters.max_strain
        parameters.max_volume_ratio parameters.min_distance_ratio parameters.min_volume_ratio parameters.unlabelled""",
    "MergeShardsMaker": "inputs.dataset inputs.shards parameters.dataset_name",
    "LabelMaker": """
        inputs.dataset inputs.shard inputs.shard_sha256 parameters.chunk_rows parameters.force_field
        parameters.force_field_version parameters.steps""",
    "MergeLabelsMaker": "inputs.dataset inputs.shards parameters.dataset_name",
    "EvaluateMaker": """
        checkpoints.generator checkpoints.predictor inputs.data parameters.bf16 parameters.chunk parameters.churn
        parameters.double parameters.guidance_coordinates parameters.guidance_lattice parameters.limit
        parameters.max_atoms parameters.sampler parameters.samples parameters.split parameters.steps""",
    "CompareStagesMaker": "checkpoints.stage-1 inputs.evaluations parameters.labels",
    "GenerateMaker": """
        checkpoints.generator checkpoints.predictor inputs.compositions.*.cells.*.candidates
        inputs.compositions.*.cells.*.templates inputs.compositions.*.cells.*.z inputs.compositions.*.formula
        inputs.compositions.*.looked_up inputs.library parameters.bf16 parameters.churn parameters.double
        parameters.guidance_coordinates parameters.guidance_lattice parameters.known parameters.sampler
        parameters.steps parameters.templates""",
    "ScreenMaker": """
        checkpoints.predictor inputs.generation parameters.angle_tol parameters.ltol parameters.max_volume_per_atom
        parameters.min_distance parameters.min_distance_ratio parameters.min_volume_per_atom
        parameters.neutrality.include_alloys parameters.neutrality.mixed_valence parameters.neutrality.use_pauling_test
        parameters.prototypes parameters.rank_by parameters.relax_iterations parameters.require_neutral parameters.stol
        parameters.symprec_loose parameters.symprec_tight parameters.top_k""",
    "CalculateMaker": """
        inputs.previous inputs.pseudopotentials inputs.structure parameters.atomate2 parameters.calculator
        parameters.code parameters.program_version parameters.settings.* parameters.step""",
    "VerifyMaker": """
        inputs.calculations inputs.candidate inputs.fault inputs.screening parameters.backend parameters.reference""",
}
JUDGED = {"parameters.atomate2", "parameters.judge", "parameters.judge_steps", "parameters.judge_version"}
JUDGED |= {"parameters.softness"}  # of ScreenMaker with a judge, where a force field is installed
OF_A_PROGRAM = {"CalculateMaker", "VerifyMaker", "LabelMaker", "MergeLabelsMaker"}  # where a force field is installed


def fields(value, path=()):
    """Paths of a document's leaves; an empty mapping holds nothing."""
    if path == ("parameters", "settings"):  # of a calculator, whatever it has
        yield "parameters.settings.*"
    elif isinstance(value, dict) and (value or path == ("checkpoints",)):
        for key, inner in value.items():
            yield from fields(inner, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from fields(inner, (*path, "*"))
    else:
        yield ".".join(path)


def test_what_enters_the_science_hash(audited):
    found: dict[str, set[str]] = {}
    for document in job_store().query({"output.provenance.science.maker": {"$exists": True}}, properties=["output"]):
        science = Science.model_validate(document["output"]["provenance"]["science"]).model_dump()
        found.setdefault(science["maker"], set()).update(fields(science))
    if find_spec("chgnet") is None:
        assert not OF_A_PROGRAM & set(found)
    wanted = {maker for maker in TABLE if maker not in OF_A_PROGRAM or find_spec("chgnet")}
    assert set(found) == wanted
    for maker in wanted:
        more = JUDGED if maker == "ScreenMaker" and find_spec("chgnet") else set()
        assert sorted(found[maker]) == sorted({*TABLE[maker].split(), *ALWAYS.split(), *more}), maker


def test_science_and_execution_share_no_field():
    """`checkpoints` is in both: by sha256 in the science, by name in the execution."""
    assert set(Science.model_fields) & set(Execution.model_fields) == {"checkpoints"}


@pytest.fixture
def hashes(audited, audited_home):
    """Makers by name, each with what gives its science hash on this data."""
    dataset = Path(next(iter(job_store().query({"output.@class": "DatasetDoc"})))["output"]["path"])
    manifest = read_manifest(dataset)
    evaluate = EvaluateMaker(predictor="judge", split="val", limit=2)
    held = evaluate.held_out("artist", dataset)
    config = {"steps": 10, "batch_size": 16, "hidden": 8, "layers": 1, "heads": 2, "frequencies": 2, "time_width": 8}
    return {
        "generate": (
            GenerateMaker(checkpoint="artist", predictor="judge", candidates=2),
            lambda maker: science_hash(maker.science("NaCl")),
        ),
        "screen": (ScreenMaker(predictor="judge"), lambda maker: science_hash(maker.science("0" * 64))),
        "relax": (RelaxDatasetMaker(predictor="judge"), lambda maker: science_hash(maker.science(manifest, 0))),
        "evaluate": (evaluate, lambda maker: science_hash(maker.science("artist", "judge", held))),
        "train": (TrainMaker(config=config), lambda maker: science_hash(maker.resolve(dataset)[2])),
    }


def test_facts_of_the_execution_change_no_science_hash(hashes):
    for name, (maker, hash_of) in hashes.items():
        before = hash_of(maker)
        for facts in ({"device": "cpu"}, {"name": "another"}):
            assert hash_of(replace(maker, **facts)) == before, (name, facts)
    maker, hash_of = hashes["train"]
    for facts in (
        {"config": {**maker.config, "threads": 1}},
        {"config": {**maker.config, "save_every_s": 1}},
        {"wall_time_s": 60.0},
        {"processes": 2},
        {"register_as": "mine"},
        {"stage": "stage-1"},
    ):
        assert hash_of(replace(maker, **facts)) == hash_of(maker), facts


def test_what_decides_the_result_changes_it(hashes):
    changes = {
        "generate": {"seed": 1},
        "screen": {"top_k": 1},
        "relax": {"iterations": 2},
        "evaluate": {"samples": 2},
        "train": {"config": {**hashes["train"][0].config, "rate": 1e-4}},
    }
    for name, (maker, hash_of) in hashes.items():
        assert hash_of(replace(maker, **changes[name])) != hash_of(maker), name
    for name in ("generate", "evaluate"):
        maker, hash_of = hashes[name]
        assert hash_of(replace(maker, bf16=True)) != hash_of(replace(maker, bf16=False)), name
    generate, _ = hashes["generate"]
    assert generate.science(["NaCl", "LiF"]) == generate.science(["LiF", "NaCl"])  # nor does the order


def test_a_checkpoint_counts_by_its_weights(audited, hashes):
    from dao_flows.model.checkpoint.library import card_of

    maker, hash_of = hashes["generate"]
    by_hash = replace(maker, checkpoint=card_of("artist").sha256, predictor=card_of("judge").sha256)
    assert hash_of(by_hash) == hash_of(maker)
