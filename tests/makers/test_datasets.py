"""Building datasets: what comes in, what is left out and why, and that a killed build ends like an undisturbed one."""

import csv
import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from dao_flows.makers.datasets import BuildConfig, SourceError, build, build_dataset
from dao_flows.makers.datasets.cleaning import Clean, clean
from dao_flows.makers.datasets.config import build_config
from dao_flows.makers.datasets.readers.raw import Raw
from dao_flows.makers.datasets.readers.refusal import Rejected
from dao_flows.model.data.shards import MANIFEST, dataset_rows, read_manifest
from dao_flows.model.data.table import read_crystals


def as_row(structure: Structure, **values: object) -> dict[str, object]:
    return {
        "numbers": np.array(structure.atomic_numbers, dtype=np.uint8),
        "lattice": structure.lattice.matrix.astype(np.float32).ravel(),
        "frac": structure.frac_coords.astype(np.float32).ravel(),
        **values,
    }


def random_crystal(seed: int) -> Structure:
    """Two to four atoms of two elements, no two of them close."""
    rng = np.random.default_rng(seed)
    while True:
        size = int(rng.integers(2, 5))
        lattice = Lattice(4.2 * np.eye(3) + rng.uniform(-0.9, 0.9, (3, 3)))
        found = Structure(lattice, ["Mg"] + ["O"] * (size - 1), rng.random((size, 3)))
        if found.is_valid(1.2):
            return found


def disguised(structure: Structure, seed: int) -> Structure:
    """The same crystal: doubled, in a sheared cell, turned, shifted and with its atoms in another order."""
    rng = np.random.default_rng(seed)
    other = structure.copy()
    other.make_supercell(np.triu(rng.integers(-1, 2, (3, 3)), 1) + np.diag(rng.permutation([1, 1, 2])))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(len(other))
    lattice = Lattice(other.lattice.matrix @ (turn * np.sign(np.linalg.det(turn))))
    return Structure(lattice, [other.species[i] for i in order], other.frac_coords[order] + rng.random(3))


def table(path: Path, structures: list[Structure], **columns: list[object]) -> str:
    rows = [as_row(s, **{k: v[i] for k, v in columns.items()}) for i, s in enumerate(structures)]
    pd.DataFrame(rows).to_parquet(path)
    return str(path)


def rejects(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_row_is_the_niggli_cell_of_the_same_crystal(seed, other):
    raw = disguised(random_crystal(seed), other)
    cleaned = clean(Raw(0, "arrays", (raw.atomic_numbers, raw.lattice.matrix, raw.frac_coords)), BuildConfig(), True)
    assert isinstance(cleaned, Clean)
    row = cleaned.row
    assert row["numbers"] == list(raw.atomic_numbers)
    assert all(0 <= x < 1 for x in row["frac"])
    after = Structure(np.reshape(row["lattice"], (3, 3)), row["numbers"], np.reshape(row["frac"], (-1, 3)))
    assert StructureMatcher(primitive_cell=False, scale=False).fit(raw, after)
    again = Lattice(after.lattice.matrix).get_niggli_reduced_lattice(tol=1e-3)
    assert np.allclose(sorted(again.abc), sorted(after.lattice.abc), rtol=1e-3)
    smaller = clean(Raw(0, "structure", raw.as_dict()), BuildConfig(primitive=True), True)
    assert isinstance(smaller, Clean)
    assert smaller.row["n_atoms"] <= row["n_atoms"] // 2


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6))
def test_a_crystal_is_there_once_and_not_if_it_is_held_out(tmp_path_factory, seed):
    tmp_path = tmp_path_factory.mktemp("build")
    crystals = [random_crystal(seed + i) for i in range(6)]
    same = [disguised(crystal, seed + i) for i, crystal in enumerate(crystals)]
    ids = [f"a-{i}" for i in range(13)]
    # at the wide tolerances all small cells of Mg and O may match; another formula stays
    salt = Structure(Lattice.cubic(3.9), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    source = table(tmp_path / "rows.parquet", [*crystals, *same, salt], material_id=ids)
    held = table(tmp_path / "held.parquet", same[:2], material_id=["h-0", "a-5"])
    manifest = build_dataset(tmp_path / "set", [source], BuildConfig(held_out=(held,)))
    kept = {row["material_id"] for row in dataset_rows(tmp_path / "set")}
    left_out = {line["id"]: (line["cause"], line["reason"]) for line in rejects(tmp_path / "set")}
    assert kept | set(left_out) == set(ids) and not kept & set(left_out)
    assert {left_out[name][0] for name in ("a-0", "a-1", "a-6", "a-7")} == {"held out"}
    assert left_out["a-5"] == ("held out", "held has its id")
    assert all(f"a-{6 + i}" in left_out for i in (2, 3, 4))
    matcher = StructureMatcher()
    stored = read_crystals(tmp_path / "set").crystals
    structures = [Structure(c.lattice, c.numbers.tolist(), c.frac) for c in stored]
    assert not any(matcher.fit(a, b) for i, a in enumerate(structures) for b in structures[:i])
    (record,) = manifest.sources
    assert (record["rows"], record["kept"]) == (13, manifest.rows)
    assert sum(record["rejected"].values()) == len(left_out)


def test_all_crystals_of_a_held_out_formula_are_left_out_if_asked(tmp_path, crystals):
    source = table(tmp_path / "rows.parquet", [crystals["rutile"], crystals["rock salt"]], material_id=["r", "n"])
    held = table(tmp_path / "held.parquet", [crystals["quartz"]])
    for asked, kept in ((False, ["r", "n"]), (True, ["n"])):
        out = tmp_path / f"set-{asked}"
        build_dataset(out, [source], BuildConfig(held_out=(held,), held_out_formulas=asked))
        assert [row["material_id"] for row in dataset_rows(out)] == kept


def test_every_bad_row_is_named_with_its_reason(tmp_path, crystals):
    good = crystals["rock salt"]
    flat = as_row(good, material_id="flat", e_above_hull=0.1)
    flat["lattice"] = np.zeros(9, np.float32)
    rows = [
        as_row(good, material_id="good", e_above_hull=0.1),
        flat,
        {**as_row(good, material_id="short", e_above_hull=0.1), "frac": np.zeros(4, np.float32)},
        as_row(good, material_id="high", e_above_hull=0.9),
        as_row(good, material_id="unknown", e_above_hull=None),
        {**as_row(good, material_id="close", e_above_hull=0.1), "lattice": (0.1 * np.eye(3, dtype=np.float32)).ravel()},
        as_row(good * (2, 2, 2), material_id="large", e_above_hull=0.1),
        {**as_row(good, material_id="heavy", e_above_hull=0.1), "numbers": np.full(8, 104, np.uint8)},
        {**as_row(good, material_id="zero", e_above_hull=0.1), "numbers": np.zeros(8, np.uint8)},
        {**as_row(good, material_id="nan", e_above_hull=0.1), "frac": np.full(24, np.nan, np.float32)},
        {"material_id": "empty", "e_above_hull": 0.1},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    manifest = build_dataset(
        tmp_path / "set", [str(tmp_path / "rows.parquet")], BuildConfig(max_energy=0.5, max_atoms=20)
    )
    assert [row["material_id"] for row in dataset_rows(tmp_path / "set")] == ["good"]
    told = {line["id"]: (line["position"], line["cause"]) for line in rejects(tmp_path / "set")}
    causes = ["unreadable", "unreadable", "energy", "energy", "distance", "atoms"] + ["unreadable"] * 4
    assert told == {row["material_id"]: (i, causes[i - 1]) for i, row in enumerate(rows) if i}
    assert all(line["reason"] for line in rejects(tmp_path / "set"))
    assert manifest.sources[0]["rejected"] == {"atoms": 1, "distance": 1, "energy": 2, "unreadable": 6}
    lenient = BuildConfig(max_energy=0.5, max_atoms=20, keep_unlabelled=True, keep_duplicates=True)
    build_dataset(tmp_path / "more", [str(tmp_path / "rows.parquet")], lenient)
    assert [row["material_id"] for row in dataset_rows(tmp_path / "more")] == ["good", "unknown"]


def test_polymorphs_stay_in_one_split_and_a_stated_split_stays(tmp_path, crystals):
    structures = [random_crystal(i) for i in range(30)] + [crystals[name] for name in ("quartz", "rutile", "A15")]
    config = BuildConfig(val_share=0.5, keep_duplicates=True)
    build_dataset(tmp_path / "set", [table(tmp_path / "rows.parquet", structures)], config)
    splits: dict[str, set[str]] = {}
    for row in dataset_rows(tmp_path / "set"):
        splits.setdefault(row["reduced_formula"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "val"} == set().union(*splits.values())
    stated = table(tmp_path / "stated.parquet", structures[:3], split=["test", "val", "train"])
    build_dataset(tmp_path / "own", [stated], config)
    assert [row["split"] for row in dataset_rows(tmp_path / "own")] == ["test", "val", "train"]
    build_dataset(tmp_path / "all", [f"{stated}?split=val"], config)
    assert {row["split"] for row in dataset_rows(tmp_path / "all")} == {"val"}


def test_the_same_input_gives_the_same_bytes_whatever_the_batches(tmp_path, monkeypatch):
    structures = [random_crystal(i) for i in range(20)]
    source = table(tmp_path / "rows.parquet", [*structures, *(disguised(s, 1) for s in structures)])
    config = BuildConfig(rows_per_shard=7, name="same")
    build_dataset(tmp_path / "a", [source], config)
    monkeypatch.setattr(build, "BATCH", 3)
    build_dataset(tmp_path / "b", [source], config)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert {MANIFEST, "rejects.jsonl", "shard-00000.parquet", "shard-00001.parquet"} <= set(files)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert all(shard.rows <= 7 for shard in read_manifest(tmp_path / "a").shards)


def build_and_die(out: Path, source: str, held: str, stop: int, said: Path) -> None:
    """In a process of its own: build, and end by kill -9 once `stop` rows are read."""
    build.BATCH = 5

    def progress(done: int, total: int | None, what: str) -> None:
        with said.open("a") as stream:
            stream.write(f"{done} ")
        if done >= stop:
            os.kill(os.getpid(), signal.SIGKILL)

    build_dataset(out, [source], BuildConfig(rows_per_shard=6, name="same", held_out=(held,)), progress)


def test_a_killed_build_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    structures = [random_crystal(i) for i in range(14)]
    source = table(tmp_path / "rows.parquet", [*structures, *(disguised(s, 1) for s in structures)])
    held = table(tmp_path / "held.parquet", [structures[3]])

    def run(out: str, stop: int) -> tuple[int | None, list[str]]:
        said = tmp_path / f"{out}-{stop}.txt"
        process = get_context("fork").Process(target=build_and_die, args=(tmp_path / out, source, held, stop, said))
        process.start()
        process.join(120)
        return process.exitcode, said.read_text().split()

    assert run("whole", 10**9)[0] == 0
    for stop in (6, 21):
        assert run("killed", stop)[0] == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
    assert run("killed", 10**9) == (0, ["26", "29"])  # of 1 + 28 rows: what was read before is not read again
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_is_built_once_and_never_overwritten(tmp_path, crystals, monkeypatch):
    source = table(tmp_path / "rows.parquet", [crystals["quartz"]])
    manifest = build_dataset(tmp_path / "set", [source])
    with monkeypatch.context() as patch:
        patch.setattr(build, "clean", None)  # a second build would have to call it
        assert build_dataset(tmp_path / "set", [source]) == manifest
    with pytest.raises(SourceError, match="other sources or settings: choose another folder"):
        build_dataset(tmp_path / "set", [source], BuildConfig(max_atoms=30))
    (tmp_path / "mine").mkdir()
    with pytest.raises(SourceError, match="exists and is no dataset"):
        build_dataset(tmp_path / "mine", [source])
    # what a build of something else left behind is not mixed in
    with pytest.raises(KeyboardInterrupt):
        build_dataset(tmp_path / "next", [source], progress=_interrupt)
    other = table(tmp_path / "other.parquet", [crystals["A15"]])
    build_dataset(tmp_path / "next", [other])
    assert [row["reduced_formula"] for row in dataset_rows(tmp_path / "next")] == ["Cr3Os"]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_builds_of_one_folder_do_not_meet(tmp_path, crystals):
    source = table(tmp_path / "rows.parquet", [crystals["quartz"]])

    def meddle(*_: object) -> None:
        with pytest.raises(SourceError, match="another process is building"):
            build_dataset(tmp_path / "set", [source])

    build_dataset(tmp_path / "set", [source], progress=meddle)
    assert read_manifest(tmp_path / "set").rows == 1


def test_nothing_left_is_said_with_the_causes(tmp_path, crystals):
    source = table(tmp_path / "rows.parquet", [crystals["quartz"]] * 2)
    with pytest.raises(SourceError, match=r"no row is left for .*set: 2 atoms; see .*rejects\.jsonl"):
        build_dataset(tmp_path / "set", [source], BuildConfig(max_atoms=3))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"min_atoms": 9, "max_atoms": 3}, "min_atoms must not be above"),
        ({"min_energy": 1.0, "max_energy": 0.0}, "first not above the second"),
        ({"max_energy": float("nan")}, "must be numbers"),
        ({"properties": ("split",)}, "it is no property"),
        ({"val_share": 1.5}, "val_share"),
        ({"color": "red"}, "color"),
    ],
)
def test_settings_out_of_range_are_said_in_one_line(wrong, says):
    with pytest.raises(SourceError, match=says) as caught:
        build_config(**wrong)
    assert "\n" not in str(caught.value)


def test_figures_that_are_no_numbers_reject_their_row():
    crystal = ([11], 4 * np.eye(3), [0, 0, 0])
    for value, energy in (("0.25", 0.25), ("", None), ("nan", None), (float("nan"), None)):
        row = clean(Raw(0, "arrays", crystal, {"e_above_hull": value}), BuildConfig(), False)
        assert isinstance(row, Clean)
        assert row.row["e_above_hull"] == energy
    for value in ("high", float("inf"), [1]):
        assert isinstance(clean(Raw(0, "arrays", crystal, {"e_above_hull": value}), BuildConfig(), False), Rejected)


def test_mp20_style_csv_with_a_property(tmp_path, crystals):
    path = tmp_path / "train.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["material_id", "e_above_hull", "band_gap", "cif"])
        writer.writeheader()
        for i, name in enumerate(("quartz", "rutile", "A15")):
            cif = crystals[name].to(fmt="cif")
            writer.writerow({"material_id": name, "e_above_hull": i / 10, "band_gap": i + 0.5, "cif": cif})
        writer.writerow({"material_id": "torn", "cif": "data_x\n_cell_length_a 3"})
        writer.writerow({"material_id": "void", "cif": ""})
    manifest = build_dataset(
        tmp_path / "set", [f"{path}?licence=MIT"], BuildConfig(properties=("band_gap",), licence="CC0-1.0")
    )
    rows = list(dataset_rows(tmp_path / "set"))
    assert [(r["material_id"], r["e_above_hull"], r["band_gap"]) for r in rows] == [
        ("quartz", 0.0, 0.5),
        ("rutile", 0.1, 1.5),
        ("A15", 0.2, 2.5),
    ]
    assert {line["id"]: line["cause"] for line in rejects(tmp_path / "set")} == dict.fromkeys(
        ("torn", "void"), "unreadable"
    )
    assert manifest.sources[0]["licence"] == "MIT"
    assert read_crystals(tmp_path / "set", target="band_gap").labels.tolist() == [0.5, 1.5, 2.5]
