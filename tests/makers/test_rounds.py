"""Proposals and choices of rounds: what they may hold, that they repeat, and what they refuse."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Composition

from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.rounds.choose import ABOVE, DUPLICATE, ENOUGH, GEOMETRY, KNOWN, NOT_PREDICTED, ChooseMaker
from dao_flows.makers.rounds.decide import DecideMaker
from dao_flows.makers.rounds.lay_out import LayOutMaker
from dao_flows.makers.rounds.propose import ProposeMaker
from dao_flows.makers.rounds.rows import ORIGIN, formula_of_numbers, held_out_formulas, training_rows
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.schemas.labels import LabelledDatasetDoc
from dao_flows.makers.schemas.prediction import GeneratedCandidate, GenerationDoc, Origin
from dao_flows.makers.schemas.rounds import (
    CandidateSetDoc,
    ExtendedDatasetDoc,
    Held,
    Measured,
    ProposalDoc,
    Standing,
)
from dao_flows.makers.science.structures import to_structure
from dao_flows.makers.science.validity import charge_neutral
from dao_flows.model.crystals import Crystal
from dao_flows.model.data.shards import Manifest, columns, dataset_rows, write_manifest, write_shards

CRYSTALS = str(Path(__file__).parents[2] / "examples" / "data" / "crystals_small.parquet")
SALT, ANTIMONIDE = [11, 17], [49, 51]  # atomic numbers of NaCl and InSb
APART = [0, 0, 0, 0.5, 0.5, 0.5]


def run(job: Any) -> Any:
    """What a job writes; its errors are raised as they are."""
    done = run_locally(job, store=JobStore(MemoryStore()), log=False, raise_immediately=True)
    return done[job.uuid][1].output


def propose(number: int = 1, data: str = CRYSTALS, **settings: Any) -> ProposalDoc:
    return run(ProposeMaker(**settings).make(data, "dao-g-tiny", data, number))


def system(formula: str) -> str:
    return Composition(formula).chemical_system


@pytest.fixture(scope="module")
def training() -> dict[str, list[float | None]]:
    """Energies of the crystals of each training formula."""
    found: dict[str, list[float | None]] = {}
    for formula, row in training_rows(Path(CRYSTALS)):
        found.setdefault(formula, []).append(row["e_above_hull"])
    return found


@pytest.mark.parametrize("seed", range(4))
def test_proposals_are_real_and_none_is_held_out(tiny_library, training, seed):
    away = held_out_formulas(Path(CRYSTALS), "val")
    found = propose(seed=seed, known=30, new=12, max_atoms=10)
    assert (len(found.known), len(found.new)) == (30, 12)
    assert len(set(found.formulas)) == 42 and not set(found.formulas) & away
    assert found.held_out == len(away)
    for formula in found.known:
        assert any(energy is not None for energy in training[formula])
    systems = {(system(formula), len(Composition(formula))) for formula in training}
    stoichiometries = {tuple(sorted(Composition(formula).get_el_amt_dict().values())) for formula in training}
    for formula in found.new:
        assert formula not in training
        assert (system(formula), len(Composition(formula))) in systems
        assert tuple(sorted(Composition(formula).get_el_amt_dict().values())) in stoichiometries
        assert charge_neutral(formula) is not False
    assert max(Composition(formula).num_atoms for formula in found.formulas) <= 10


def test_proposals_repeat_and_differ_by_round_and_seed(tiny_library):
    first = propose()
    assert propose().formulas == first.formulas
    assert propose(2).formulas != first.formulas != propose(seed=1).formulas
    assert first.provenance.science_hash != propose(2).provenance.science_hash


def test_rows_of_another_held_out_file_are_not_proposed(tiny_library, parquet, training):
    """All formulas but three are held out."""
    left = sorted(formula for formula, energies in training.items() if energies[0] is not None)[:3]
    rows = [row for row in dataset_rows(Path(CRYSTALS)) if formula_of_numbers(row["numbers"]) not in left]
    names = ("numbers", "frac", "lattice", "e_above_hull", "split")
    held = parquet(**{name: [row[name] for row in rows] for name in names})
    found = run(ProposeMaker(split=None, max_atoms=64).make(CRYSTALS, "dao-g-tiny", str(held), 1))
    assert set(found.known) <= set(left)
    assert not set(found.formulas) & held_out_formulas(held, None)


def test_what_cannot_be_proposed_is_refused(tiny_library, parquet):
    unlabelled = str(parquet(e_above_hull=[None] * 60))
    with pytest.raises(ParameterError, match="no training crystal with a known energy"):
        propose(data=unlabelled)
    for settings, said in (({"known": 0}, "known must be at least 1"), ({"new": -1}, "new must be at least 0")):
        with pytest.raises(ParameterError, match=said):
            propose(**settings)


def a_row(name: str, numbers: list[int], side: float, frac: list[float] = APART, **values: Any) -> dict[str, Any]:
    """A row of a dataset: a cubic cell (Å)."""
    return {
        "material_id": name,
        "source": "test",
        "reduced_formula": formula_of_numbers(numbers),
        "n_atoms": len(numbers),
        "numbers": numbers,
        "lattice": (side * np.eye(3)).ravel().tolist(),
        "frac": frac,
        "split": "train",
        **values,
    }


def a_candidate(name: str, numbers: list[int], side: float, energy: float | None, **values: Any) -> dict[str, Any]:
    """A row of relaxed candidates. energy: predicted, eV/atom."""
    told = {"round": 1, "candidate_id": name, "relaxed": False, "energy_before": energy, "energy_after": None}
    return a_row(name, numbers, side, **({**told, **values}))


@pytest.fixture
def dataset(tmp_path) -> Callable[..., tuple[str, str]]:
    """Writes rows as a dataset of this name; its folder and sha256."""

    def write(name: str, rows: list[dict[str, Any]], more: dict[str, str] | None = None, parent: str | None = None):
        folder, names = tmp_path / name, columns() | (more or {})
        shards, counts = write_shards(folder, rows, names)
        manifest = Manifest(name, names, shards, dict(counts), "0", parent=parent)
        write_manifest(folder, manifest)
        return str(folder), manifest.sha256

    return write


def record(maker: str) -> Any:
    science = Science(maker=maker, parameters={}, inputs={}, checkpoints={}, code_version="0")
    return provenance(science, execution_record(datetime.now(UTC), "cpu", {}))


@pytest.fixture
def choose(dataset, tmp_path) -> Callable[..., ExtendedDatasetDoc]:
    """Chooses among rows of relaxed candidates for a training set of one rock-salt-like NaCl."""

    def run_it(rows: list[dict[str, Any]], out: str = "out", **settings: Any) -> ExtendedDatasetDoc:
        training, _ = dataset("training", [a_row("salt", SALT, 3.5, e_above_hull=0.0)])
        laid, sha256 = dataset("candidates", rows, ORIGIN)
        relaxed = {"relaxed": "bool", "energy_before": "double", "energy_after": "double"}
        folder, _ = dataset("relaxed", rows, ORIGIN | relaxed, sha256)
        candidates = CandidateSetDoc(
            round=1,
            path=laid,
            sha256=sha256,
            name="candidates",
            rows=len(rows),
            candidates=len(rows),
            anchors=0,
            left_out={},
            provenance=record("LayOutMaker"),
        )
        labels = LabelledDatasetDoc(
            path=laid,
            sha256="0" * 64,
            parent=settings.pop("labelled", sha256),
            rows=len(rows),
            crystals=len(rows),
            failed=0,
            force_field="emt",
            force_field_version="1",
            rejects=None,
            provenance=record("MergeLabelsMaker"),
        )
        maker = ChooseMaker(cross_check=None, **settings)
        return run(maker.make(training, candidates, folder, labels, str(tmp_path / out)))

    return run_it


CANDIDATES = [
    a_candidate("as-known", SALT, 3.4, -0.2),
    a_candidate("good", ANTIMONIDE, 3.9, 0.05, template="CsCl mp-1"),
    a_candidate("twice", ANTIMONIDE, 4.0, 0.06),
    a_candidate("moved", ANTIMONIDE, 4.0, 0.5, frac=[0, 0, 0, 0.5, 0.5, 0], relaxed=True, energy_after=0.02),
    a_candidate("high", ANTIMONIDE, 3.9, 0.11),
    a_candidate("unknown", ANTIMONIDE, 3.9, None),
    a_candidate("tight", ANTIMONIDE, 3.9, 0.0, frac=[0, 0, 0, 0.1, 0, 0]),
]


def test_what_is_chosen_and_why_not(choose):
    found = choose(CANDIDATES)
    assert [(each.candidate_id, each.predicted_e_above_hull, each.relaxed) for each in found.chosen] == [
        ("moved", 0.02, True),
        ("good", 0.05, False),
    ]
    assert found.turned_away == {ABOVE: 1, DUPLICATE: 1, GEOMETRY: 1, KNOWN: 1, NOT_PREDICTED: 1}
    rows = list(dataset_rows(Path(found.path)))
    assert [row["material_id"] for row in rows] == ["salt", "moved", "good"]
    assert [row["e_above_hull"] for row in rows] == [0.0, None, None]
    assert [row["teacher"] for row in rows] == [None, "emt 1", "emt 1"]
    assert rows[2]["template"] == "CsCl mp-1" and rows[0]["round"] is None


def test_the_choice_repeats_and_grows_with_the_bound(choose):
    assert choose(CANDIDATES).sha256 == choose(CANDIDATES[::-1], "other").sha256
    narrow = choose(CANDIDATES, "narrow", bound=0.03)
    assert [each.candidate_id for each in narrow.chosen] == ["moved"]
    few = choose(CANDIDATES, "few", per_formula=1)
    assert [each.candidate_id for each in few.chosen] == ["moved"] and few.turned_away[ENOUGH] == 1
    none = choose(CANDIDATES, "none", bound=-1.0)
    assert none.chosen == [] and none.rows == 1


def test_what_does_not_belong_together_is_refused(choose):
    choose(CANDIDATES)
    with pytest.raises(ParameterError, match="holds another dataset"):
        choose(CANDIDATES, bound=0.03)
    with pytest.raises(ParameterError, match="not those that were laid out"):
        choose(CANDIDATES, labelled="1" * 64)
    with pytest.raises(ParameterError, match="per_formula must be at least 1"):
        choose(CANDIDATES, per_formula=0)


def test_candidates_are_laid_out_behind_the_lowest_anchors(dataset, tmp_path):
    known = [a_row(f"salt-{k}", SALT, 3.5 + k / 10, e_above_hull=(0.3, 0.1, None, 0.2)[k]) for k in range(4)]
    known += [a_row("held", SALT, 3.6, e_above_hull=0.0) | {"split": "val"}]
    training, _ = dataset("training", known)
    template = Origin(kind="template", formula="CsBr", material_id="mp-2")
    cells = {"a": (SALT, 3.5, template), "b": (ANTIMONIDE, 3.9, Origin(kind="drawn")), "c": (SALT, 0.5, None)}
    generation = GenerationDoc(
        compositions=[],
        candidates=[
            GeneratedCandidate(
                candidate_id=name,
                formula=formula_of_numbers(numbers),
                z=1,
                index=0,
                structure=to_structure(Crystal(np.array(numbers), np.reshape(APART, (2, 3)), side * np.eye(3))),
                origin=origin,
            )
            for name, (numbers, side, origin) in cells.items()
        ],
        provenance=record("GenerateMaker"),
    )
    found = run(LayOutMaker(anchors=2).make(training, generation, str(tmp_path / "out"), 3))
    rows = list(dataset_rows(Path(found.path)))
    assert [row["material_id"] for row in rows] == ["salt-1", "salt-3", "a", "b"]
    assert [row["template"] for row in rows] == [None, None, "CsBr mp-2", None]
    assert [row["source"] for row in rows] == ["test", "test", "round-3", "round-3"]
    assert (found.candidates, found.anchors, list(found.left_out)) == (2, 2, ["c"])


def test_a_round_without_a_choice_ends_without_training(choose):
    held = Held(path="/nowhere", sha256="2" * 64)
    measured = Measured(measure="match_rate", value=0.2, interval_95=(0.1, 0.3), evaluation="3" * 64)
    before = Standing(dataset=held, generator=held, predictor=held, measured=measured)
    found = run(DecideMaker(register_as="mine").make(before, choose(CANDIDATES, bound=-1.0), held, held, "/nowhere"))
    assert (found.kept, found.reason, found.after) == (False, "no candidate was chosen", None)
    assert (found.chosen, found.candidates, found.registered) == (0, len(CANDIDATES), [])


def test_settings_of_a_decision(tiny_library):
    for settings, said in (
        ({"measure": "stable_share"}, "name the predictor"),
        ({"min_gain": 2.0}, "min_gain is a share"),
        ({"register_as": "a/b"}, "cannot be the name"),
    ):
        maker = DecideMaker(**settings)
        maker.generator.config = {"steps": 1}
        with pytest.raises(ParameterError, match=said):
            maker.check({})
