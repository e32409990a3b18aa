"""The check of DAO-P's relaxation against a force field."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monty.json import jsanitize
from pymatgen.core import Structure
from scipy.stats import spearmanr

from dao_flows.makers import crosscheck
from dao_flows.makers.crosscheck import FIGURES, CrossCheckMaker, compared
from dao_flows.makers.merge import MergeShardsMaker
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.force_field import ForceFieldError
from dao_flows.makers.relax_dataset import RelaxDatasetMaker
from dao_flows.makers.schemas.relaxation import CrossCheckDoc
from dao_flows.model.data.shards import dataset_rows

needs_chgnet = pytest.mark.skipif(
    not (find_spec("atomate2") and find_spec("chgnet")), reason="needs dao-flows[forcefields]"
)


@pytest.fixture
def relaxed(random_dataset, tmp_path, tiny_library) -> tuple[Path, Path]:
    """A dataset of two shards and what was made of it."""
    dataset, out = random_dataset(40, rows_per_shard=20), tmp_path / "out"
    maker = RelaxDatasetMaker(predictor="dao-p-tiny", iterations=2, device="cpu")
    shards = [RelaxDatasetMaker.make.original(maker, str(dataset), number, str(out)) for number in range(2)]
    MergeShardsMaker.make.original(MergeShardsMaker(), str(dataset), shards, str(out))
    return dataset, out


def check(folders: tuple[Path, Path], **settings) -> CrossCheckDoc:
    return CrossCheckMaker.make.original(CrossCheckMaker(**settings), *map(str, folders))


@needs_chgnet
def test_the_energies_are_those_of_chgnet(relaxed):
    from chgnet.model import CHGNet

    document = check(relaxed, sample=5, seed=1)
    assert len({crystal.material_id for crystal in document.crystals}) == 5
    assert document.force_field_version
    assert document.failed == 0
    model = CHGNet.load(use_device="cpu", verbose=False)
    rows = [{row["material_id"]: row for row in dataset_rows(folder)} for folder in relaxed]
    assert document.relaxed_rows == sum(row["relaxed"] for row in rows[1].values())
    for crystal in document.crystals:
        old, new = (version[crystal.material_id] for version in rows)
        assert new["relaxed"]
        assert crystal.predicted_change == pytest.approx(new["energy_after"] - new["energy_before"])
        for row, told in ((old, crystal.force_field_before), (new, crystal.force_field_after)):
            structure = Structure(np.reshape(row["lattice"], (3, 3)), row["numbers"], np.reshape(row["frac"], (-1, 3)))
            assert told == pytest.approx(float(model.predict_structure(structure)["e"]), abs=1e-4)
    changes = [crystal.force_field_after - crystal.force_field_before for crystal in document.crystals]
    assert document.force_field_change.value == pytest.approx(np.mean(changes))
    assert document.agreeing.value == np.mean(np.array(changes) < 0)
    assert document.spearman.interval_95 is None  # five are too few
    jsanitize(document, strict=True)


@needs_chgnet
def test_a_force_field_that_is_not_there_is_refused(relaxed):
    with pytest.raises(ParameterError, match="no force field 'Nonsense'"):
        check(relaxed, force_field="Nonsense")


def test_the_sample_is_drawn_by_the_seed_and_a_fault_harms_no_other(relaxed, monkeypatch):
    class OfVolume:
        version = "1"

        def energy(self, structure: Structure) -> float:
            if len(structure) == 1:
                raise ForceFieldError("no neighbours")
            return float(structure.volume)

    monkeypatch.setattr(crosscheck, "ForceField", lambda name: OfVolume())
    document = check(relaxed, sample=10_000)
    assert len(document.crystals) == document.relaxed_rows
    alone = [crystal for crystal in document.crystals if crystal.fault]
    sizes = {row["material_id"]: row["n_atoms"] for row in dataset_rows(relaxed[0])}
    assert {crystal.material_id for crystal in alone} == {
        crystal.material_id for crystal in document.crystals if sizes[crystal.material_id] == 1
    }
    assert document.failed == len(alone)
    drawn = [[crystal.material_id for crystal in check(relaxed, sample=4, seed=seed).crystals] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {crystal.shard for crystal in document.crystals} == {"shard-00000.parquet", "shard-00001.parquet"}


def test_what_cannot_be_compared_is_refused(relaxed, random_dataset):
    other = random_dataset(30, name="other")
    for says, attempt in [
        ("another parent", lambda: check((other, relaxed[1]))),
        ("sample must lie", lambda: check(relaxed, sample=0)),
    ]:
        with pytest.raises(ParameterError, match=says):
            attempt()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=30, unique=True))
def test_figures_do_not_depend_on_the_order(changes):
    pairs = np.array(changes)
    one, other = (compared(p, 0) for p in (pairs, pairs[::-1]))
    for name, estimate in one.items():
        assert (estimate.value is None) == (other[name].value is None)
        if estimate.value is not None:
            assert estimate.value == pytest.approx(other[name].value, abs=1e-12)


def test_the_rank_correlation_is_scipys():
    pairs = np.random.default_rng(0).integers(0, 8, (5, 12, 2)).astype(float)  # with ties
    assert FIGURES["spearman"](pairs) == pytest.approx([spearmanr(p[:, 0], p[:, 1])[0] for p in pairs])


def test_figures_of_known_changes():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(-0.2, 0, 100)
    figures = compared(np.stack([predicted, 2 * predicted + 0.1], 1), 0)
    assert figures["spearman"].value == pytest.approx(1)
    assert figures["mean_error"].value == pytest.approx(np.mean(-predicted - 0.1))
    low, high = figures["mean_error"].interval_95
    assert low < figures["mean_error"].value < high
    assert figures["agreeing"].value == np.mean(predicted < -0.05)
    reverse = compared(np.stack([predicted, -predicted], 1), 0)
    assert reverse["spearman"].value == pytest.approx(-1)
    constant = compared(np.stack([predicted, np.zeros(100)], 1), 0)
    assert constant["spearman"].value is None
