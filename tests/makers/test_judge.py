"""ScreenMaker with a judge: a force field's energies, what they decide, and what is told of them."""

from importlib.util import find_spec

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from dao_flows.makers.jobs.provenance import science_hash
from dao_flows.makers.models.atomate import package_version
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.models.force_field import ForceField
from dao_flows.makers.schemas.prediction import CandidateDoc, GenerationDoc, Origin, ScreenedCandidate, ScreeningDoc
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.screening import judge
from dao_flows.makers.screening.judge import chosen

pytestmark = pytest.mark.usefixtures("tiny_library")
needs_chgnet = pytest.mark.skipif(
    not (find_spec("atomate2") and find_spec("chgnet")), reason="needs dao-flows[forcefields]"
)


def screen(document: GenerationDoc, **settings) -> ScreeningDoc:
    maker = ScreenMaker(**{"predictor": "dao-p-tiny", "prototypes": False, "device": "cpu", **settings})
    return ScreenMaker.make.original(maker, document)


def place(candidate: ScreenedCandidate) -> int:
    return int(candidate.candidate_id.removeprefix("dao-"))


@pytest.fixture
def salts(crystals) -> list[Structure]:
    return [crystals[name] for name in ("zinc blende", "caesium chloride", "rock salt")]


@needs_chgnet
def test_by_the_judge_the_lowest_of_its_energies_comes_first_the_lowest_of_each_structure(generation, salts):
    field = ForceField("CHGNet")
    drawn = [*salts, salts[0] * (1, 1, 2), salts[0]]
    result = screen(generation(drawn), judge="CHGNet", rank_by="judge")
    assert [len(c.duplicates) for c in sorted(result.accepted, key=place)].count(2) == 1
    for c in result.accepted:
        alike = [place(c), *(int(each.removeprefix("dao-")) for each in c.duplicates)]
        assert c.judgement.value == pytest.approx(min(field.energy(drawn[i]) for i in alike), abs=1e-5)
        assert c.judgement.lowest_of == len(alike)
        assert (c.judgement.quantity, c.judgement.unit, c.judgement.steps) == ("energy_per_atom", "eV/atom", 0)
        assert (c.judgement.model, c.judgement.model_version) == ("CHGNet", package_version("CHGNet"))
        assert c.energy.quantity == "energy_above_hull"
        assert c.generated_structure is None
    values = [c.judgement.value for c in result.accepted]
    assert values == sorted(values)
    assert place(result.accepted[0]) == 2  # rock salt, which salt is
    cost = result.provenance.execution.judge
    assert (cost.structures, cost.calls) == (3, 5)
    assert cost.seconds > 0
    plain = screen(generation(drawn))
    assert {c.candidate_id: c.energy for c in plain.accepted} == {c.candidate_id: c.energy for c in result.accepted}
    assert plain.provenance.execution.judge is None


@needs_chgnet
def test_softness_weighs_agreement_against_the_judge(generation, salts):
    drawn = [*salts, salts[0], salts[0]]  # rock salt is lower, zinc blende came three times
    for softness, first in ((1e-3, {2}), (10.0, {0, 3, 4})):
        result = screen(generation(drawn), judge="CHGNet", rank_by="both", softness=softness)
        assert place(result.accepted[0]) in first


@needs_chgnet
def test_a_judge_may_relax_what_it_judges(generation, crystals, salts):
    def shrunk(structure: Structure, share: float) -> Structure:
        return structure.copy().scale_lattice(structure.volume * share)

    tilted = Structure(  # rock salt's distorted so much that it is another structure until it is relaxed
        Lattice.from_parameters(4.3, 4.0, 4.0, 68, 58, 62), ["Na", "Cl"], [[0, 0, 0], [0.55, 0.46, 0.5]]
    )
    drawn = [shrunk(crystals["rutile"], 0.9), shrunk(salts[2], 0.9), tilted]
    as_drawn = screen(generation(drawn), judge="CHGNet", rank_by="judge")
    relaxed = screen(generation(drawn), judge="CHGNet", rank_by="judge", judge_steps=60)
    assert len(as_drawn.accepted) == 3
    assert {c.formula for c in relaxed.accepted} == {"NaCl", "SiO2"}
    [merged] = [c for c in relaxed.rejected if c.cause == "duplicate"]
    field = ForceField("CHGNet")
    before = {c.candidate_id: c for c in as_drawn.accepted}
    for c in relaxed.accepted:
        assert 0 < c.judgement.steps <= 60
        assert c.judgement.value < before[c.candidate_id].judgement.value
        assert c.judgement.value == pytest.approx(field.energy(c.structure), abs=1e-4)
        assert c.generated_structure == drawn[place(c)]
        assert c.energy.value != before[c.candidate_id].energy.value  # DAO-P's, of the relaxed structure
    [rutile] = [c for c in relaxed.accepted if c.formula == "SiO2"]
    assert rutile.symmetry_tight.number == 136
    [salt] = [c for c in relaxed.accepted if c.formula == "NaCl"]
    assert salt.duplicates == [merged.candidate_id]
    cost = relaxed.provenance.execution.judge
    assert cost.calls > cost.structures == 3


@needs_chgnet
def test_what_it_cannot_judge_is_kept_last_and_says_why(generation, salts):
    apart = Structure(Lattice.cubic(7.9), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])  # no neighbour within 6 Å
    for steps in (0, 2):
        result = screen(generation([apart, apart, *salts[::2]]), judge="CHGNet", rank_by="both", judge_steps=steps)
        *others, last = result.accepted
        assert len(others) == 2
        assert all(c.judgement is not None and c.unjudged is None for c in others)
        assert (last.judgement, last.structure, len(last.duplicates)) == (None, apart, 1)
        assert "isolated atom" in last.unjudged
        assert "\n" not in last.unjudged


def from_library(document: GenerationDoc, kinds: dict[int, tuple[str, float]]) -> GenerationDoc:
    """The document with these candidates from a library, each of a kind and a weight."""
    for index, (kind, weight) in kinds.items():
        document.candidates[index].origin = Origin(kind=kind, weight=weight)
    return document


def test_the_known_crystal_comes_first_and_agreement_counts_across_sources(generation, salts):
    blende, caesium, rock = salts
    drawn = [blende, blende, blende, caesium, rock, rock.copy().scale_lattice(rock.volume * 1.02)]
    by_count = screen(generation(drawn))
    assert place(by_count.accepted[0]) in (0, 1, 2)
    known = screen(from_library(generation(drawn), {3: ("known", 0.1)}))
    assert place(known.accepted[0]) == 3
    by_energy = screen(from_library(generation(drawn), {3: ("known", 0.1)}), rank_by="energy")
    assert [c.energy.value for c in by_energy.accepted] == sorted(c.energy.value for c in by_energy.accepted)
    templates = screen(from_library(generation(drawn), {3: ("template", 0.1), 5: ("template", 0.9)}))
    assert place(templates.accepted[0]) == 5  # which also stands for its duplicate, whatever their energies
    assert templates.accepted[0].duplicates == ["dao-4"]


def test_the_default_is_chgnet_where_it_is_installed_and_of_use(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(judge, "find_spec", lambda name, there=there: object() if there else None)
        assert chosen("auto", None) == (("CHGNet", "both") if there else (None, "agreement"))
        assert chosen("auto", "agreement") == (None, "agreement")
        assert chosen("auto", "energy") == (None, "energy")
        assert chosen("auto", "judge") == ("CHGNet", "judge")  # which is refused where it is not installed
        assert chosen("none", None) == (None, "agreement")
        assert chosen("MACE", None) == ("MACE", "both")
        assert chosen("MACE", "energy") == ("MACE", "energy")


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"rank_by": "judge"}, "rank_by 'judge' needs a judge"),
        ({"rank_by": "both"}, "rank_by 'both' needs a judge"),
        ({"judge_steps": 3}, "judge_steps .* need a judge"),
        ({"softness": 0.0}, "softness must be above 0"),
        pytest.param({"judge": "os.system"}, "no force field 'os.system'", marks=needs_chgnet),
        pytest.param({"judge": "CHGNet", "judge_steps": -1}, "judge_steps must not be negative", marks=needs_chgnet),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(settings, wrong):
    with pytest.raises(ParameterError, match=wrong):
        ScreenMaker(predictor="dao-p-tiny", **settings).check([])


@needs_chgnet
def test_a_judge_is_in_the_science_and_without_one_nothing_of_it(monkeypatch):
    plain = ScreenMaker(predictor="dao-p-tiny").science("a")
    told = {"judge", "judge_steps", "judge_version", "atomate2", "softness"}
    assert not told & set(plain.parameters)
    assert ScreenMaker(predictor="dao-p-tiny", softness=0.1).science("a") == plain
    maker = ScreenMaker(predictor="dao-p-tiny", judge="CHGNet", rank_by="both")
    assert told <= set(maker.science("a").parameters)
    others = [{"judge_steps": 2}, {"softness": 0.1}, {"rank_by": "judge"}, {"judge": None, "rank_by": "agreement"}]
    hashes = {
        science_hash(ScreenMaker(**{"predictor": "dao-p-tiny", "judge": "CHGNet", "rank_by": "both", **o}).science("a"))
        for o in [{}, *others]
    }
    assert len(hashes) == 5
    same = ScreenMaker(predictor="dao-p-tiny", judge="MLFF.CHGNet", rank_by="both", device="cpu").science("a")
    assert same == maker.science("a")


@needs_chgnet
def test_documents_without_a_judge_are_what_they_were(generation, salts):
    plain, judged = screen(generation(salts)), screen(generation(salts), judge="CHGNet", rank_by="both")
    assert not {"judgement", "unjudged"} & set(plain.model_dump()["accepted"][0])
    again = ScreeningDoc.model_validate_json(judged.model_dump_json())
    assert again.model_dump() == judged.model_dump()
    assert np.isfinite([c.judgement.value for c in again.accepted]).all()
    assert {"judgement", "unjudged"} <= set(CandidateDoc.model_fields)
